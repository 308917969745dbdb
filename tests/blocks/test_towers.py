from __future__ import annotations

import pytest
from tests.tiny_models import make

from eckart.blocks.towers import tower_of

NAMES = {
    "llama": {"model.layers.0": "language", "lm_head": "language"},
    "bert": {"encoder.layer.1": "language", "": "language"},
    "t5": {"encoder.block.0": "encoder", "decoder.block.1.layer.1.EncDecAttention": "decoder"},
    "whisper": {"model.encoder.layers.0": "encoder", "model.decoder.layers.0.encoder_attn": "decoder"},
    "vit": {"vit.layers.0": "vision", "": "vision"},
    "wav2vec2": {"wav2vec2.encoder.layers.0": "audio"},
    "clip": {"vision_model.encoder.layers.0": "vision", "text_model.encoder.layers.0": "language"},
    "llava": {
        "model.vision_tower.encoder.layers.0": "vision",
        "model.language_model.layers.0": "language",
        # Outside of all parts that have a configuration of their own.
        "model.multi_modal_projector.linear_1": "language",
    },
    "qwen3-vl": {
        "model.visual.blocks.0": "vision",
        "model.visual.merger": "vision",
        "model.language_model": "language",
    },
}


@pytest.mark.parametrize("kind", NAMES)
def test_the_parts_of_a_model_have_names(kind: str) -> None:
    model, _ = make(kind)
    assert {path: tower_of(model, path) for path in NAMES[kind]} == NAMES[kind]


def test_a_model_that_names_several_inputs_is_named_by_the_first_that_is_known() -> None:
    model, _ = make("vit")
    model.main_input_name = ["task_inputs", "pixel_values"]
    assert tower_of(model, "") == "vision"
