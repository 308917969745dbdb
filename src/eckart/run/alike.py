"""What several processes have to agree on before they share a run, and how the samples are dealt to them."""

from __future__ import annotations

from dataclasses import asdict, replace
from typing import Any

import torch

from eckart import processes
from eckart.blocks.blockwise_model import BlockwiseModel
from eckart.checkpoint.identity import differences
from eckart.compression.estimate import Estimate
from eckart.compression.plan import Plan
from eckart.device import free_memory, host_memory
from eckart.errors import ProcessError, ToldElsewhereError
from eckart.run.estimate import estimate

FEWEST = 2  # samples, that training can hold one of them out


def check_alike(facts: dict[str, Any]) -> None:
    """Raise if a process is to do something else than the others.

    Args:
        facts: what makes two runs the same, of this process.

    Raises:
        ProcessError: names what is different, and where.
    """
    first, *others = processes.gather(facts)
    for number, other in enumerate(others, start=1):
        form = f"{{name}} is {{before!r}} in process 0 and {{now!r}} in process {number}"
        found = differences(first, other, form=form)
        if found:
            error = ToldElsewhereError if processes.rank() else ProcessError
            raise error(
                f"The {processes.size()} processes do not do the same: {'; '.join(found)}. "
                "Start all of them with the same files, texts and options."
            )


def in_parts(model: BlockwiseModel) -> BlockwiseModel:
    """Return a model of whose samples each process runs its own part."""
    if model.calibration is None:
        return model
    return replace(model, calibration=model.known.shared(processes.rank(), processes.size()), arguments={})


def largest_part(model: BlockwiseModel) -> BlockwiseModel:
    """Return a model with as many samples as the process has that has most."""
    if model.calibration is None or processes.size() == 1:
        return model
    return model.cropped(max(FEWEST, -(-len(model.known) // processes.size())), None)


def worst_of(cost: Estimate) -> Estimate:
    """Return what a run takes in the process in which it takes most, so that all do the same."""
    every = [Estimate(**found) for found in processes.gather(asdict(cost))]
    if len(every) == 1:
        return cost
    on_devices = [found.device_bytes for found in every if found.device_bytes is not None]
    return Estimate(
        host_bytes=max(found.host_bytes for found in every),
        device_bytes=max(on_devices, default=None),
        allocation_seconds=max(found.allocation_seconds for found in every),
        block_seconds=max(found.block_seconds for found in every),
        seconds=max(found.seconds for found in every),
        distillation_seconds=max(found.distillation_seconds for found in every),
        in_memory=all(found.in_memory for found in every),
        recompute=any(found.recompute for found in every),
    )


def host_limit() -> int:
    """Return the bytes of resident memory that this process can take: what it has, and its part of what is free."""
    return host_memory() + free_memory(torch.device("cpu")) // processes.neighbours()


def estimate_for_all(model: BlockwiseModel, plan: Plan, limit: int) -> Estimate:
    """Return :func:`estimate` for the process that has most to do, so that all do the same.

    Args:
        model: to be compressed.
        plan: what is to be done to it.
        limit: bytes of resident memory that each process may take.
    """
    device_limit = None if model.device.type == "cpu" else free_memory(model.device)
    return worst_of(estimate(largest_part(model), plan, limit=limit, device_limit=device_limit))
