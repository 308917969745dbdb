"""The plug-in by which ``from_pretrained`` loads a compressed model: a quantizer of transformers called ``eckart``.

Before the weights are read, the linears that the config gives a rank are swapped for pairs of factors. No code comes
with the model. What transformers has no hook for is in :mod:`eckart.checkpoint.library_hooks`.
"""

from __future__ import annotations

import warnings
import weakref
from collections.abc import Callable, Mapping
from pathlib import Path
from typing import TYPE_CHECKING, Any, TypeVar, cast

import torch
from pydantic import ValidationError
from torch import nn
from transformers.quantizers import register_quantization_config, register_quantizer
from transformers.quantizers.base import HfQuantizer

from eckart.checkpoint.biases import biases_without_a_place, lost_biases
from eckart.checkpoint.config import DAMAGED, EckartConfig, RoundedEmbedding
from eckart.checkpoint.folder import check_folder
from eckart.checkpoint.guard import GUARD, METHOD
from eckart.checkpoint.library_hooks import wrap_models
from eckart.checkpoint.ordered import check_direct, check_ordered
from eckart.checkpoint.packed import check_packed, conversions
from eckart.checkpoint.places import (
    check_codes_have_a_place,
    expand,
    find_linear,
    join,
    linears_of,
    round_tables,
    spellings,
)
from eckart.checkpoint.tensors import check_dtypes, check_finite, stored_tensors
from eckart.checkpoint.trained import warn_of_codes
from eckart.errors import CheckpointError, EckartWarning, RecipeError
from eckart.layers import (
    FactoredLinear,
    KeptLinear,
    PivotedLinear,
    QuantizedLinear,
    fused_layers,
    is_replaced,
    unfuse_modules,
    weight_matrix,
)
from eckart.layers.linear_stack import contract_parameter, linear_stacks, owner_of
from eckart.layers.vocabulary import take_tables_back
from eckart.methods.choice import Choice, expand_name
from eckart.methods.layout import Layout
from eckart.methods.precision import BASES, PRECISIONS, Bits16
from eckart.methods.structure import STRUCTURES, Hybrid, Pivoted

if TYPE_CHECKING:
    from transformers import PreTrainedModel

    from eckart.maths.nested import NestedOrder

AnyChoice = TypeVar("AnyChoice", bound=Choice)


