"""A model whose weights stay in its files: a block's tensors are read when its turn comes, and dropped afterwards."""

from __future__ import annotations

import logging
from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import torch
from accelerate.hooks import remove_hook_from_submodules
from safetensors import SafetensorError
from torch import Tensor, nn
from transformers import PreTrainedModel

from eckart.checkpoint.load import load_model
from eckart.errors import CheckpointError
from eckart.placement import Placement, computing_dtype, named_tensors, wanted_tensors


class FileWeights:
    """The tensors of a model in safetensors files; what is changed while a module is lent is lost.

    Attributes:
        files: that hold the model, sorted.
    """

    def __init__(self, model: nn.Module, loader: Mapping[str, Tensor], files: Sequence[Path]) -> None:
        self.files = list(files)
        self._loader = loader
        # Modules that share a parameter share its object, so one name of it is enough.
        self._names = {id(parameter): name for name, parameter in model.named_parameters()}

    @contextmanager
    def lend(
        self, module: nn.Module, device: torch.device, skip: Sequence[nn.Module | None] = ()
    ) -> Iterator[Placement]:
        """See :meth:`eckart.placement.Weights.lend`.

        Raises:
            CheckpointError: a file is gone or damaged.
        """
        wanted = wanted_tensors(module, skip)
        homes = {
            name: (torch.device("cpu"), tensor.dtype) for name, tensor in named_tensors(module) if id(tensor) in wanted
        }
        borrowed: list[tuple[nn.Module, str, nn.Parameter]] = []
        read: dict[int, nn.Parameter] = {}
        try:
            for part, leaf, parameter in _owners(module):
                if id(parameter) in wanted:
                    if id(parameter) not in read:
                        read[id(parameter)] = self._read(parameter, device)
                    borrowed.append((part, leaf, parameter))
                    part.register_parameter(leaf, read[id(parameter)])
            for name, buffer in module.named_buffers():
                if name in homes:
                    buffer.data = buffer.data.to(device, computing_dtype(buffer, device))
            read.clear()
            yield Placement(module, homes)
        finally:
            for part, leaf, parameter in borrowed:
                part.register_parameter(leaf, parameter)
            for part, leaf, parameter in _owners(module):
                if not parameter.is_meta:  # of a layer that was put in meanwhile
                    part.register_parameter(leaf, nn.Parameter(parameter.detach().to("meta"), requires_grad=False))
            for name, buffer in module.named_buffers():
                if name in homes:
                    buffer.data = buffer.data.to(*homes[name])

    def _read(self, parameter: nn.Parameter, device: torch.device) -> nn.Parameter:
        tensor = self.read(self._names[id(parameter)])
        if tensor.shape != parameter.shape:
            raise CheckpointError(
                f"{self._names[id(parameter)]} has the shape {tuple(tensor.shape)} in its file, expected "
                f"{tuple(parameter.shape)}. The file was changed after the start."
            )
        return nn.Parameter(tensor.to(device, computing_dtype(parameter, device), copy=True), requires_grad=False)

    def read(self, name: str) -> Tensor:
        """Return the tensor of the parameter ``name``, in its stored dtype, on the host.

        Raises:
            CheckpointError: its file is gone or damaged.
        """
        try:
            return self._loader[name]
        except (OSError, SafetensorError) as error:
            raise CheckpointError(f"{name} cannot be read from the model's files: {error}") from error


def open_model(source: str | Path, offload: Path) -> tuple[PreTrainedModel, FileWeights]:
    """Return the model at ``source`` without its weights, and where those are.

    All files are opened and compared with the model's shapes, but their tensors are not read.

    Args:
        source: a local folder or a hub id.
        offload: folder for tensors whose files do not hold them as the model has them in memory (fused experts, or
            files that are no safetensors); they are written there as the model has them.

    Raises:
        CheckpointError: there is no such model, or its files are incomplete or damaged.
    """
    # Its only message is that weights stay on the disk, which is what is wanted.
    logging.getLogger("accelerate.big_modeling").setLevel(logging.ERROR)
    model = load_model(source, offload=offload)
    hooks: list[Any] = [getattr(module, "_hf_hook", None) for module in model.modules()]
    loader = next(maps.dataset for hook in hooks if (maps := getattr(hook, "weights_map", None)) is not None)
    remove_hook_from_submodules(model)
    vars(model).pop("hf_device_map", None)  # it is no longer dispatched
    return model, FileWeights(model, loader, sorted({Path(e["safetensors_file"]) for e in loader.index.values()}))


def _owners(module: nn.Module) -> list[tuple[nn.Module, str, nn.Parameter]]:
    """Return every place in ``module`` that holds a parameter: the submodule, the name in it, and the parameter."""
    return [(part, leaf, p) for part in module.modules() for leaf, p in part.named_parameters(recurse=False)]
