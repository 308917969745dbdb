"""Whose config it is, and what is written of one."""

from __future__ import annotations

import json

from transformers import LlamaConfig

from eckart.checkpoint.config import EckartConfig
from eckart.checkpoint.guard import GUARD, is_of_compressed_model, with_guard


def test_whose_config_it_is() -> None:
    config = LlamaConfig()
    assert not is_of_compressed_model(config)
    config.quantization_config = {"quant_method": "gptq"}
    assert not is_of_compressed_model(config)
    config.quantization_config = {"quant_method": "eckart", "ranks": {}}
    assert is_of_compressed_model(config)
    config.quantization_config = EckartConfig({})
    assert is_of_compressed_model(config)


def test_other_configs_are_written_as_before() -> None:
    text = '{\n  "a": 1.0\n}\n'
    assert with_guard(lambda config: text)(LlamaConfig()) == text
    ours = LlamaConfig(quantization_config={"quant_method": "eckart"})
    assert json.loads(with_guard(lambda config: text)(ours)) == {"a": 1.0, "transformers_weights": GUARD}