class EckartQuantizer(HfQuantizer):  # type: ignore[misc]
    """Swaps linears for factors when a compressed model is built, and checks that all of them were loaded."""

    requires_calibration = True
    quantization_config: EckartConfig
    _cut: tuple[NestedOrder, dict[str, int]] | None = None  # the ranks of the size that is loaded, where it is smaller
    _of: weakref.ref[PreTrainedModel] | None = None  # the model, until something was said of its training

    def belongs_to(self, model: PreTrainedModel) -> None:
        """Remember the model: transformers asks whether it can be trained without handing it over."""
        self._of = weakref.ref(model)

    def __getstate__(self) -> dict[str, Any]:
        """Return what is copied and pickled: all but the model, which then is another one."""
        return {**self.__dict__, "_of": None}

    def is_serializable(self) -> bool:
        """Return that the model can be saved again."""
        return True

    @property
    def is_trainable(self) -> bool:
        """Factors are ordinary linear layers, and train like them. Asked by transformers when training starts."""
        model = None if self._of is None else self._of()
        if model is not None and warn_of_codes(model):
            self._of = None
        return True

    @property
    def is_qat_trainable(self) -> bool:
        """Models without adapters train too."""
        return True

    @property
    def is_compileable(self) -> bool:
        """``torch.compile`` works."""
        return True

    def update_attn_implementation(self, config: Any) -> Any:
        """Name the weight files; this is the last hook before transformers looks for them.

        The config names a file that is not there (:data:`GUARD`), so that transformers without this library stops with
        an error instead of giving the layers it cannot fill random weights.
        """
        check_folder(config.name_or_path)
        if self.quantization_config.weights:
            config.transformers_weights = self.quantization_config.weights
        elif getattr(config, "transformers_weights", None) == GUARD:  # saved again, by transformers: standard names
            del config.transformers_weights
        return config

    def update_weight_conversions(
        self, weight_conversions: list[Any], model: PreTrainedModel | None = None
    ) -> list[Any]:
        """Return what transformers does to the tensors of original checkpoints: nothing, if ours have their own names.

        It would put factors of different layers together when the model is loaded or saved. Before transformers 5.23
        no model is handed over.
        """
        if self.quantization_config.stored is not None:
            layout = layout_of(self.quantization_config)
            own = layouts_of(self.quantization_config, layout)
            schemes = {
                path: own.get(path, layout).unfactored_precision.scheme for path in self.quantization_config.ranks
            }
            return conversions({path: scheme.bits for path, scheme in schemes.items() if scheme})
        return [] if self.quantization_config.own_names else weight_conversions

    def _process_model_before_weight_loading(self, model: PreTrainedModel, **kwargs: Any) -> None:
        self.belongs_to(model)
        config, layout = self.quantization_config, layout_of(self.quantization_config)
        layouts = layouts_of(config, layout)
        check_folder(model.config.name_or_path)
        pivoted = isinstance(layout.structure, Pivoted)
        check_ordered(config.ordered, config.ranks, pivoted=pivoted, files=kwargs.get("checkpoint_files"))
        direct = [path for path, kept in config.kept.items() if kept.get("direct")]
        check_direct(direct, kwargs.get("checkpoint_files"))
        for path, stack in config.expanded.items():
            expand(model, path, stack)
        if config.joint:
            linears = linears_of(model)
            for paths in config.joint:
                runs = config.joint_runs.get(paths[0], 1)
                join(model, [find_linear(model, linears, path) for path in paths], runs)
        linears = linears_of(model)
        for path, rank in config.ranks.items():
            name = find_linear(model, linears, path)
            linear, own = linears[name], layouts.get(path, layout)
            shape = weight_matrix(linear).shape
            highest = own.highest_rank(*shape)
            is_whole = rank is None and own.changes(None)
            if not is_whole and not (isinstance(rank, int) and 1 <= rank <= highest):
                raise CheckpointError(
                    f"config.json gives {path} the rank {rank!r}; expected a whole number from 1 to {highest}, "
                    f"since its weight is {shape[0]} x {shape[1]}. The file was changed or damaged."
                )
            layer = own.empty_like(linear, rank)
            if isinstance(layer, PivotedLinear) and path in config.ordered:
                layer.index = None
            if isinstance(layer, KeptLinear) and path in direct:
                layer.drop_index()
            model.set_submodule(name, layer)
        if config.embedding is not None:
            tables = RoundedEmbedding(**config.embedding)
            round_tables(model, tables, _choice("precision", tables.precision, PRECISIONS, _made_with(config)).scheme)
        files = kwargs.get("checkpoint_files") or ()
        if config.keep is not None:
            from eckart.checkpoint.nested import ranks_for  # which few loads need

            folder = Path(files[0]).parent if files else model.config.name_or_path
            self._cut = ranks_for(folder, config.keep, config.ranks)
        stored = stored_tensors(files)
        if config.stored is not None:
            check_packed(config.ranks, stored)
        check_codes_have_a_place(model, stored)
        check_dtypes(model, stored)

    def _process_model_after_weight_loading(self, model: PreTrainedModel, **kwargs: Any) -> PreTrainedModel:
        missing = [
            f"{name}.{child}"
            for name, layer in _replaced_layers(model)
            for child, parameter in (*layer.named_parameters(), *layer.named_buffers())
            # What is offloaded to disk is on the meta device; what no file holds never stays there.
            if not (parameter.is_meta or getattr(parameter, "_is_hf_initialized", False))
        ]
        if missing:
            shown = ", ".join(missing[:3]) + (f" and {len(missing) - 3} more" if len(missing) > 3 else "")
            raise CheckpointError(
                f"The weight files lack {shown}, or hold them in another shape. The model is incomplete: "
                "copy or download its folder again."
            )
        for name, layer in _replaced_layers(model):
            if isinstance(layer, KeptLinear) and not (layer.places().is_meta or layer.has_valid_index()):
                raise CheckpointError(
                    f"The weight files hold places of {name} that are not rising numbers below {layer.full}. They are "
                    "damaged: copy or download the folder again."
                )
            problem = layer.index_problem() if isinstance(layer, FactoredLinear) else None
            if problem is not None:
                raise CheckpointError(
                    f"The weight files hold an index of {name} that {problem}. They are damaged: copy or download the "
                    "folder again."
                )
        check_finite(model)
        if self._cut is not None:
            from eckart.checkpoint.nested import cut_model

            cut_model(model, *self._cut)
            config = self.quantization_config
            before, asked = config.provenance or {}, cast(float, config.keep)
            config.provenance = {**before, "keep": min(asked, before.get("keep") or asked)}
            self._cut = config.keep = None
        # If it is saved by transformers from here, the files get the standard names, beside a config with the guard.
        self.quantization_config.weights = None
        if self.quantization_config.latent_cache is not None:
            from eckart.cache.attach import keep_latents_from_first_pass  # a room that few models need

            keep_latents_from_first_pass(model, self.quantization_config.latent_cache)
        if self.quantization_config.stored is not None:
            self.quantization_config.stored = None
            model._weight_conversions = []  # they are not to be taken back: it is saved in our own format
        return model

    def _dequantize(self, model: PreTrainedModel, dtype: torch.dtype | None = None) -> PreTrainedModel:
        lost = biases_without_a_place(model)
        if lost:
            warnings.warn(
                f"The dense model is right in memory, but cannot be saved: {lost_biases(model, lost)}",
                EckartWarning,
                stacklevel=2,
            )
        take_tables_back(model)
        for name, layer in _replaced_layers(model):
            model.set_submodule(name, layer.to_dense())
        for paths in fused_layers(model).values():
            unfuse_modules(model, paths)
        for path in linear_stacks(model):
            contract_parameter(*owner_of(model, path))
        return model


