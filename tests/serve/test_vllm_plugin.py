"""What vLLM is told, and what of a vLLM that lacks a hook; a stand-in for vLLM is enough for that."""

from __future__ import annotations

import logging
import subprocess
import sys
import tomllib
from pathlib import Path
from types import ModuleType
from typing import Any

import pytest

from eckart.errors import ServingError
from eckart.serve.vllm_plugin import register

QUANTIZATION = "vllm.model_executor.layers.quantization"


@pytest.fixture
def known(monkeypatch: pytest.MonkeyPatch) -> dict[str, Any]:
    """Put a vLLM in place that has what registers a method, and nothing else; return what it is told."""
    for name in [name for name in sys.modules if name.startswith(("vllm", "eckart.serve.vllm_"))]:
        if name != "eckart.serve.vllm_plugin":
            monkeypatch.delitem(sys.modules, name)
    found: dict[str, Any] = {}
    modules = {name: ModuleType(name) for name in ("vllm", "vllm.model_executor", "vllm.model_executor.layers")}
    modules["vllm"].__version__ = "0.1.2"  # type: ignore[attr-defined]
    modules[QUANTIZATION] = ModuleType(QUANTIZATION)
    base = modules[f"{QUANTIZATION}.base_config"] = ModuleType(f"{QUANTIZATION}.base_config")
    base.QuantizationConfig = object  # type: ignore[attr-defined]

    def register_quantization_config(name: str) -> Any:
        return lambda config: found.setdefault(name, config)

    modules[QUANTIZATION].register_quantization_config = register_quantization_config  # type: ignore[attr-defined]
    for name, module in modules.items():
        module.__path__ = []
        monkeypatch.setitem(sys.modules, name, module)
    return found


def test_the_entry_point_is_there() -> None:
    project = tomllib.loads((Path(__file__).parents[2] / "pyproject.toml").read_text())["project"]
    assert project["entry-points"]["vllm.general_plugins"] == {"eckart": f"{register.__module__}:{register.__name__}"}


def test_a_vllm_without_a_hook_refuses_compressed_models_and_nothing_else(known: dict[str, Any]) -> None:
    register()
    config = known["eckart"]
    with pytest.raises(ServingError, match=r"vLLM .* lacks a hook that eckart needs.*Expected vLLM 0\.32 or newer"):
        config.from_config({})
    with pytest.raises(ServingError, match="lacks a hook"):
        config().get_quant_method(None, "")
    assert config().get_name() == "eckart"


def test_a_vllm_that_takes_no_methods_is_only_warned_of(
    known: dict[str, Any], caplog: pytest.LogCaptureFixture, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.delattr(sys.modules[QUANTIZATION], "register_quantization_config")
    with caplog.at_level(logging.WARNING):
        register()
    assert "lacks a hook that eckart needs" in caplog.text
    assert known == {}


@pytest.mark.filterwarnings("ignore")
def test_the_real_one_twice() -> None:
    pytest.importorskip("vllm", reason="vLLM is not installed: see docs/serving.md")
    code = (
        "from eckart.serve.vllm_plugin import register; register(); register();"
        "from vllm.model_executor.layers.quantization import get_quantization_config as get;"
        "print(get('eckart').__module__)"
    )
    run = subprocess.run([sys.executable, "-W", "ignore", "-c", code], capture_output=True, text=True)
    assert run.stdout.splitlines()[-1] == "eckart.serve.vllm_config", run.stderr
