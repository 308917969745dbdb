"""Functions of transformers that ask no quantizer, and do a little more for compressed models.

What they did for all other models they still do, byte by byte.
"""

from __future__ import annotations

from collections.abc import Callable
from functools import wraps
from typing import TYPE_CHECKING, Any

import torch

from eckart.checkpoint.config import EckartConfig
from eckart.checkpoint.guard import is_of_compressed_model
from eckart.errors import warn
from eckart.layers import QuantizedLinear
from eckart.layers.vocabulary import take_tables_back

if TYPE_CHECKING:
    from transformers import PreTrainedConfig, PreTrainedModel


def with_note(build: Callable[..., PreTrainedModel]) -> Callable[..., PreTrainedModel]:
    """Return a function that builds a model from its config alone, and says so if that is not what was compressed.

    Args:
        build: builds it, as a method of its class.
    """

    @wraps(build)
    def _from_config(cls: type[PreTrainedModel], config: PreTrainedConfig, **kwargs: Any) -> PreTrainedModel:
        # A model without numbers, as it is while one is loaded, is none that anybody takes for a trained one.
        if is_of_compressed_model(config) and torch.get_default_device().type != "meta":
            warn(
                f"from_config gives a dense {cls.__name__} with random weights: the config of a compressed model says "
                "what was done to it, and its weights are in its folder. Load that by from_pretrained."
            )
        return build(cls, config, **kwargs)

    return _from_config


def with_codes(count: Callable[..., int]) -> Callable[..., int]:
    """Return a function that counts the parameters of a model, with the numbers that it holds in few bits.

    Args:
        count: counts what is a parameter of torch, as a method. Whole numbers cannot be trained, and are none.
    """

    @wraps(count)
    def num_parameters(model: PreTrainedModel, only_trainable: bool = False, exclude_embeddings: bool = False) -> int:
        found = count(model, only_trainable, exclude_embeddings)
        if only_trainable:
            return found
        layers = (module for module in model.modules() if isinstance(module, QuantizedLinear))
        return found + sum(layer.in_features * layer.out_features for layer in layers)

    return num_parameters


def with_dense_tables(resize: Callable[..., Any]) -> Callable[..., Any]:
    """Return a function that gives a model another number of tokens, with an embedding of codes made dense before.

    Args:
        resize: does so, as a method. Rows that are new have no codes.
    """

    @wraps(resize)
    def resize_token_embeddings(model: PreTrainedModel, *args: Any, **kwargs: Any) -> Any:
        config = getattr(model.config, "quantization_config", None)
        if isinstance(config, EckartConfig) and config.embedding is not None and (args or kwargs):
            warn(
                "The embedding is held in few bits, which rows that are new do not have: it is in 16 bits from here "
                "on, and a head over the same tokens too."
            )
            head = config.embedding["head"]
            take_tables_back(model)
            if head is not None and isinstance(own := model.get_output_embeddings(), QuantizedLinear):
                model.set_output_embeddings(own.to_dense())
            config.embedding = None
        return resize(model, *args, **kwargs)

    return resize_token_embeddings


def wrap_models() -> None:
    """Put into transformers what is done for models. To be called once, when its code for models is there."""
    from transformers.modeling_utils import PreTrainedModel

    PreTrainedModel._from_config = classmethod(with_note(PreTrainedModel._from_config.__func__))
    PreTrainedModel.num_parameters = with_codes(PreTrainedModel.num_parameters)
    PreTrainedModel.resize_token_embeddings = with_dense_tables(PreTrainedModel.resize_token_embeddings)