def layout_of(config: EckartConfig) -> Layout:
    """Return how the linears that a config names are stored.

    Raises:
        CheckpointError: it names a structure or a precision that is not known here, or fields that cannot be.
    """
    made_with = _made_with(config)
    structure = _choice("structure", config.structure, STRUCTURES, made_with)
    precision = _choice("precision", config.precision or Bits16().name, PRECISIONS, made_with)
    try:
        return Layout(structure, precision, config.affine)
    except RecipeError as error:
        raise CheckpointError(f"config.json was changed or damaged. {error}") from error


def layouts_of(config: EckartConfig, layout: Layout) -> dict[str, Layout]:
    """Return how those linears of a config are stored, by path, that have a number of their own or no factors.

    Args:
        config: of the model.
        layout: :func:`layout_of` it.

    Raises:
        CheckpointError: it names a precision that is not known here, or fields that cannot be, or has bases, columns
            or sparsities for a structure without them.
    """
    if config.bases and not isinstance(layout.structure, Hybrid):
        raise CheckpointError(
            f"config.json has bases for layers of the structure {layout.structure.name!r}, which has none. {DAMAGED}"
        )
    made_with = _made_with(config)
    found = {
        path: layout.based_on(_choice("base", described, BASES, made_with)) for path, described in config.bases.items()
    }
    numbered: tuple[tuple[str, Mapping[str, Any], Callable[[Layout, Any], Layout]], ...] = (
        ("columns", config.columns, Layout.with_columns),
        ("a sparsity", config.sparsities, Layout.with_sparsity),
    )
    for what, numbers, laid in numbered:
        for path, number in numbers.items():
            rank, own = config.ranks.get(path), found.get(path, layout)
            if rank is None:
                raise CheckpointError(f"config.json has {what} for {path!r}, which has no rank there. {DAMAGED}")
            try:
                found[path] = laid(own, number)
            except ValueError as error:
                raise CheckpointError(f"config.json has {what} for {path!r}, and {error}. {DAMAGED}") from error
    for path, kept in config.kept.items():
        found[path] = layout.keeping(kept["side"], direct=kept.get("direct", False))
    strangers = sorted(path for path in found if config.ranks.get(path) is None and (path not in config.bases))
    strangers += sorted(config.bases.keys() - config.ranks.keys())
    if strangers:
        what = "a base" if strangers[0] in config.bases else "a side"
        raise CheckpointError(f"config.json has {what} for {strangers[0]!r}, which has no rank there. {DAMAGED}")
    return found


