"""Measurements that were written are those that were made; a cache finds those with all that is asked for."""

from __future__ import annotations

from dataclasses import fields, replace
from typing import Any

import pytest
import torch
from measurement_cache import MeasurementsCache, remembering
from measurement_files import load_measurements, save_measurements
from tests.conftest import make_model
from torch import Tensor

from eckart.compression.request import request_of
from eckart.data.calibration import Calibration
from eckart.methods.allocation import LayerStatistics, Needs
from eckart.methods.sensitivity.measure import measure_all
from eckart.methods.sensitivity.measurements import Measurements
from eckart.methods.sensitivity.request import Request
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
    assert len(collected.measured) > 2
    for number, measurements in enumerate(collected.measured.values()):
        save_measurements(measurements, tmp_path / str(number))
        read = load_measurements(tmp_path / str(number))
        for linear, expected in zip(read.linears, measurements.linears, strict=True):
            assert all(same(getattr(linear, f.name), getattr(expected, f.name)) for f in fields(LayerStatistics))
        for field in ("metrics", "solutions", "whitenings", "means", "block_metrics"):
            found, expected = getattr(read, field), getattr(measurements, field)
            assert dict(found).keys() == dict(expected).keys()
            assert all(same(found[path], expected[path]) for path in expected), field
    collected.close()
    assert not list(tmp_path.glob("*.unfinished"))


def test_models_of_a_cache_are_those_that_were_measured(tmp_path, tokens):
    model, calibration = make_model("qwen2"), Calibration(tokens, "token ids", 0)
    wanted = {recipe_of(label): [0.6] for label in ("svd-llm", "zs-svd", "io-svd+structure=pivoted")}
    requests: list[Request] = []

    def counted(original, new, progress, *, first):
        requests.extend(new)
        return measure_all(original, new, progress, first=first)

    cached = remembering(tmp_path, counted)
    first = collect(model, wanted, calibration, CPU, measure=cached)
    assert len(requests) == len(first.measured)
    requests.clear()
    # Fewer recipes ask for less, which is there too.
    again = [collect(model, {recipe: [0.6]}, calibration, CPU, measure=cached) for recipe in wanted]
    assert not requests
    for recipe, second in zip(wanted, again, strict=True):
        plain, read = (build(model, recipe, 0.6, found).model.state_dict() for found in (first, second))
        assert all(torch.equal(plain[name], read[name]) for name in plain)
    for other, tokens_of in ((model, Calibration(tokens.flip(0), "token ids", 0)), (make_model("llama"), calibration)):
        requests.clear()
        collect(other, wanted, tokens_of, CPU, measure=cached)
        assert requests


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


def test_measurements_that_were_not_finished_are_not_there(tmp_path):
    cache = MeasurementsCache(tmp_path, "a model")
    request = replace(request_of(recipe_of("svd-llm")), keep_bases=True)
    (linear,) = (LayerStatistics("a", (2, 3), 0, "a"),)
    unwritable: Any = object()
    with pytest.raises(TypeError):  # what cannot be written
        cache.save(request, Measurements((linear, replace(linear, path=unwritable))))
    assert cache.find(request) is None
    cache.save(request, Measurements((linear,)))
    assert cache.find(request) is not None
    assert len(list(tmp_path.iterdir())) == 2


def test_what_files_do_not_hold_is_measured_each_time(tmp_path, tokens):
    model, calibration = make_model("llama"), Calibration(tokens, "token ids", 0)
    recipe = recipe_of("auto+allocation.multiple=1")
    for _ in range(2):
        statistics = collect(model, {recipe: [0.5]}, calibration, CPU, measure=remembering(tmp_path))
        assert statistics.storage(recipe, 0.5).outlook is not None
        statistics.close()
    assert not list(tmp_path.iterdir())
