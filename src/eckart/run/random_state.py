"""Leaves the random numbers of the user's program as they were."""

from __future__ import annotations

import random
from collections.abc import Iterator
from contextlib import contextmanager

import numpy
import torch

from eckart.device import accelerator_random_state


@contextmanager
def random_state_kept() -> Iterator[None]:
    """Give the global generators of PyTorch, NumPy and Python back as they were; also a decorator.

    Nothing here draws from them, since each draw has a seed and a generator of its own. Libraries do, for instance
    where a layer is made whose numbers are set afterwards, and a program that is run twice should give the same.
    """
    python, arrays, tensors = random.getstate(), numpy.random.get_state(), torch.get_rng_state()
    restore_accelerator = accelerator_random_state()
    try:
        yield
    finally:
        random.setstate(python)
        numpy.random.set_state(arrays)
        torch.set_rng_state(tensors)
        restore_accelerator()
