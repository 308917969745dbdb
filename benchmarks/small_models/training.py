"""Trains a model from nothing, and goes on where it was cut off."""

from __future__ import annotations

import json
import math
from collections.abc import Callable, Mapping
from dataclasses import asdict, dataclass
from pathlib import Path
from time import perf_counter

import torch
from safetensors import safe_open
from safetensors.torch import save_file
from torch import Tensor, nn

from eckart.device import autocast, is_emulated

CPU = torch.device("cpu")
STATE_NAME, LOG_NAME = "training.safetensors", "training.jsonl"
SAVE_SECONDS = 60.0  # between two states on disk
WARM_UP = 0.05  # of the steps
CLIP = 1.0
LAST_RATE = 0.02  # of the rate, at the end


@dataclass(frozen=True)
class Schedule:
    """How long and how fast a model is trained.

    Attributes:
        steps: of the optimiser.
        batch: samples a step.
        rate: of learning, at its highest.
        weight_decay: of matrices.
    """

    steps: int
    batch: int
    rate: float
    weight_decay: float = 0.05

    def rate_at(self, step: int) -> float:
        """Return the rate of a step: it rises in a line, and falls in a half cosine."""
        warm = max(1, round(self.steps * WARM_UP))
        if step < warm:
            return self.rate * (step + 1) / warm
        left = (1 + math.cos(math.pi * (step - warm) / max(1, self.steps - warm))) / 2
        return self.rate * (LAST_RATE + (1 - LAST_RATE) * left)


def training_dtype() -> torch.dtype:
    """Return the dtype of products in training: bfloat16, or float32 on a processor that only emulates it."""
    return torch.float32 if is_emulated(torch.bfloat16) else torch.bfloat16


def train(
    model: nn.Module,
    batch_at: Callable[[int], Mapping[str, Tensor]],
    schedule: Schedule,
    folder: Path,
    dtype: torch.dtype,
) -> None:
    """Train a model in place by its own loss; weights and the optimiser's sums are float32.

    Args:
        model: in float32; what its forward pass returns has a ``loss``.
        batch_at: gives the arguments of the model's forward pass for a step, labels included. It depends on nothing
            but the number, so that a run that was cut off goes on with the same data.
        schedule: steps and rates.
        folder: to keep the state in, at most :data:`SAVE_SECONDS` old, and the log.
        dtype: of the products.
    """
    model.train()
    named = dict(model.named_parameters())
    matrices = [parameter for parameter in named.values() if parameter.ndim > 1]
    others = [parameter for parameter in named.values() if parameter.ndim <= 1]
    groups = [{"params": matrices, "weight_decay": schedule.weight_decay}, {"params": others, "weight_decay": 0.0}]
    optimiser = torch.optim.AdamW(groups, lr=schedule.rate, betas=(0.9, 0.98))
    state = _State(named, optimiser, folder / STATE_NAME)
    first = state.load()
    saved = start = perf_counter()
    with (folder / LOG_NAME).open("a", encoding="utf-8") as log:
        for step in range(first, schedule.steps):
            for group in optimiser.param_groups:
                group["lr"] = schedule.rate_at(step)
            with autocast(CPU, dtype):
                loss = model(**batch_at(step)).loss
            loss.backward()
            torch.nn.utils.clip_grad_norm_(named.values(), CLIP)
            optimiser.step()
            optimiser.zero_grad()
            if (step + 1) % 20 == 0 or step + 1 == schedule.steps:
                line = {"step": step + 1, "loss": round(loss.item(), 4), "seconds": round(perf_counter() - start, 1)}
                log.write(json.dumps({**line, **asdict(schedule)} if step < first + 20 else line) + "\n")
                log.flush()
            if perf_counter() - saved > SAVE_SECONDS:
                state.save(step + 1)
                saved = perf_counter()
    model.eval()
    state.path.unlink(missing_ok=True)


class _State:
    """Parameters, the optimiser's two sums of each, and the number of steps done, in one file."""

    def __init__(self, named: dict[str, torch.nn.Parameter], optimiser: torch.optim.Optimizer, path: Path) -> None:
        self.named, self.optimiser, self.path = named, optimiser, path

    def save(self, step: int) -> None:
        tensors = {}
        for name, parameter in self.named.items():
            sums = self.optimiser.state[parameter]
            tensors[name] = parameter.detach()
            # A part of the model that no batch has reached yet has no sums.
            tensors |= {f"{name}:{which}": sums[which] for which in ("exp_avg", "exp_avg_sq") if which in sums}
        partial = self.path.with_suffix(".partial")
        save_file(tensors, partial, {"step": str(step)})
        partial.replace(self.path)

    def load(self) -> int:
        if not self.path.exists():
            return 0
        with safe_open(self.path, "pt") as file:
            step, stored = int(file.metadata()["step"]), set(file.keys())
            for name, parameter in self.named.items():
                with torch.no_grad():
                    parameter.copy_(file.get_tensor(name))
                if f"{name}:exp_avg" in stored:
                    self.optimiser.state[parameter] = {
                        "step": torch.tensor(float(step)),
                        **{which: file.get_tensor(f"{name}:{which}") for which in ("exp_avg", "exp_avg_sq")},
                    }
        return step
