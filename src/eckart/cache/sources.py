"""Where the numbers of a token come from that a cache keeps: factored layers, or others in few bits."""

from __future__ import annotations

from abc import ABC, abstractmethod
from collections.abc import Callable, Iterable
from dataclasses import dataclass
from typing import Any, cast

from torch import Tensor, nn

from eckart.layers.factored import FactoredLinear
from eckart.layers.fused import FusedLinear, JointPart
from eckart.layers.kept import KeptOutputsLinear
from eckart.layers.linear import LINEAR_CLASSES, bias_vector, weight_matrix
from eckart.layers.rows import RowsLayer

Heard = Callable[[Tensor], object]


class LatentSource(ABC):
    """Numbers from which the outputs of a layer follow.

    Attributes:
        outputs: which of the layer's outputs a module gives, by the module's path below the attention module.
        rank: numbers a token.
    """

    outputs: dict[str, slice]

    @property
    @abstractmethod
    def rank(self) -> int:
        """Numbers a token."""

    @property
    @abstractmethod
    def tensors(self) -> list[Tensor]:
        """Of what outputs follow with."""

    @abstractmethod
    def listen(self, heard: Heard) -> None:
        """Hand the latents of each pass, (..., rank), to somebody, until :meth:`silence` is called."""

    @abstractmethod
    def silence(self) -> None:
        """Hand latents to nobody."""

    @abstractmethod
    def decode(self, latents: Tensor, wanted: Iterable[str]) -> dict[str, Tensor]:
        """Return the outputs of modules.

        Args:
            latents: (batch, tokens, rank).
            wanted: paths of the modules.

        Returns:
            (batch, tokens, out features of the module) by its path.
        """

    def state(self) -> tuple[object, ...]:
        """Return what changes when the numbers of the layer are moved, or written to in a way that PyTorch counts."""
        # PyTorch does not count for tensors of inference mode.
        return tuple((tensor.data_ptr(), 0 if tensor.is_inference() else tensor._version) for tensor in self.tensors)

    def sums(self) -> tuple[float, ...]:
        """Return what changes when the numbers of the layer are written to in any way."""
        return tuple(float(tensor.detach().double().square().sum()) for tensor in self.tensors)


@dataclass(frozen=True)
class FactoredSource(LatentSource):
    """The latents of a factored layer, or what a layer keeps of its outputs.

    Attributes:
        layer: that computes them.
    """

    layer: FactoredLinear | KeptOutputsLinear
    outputs: dict[str, slice]

    @property
    def rank(self) -> int:
        """See :class:`LatentSource`."""
        return self.layer.latent_width

    @property
    def tensors(self) -> list[Tensor]:
        """See :class:`LatentSource`."""
        return [*self.layer.parameters(), *self.layer.buffers()]

    def listen(self, heard: Heard) -> None:
        """See :meth:`LatentSource.listen`."""
        self.layer.on_latents = heard

    def silence(self) -> None:
        """See :meth:`LatentSource.silence`."""
        self.layer.on_latents = None

    def decode(self, latents: Tensor, wanted: Iterable[str]) -> dict[str, Tensor]:
        """See :meth:`LatentSource.decode`."""
        parts = {path: self.outputs[path] for path in wanted}
        start, end = min(part.start for part in parts.values()), max(part.stop for part in parts.values())
        whole = start == 0 and end == self.layer.out_features
        found = self.layer.decode(latents, None if whole else slice(start, end))
        return {path: found[..., part.start - start : part.stop - start] for path, part in parts.items()}


@dataclass(frozen=True)
class OutputSource(LatentSource):
    """The outputs of a layer that is not factored, without its bias, which is often their largest part.

    They are no fewer numbers than keys or values: to be kept in few bits.

    Attributes:
        layer: a linear layer, or what stands for one.
    """

    layer: nn.Module
    outputs: dict[str, slice]

    @property
    def rank(self) -> int:
        """See :class:`LatentSource`."""
        (part,) = self.outputs.values()
        width: int = part.stop
        return width

    @property
    def tensors(self) -> list[Tensor]:
        """See :class:`LatentSource`."""
        bias = bias_vector(self.layer)
        return [] if bias is None else [bias]

    def listen(self, heard: Heard) -> None:
        """See :meth:`LatentSource.listen`."""
        self.layer.register_forward_hook(_OutputHook(heard))

    def silence(self) -> None:
        """See :meth:`LatentSource.silence`."""
        for number, hook in list(self.layer._forward_hooks.items()):
            if isinstance(hook, _OutputHook):
                del self.layer._forward_hooks[number]

    def decode(self, latents: Tensor, wanted: Iterable[str]) -> dict[str, Tensor]:
        """See :meth:`LatentSource.decode`."""
        bias = bias_vector(self.layer)
        return dict.fromkeys(wanted, latents if bias is None else latents + bias)


@dataclass
class _OutputHook:
    """No function: a copy of the model has a copy of it, with a copy of who listens."""

    heard: Heard

    def __call__(self, layer: nn.Module, args: Any, output: Tensor) -> None:
        bias = bias_vector(layer)
        self.heard(output if bias is None else (output - bias).to(output.dtype))  # of autocast, not that of the bias


def sources_below(attention: nn.Module, *, unfactored: bool = False) -> list[LatentSource]:
    """Return what outputs of linear layers below an attention module follow from, in the order of its modules.

    Layers inside of an adapter are left out: what it adds may be nothing now, and something later.

    Args:
        attention: the module.
        unfactored: whether layers that have no latents are to be found too, by their outputs.
    """
    found: list[FactoredSource] = []
    for path, module in attention.named_modules():
        if is_adapted(attention, path):
            continue
        if isinstance(module, FactoredLinear | KeptOutputsLinear) and module.has_latents:
            if not any(source.layer is module for source in found):
                found.append(FactoredSource(module, {path: slice(0, module.out_features)}))
        elif isinstance(module, FusedLinear) and module.runs == 1:
            joint = module.joint
            if isinstance(joint, FactoredLinear) and joint.has_latents:
                found.append(FactoredSource(joint, dict(_parts(attention, module))))
    if not unfactored:
        return list(found)
    known = {path for source in found for path in source.outputs}
    others = [
        OutputSource(attention.get_submodule(path), {path: slice(0, width)})
        for path, width in linears_below(attention).items()
        if path not in known and not is_adapted(attention, path)
    ]
    return [*found, *others]


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