def _made_with(config: EckartConfig) -> Mapping[str, str]:
    found: dict[str, str] = (config.provenance or {}).get("versions", {})
    return found


def _choice(
    kind: str, described: object, known: Mapping[str, type[AnyChoice]], made_with: Mapping[str, str]
) -> AnyChoice:
    """Return the choice that config.json describes by its name, or by its name and fields.

    Raises:
        CheckpointError: there is none of that name, or it has no such fields.
    """
    data = expand_name(described)
    name = data.get("name") if isinstance(data, dict) else data
    if not isinstance(name, str) or name not in known:
        packages = ", ".join(f"{package} {number}" for package, number in made_with.items())
        raise CheckpointError(
            f"config.json names the {kind} {name!r}; this version of eckart knows {', '.join(known)}. "
            f"Install what the model was made with ({packages or 'not recorded'}): a plug-in that is missing here, or "
            "another version of eckart."
        )
    try:
        return known[name].model_validate(data)
    except ValidationError as error:
        first = error.errors()[0]
        where = ".".join(map(str, first["loc"]))
        raise CheckpointError(
            f"config.json describes a {kind} that cannot be: {name} with {where} = {first['input']!r} "
            f"({first['msg']}). It was changed or damaged: copy or download it again, or install a newer version of "
            "eckart."
        ) from error


def _replaced_layers(model: nn.Module) -> list[tuple[str, FactoredLinear | QuantizedLinear | KeptLinear]]:
    """Return the layers that stand for linear ones, without those inside them."""
    found: list[tuple[str, FactoredLinear | QuantizedLinear | KeptLinear]] = []
    for name, module in model.named_modules():
        inside = bool(found) and name.startswith(f"{found[-1][0]}.")
        if is_replaced(module) and not inside:
            found.append((name, module))
    return found


def missing_layers(model: PreTrainedModel, config: EckartConfig) -> list[str]:
    """Return the paths that a config gives a rank, and where the model has no compressed layer."""
    found = {name for name, _ in _replaced_layers(model)}
    return [path for path in config.ranks if not found.intersection(spellings(model, path))]


def attach(model: PreTrainedModel, config: EckartConfig) -> None:
    """Mark a model in memory as compressed, as if it had been loaded: it saves and dequantizes like one."""
    model.config.quantization_config = config
    model.hf_quantizer = EckartQuantizer(config, pre_quantized=True)
    model.hf_quantizer.belongs_to(model)
    model.is_quantized = True
    model.quantization_method = METHOD
    if config.own_names:
        model._weight_conversions = []


def note_ranks(model: PreTrainedModel) -> None:
    """Write into the config of a compressed model the ranks that its layers have now; of another model nothing."""
    config = getattr(model.config, "quantization_config", None)
    if not isinstance(config, EckartConfig):
        return
    layers = dict(_replaced_layers(model))
    found = {
        path: next((layers[name] for name in spellings(model, path) if name in layers), None) for path in config.ranks
    }
    for path, layer in found.items():
        if isinstance(layer, FactoredLinear):
            config.ranks[path] = layer.rank
    config.ordered = [
        path
        for path in config.ordered
        if not isinstance(layer := found.get(path), PivotedLinear) or layer.index is None
    ]


# Once: at the import of this module.
register_quantization_config(METHOD)(EckartConfig)
register_quantizer(METHOD)(EckartQuantizer)
wrap_models()
