"""A layer that one process has made is the same one in all."""

from __future__ import annotations

from typing import Any

import pytest
import torch
from tests.conftest import make_model
from torch import Tensor

from eckart import processes
from eckart.blocks.onload import OnloadedModule
from eckart.compression.given_layers import give_layer
from eckart.compression.plan import Plan, make_plan
from eckart.compression.records import LayerRecord
from eckart.layers import LowRankLinear
from eckart.methods.recipes import RECIPES

OWNER = 0


def block_of(plan: Plan) -> OnloadedModule:
    block = plan.blocks[0].module
    return OnloadedModule(block, {name: (tensor.device, tensor.dtype) for name, tensor in block.named_parameters()})


def test_the_others_get_layer_record_and_spectrum(monkeypatch: pytest.MonkeyPatch) -> None:
    given: list[Any] = []

    def give(value: Any, owner: int = 0) -> Any:
        assert owner == OWNER
        if processes.rank() == OWNER:
            given.append(value)
            return value
        return given.pop(0)

    def give_tensors(tensors: dict[str, Tensor] | None, owner: int = 0) -> dict[str, Tensor]:
        return dict(give(tensors, owner))

    monkeypatch.setattr(processes, "size", lambda: 2)
    monkeypatch.setattr(processes, "give", give)
    monkeypatch.setattr(processes, "give_tensors", give_tensors)
    found: list[tuple[LayerRecord, dict[str, Tensor], torch.nn.Module]] = []
    for rank in (OWNER, 1):
        monkeypatch.setattr(processes, "rank", lambda rank=rank: rank)
        plan = make_plan(make_model("llama"), RECIPES["svd"], 0.5)
        onloaded, ref = block_of(plan), plan.blocks[0].linears[0]
        rank_of, record, spectra = plan.ranks[ref.path], None, {}
        assert rank_of is not None
        if rank == OWNER:
            torch.manual_seed(1)
            made = LowRankLinear(ref.in_features, ref.out_features, rank_of, bias=False)
            for parameter in made.parameters():
                torch.nn.init.normal_(parameter)
            onloaded.replace(ref.name, made)
            record = LayerRecord(
                path=ref.path,
                out_features=ref.out_features,
                in_features=ref.in_features,
                rank=rank_of,
                bytes=8,
                error=0.5,
            )
            spectra = {ref.path: torch.arange(3.0)}
        told = give_layer(onloaded, plan, ref, OWNER, record, spectra)
        found.append((told, spectra, onloaded.module.get_submodule(ref.name)))
    (record, spectra, layer), (other_record, other_spectra, other_layer) = found
    assert other_record == record
    assert torch.equal(other_spectra[record.path], spectra[record.path])
    assert other_layer is not layer
    assert type(other_layer) is type(layer)
    for name, tensor in layer.state_dict().items():
        assert torch.equal(other_layer.state_dict()[name], tensor)
    assert not given
