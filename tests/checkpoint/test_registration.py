"""`import eckart` costs nothing, and transformers knows our format when it needs it. Each case is a process."""

from __future__ import annotations

import json
import subprocess
import sys
from pathlib import Path

COMPRESSED = Path(__file__).parents[1] / "fixtures" / "format1" / "two-factor"
MODELS = "transformers.modeling_utils"
# Twice, and with a module on the way that is half imported when the code for models is there.
FIRST = """
import eckart
from eckart.checkpoint import register
register()
import transformers.integrations.finegrained_fp8
from transformers import AutoModelForCausalLM
register()
"""
LOAD = """
import json, sys
model = AutoModelForCausalLM.from_pretrained(sys.argv[1])
print(json.dumps([type(model.model.layers[0].mlp.up_proj).__name__, model.config.to_json_string.__wrapped__.__name__,
                  hasattr(model.config.to_json_string.__wrapped__, "__wrapped__")]))
"""
CONFIG = """
import sys
import eckart
assert not {"torch", "transformers", "numpy"} & sys.modules.keys()
from transformers import AutoConfig
AutoConfig.from_pretrained(sys.argv[1]).save_pretrained(sys.argv[2])
assert "transformers.modeling_utils" not in sys.modules
"""


def run(code: str, *arguments: Path) -> str:
    done = subprocess.run(
        [sys.executable, "-W", "ignore", "-c", code, *map(str, arguments)], capture_output=True, text=True
    )
    assert done.returncode == 0, done.stderr
    return done.stdout


def test_a_model_is_loaded_whatever_is_imported_first() -> None:
    layer, function, twice = json.loads(run(FIRST + LOAD, COMPRESSED).splitlines()[-1])
    assert (layer, function, twice) == ("LowRankLinear", "to_json_string", False)


def test_the_import_waits_for_nothing_and_a_config_alone_is_guarded(tmp_path: Path) -> None:
    run(CONFIG, COMPRESSED, tmp_path)
    assert "import-eckart" in json.loads((tmp_path / "config.json").read_text())["transformers_weights"]
