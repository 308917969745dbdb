"""Parameters that a model has in several modules, such as layers of an encoder that are those of its decoder.

Factors in the place of each would be stored one by one, and take more than the one weight does.
"""

from __future__ import annotations

from torch import nn

from eckart.layers import is_linear
from eckart.layers.fused import JointPart


def shared_parameters(model: nn.Module) -> set[int]:
    """Return the ids of the parameters that are in several modules; one module in several places is one.

    Args:
        model: to look into.
    """
    seen: set[int] = set()
    shared: set[int] = set()
    for module in model.modules():
        own = {id(parameter) for parameter in module._parameters.values() if parameter is not None}
        shared |= own & seen
        seen |= own
    return shared


def shared_linears(model: nn.Module, block: nn.Module) -> set[str]:
    """Return the names in a block of the linears whose weight the model has in other modules, too.

    Args:
        model: to look into.
        block: in it.
    """
    shared = shared_parameters(model)
    return {
        name for name, part in block.named_modules() if is_linear(part) and id(part.get_parameter("weight")) in shared
    }


def linears_in_plain_lists(block: nn.Module) -> set[str]:
    """Return the names of the linears in a block that a module holds in a list of Python, too, and runs from there.

    What is put in the place of the module is not run then.

    Args:
        block: to look into.
    """
    held = {
        id(item)
        for part in block.modules()
        if not isinstance(part, JointPart)  # it follows its leader, whatever that is made of
        for value in vars(part).values()
        if isinstance(value, list | tuple)
        for item in value
        if isinstance(item, nn.Module)
    }
    inside = {id(part) for outer in block.modules() if id(outer) in held for part in outer.modules()}
    return {name for name, part in block.named_modules() if is_linear(part) and id(part) in inside}
