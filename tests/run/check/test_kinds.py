"""What a weight is that stays, by its structure alone."""

from __future__ import annotations

import pytest
import torch
from tests.conftest import make_model
from torch import nn
from transformers import PreTrainedModel

from eckart.run.check.kinds import kind_of


class Norm(nn.Module):
    def __init__(self) -> None:
        super().__init__()
        self.weight = nn.Parameter(torch.ones(4))


class Experts(nn.Module):
    def __init__(self) -> None:
        super().__init__()
        self.stacked = nn.Parameter(torch.ones(6, 4, 4))


class Matrix(nn.Module):
    def __init__(self, rows: int) -> None:
        super().__init__()
        self.weight = nn.Parameter(torch.ones(rows, 4))
        self.scale = nn.Parameter(torch.ones(4))


@pytest.fixture
def model() -> PreTrainedModel:
    model = make_model("llama")
    part = nn.Module()
    part.norm, part.experts, part.gate, part.other = Norm(), Experts(), Matrix(6), Matrix(5)
    part.conv, part.spare = nn.Conv1d(5, 4, 2), nn.Linear(4, 4)
    model.model.part = part
    return model


@pytest.mark.parametrize(
    ("place", "name", "expected"),
    [
        ("lm_head", "weight", ("head", "no linear layer")),
        ("model.embed_tokens", "weight", ("embedding", "no linear layer")),
        ("model.norm", "weight", ("norm", "no matrix")),
        ("model.part.norm", "weight", ("norm", "no matrix")),
        ("model.part.experts", "stacked", ("experts", "many matrices in one tensor")),
        ("model.part.gate", "weight", ("router", "chooses experts")),
        ("model.part.other", "weight", ("matrix", "no linear layer")),
        ("model.part.other", "scale", ("vector", "no matrix")),
        ("model.part.conv", "weight", ("convolution", "no linear layer")),
        ("model.part.spare", "weight", ("linear layer", "not run as such")),
    ],
)
def test_kinds(place: str, name: str, expected: tuple[str, str], model: PreTrainedModel) -> None:
    assert kind_of(model, place, getattr(model.get_submodule(place), name)) == expected
