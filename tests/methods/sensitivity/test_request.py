"""What is asked for in one walk: by each recipe, and by several at once."""

from __future__ import annotations

import itertools
from dataclasses import replace

import pytest
from hypothesis import given
from hypothesis import strategies as st

from eckart.maths.labels import NEXT_TOKENS, LabelSource
from eckart.methods.allocation import Needs
from eckart.methods.metric import Fisher
from eckart.methods.objectives import Anchored, InputAware, Weight
from eckart.methods.sensitivity.request import Labels, Request, merge
from eckart.methods.structure import Hybrid, TwoFactor

ALL = Needs.SPECTRUM | Needs.FIRST_ORDER | Needs.CURVATURE | Needs.SIMILARITY
SAMPLED, NEXT = Fisher(samples=4), Fisher(labels="next")
WEIGHTED = Fisher(token_weights="gradient")

needs = st.integers(0, ALL.value).map(Needs)
requests = st.builds(
    Request,
    st.sampled_from([Weight(), InputAware(), InputAware(metric=SAMPLED), Anchored()]),
    needs,
    st.sampled_from([None, SAMPLED, NEXT]),
    st.sampled_from([None, 2, 5]),
    st.booleans(),
    st.sampled_from([TwoFactor(), Hybrid()]),
    st.booleans(),
)


def gives(request: Request, wanted: Request) -> bool:
    """Whether a measurement holds all that another one would hold, found in the same way."""
    return (
        (request.objective, request.structure) == (wanted.objective, wanted.structure)
        and wanted.needs in request.needs
        and (wanted.metric is None or request.metric == wanted.metric)
        and (Needs.FIRST_ORDER not in wanted.needs or request.gradient_samples == wanted.gradient_samples)
        and request.keep_bases >= wanted.keep_bases
        and request.keep_inputs >= wanted.keep_inputs
    )


def costs(request: Request) -> tuple[object, ...]:
    """What takes time or memory."""
    samples = request.gradient_samples if Needs.FIRST_ORDER in request.needs else None
    return request.needs, request.metric, samples, request.keep_bases, request.keep_inputs


@given(requests, requests)
def test_what_is_merged_gives_both_and_nothing_else(one: Request, other: Request) -> None:
    both = one.merged(other)
    again = other.merged(one)
    assert (both is None) == (again is None)
    candidates = [
        replace(one, needs=one.needs | other.needs, metric=m, gradient_samples=s, keep_bases=b, keep_inputs=i)
        for m, s, b, i in itertools.product((None, SAMPLED, NEXT), (None, 2, 5), (False, True), (False, True))
    ]
    fitting = [candidate for candidate in candidates if gives(candidate, one) and gives(candidate, other)]
    if both is None:
        assert not fitting
        return
    assert again is not None
    assert costs(both) == costs(again)
    assert gives(both, one)
    assert gives(both, other)
    # Whatever else gives both costs as much: what is measured is asked for by one of them.
    assert both.metric in (one.metric, other.metric)
    assert (both.keep_bases, both.keep_inputs) == (
        one.keep_bases or other.keep_bases,
        one.keep_inputs or other.keep_inputs,
    )


@given(st.lists(requests, max_size=6))
def test_several_are_made_as_few_as_give_them_all(asked: list[Request]) -> None:
    found = merge(asked)
    assert all(any(gives(request, wanted) for request in found) for wanted in asked)
    assert len(found) <= len(asked)
    # A sweep finds what a recipe asked for again as that which it adds nothing to.
    assert all(any(request.merged(wanted) == request for request in found) for wanted in asked)


def test_those_that_differ_only_in_what_is_kept_are_one() -> None:
    bare = Request(InputAware(), Needs.SPECTRUM)
    asked = [bare, replace(bare, keep_bases=True), replace(bare, needs=Needs.SIMILARITY), replace(bare, metric=NEXT)]
    assert merge(asked) == [Request(InputAware(), Needs.SPECTRUM | Needs.SIMILARITY, NEXT, keep_bases=True)]
    apart = [bare, replace(bare, objective=Weight()), replace(bare, structure=Hybrid())]
    assert merge([*apart, *apart]) == apart


def test_samples_of_gradients_that_nobody_takes_do_not_matter() -> None:
    spectrum = Request(InputAware(), Needs.SPECTRUM, gradient_samples=2)
    taken = Request(InputAware(), Needs.FIRST_ORDER, gradient_samples=5)
    both = spectrum.merged(taken)
    assert both is not None
    assert both.next_labels == Labels(None, 5)
    assert taken.merged(replace(taken, gradient_samples=2)) is None


def test_labels_of_first_order_changes_are_the_text_and_those_of_a_metric_its_own() -> None:
    request = Request(InputAware(), ALL, Fisher(top_k=5, samples=3), gradient_samples=7)
    assert request.next_labels == Labels(None, 7)
    assert request.next_labels.source == NEXT_TOKENS
    assert request.metric_labels == Labels(request.metric, 3)
    assert request.metric_labels.source == LabelSource(sampled=True, top_k=5)
    nothing = Request(InputAware(), Needs.SPECTRUM)
    assert (nothing.next_labels, nothing.metric_labels) == (None, None)


@pytest.mark.parametrize(
    ("request_", "empty", "spectrum", "moments", "data"),
    [
        (Request(InputAware()), True, False, False, True),
        (Request(Weight()), True, False, False, False),
        (Request(Weight(), Needs.SPECTRUM), False, True, False, False),
        (Request(Weight(), keep_bases=True), False, True, False, False),
        (Request(Weight(), Needs.SIMILARITY), False, False, False, True),
        (Request(Weight(), Needs.SPECTRUM | Needs.FIRST_ORDER), False, True, False, True),
        (Request(InputAware(), Needs.SPECTRUM), False, True, True, True),
        (Request(InputAware(), Needs.SIMILARITY), False, False, False, True),
        (Request(InputAware(), metric=SAMPLED), False, False, False, True),
        (Request(InputAware(), keep_inputs=True), False, False, True, True),
        (Request(InputAware(metric=WEIGHTED), Needs.SPECTRUM, WEIGHTED), False, True, False, True),
        (Request(InputAware(metric=WEIGHTED), Needs.SPECTRUM, WEIGHTED, keep_inputs=True), False, True, True, True),
    ],
    ids=str,
)
def test_what_a_walk_must_do(request_: Request, empty: bool, spectrum: bool, moments: bool, data: bool) -> None:
    assert request_.is_empty == empty
    assert request_.needs_spectrum == spectrum
    assert request_.needs_moments == moments
    assert request_.looks_at_data == data
