"""Which inputs and outputs of a layer one of several devices has (tensor parallelism).

Of a layer that is cut by outputs each device has some outputs of each linear that it is fused of. Its inner
matrices are whole everywhere, its outer ones have rows. Where there are fewer heads of keys and values than devices,
several devices have the same ones. Of a layer that is cut by inputs the inner matrices have columns, the outer ones are
whole, and what the devices compute is added up.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from itertools import accumulate

import torch
from torch import Tensor


@dataclass(frozen=True)
class Cut:
    """See above.

    Attributes:
        in_features: of the whole layer.
        sizes: outputs of each linear, all of them.
        local: outputs of each linear that are here.
        starts: the first of them.
        columns: the inputs that are here; None for all.
    """

    in_features: int
    sizes: tuple[int, ...]
    local: tuple[int, ...]
    starts: tuple[int, ...]
    columns: slice | None = None

    @staticmethod
    def by_outputs(in_features: int, local: Sequence[int], copies: Sequence[int], rank: int, count: int) -> Cut:
        """Return the share of one device in a layer that is cut by outputs.

        Args:
            in_features: of the layer.
            local: outputs of each linear on a device.
            copies: of each linear, how many neighbouring devices have the same outputs.
            rank: number of the device.
            count: of devices.
        """
        pairs = list(zip(local, copies, strict=True))
        sizes = tuple(size * count // same for size, same in pairs)
        return Cut(in_features, sizes, tuple(local), tuple(rank // same * size for size, same in pairs))

    @staticmethod
    def by_inputs(in_features: int, outputs: Sequence[int], rank: int, count: int) -> Cut:
        """Return the share of one device in a layer that is cut by inputs; arguments as for :meth:`by_outputs`."""
        width = in_features // count
        columns = None if count == 1 else slice(rank * width, (rank + 1) * width)
        return Cut(in_features, tuple(outputs), tuple(outputs), (0,) * len(outputs), columns)

    def rows(self, shards: Sequence[int]) -> Tensor | None:
        """Return which outputs of some linears, one behind another, are here: (some,) int64, or None for all."""
        if all(self.local[shard] == self.sizes[shard] for shard in shards):
            return None
        before = [0, *accumulate(self.sizes[shard] for shard in shards)]
        starts = [first + self.starts[shard] for first, shard in zip(before, shards, strict=False)]
        pairs = zip(starts, shards, strict=True)
        return torch.cat([torch.arange(start, start + self.local[shard]) for start, shard in pairs])

    def order(self, shards: Sequence[Sequence[int]]) -> Tensor | None:
        """Return where each output of the layer is among those of its parts: (outputs,) int64.

        Args:
            shards: of each part, the linears whose outputs it gives.

        Returns:
            None where they are in order.
        """
        flat = [shard for part in shards for shard in part]
        if flat == sorted(flat):
            return None
        starts = dict(zip(flat, accumulate((self.local[shard] for shard in flat), initial=0), strict=False))
        return torch.cat([torch.arange(starts[shard], starts[shard] + self.local[shard]) for shard in sorted(flat)])
