"""What is known of one run."""

from __future__ import annotations

import math
from statistics import NormalDist, mean

import pytest
from tests.report.helpers import dense_run, folder_run, perplexity

from eckart.compression.drift import BlockDrift
from eckart.report.runs import Run, interval, text_label


def test_the_interval_is_the_middle_of_a_normal_distribution_of_losses() -> None:
    measured = perplexity(20.0)
    found = interval(measured)
    assert found is not None
    normal = NormalDist(measured.log_perplexity, measured.error or 0.0)
    assert found == pytest.approx([math.exp(normal.inv_cdf(share)) for share in (0.025, 0.975)], rel=1e-4)


def test_one_window_has_no_interval_and_a_huge_one_no_number() -> None:
    assert interval(perplexity(20.0, windows=1)) is None
    assert interval(perplexity(20.0).model_copy(update={"error": 500.0})) is None


def test_what_can_be_compared_has_one_label() -> None:
    one = text_label("data/wiki.txt", perplexity(20.0))
    assert one == text_label("other/wiki.txt", perplexity(30.0)) == "wiki.txt, 8 × 64 tokens"
    assert text_label("data/wiki.txt", perplexity(20.0, windows=9)) != one
    assert text_label("data/wiki.txt:raw", perplexity(20.0)) != one


def test_a_run_of_which_little_is_known_says_so() -> None:
    bare = Run("x", "svd", "m", 0.5)
    assert (bare.is_dense, bare.tokens, bare.mean_layer_error, bare.last_error) == (False, None, None, None)


def test_errors_are_means_of_layers_and_that_behind_the_last_block() -> None:
    run = folder_run()
    assert run.report is not None
    layers = [layer.model_copy(update={"error": 0.1 * n}) for n, layer in enumerate(run.report.layers)]
    run.report = run.report.model_copy(update={"layers": layers})
    assert run.mean_layer_error == pytest.approx(mean(0.1 * n for n in range(len(layers))))
    assert run.last_error == pytest.approx(0.3)
    assert run.tokens == 4096
    blocks = [*run.report.blocks, BlockDrift(path="model.layers.4", output=None, layers={})]
    run.report = run.report.model_copy(update={"blocks": blocks})
    assert run.last_error is None  # not that of a block before


def test_the_dense_model_has_no_error() -> None:
    assert dense_run().is_dense
    assert dense_run().last_error == 0
