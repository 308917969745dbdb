"""What every structure answers: which matrices a weight of some rank is stored as, and the layer that it is run by."""

from __future__ import annotations

from abc import abstractmethod
from typing import TYPE_CHECKING, Any, ClassVar, NamedTuple, Self

from torch import nn

from eckart.layers import FactoredLinear
from eckart.methods.choice import Choice
from eckart.methods.precision import Bits16, Precision

if TYPE_CHECKING:
    from eckart.methods.structure.fitting import Fitter


class Matrix(NamedTuple):
    """A matrix that is stored: its shape, and its precision where that is not the recipe's."""

    rows: int
    columns: int
    precision: Precision | None = None

    @property
    def numbers(self) -> int:
        """How many of its numbers are stored."""
        return (self.precision or Bits16()).numbers(self.rows, self.columns)


class Structure(Choice):
    """A choice of how a weight (m, n) of rank r is laid out."""

    layer: ClassVar[type[FactoredLinear]]
    adds_to_base: ClassVar[bool] = False  # whether the rank is that of what another matrix lacks, not of the weight
    fits_itself: ClassVar[bool] = False  # whether layers are fitted to a target, and not made of its two factors
    latents_are_ranks: ClassVar[bool] = True  # whether a layer has as many latents a token as its rank is counted in
    amplifies: ClassVar[bool] = False  # whether rounding in 16 bits loses enough to be made up for
    rounds_to_nearest: ClassVar[bool] = False  # whether 16-bit numbers are rounded whatever the inputs are
    reorders_units: ClassVar[bool] = False  # whether layers give outputs in another order, which may be left so
    nests: ClassVar[bool] = False  # whether the first components of a layer are the layer of a lower rank
    own_precision: ClassVar[bool] = False  # whether it says itself in how many bits which factor is stored

    def matrices(self, out_features: int, in_features: int, rank: int) -> list[Matrix]:
        """Return the matrices that are stored, in the order of the layer's children."""
        shapes = self.layer.shapes(out_features, in_features, rank)
        return [Matrix(shape.out_features, shape.in_features) for shape in shapes]

    def index_bytes(self, out_features: int) -> int:
        """Return the stored bytes of what is no matrix of numbers."""
        return 0

    def index_bytes_at(self, out_features: int, in_features: int, rank: int) -> int:
        """Return the same, where it depends on more than the number of outputs."""
        return self.index_bytes(out_features)

    @abstractmethod
    def highest_rank(self, out_features: int, in_features: int) -> int:
        """Return the largest rank that can be laid out so; 0 if none can."""

    def with_columns(self, columns: int) -> Self:
        """Return the structure of a layer that was found to keep so many of its input columns whole.

        Args:
            columns: as :meth:`columns_of` gives them.

        Raises:
            ValueError: no layer of this structure does.
        """
        raise ValueError(f"layers of the structure {self.name!r} keep no columns of a weight")

    def columns_of(self, layer: FactoredLinear) -> int | None:
        """Return how many input columns a layer keeps whole; None if layers of this structure keep none."""
        return None

    @property
    def takes_sparsity(self) -> bool:
        """Whether a part of its numbers is there, which may be another one in each layer."""
        return False

    def with_sparsity(self, sparsity: float) -> Self:
        """Return the structure of a layer in which one in so many numbers is there.

        Args:
            sparsity: at least 1.

        Raises:
            ValueError: no layer of this structure has such a number.
        """
        raise ValueError(f"layers of the structure {self.name!r} have no sparsity of their own")

    def numbers(self, out_features: int, in_features: int, rank: int | None) -> int:
        """Return how many numbers a weight of ``rank`` is stored as; None stands for dense."""
        if rank is None:
            return out_features * in_features
        return sum(matrix.numbers for matrix in self.matrices(out_features, in_features, rank))

    @property
    def fitter(self) -> Fitter[Any]:
        """What finds the numbers of its layers."""
        # Imported when a model is compressed: who loads one needs no solver.
        from eckart.methods.structure.fitting import Fitter

        return Fitter(self)

    def empty_like(self, linear: nn.Module, rank: int, precision: Precision, *, affine: bool = False) -> FactoredLinear:
        """Return the layer that takes the place of ``linear``, its numbers not yet set.

        Args:
            linear: gives the shape, bias, device and dtype.
            rank: of the layer.
            precision: of all matrices that have none of their own.
            affine: whether it has a bias even if ``linear`` has none.
        """
        return self.layer.empty_like(linear, rank, precision.scheme, affine=affine)
