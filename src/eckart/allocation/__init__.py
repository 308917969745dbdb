"""Which rank where: one file an allocator."""

from __future__ import annotations

from eckart.allocation.uniform import Uniform as Uniform
