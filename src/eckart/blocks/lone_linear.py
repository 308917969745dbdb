"""A linear layer that is a block by itself: a projector, a classifier, the head over the vocabulary."""

from __future__ import annotations

from typing import Any

from torch import nn


class LoneLinear(nn.Module):
    """Holds a layer of a model as its only child, so that it can be put in another one's place like those in blocks.

    Args:
        owner: the module of the model that holds the layer.
        name: of the layer in it.
    """

    def __init__(self, owner: nn.Module, name: str) -> None:
        super().__init__()
        self._owner = (owner,)  # in a tuple, so that it does not become a child too
        self.child = name
        self.add_module(name, owner.get_submodule(name))

    @property
    def layer(self) -> nn.Module:
        """The layer, or what stands in its place now."""
        return self.get_submodule(self.child)

    def forward(self, *args: Any, **kwargs: Any) -> Any:
        """Run the layer."""
        return self.layer(*args, **kwargs)

    def set_submodule(self, target: str, module: nn.Module, strict: bool = False) -> None:
        """Put a layer in the place of the child, here and in the model."""
        super().set_submodule(target, module, strict)
        self._owner[0].set_submodule(target, module, strict)
