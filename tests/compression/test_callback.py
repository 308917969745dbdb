"""Who listens hears all of a run, in order."""

from __future__ import annotations

import pytest
from torch import Tensor
from transformers import PreTrainedModel

import eckart
from eckart.compression.model_check import ModelCheck

OVERRIDES = [
    "allocation=curvature",
    "refinement=block",
    "refinement.epochs=2",
    "refinement.batch=4",
    "distillation=logits",
    "distillation.epochs=2",
    "distillation.batch=4",
]


class Listener(eckart.Callback):
    """Writes down what it hears, and of whom."""

    def __init__(self) -> None:
        self.heard: list[tuple[str, object]] = []

    def on_check(self, check: ModelCheck) -> None:
        self.heard.append(("check", check.vocabulary))

    def on_start(self, plan, cost, finished: int) -> None:
        assert cost.seconds > 0
        self.heard.append(("start", (len(plan.blocks), finished)))

    def on_measurement(self, done: int, total: int) -> None:
        self.heard.append(("measurement", (done, total)))

    def on_layer(self, record) -> None:
        self.heard.append(("layer", record.path))

    def on_epoch(self, block: str, number: int, record) -> None:
        self.heard.append(("epoch", (block, number)))

    def on_refinement(self, record) -> None:
        self.heard.append(("refinement", record.block))

    def on_distillation(self, number: int, record) -> None:
        self.heard.append(("distillation", number))

    def on_block(self, finished: int) -> None:
        self.heard.append(("block", finished))


@pytest.mark.filterwarnings("ignore::eckart.errors.EckartWarning")
def test_all_of_a_run_is_heard_in_order(llama: PreTrainedModel, tokens: Tensor) -> None:
    listener = Listener()
    report = eckart.compress(llama, "svd-llm", 0.6, tokens, overrides=OVERRIDES, callback=listener)
    expected: list[tuple[str, object]] = [("check", 256), ("start", (3, 0))]
    expected += [("measurement", (number, 3)) for number in (1, 2, 3)]
    for number, refinement in enumerate(report.refinements):
        path = f"model.layers.{number}"
        expected += [("layer", layer.path) for layer in report.layers if layer.path.startswith(f"{path}.")]
        expected += [("epoch", (path, epoch)) for epoch in range(1, len(refinement.epochs) + 1)]
        expected += [("refinement", path), ("block", number + 1)]
    assert report.distillation is not None
    expected += [("distillation", epoch) for epoch in range(1, len(report.distillation.epochs) + 1)]
    assert sorted(listener.heard, key=str) == sorted(expected, key=str)
    assert [entry for entry in listener.heard if entry[0] not in ("check", "start")] == expected[2:]
    order = [name for name, _ in listener.heard]
    assert order.index("check") < order.index("measurement") < order.index("layer")
    assert order.index("start") < order.index("layer")


def test_one_that_hears_nothing_changes_nothing(llama: PreTrainedModel, tokens: Tensor) -> None:
    report = eckart.compress(llama, "svd-llm", 0.6, tokens, callback=eckart.Callback())
    assert len(report.layers) == 21


def test_what_it_raises_ends_the_run(llama: PreTrainedModel, tokens: Tensor) -> None:
    class Fails(eckart.Callback):
        def on_layer(self, record) -> None:
            raise LookupError(record.path)

    with pytest.raises(LookupError, match=r"model\.layers\.0\."):
        eckart.compress(llama, "svd-llm", 0.6, tokens, callback=Fails())
