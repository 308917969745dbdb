"""Profiles that were written are those that were measured; a cache finds those with all that is asked for."""

from __future__ import annotations

from dataclasses import fields, replace

import pytest
import torch
from tests.conftest import make_model
from torch import Tensor

from eckart.compression.request import request_of
from eckart.compression.sensitivity.cache import MeasurementsCache
from eckart.compression.sensitivity.stored import load_profile, save_profile
from eckart.data.calibration import Calibration
from eckart.methods.allocation import LayerStatistics, Needs
from eckart.methods.sensitivity.measurements import Measurements
from eckart.sweep import statistics
from eckart.sweep.build import build
from eckart.sweep.case import recipe_of
from eckart.sweep.statistics import collect

CPU = torch.device("cpu")
LABELS = ["svd-llm", "io-svd+structure=hybrid+structure.base=8-bit", "zs-svd", "eckart", "svd"]


def same(found: object, expected: object) -> bool:
    if isinstance(expected, Tensor):
        return isinstance(found, Tensor) and found.dtype == expected.dtype and torch.equal(found, expected)
    if isinstance(expected, tuple):
        return isinstance(found, tuple) and all(map(same, found, expected))
    return found == expected


@pytest.mark.parametrize("limit", [None, 0], ids=["memory", "files"])
def test_what_was_written_is_what_is_read(tmp_path, tokens, limit):
    wanted = {recipe_of(label): [0.6] for label in LABELS}
    collected = collect(make_model("llama").bfloat16(), wanted, Calibration(tokens, "token ids", 0), CPU, limit=limit)
    assert len(collected.measurements_by_path) > 2
    for number, measurements in enumerate(collected.measurements_by_path.values()):
        save_profile(measurements, tmp_path / str(number))
        read = load_profile(tmp_path / str(number))
        for linear, expected in zip(read.linears, measurements.linears, strict=True):
            assert all(same(getattr(linear, f.name), getattr(expected, f.name)) for f in fields(LayerStatistics))
        for field in ("metrics", "solutions", "whitenings", "means", "block_metrics"):
            found, expected = getattr(read, field), getattr(measurements, field)
            assert dict(found).keys() == dict(expected).keys()
            assert all(same(found[path], expected[path]) for path in expected), field
    collected.close()
    assert not list(tmp_path.glob("*.unfinished"))


def test_models_of_a_cache_are_those_that_were_measured(tmp_path, tokens, monkeypatch):
    model, calibration = make_model("qwen2"), Calibration(tokens, "token ids", 0)
    wanted = {recipe_of(label): [0.6] for label in ("svd-llm", "zs-svd", "io-svd+structure=pivoted")}
    first = collect(model, wanted, calibration, CPU, cache=tmp_path)

    def measure_all(original, requests, *args, **kwargs):
        raise AssertionError(f"measured again: {requests}")

    monkeypatch.setattr(statistics, "measure_all", measure_all)
    # Fewer recipes ask for less, which is there too.
    again = [collect(model, {recipe: [0.6]}, calibration, CPU, cache=tmp_path) for recipe in wanted]
    for recipe, second in zip(wanted, again, strict=True):
        plain, cached = (build(model, recipe, 0.6, found).model.state_dict() for found in (first, second))
        assert all(torch.equal(plain[name], cached[name]) for name in plain)
    with pytest.raises(AssertionError, match="measured again"):
        collect(model, wanted, Calibration(tokens.flip(0), "token ids", 0), CPU, cache=tmp_path)
    with pytest.raises(AssertionError, match="measured again"):
        collect(make_model("llama"), wanted, calibration, CPU, cache=tmp_path)


def test_a_cache_gives_nothing_less_than_what_is_asked_for(tmp_path):
    cache, measurements = (
        MeasurementsCache(tmp_path, "a model"),
        Measurements((LayerStatistics("a", (2, 3), 0, "a", torch.ones(2)),)),
    )
    request = replace(request_of(recipe_of("svd-llm")), keep_bases=True)
    assert cache.find(request) is None
    cache.save(request, measurements)
    assert cache.find(request) is not None
    assert cache.find(replace(request, keep_bases=False)) is not None
    assert cache.find(replace(request, keep_inputs=True)) is None
    assert cache.find(replace(request, needs=request.needs | Needs.SIMILARITY)) is None
    assert cache.find(replace(request_of(recipe_of("svd-llm+objective.shrinkage=0.1")), keep_bases=True)) is None
    assert MeasurementsCache(tmp_path, "another model").find(request) is None


def test_a_profile_that_was_not_finished_is_not_there(tmp_path, monkeypatch):
    cache = MeasurementsCache(tmp_path, "a model")
    request, measurements = (
        replace(request_of(recipe_of("svd-llm")), keep_bases=True),
        Measurements((LayerStatistics("a", (2, 3), 0, "a"),)),
    )
    with monkeypatch.context() as patch:
        patch.setattr(
            "eckart.compression.sensitivity.stored.save_file", lambda *args: (_ for _ in ()).throw(OSError("full"))
        )
        with pytest.raises(OSError, match="full"):
            cache.save(request, measurements)
    assert cache.find(request) is None
    cache.save(request, measurements)
    assert cache.find(request) is not None
    assert len(list(tmp_path.iterdir())) == 2
