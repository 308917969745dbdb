"""Who listens to a run while it goes on."""

from __future__ import annotations

from eckart.compression.estimate import Estimate
from eckart.compression.model_check import ModelCheck
from eckart.compression.plan import Plan
from eckart.compression.records import LayerRecord
from eckart.methods.preparation.record import PreparationRecord
from eckart.methods.refinement.record import RefinementRecord
from eckart.methods.training.record import EpochRecord


class Callback:
    """Is told what a run does, in order. Does nothing itself: override what you want to hear."""

    def __init_subclass__(cls) -> None:
        # The name that `on_measurement` had before.
        if "on_profile" in vars(cls) and "on_measurement" not in vars(cls):
            cls.on_measurement = vars(cls)["on_profile"]  # type: ignore[method-assign]

    def on_check(self, check: ModelCheck) -> None:
        """Hear what is known of the model before anything is measured on it."""

    def on_start(self, plan: Plan, cost: Estimate, finished: int) -> None:
        """Hear what will be done, and what it is expected to take, before anything is done.

        Args:
            plan: blocks and ranks.
            cost: memory and time.
            finished: blocks that an earlier run has done already.
        """

    def on_measurement(self, done: int, total: int) -> None:
        """Hear how far the measurement of the original model has come, which the ranks follow from."""

    def on_allocation(self, plan: Plan) -> None:
        """Hear what the ranks are, and what is expected of them."""

    def on_preparation_epoch(self, block: str, number: int, record: EpochRecord) -> None:
        """Hear that an epoch of a block's preparation is done; ``number`` counts from 1."""

    def on_preparation(self, record: PreparationRecord) -> None:
        """Hear that a block is prepared, before its layers are factored."""

    def on_layer(self, record: LayerRecord) -> None:
        """Hear that a linear layer is factored."""

    def on_epoch(self, block: str, number: int, record: EpochRecord) -> None:
        """Hear that an epoch of a block's refinement is done; ``number`` counts from 1."""

    def on_refinement(self, record: RefinementRecord) -> None:
        """Hear that a block is refined."""

    def on_distillation(self, number: int, record: EpochRecord) -> None:
        """Hear that an epoch of the distillation is done; ``number`` counts from 1."""

    def on_block(self, finished: int) -> None:
        """Hear that a block is done; ``finished`` counts all that are."""
