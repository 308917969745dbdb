"""Layers that the base library puts together when it saves a model: told by what it does save."""

from __future__ import annotations

import re
from collections.abc import Callable
from functools import partial
from pathlib import Path

import pytest
import torch
from safetensors.torch import load_file
from tests.conftest import CONFIGS, make_model
from tests.run.check import architectures
from transformers import BertForMaskedLM, PreTrainedModel

from eckart.blocks.discovery import find_blocks
from eckart.blocks.onload import ResidentWeights
from eckart.errors import UnsupportedModelError
from eckart.run.check.merged import check_layers_stay_apart

BUILDS: list[Callable[[], PreTrainedModel]] = [
    *(partial(make_model, kind) for kind in CONFIGS),
    *(partial(architectures.made, build) for build in (architectures.sarvam_moe, architectures.nomic_bert)),
    partial(architectures.made, architectures.falcon),
    partial(architectures.made, architectures.mixtral),
    partial(architectures.made, partial(architectures.bert, BertForMaskedLM)),
]


@pytest.mark.parametrize("build", BUILDS, ids=lambda build: str(getattr(build.args[0], "__name__", build.args[0]))[:12])
def test_exactly_the_layers_whose_weights_are_in_no_file_are_named(
    build: Callable[[], PreTrainedModel], tmp_path: Path
) -> None:
    model = build()
    blocks = find_blocks(model, ResidentWeights())
    model.save_pretrained(tmp_path)
    saved = [tensor for file in tmp_path.glob("*.safetensors") for tensor in load_file(file).values()]

    def is_saved(path: str) -> bool:
        weight = model.get_submodule(path).weight
        assert isinstance(weight, torch.Tensor)
        return any(tensor.shape == weight.shape and torch.equal(tensor, weight) for tensor in saved)

    merged = {re.sub(r"\d+", "*", ref.path) for block in blocks for ref in block.linears if not is_saved(ref.path)}
    if not merged:
        check_layers_stay_apart(model, blocks)
        return
    with pytest.raises(UnsupportedModelError) as caught:
        check_layers_stay_apart(model, blocks)
    said = str(caught.value)
    assert said.startswith(f"{type(model).__name__} is saved with layers put together ({', '.join(sorted(merged))})")
    assert said.endswith("Such models cannot be compressed yet.")
