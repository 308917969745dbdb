"""What is said before a compressed model is trained."""

from __future__ import annotations

from torch import nn

from eckart.errors import warn
from eckart.layers import QuantizedLinear


def warn_of_codes(model: nn.Module) -> bool:
    """Warn if weights of a model that is to be trained are held in few bits, and no adapter is on it.

    Args:
        model: whose parameters say by ``requires_grad`` what would be trained; PEFT has none of those that were there.

    Returns:
        Whether there was something to say.
    """
    layers = [module for module in model.modules() if isinstance(module, QuantizedLinear)]
    trained = [layer for layer in layers if layer.scale_parameter.requires_grad]
    if trained:
        warn(
            f"{len(trained)} weights of this {type(model).__name__} are held in few bits: training changes their "
            "scales and what has 16 bits beside them, such as norms, and none of their numbers. To fine-tune such a "
            "model put LoRA on it, by peft.get_peft_model(model, peft.LoraConfig(target_modules='all-linear'))."
        )
    return bool(trained)
