"""A model whose weights stay in its files: a block's tensors are read when its turn comes, and dropped afterwards."""

from __future__ import annotations

import logging
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass, replace
from pathlib import Path
from typing import TYPE_CHECKING, Any

import torch
from accelerate.hooks import remove_hook_from_submodules
from safetensors import SafetensorError, safe_open
from torch import Tensor, nn

from eckart.blocks.onload import OnloadedModule, computing_dtype, named_tensors, wanted_tensors
from eckart.checkpoint.load import load_with_note
from eckart.checkpoint.read_ahead import ReadAhead
from eckart.checkpoint.ties import settle_ties
from eckart.checkpoint.unchanged import SourceFiles
from eckart.errors import CheckpointError, warn
from eckart.layers.linear_stack import StackLayout, part_of

if TYPE_CHECKING:
    from accelerate.utils import OffloadedWeightsLoader
    from transformers import PreTrainedModel


@dataclass(frozen=True)
class _Piece:
    """A tensor by name, or the weight of one linear layer that lies in it."""

    name: str
    layout: StackLayout | None = None
    number: int = 0


@dataclass(frozen=True)
class _Source:
    """Where a parameter comes from: pieces, joined along a dimension. It is held, so that its id stays its."""

    parameter: nn.Parameter
    pieces: tuple[_Piece, ...]
    dimension: int = 0


class FileWeights:
    """The tensors of a model in safetensors files; what is changed while a module is onloaded is lost.

    Attributes:
        files: that hold the model, sorted, and whether they are still the same.
        notes: what a user must know of what they hold besides.
    """

    def __init__(
        self, model: nn.Module, loader: OffloadedWeightsLoader, files: Sequence[Path], notes: Sequence[str] = ()
    ) -> None:
        self.files = SourceFiles(files)
        self.notes = list(notes)
        self._loader = loader
        self._ahead = ReadAhead()
        # Modules that share a parameter share its object, so one name of it is enough.
        self._sources = {id(p): _Source(p, (_Piece(name),)) for name, p in model.named_parameters()}

    def read_ahead(self, module: nn.Module) -> None:
        """See :meth:`eckart.blocks.onload.WeightSource.read_ahead`."""
        sources = (self._sources.get(id(parameter)) for parameter in module.parameters())
        entries = [(self._loader.index[p.name], p.name) for source in sources if source for p in source.pieces]
        self._ahead.want((Path(entry["safetensors_file"]), entry.get("weight_name", name)) for entry, name in entries)

    def fuse(self, whole: nn.Parameter, parts: Sequence[nn.Parameter], dimension: int) -> None:
        """See :meth:`eckart.blocks.onload.WeightSource.fuse`."""
        pieces = tuple(piece for part in parts for piece in self._sources[id(part)].pieces)
        self._sources[id(whole)] = _Source(whole, pieces, dimension)
        whole.requires_grad_(False)

    def unfuse(self, whole: nn.Parameter, parts: Sequence[nn.Parameter], dimension: int) -> None:
        """See :meth:`eckart.blocks.onload.WeightSource.unfuse`."""
        for part, piece in zip(parts, self._sources[id(whole)].pieces, strict=True):
            self._sources[id(part)] = _Source(part, (piece,))
            part.requires_grad_(False)

    def split(self, whole: nn.Parameter, parts: Sequence[nn.Parameter], layout: StackLayout) -> None:
        """See :meth:`eckart.blocks.onload.WeightSource.split`."""
        (piece,) = self._sources[id(whole)].pieces
        for number, part in enumerate(parts):
            self._sources[id(part)] = _Source(part, (_Piece(piece.name, layout, number),))
            part.requires_grad_(False)

    def join(self, whole: nn.Parameter, parts: Sequence[nn.Parameter], layout: StackLayout) -> None:
        """See :meth:`eckart.blocks.onload.WeightSource.join`."""
        (piece,) = self._sources[id(parts[0])].pieces
        self._sources[id(whole)] = _Source(whole, (_Piece(piece.name),))
        whole.requires_grad_(False)

    @contextmanager
    def onload(
        self, module: nn.Module, device: torch.device, skip: Sequence[nn.Module | None] = ()
    ) -> Iterator[OnloadedModule]:
        """See :meth:`eckart.blocks.onload.WeightSource.onload`.

        Raises:
            CheckpointError: a file is gone or damaged, or another one than it was.
        """
        self.files.check()
        wanted = wanted_tensors(module, skip)
        origins = {
            name: (torch.device("cpu"), tensor.dtype) for name, tensor in named_tensors(module) if id(tensor) in wanted
        }
        borrowed: list[tuple[nn.Module, str, nn.Parameter]] = []
        read: dict[int, nn.Parameter] = {}
        emptied: dict[int, nn.Parameter] = {}
        # What is not from here was onloaded by somebody else, who will take it back.
        others = {id(p) for _, _, p in _owners(module) if not p.is_meta and id(p) not in self._sources}
        try:
            for part, leaf, parameter in _owners(module):
                if id(parameter) in wanted - others:
                    if id(parameter) not in read:
                        read[id(parameter)] = self._read(parameter, device)
                    borrowed.append((part, leaf, parameter))
                    part.register_parameter(leaf, read[id(parameter)])
            for name, buffer in module.named_buffers():
                if name in origins:
                    buffer.data = buffer.data.to(device, computing_dtype(buffer, device))
            read.clear()
            self.files.check()  # so that no block is finished that was read while a file changed
            yield OnloadedModule(module, origins)
        finally:
            for part, leaf, parameter in borrowed:
                part.register_parameter(leaf, parameter)
            left_out = {id(part) for root in skip if root is not None for part in root.modules()}
            for part, leaf, parameter in _owners(module):
                # Of a layer that was put in meanwhile, or left in memory as it was loaded. What was to be left out may
                # be onloaded by somebody else.
                if not parameter.is_meta and id(part) not in left_out and id(parameter) not in others:
                    part.register_parameter(leaf, self._emptied(parameter, emptied))
            for name, buffer in module.named_buffers():
                if name in origins:
                    buffer.data = buffer.data.to(*origins[name])

    def _emptied(self, parameter: nn.Parameter, known: dict[int, nn.Parameter]) -> nn.Parameter:
        """Return what stands for a parameter without its numbers, the same for each place that holds it."""
        if id(parameter) not in known:
            known[id(parameter)] = nn.Parameter(parameter.detach().to("meta"), requires_grad=False)
            source = self._sources.get(id(parameter))
            if source is not None:
                self._sources[id(known[id(parameter)])] = replace(source, parameter=known[id(parameter)])
        return known[id(parameter)]

    def _read(self, parameter: nn.Parameter, device: torch.device) -> nn.Parameter:
        source = self._sources[id(parameter)]
        parts = [self._piece(piece) for piece in source.pieces]
        try:
            tensor = torch.cat(parts, source.dimension) if len(parts) > 1 else parts[0]
            fits = tensor.shape == parameter.shape
        except RuntimeError:  # what does not fit together
            fits = False
        if not fits:
            self.files.check()
            found = ", ".join(str(tuple(part.shape)) for part in parts)
            raise CheckpointError(
                f"{', '.join(piece.name for piece in source.pieces)} has the shape {found} in its file, expected "
                f"{tuple(parameter.shape)} by config.json: they are not of the same model."
            )
        return nn.Parameter(tensor.to(device, computing_dtype(parameter, device), copy=True), requires_grad=False)

    def _piece(self, piece: _Piece) -> Tensor:
        """Return a piece, of which no more is read than it holds."""
        if piece.layout is None:
            return self.read(piece.name)
        entry = self._loader.index[piece.name]
        with self._said(piece.name), safe_open(entry["safetensors_file"], framework="pt") as file:
            stored = file.get_slice(entry.get("weight_name", piece.name))
            shape = stored.get_shape()
            at_once = shape[0] // piece.layout.number  # rows of the tensor; none if they are not those of config.json
            rows = stored[piece.number * at_once : (piece.number + 1) * at_once]
            rows = rows.to(getattr(torch, entry["dtype"])) if "dtype" in entry else rows
        return part_of(rows, StackLayout(1, piece.layout.transposed), 0)

    def read(self, name: str) -> Tensor:
        """Return the tensor of the parameter ``name``, in its stored dtype, on the host.

        Raises:
            CheckpointError: its file is gone or damaged.
        """
        with self._said(name):
            tensor: Tensor = self._loader[name]
            return tensor

    @contextmanager
    def _said(self, name: str) -> Iterator[None]:
        try:
            self.files.check()
            yield
        except (OSError, SafetensorError) as error:
            raise CheckpointError(f"{name} cannot be read from the model's files: {error}") from error


