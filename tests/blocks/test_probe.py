from __future__ import annotations

from types import SimpleNamespace
from typing import Any

import pytest
import torch
from tests.tiny_models import MAKERS, make
from transformers import PretrainedConfig, PreTrainedModel

from eckart.blocks.block_arguments import run_model
from eckart.blocks.probe import PROBE_TOKENS, probe_inputs
from eckart.errors import UnsupportedModelError

TAKES_SEVERAL = ("clip",)  # images and text


@pytest.mark.parametrize("kind", [kind for kind in MAKERS if kind not in TAKES_SEVERAL])
def test_a_model_can_be_run_on_inputs_made_up_from_its_configuration(kind: str) -> None:
    model, _ = make(kind)
    inputs = probe_inputs(model)
    assert model.main_input_name in inputs
    with torch.no_grad():
        run_model(model, inputs)
    again = probe_inputs(model)
    assert all(torch.equal(tensor, again[name]) for name, tensor in inputs.items())


def test_tokens_are_some_that_the_model_knows() -> None:
    model, _ = make("llama")
    assert torch.equal(probe_inputs(model)["input_ids"], torch.arange(PROBE_TOKENS)[None])
    model.resize_token_embeddings(5)
    assert torch.equal(probe_inputs(model)["input_ids"], torch.arange(PROBE_TOKENS)[None] % 5)


class Unknown(PreTrainedModel):  # type: ignore[misc]
    config_class = PretrainedConfig
    main_input_name: Any = "point_clouds"


def test_what_is_not_known_is_refused_with_a_way_out() -> None:
    with pytest.raises(UnsupportedModelError, match=r"Unknown takes 'point_clouds'.*calibration=\[\{name: tensor"):
        probe_inputs(Unknown(PretrainedConfig()))
    model: Any = SimpleNamespace(main_input_name="pixel_values", config=PretrainedConfig())
    with pytest.raises(UnsupportedModelError, match="nothing is known of its shape"):
        probe_inputs(model)
