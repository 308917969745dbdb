"""`import eckart` costs nothing, and transformers knows our format when it needs it; in a process of its own."""

from __future__ import annotations

import json
import subprocess
import sys
from pathlib import Path

COMPRESSED = Path(__file__).parents[1] / "fixtures" / "format1" / "two-factor"
CODE = """
import json, sys
import eckart
assert not {"torch", "transformers", "numpy"} & sys.modules.keys()

# A config alone is guarded, and waits for no code for models.
from transformers import AutoConfig
AutoConfig.from_pretrained(sys.argv[1]).save_pretrained(sys.argv[2])
assert "transformers.modeling_utils" not in sys.modules

# Asked for again before and after; and a module is half imported when the code for models is there.
from eckart.checkpoint import register
register()
import transformers.integrations.finegrained_fp8
from transformers import AutoModelForCausalLM
register()
model = AutoModelForCausalLM.from_pretrained(sys.argv[1])
write = model.config.to_json_string
print(json.dumps([type(model.model.layers[0].mlp.up_proj).__name__, hasattr(write.__wrapped__, "__wrapped__")]))
"""


def test_transformers_is_told_once_and_when_it_needs_it(tmp_path: Path) -> None:
    command = [sys.executable, "-W", "ignore", "-c", CODE, str(COMPRESSED), str(tmp_path)]
    done = subprocess.run(command, capture_output=True, text=True)
    assert done.returncode == 0, done.stderr
    assert json.loads(done.stdout.splitlines()[-1]) == ["LowRankLinear", False]
    assert "import-eckart" in json.loads((tmp_path / "config.json").read_text())["transformers_weights"]
