"""The ``quantization_config`` of a compressed model: what is needed to build it before its weights are read."""

from __future__ import annotations

import reprlib
from typing import Annotated, Any, Literal

from pydantic import BaseModel, BeforeValidator, ConfigDict, Field, ValidationError
from transformers.utils.quantization_config import QuantizationConfigMixin

from eckart.checkpoint.guard import METHOD
from eckart.errors import CheckpointError
from eckart.methods.structure import TwoFactor

FORMAT_VERSION = 1
# Fields that the first folders of this format do not have.
LATER = ("bases", "columns", "embedding", "joint_runs", "keep", "kept", "latent_cache", "sparsities", "stored")
DEFAULT_STRUCTURE = TwoFactor().name
DAMAGED = "The file was changed or damaged: copy or download the folder again."


class _Provenance(BaseModel):
    """What is read of the provenance; the rest is for people."""

    model_config = ConfigDict(strict=True, extra="ignore")

    versions: dict[str, str] = {}


class ExpandedParameter(BaseModel):
    """How the weights of linear layers lie in the parameter that a model class has in their place.

    Attributes:
        number: of them, one after another.
        transposed: whether each is (in features, out features).
    """

    model_config = ConfigDict(strict=True, extra="forbid")

    number: Annotated[int, Field(ge=1)]
    transposed: bool


class RoundedEmbedding(BaseModel):
    """The tables of a vocabulary that are stored in another precision than the model's dtype.

    Attributes:
        path: of the embedding.
        head: path of a head over the same vocabulary; None if there is none.
        tied: whether that is the same table, stored once.
        precision: the name and the fields of one of :data:`eckart.methods.precision.PRECISIONS`, or its name alone.
    """

    model_config = ConfigDict(strict=True, extra="forbid")

    path: str
    head: str | None
    tied: bool
    precision: str | dict[str, Any]


class KeptSide(BaseModel):
    """Which outputs or inputs the rank of a layer counts, where it is not factored but has fewer of them.

    Attributes:
        side: which.
        direct: whether those that are dropped are missing on the other side too, and no index is stored.
    """

    model_config = ConfigDict(strict=True, extra="forbid")

    side: Literal["outputs", "inputs"]
    direct: bool = False


def _whole(value: object) -> object:
    if type(value) is not int:
        raise ValueError("Input should be a whole number")
    return value


class _Fields(BaseModel):
    """Types of the fields as they are stored; see :class:`EckartConfig`. Those of the choices are checked later."""

    model_config = ConfigDict(strict=True)

    ranks: dict[str, int | None]
    joint: list[Annotated[list[str], Field(min_length=1)]] | None
    joint_runs: dict[str, Annotated[int, Field(ge=1)]]
    structure: str | dict[str, Any] | list[Any]
    precision: str | dict[str, Any] | None
    bases: dict[str, str | dict[str, Any]]
    columns: dict[str, Annotated[int, Field(ge=0)]]
    sparsities: dict[str, Annotated[float, Field(ge=1, allow_inf_nan=False)]]
    kept: dict[str, KeptSide]
    embedding: RoundedEmbedding | None
    affine: bool
    ordered: list[str] | None
    recipe: dict[str, Any] | None
    calibration: dict[str, Any] | None
    provenance: _Provenance | None
    weights: str | None
    expanded: dict[str, ExpandedParameter]
    own_names: bool
    stored: Literal["compressed-tensors"] | None
    keep: Annotated[float, Field(gt=0, le=1, allow_inf_nan=False)] | None
    latent_cache: Annotated[Literal[16, 8, 6, 5, 4, 3], BeforeValidator(_whole)] | None


