"""Formats of other runtimes: which there are, and what they need."""

from __future__ import annotations

from importlib.metadata import metadata

import pytest

from eckart.errors import ExportError
from eckart.runtimes import targets
from eckart.runtimes.targets import TARGETS, holders_of_factors, target_of


def test_a_name_that_is_none_is_told_the_nearest() -> None:
    with pytest.raises(ExportError, match="No format is called 'onxx'; did you mean 'onnx'"):
        target_of("onxx")


def test_each_extra_is_one_of_the_package() -> None:
    extras = metadata("eckart").get_all("Provides-Extra") or []
    known = {target.extra for target in TARGETS.values()} - {None}
    assert known
    # An installation from before the extras came knows none of them.
    if "onnx" in extras:
        assert known <= set(extras)


def test_a_missing_package_is_named_with_what_to_install(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(targets, "find_spec", lambda name: None if name == "openvino" else object())
    with pytest.raises(ExportError, match=r"needs openvino, .* pip install 'eckart\[openvino\]'"):
        target_of("openvino").check(None)
    target_of("dense").check(None)


def test_a_package_of_the_rounding_alone_is_looked_for_too(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(targets, "find_spec", lambda name: None if name == "nncf" else object())
    target_of("onnx").check("int8")
    with pytest.raises(ExportError, match="needs nncf"):
        target_of("onnx").check("int4")


@pytest.mark.parametrize(
    ("name", "quantize", "said"),
    [
        ("gguf", "q8", "did you mean 'q8_0'"),
        ("onnx", "fp8", "Choices: int4, int8"),
        ("dense", "int8", r"to dense; found 'int8'\. Leave out --quantize\."),
    ],
)
def test_a_rounding_that_a_format_lacks(name: str, quantize: str, said: str) -> None:
    with pytest.raises(ExportError, match=said):
        target_of(name).check(quantize)


def test_dense_formats_hold_no_factors() -> None:
    assert holders_of_factors() == "onnx, openvino, executorch"