def open_model(
    source: str | Path, offload: Path, *, dtype: torch.dtype | None = None, trust_remote_code: bool = False
) -> tuple[PreTrainedModel, FileWeights]:
    """Return the model at ``source`` without its weights, and where those are.

    All files are opened and compared with the model's shapes, but their tensors are not read.

    Args:
        source: a local folder or a hub id.
        offload: folder for tensors whose files do not hold them as the model has them in memory (fused experts, or
            files that are no safetensors); they are written there as the model has them.
        dtype: of its weights; None for the one that they are stored in.
        trust_remote_code: as for :func:`eckart.load_model`.

    Raises:
        CheckpointError: there is no such model, or its files are incomplete or damaged.
    """
    # Its only message is that weights stay on the disk, which is what is wanted.
    logging.getLogger("accelerate.big_modeling").setLevel(logging.ERROR)
    model, note = load_with_note(source, dtype=dtype, offload=offload, trust_remote_code=trust_remote_code)
    hooks: list[Any] = [getattr(module, "_hf_hook", None) for module in model.modules()]
    loader = next(maps.dataset for hook in hooks if (maps := getattr(hook, "weights_map", None)) is not None)
    remove_hook_from_submodules(model)
    vars(model).pop("hf_device_map", None)  # it is no longer dispatched
    settle_ties(model, loader.index, loader.__getitem__)
    files = sorted({Path(entry["safetensors_file"]) for entry in loader.index.values()})
    weights = FileWeights(model, loader, files, [note] if note else [])
    for text in weights.notes:
        warn(text)
    return model, weights


def _owners(module: nn.Module) -> list[tuple[nn.Module, str, nn.Parameter]]:
    """Return every place in ``module`` that holds a parameter: the submodule, the name in it, and the parameter."""
    return [(part, leaf, p) for part in module.modules() for leaf, p in part.named_parameters(recurse=False)]
