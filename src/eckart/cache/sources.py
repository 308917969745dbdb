"""The factored layers below an attention module: where its latents come from."""

from __future__ import annotations

from collections.abc import Iterable
from dataclasses import dataclass
from typing import cast

from torch import Tensor, nn

from eckart.layers.factored import FactoredLinear
from eckart.layers.fused import FusedLinear, JointPart
from eckart.layers.linear import LINEAR_CLASSES, weight_matrix
from eckart.layers.rows import RowsLayer


@dataclass(frozen=True)
class LatentSource:
    """A layer whose outputs follow from its latents.

    Attributes:
        layer: that computes the latents.
        outputs: which of its outputs a module gives, by the module's path below the attention module.
    """

    layer: FactoredLinear
    outputs: dict[str, slice]

    @property
    def rank(self) -> int:
        """Numbers a token."""
        return self.layer.rank

    def state(self) -> tuple[object, ...]:
        """Return what changes when the numbers of the layer are moved, or written to in a way that PyTorch counts."""
        tensors = [*self.layer.parameters(), *self.layer.buffers()]
        # PyTorch does not count for tensors of inference mode.
        return tuple((tensor.data_ptr(), 0 if tensor.is_inference() else tensor._version) for tensor in tensors)

    def sums(self) -> tuple[float, ...]:
        """Return what changes when the numbers of the layer are written to in any way."""
        tensors = [*self.layer.parameters(), *self.layer.buffers()]
        return tuple(float(tensor.detach().double().square().sum()) for tensor in tensors)

    def decode(self, latents: Tensor, wanted: Iterable[str]) -> dict[str, Tensor]:
        """Return the outputs of modules.

        Args:
            latents: (batch, tokens, rank).
            wanted: paths of the modules.

        Returns:
            (batch, tokens, out features of the module) by its path.
        """
        parts = {path: self.outputs[path] for path in wanted}
        start, end = min(part.start for part in parts.values()), max(part.stop for part in parts.values())
        whole = start == 0 and end == self.layer.out_features
        found = self.layer.decode(latents, None if whole else slice(start, end))
        return {path: found[..., part.start - start : part.stop - start] for path, part in parts.items()}


def sources_below(attention: nn.Module) -> list[LatentSource]:
    """Return the layers with latents below an attention module, in the order of its modules.

    Layers inside of an adapter are none: what it adds may be nothing now, and something later.
    """
    found: list[LatentSource] = []
    for path, module in attention.named_modules():
        if is_adapted(attention, path):
            continue
        if isinstance(module, FactoredLinear) and module.has_latents:
            if not any(source.layer is module for source in found):
                found.append(LatentSource(module, {path: slice(0, module.out_features)}))
        elif isinstance(module, FusedLinear) and module.runs == 1:
            joint = module.joint
            if isinstance(joint, FactoredLinear) and joint.has_latents:
                found.append(LatentSource(joint, dict(_parts(attention, module))))
    return found


def _parts(attention: nn.Module, leader: FusedLinear) -> Iterable[tuple[str, slice]]:
    ends = [sum(leader.sizes[: number + 1]) for number in range(len(leader.sizes))]
    for path, module in attention.named_modules():
        number = 0 if module is leader else module.number if _is_part(module, leader) else None
        if number is not None:
            yield path, slice(ends[number] - leader.sizes[number], ends[number])


def _is_part(module: nn.Module, leader: FusedLinear) -> bool:
    return isinstance(module, JointPart) and module.leader is leader


def is_adapted(attention: nn.Module, path: str) -> bool:
    """Return whether a module is inside of another one that stands for a layer and holds it, as adapters do."""
    parts = path.split(".")
    around = (".".join(parts[:end]) for end in range(1, len(parts)))
    return any("base_layer" in attention.get_submodule(outer)._modules for outer in around)


def linears_below(attention: nn.Module) -> dict[str, int]:
    """Return the out features of all layers below an attention module that stand for a linear one, by path.

    Layers inside of another one, such as factors, are left out.
    """
    found: dict[str, int] = {}
    for path, module in attention.named_modules():
        if any(path.startswith(f"{outer}.") for outer in found):
            continue
        if isinstance(module, FusedLinear):
            found[path] = module.sizes[0]
        elif isinstance(module, JointPart):
            found[path] = module.leader.sizes[module.number]
        elif path and isinstance(module, (*LINEAR_CLASSES, RowsLayer)):
            found[path] = _out_features(cast(nn.Module, module))
    return found


def _out_features(module: nn.Module) -> int:
    out_features = getattr(module, "out_features", None)
    return out_features if isinstance(out_features, int) else len(weight_matrix(module))