class EckartConfig(QuantizationConfigMixin):  # type: ignore[misc]
    """The ``quantization_config`` of a compressed model.

    Attributes:
        format_version: of this record.
        ranks: rank by module path, in the names of the model class that was saved; None for a weight that is not
            factored and yet stored in another precision.
        joint: paths of the linears of each group that was fused to one, the first of them first.
        joint_runs: in how many runs those of a group are computed, by its first path; 1 for groups that are not here.
        structure: layout of the factors: the name and the fields of one of :data:`eckart.methods.structure.STRUCTURES`,
            or its name alone.
        precision: of the numbers: the name and the fields of one of :data:`eckart.methods.precision.PRECISIONS`; None
            for the model's dtype.
        bases: by path, the precision of the weight beside the factors, or of the weight itself where there are none; of
            layers whose base is another one than the structure says.
        columns: by path, how many input columns are whole beside the factors, of a structure that keeps some.
        sparsities: by path, how many numbers there would be for one that is there, of layers for which the structure
            says another number.
        kept: by path, which outputs or inputs a rank counts (:class:`KeptSide`), of layers that are not factored.
        embedding: the embedding and the head if they are stored in few bits (:class:`RoundedEmbedding`), or None.
        affine: whether every factored layer has a bias, those too whose model class gives them none.
        ordered: paths of the pivoted layers that give their outputs in order without an index.
        recipe: what was done, as :class:`eckart.Recipe` writes it.
        calibration: source, size and hash of the calibration tokens, or None.
        provenance: the source model and the versions of the software.
        weights: name of the index of the weight files, where they do not have the standard names.
        expanded: by path, the parameters in whose place there are linear layers (:class:`ExpandedParameter`), one for
            each expert of a mixture.
        own_names: whether tensors are stored as the model class has them, and not as its original checkpoints do.
        stored: the name of the other format that tensors are stored in (:mod:`eckart.checkpoint.packed`), or None.
        latent_cache: bits of the latents that the model's key-value cache keeps (:func:`eckart.latent_cache`); None for
            a cache of keys and values.
        keep: share of the bytes to load of a folder with nested ranks (:mod:`eckart.checkpoint.nested`); None for all
            that is there. Whoever loads a model sets it; no folder has it.

    Raises:
        CheckpointError: a field has another type; says which.
    """

    def __init__(
        self,
        ranks: dict[str, int | None],
        format_version: int = FORMAT_VERSION,
        recipe: dict[str, Any] | None = None,
        calibration: dict[str, Any] | None = None,
        provenance: dict[str, Any] | None = None,
        weights: str | None = None,
        joint: list[list[str]] | None = None,
        joint_runs: dict[str, int] | None = None,
        structure: str | dict[str, Any] = DEFAULT_STRUCTURE,
        precision: str | dict[str, Any] | None = None,
        bases: dict[str, str | dict[str, Any]] | None = None,
        columns: dict[str, int] | None = None,
        sparsities: dict[str, float] | None = None,
        kept: dict[str, dict[str, Any]] | None = None,
        embedding: dict[str, Any] | None = None,
        affine: bool = False,
        ordered: list[str] | None = None,
        expanded: dict[str, dict[str, Any]] | None = None,
        own_names: bool = False,
        stored: str | None = None,
        latent_cache: int | None = None,
        keep: float | None = None,
        **kwargs: Any,
    ) -> None:
        _check_version(format_version)
        self.quant_method = METHOD
        self.format_version = format_version
        self.ranks = ranks
        self.joint = joint or []
        self.joint_runs = joint_runs or {}
        self.structure = structure
        self.precision = precision
        self.bases = bases or {}
        self.columns = columns or {}
        self.sparsities = sparsities or {}
        self.kept = kept or {}
        self.embedding = embedding
        self.affine = affine
        self.ordered = [] if ordered is None else ordered
        self.recipe = recipe
        self.calibration = calibration
        self.provenance = provenance
        self.weights = weights
        self.expanded = {} if expanded is None else expanded
        self.own_names = own_names
        self.stored = stored
        self.latent_cache = latent_cache
        self.keep = keep
        try:
            _Fields.model_validate({name: getattr(self, name) for name in _Fields.model_fields})
        except ValidationError as error:
            problem = error.errors()[0]
            where = ".".join(str(part) for part in problem["loc"])
            raise CheckpointError(
                f"config.json has quantization_config.{where} = {reprlib.repr(problem['input'])}, which cannot be: "
                f"{problem['msg']}. {DAMAGED}"
            ) from error

    @classmethod
    def from_dict(cls, config_dict: object, return_unused_kwargs: bool = False, **kwargs: Any) -> Any:
        """Return the config that transformers read from a file; see :class:`EckartConfig` for what it raises."""
        if not isinstance(config_dict, dict) or "ranks" not in config_dict:
            raise CheckpointError(f"config.json has a quantization_config of {METHOD} without ranks. {DAMAGED}")
        return super().from_dict(config_dict, return_unused_kwargs, **kwargs)

    def to_dict(self) -> dict[str, Any]:
        """Return the fields as they are written; those that came later only where they say something."""
        fields: dict[str, Any] = super().to_dict()
        return {name: value for name, value in fields.items() if value or name not in LATER}

    def get(self, key: str, default: Any = None) -> Any:
        """Return an attribute: transformers reads a config object it is handed as if it were a dictionary."""
        return getattr(self, key, default)


def _check_version(found: object) -> None:
    if type(found) is not int:
        raise CheckpointError(
            f"config.json has format_version = {reprlib.repr(found)}; expected a whole number, such as "
            f"{FORMAT_VERSION}. {DAMAGED}"
        )
    if found != FORMAT_VERSION:
        raise CheckpointError(
            f"This model was saved in eckart format {found}; this version of eckart reads format "
            f"{FORMAT_VERSION}. Install the version of eckart that is named in its config.json, or a newer one."
        )
