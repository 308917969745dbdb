"""The tensors of a GGUF file, from those of a model.

transformers has a map from a file's tensors to a model's: another name, another order of rows, a number added. Here
each is undone. What the map does is found by running it on the numbers of places, so that no architecture is named.
"""

from __future__ import annotations

from collections.abc import Iterator
from typing import TYPE_CHECKING, Any

import numpy
import torch
from numpy.typing import NDArray
from torch import Tensor

from eckart.errors import ExportError
from eckart.runtimes.targets import holders_of_factors

if TYPE_CHECKING:
    from transformers import PreTrainedModel

Array = NDArray[Any]
TEXT = "_text"  # how models of text are called where a larger one has the name


def architecture_of(model: PreTrainedModel) -> str:
    """Return the name that a model's architecture has in a GGUF file.

    Raises:
        ExportError: transformers reads none of that name back.
    """
    from transformers.integrations.ggml import GGUF_CONFIG_MAPPING
    from transformers.integrations.gguf.gguf_conversion_mapping import GGUF_ARCHS

    own = str(model.config.model_type)
    known = sorted(name for name in GGUF_CONFIG_MAPPING if name not in ("general", "tokenizer", *GGUF_ARCHS))
    name = own if own in known else own.removesuffix(TEXT)
    if name not in known or not model.can_generate():
        raise ExportError(
            f"{type(model).__name__} ({own}) cannot be written as GGUF: expected an architecture that transformers "
            f"reads back ({', '.join(known)}). Use --to dense and llama.cpp's own script, or --to "
            f"{holders_of_factors()}."
        )
    return name


def tensors_for(model: PreTrainedModel, architecture: str) -> Iterator[tuple[str, Tensor]]:
    """Yield the name and the numbers of each tensor of a file.

    Args:
        model: dense.
        architecture: its name in the file.

    Raises:
        ExportError: transformers reads a tensor back in no way that can be undone, or not at all.
    """
    from transformers.modeling_gguf_pytorch_utils import TENSOR_PROCESSORS, TensorProcessor, get_gguf_hf_weights_map

    reader = TENSOR_PROCESSORS.get(architecture, TensorProcessor)(config=model.config.to_dict())
    try:
        names = get_gguf_hf_weights_map(model, reader)
    except NotImplementedError as error:
        raise ExportError(f"{type(model).__name__} cannot be written as GGUF: {error}") from error
    tied = set(getattr(model, "all_tied_weights_keys", None) or {})
    state = {name: tensor for name, tensor in model.state_dict().items() if name not in tied}
    lacking = sorted(state.keys() - set(names.values()))
    if lacking:
        raise ExportError(
            f"{type(model).__name__} cannot be written as GGUF: transformers reads {len(lacking)} of its tensors back "
            f"from no such file, such as {lacking[0]!r}."
        )
    for own, name in names.items():
        if name in state:
            yield own, undone(reader, own, state[name])


def undone(reader: Any, name: str, tensor: Tensor) -> Tensor:
    """Return the numbers of which a reader makes ``tensor``.

    Args:
        reader: has ``process``, as those of transformers have.
        name: of the tensor in the file.
        tensor: in the model.

    Raises:
        ExportError: the reader does more than to order numbers anew and to add one to each.
    """
    shapes = dict.fromkeys((tuple(tensor.shape), tuple(tensor.shape)[::-1]))
    for shape in shapes:
        zeros = _read(reader, name, numpy.zeros(shape))
        if zeros is None or zeros.shape != tuple(tensor.shape) or not bool((zeros == zeros.flat[0]).all()):
            continue
        added = float(zeros.flat[0])
        places = _read(reader, name, numpy.arange(tensor.numel(), dtype=numpy.float64).reshape(shape))
        assert places is not None
        order = torch.from_numpy(numpy.ascontiguousarray(places - added)).long().flatten()
        if not torch.equal(order.sort().values, torch.arange(tensor.numel())):
            continue
        # What a reader takes off again, it takes off a float32.
        values = (tensor.double() - added).float() if added else tensor
        numbers = torch.empty_like(values).flatten()
        numbers[order] = values.flatten()
        return numbers.reshape(shape)
    raise ExportError(
        f"The tensor {name!r} cannot be written as GGUF: transformers does more with it, when it reads a file, than to "
        "order its numbers anew."
    )


def _read(reader: Any, name: str, numbers: Array) -> Array | None:
    try:
        found: Array | None = reader.process(weights=numbers, name=name, parsed_parameters={"tensors": {}}).weights
    except Exception:  # each reader fails in its own way on a shape that is not its own
        return None
    return found
