"""Times several models in turn, so that what else the machine does falls on all of them alike."""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from statistics import median
from typing import TYPE_CHECKING

import torch
from pydantic import BaseModel, ConfigDict
from torch import Tensor

from eckart.blocks.onload import named_tensors
from eckart.data.context import context_of
from eckart.device import free_memory, peak_device_memory, reset_peak_device_memory
from eckart.errors import EckartError
from eckart.evaluate.caches import MakeCache
from eckart.evaluate.speed.passes import Timed, compiled_forward, run_once
from eckart.evaluate.speed.roofline import Machine, Work
from eckart.files.field_types import Count

if TYPE_CHECKING:
    from transformers import PreTrainedModel

OVERHEAD_BELOW = 0.25  # of the nearer limit: then something else takes most of the time
WARM_UP = 1  # rounds whose times do not count: they allocate, and make what is made at the first run


class Spread(BaseModel):
    """The median of some numbers, and the lowest and the highest of them."""

    model_config = ConfigDict(allow_inf_nan=False)

    median: float
    low: float
    high: float

    @staticmethod
    def of(numbers: Sequence[float]) -> Spread:
        """Return the spread of one number or more."""
        return Spread(median=median(numbers), low=min(numbers), high=max(numbers))


class Rates(BaseModel):
    """How fast one model is at one batch size.

    Attributes:
        model: its name.
        batch: sequences at once.
        prompt: tokens of each.
        generate: tokens that each is continued by.
        first_token: seconds to the first new token.
        prefill: prompt tokens a second.
        decode: new tokens a second, of all sequences together, the first ones not counted.
    """

    model: str
    batch: Count
    prompt: Count
    generate: Count
    first_token: Spread
    prefill: Spread
    decode: Spread


class Speed(Rates):
    """How fast a model is, and what holds it back.

    Attributes:
        weight_bytes: of all parameters and buffers.
        cache_bytes_per_token: of keys and values, for one token of one sequence.
        peak_bytes: largest number of bytes allocated on the accelerator; None on a CPU.
        limit: what limits decoding on this machine: ``memory``, ``operations``, or ``overhead`` if it is near neither.
        reached: what a step must read or multiply at least (the longer of the two), over what it took.
    """

    weight_bytes: Count
    cache_bytes_per_token: float
    peak_bytes: Count | None
    limit: str
    reached: float


def compare(
    models: Mapping[str, PreTrainedModel],
    machine: Machine,
    *,
    batches: Sequence[int] = (1,),
    prompt: int = 128,
    generate: int = 64,
    repeats: int = 5,
    compiled: bool = False,
    caches: Mapping[str, MakeCache] | None = None,
    on_run: Callable[[int, int], None] = lambda done, total: None,
) -> list[Speed]:
    """Time models in rounds, each of them once in a round.

    Args:
        models: by name, in evaluation mode, on one device.
        machine: what that can do.
        batches: sizes to run.
        prompt: random tokens in front, the same for all models of one vocabulary.
        generate: tokens to continue by, 2 or more.
        repeats: rounds.
        compiled: let ``torch.compile`` make what decodes, on a cache of fixed size.
        caches: what makes an empty cache, for models that are to use another than their own.
        on_run: is called with (done, total) after each run.

    Raises:
        EckartError: a model has no room for so many tokens, or the machine has none.
    """
    check_room(models, batches=batches, prompt=prompt, generate=generate)
    cases = [(name, batch) for batch in batches for name in models]
    timed: dict[tuple[str, int], list[Timed]] = {case: [] for case in cases}
    peaks: dict[tuple[str, int], int | None] = {}
    total = (WARM_UP + repeats) * len(cases)
    forwards = {name: compiled_forward(model) for name, model in models.items()} if compiled else {}
    for done in range(total):
        name, batch = case = cases[done % len(cases)]
        model = models[name]
        reset_peak_device_memory(model.device)
        make_cache = (caches or {}).get(name)
        run = run_once(model, random_prompt(model, batch, prompt), generate, forwards.get(name), make_cache)
        peaks[case] = peak_device_memory(model.device)
        if done >= WARM_UP * len(cases):
            timed[case].append(run)
        on_run(done + 1, total)
    return [
        _speed(models[name], name, batch, prompt, timed[name, batch], peaks[name, batch], machine)
        for name, batch in cases
    ]


def check_room(models: Mapping[str, PreTrainedModel], *, batches: Sequence[int], prompt: int, generate: int) -> None:
    """Raise if models cannot be timed; arguments and errors as for :func:`compare`."""
    for name, model in models.items():
        room = context_of(model)
        if room is not None and prompt + generate > room:
            raise EckartError(
                f"{name} has room for {room} tokens; found {prompt} of the prompt and {generate} generated. "
                "Use a smaller --prompt or --generate."
            )
        _check_memory(model, max(batches), prompt)


def _check_memory(model: PreTrainedModel, batch: int, prompt: int) -> None:
    """Raise if the hidden states of a prompt, in front of a block and behind it, do not fit into what is free."""
    needed = 2 * batch * prompt * model.get_input_embeddings().weight.shape[1] * model.dtype.itemsize
    free = free_memory(model.device)
    if needed > free:
        raise EckartError(
            f"{batch} sequences of {prompt} tokens take at least {needed / 1e9:.1f} GB of memory, and {free / 1e9:.1f} "
            "GB are free. Use a smaller --batch or --prompt."
        )


def random_prompt(model: PreTrainedModel, batch: int, length: int) -> Tensor:
    """Return (batch, length) tokens, the same at every call."""
    generator = torch.Generator().manual_seed(0)
    vocabulary = model.get_input_embeddings().num_embeddings
    return torch.randint(vocabulary, (batch, length), generator=generator).to(model.device)


def _speed(
    model: PreTrainedModel,
    name: str,
    batch: int,
    prompt: int,
    runs: list[Timed],
    peak: int | None,
    machine: Machine,
) -> Speed:
    generate = runs[0].tokens.shape[1]
    # The last token is chosen and not run, so that it is in no cache.
    cached = batch * (prompt + generate - 1)
    per_token = runs[0].cache_bytes / cached
    mean_cache = round(per_token * batch * (prompt + generate / 2))
    moving, multiplying = machine.seconds(Work.of(model, batch, mean_cache))
    step = median(sum(run.steps) / len(run.steps) for run in runs)
    reached = max(moving, multiplying) / step
    return Speed(
        model=name,
        batch=batch,
        prompt=prompt,
        generate=generate,
        first_token=Spread.of([run.first_token for run in runs]),
        prefill=Spread.of([batch * prompt / run.first_token for run in runs]),
        decode=Spread.of([batch * len(run.steps) / sum(run.steps) for run in runs]),
        weight_bytes=sum(tensor.nbytes for _, tensor in named_tensors(model)),
        cache_bytes_per_token=per_token,
        peak_bytes=peak,
        limit="overhead" if reached < OVERHEAD_BELOW else "memory" if moving >= multiplying else "operations",
        reached=reached,
    )
