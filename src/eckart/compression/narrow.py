"""Shrinks the widths between the linears of a block, pair by pair, once what they are handed has been seen."""

from __future__ import annotations

from collections.abc import Collection, Mapping, Sequence
from dataclasses import dataclass, field, replace

import torch
from torch import Tensor

from eckart import processes
from eckart.blocks.block import Block, Group, LinearRef
from eckart.blocks.onload import OnloadedModule
from eckart.blocks.pairs import Pair
from eckart.compression.drift import Outputs
from eckart.compression.plan import Plan
from eckart.compression.records import LayerRecord
from eckart.errors import NonFiniteError
from eckart.layers import KeptLinear, KeptOutputsLinear, bias_vector, weight_matrix
from eckart.maths.moments import Moments, relative_error
from eckart.maths.narrowing import (
    greedy_units,
    heads_of,
    largest,
    mixed_directions,
    orthonormal,
    plane_scores,
    refine_directions,
    refit_columns,
    ridge_leverage,
    spread,
    value_directions,
)
from eckart.methods.pairs import Narrow

STEPS = 20  # of conjugate gradients in a sweep over the directions of values


@dataclass(frozen=True)
class Seen:
    """What is known of a linear behind what shrinks.

    Attributes:
        ref: the linear.
        weight: (m, n) float64.
        second_moment: S of the equation, (n, n).
        cross_moment: P of the equation, (m, n).
        moments: of its inputs.
        output_energy: as for :func:`eckart.maths.moments.relative_error`.
    """

    ref: LinearRef
    weight: Tensor
    second_moment: Tensor
    cross_moment: Tensor
    moments: Moments
    output_energy: float

    def error(self, product: Tensor) -> float:
        """Return the relative error of another weight, (m, n)."""
        return relative_error(self.weight, product.to(self.weight), self.moments, self.output_energy)


@dataclass
class Narrowing:
    """Replaces the linears of pairs by layers that keep some of their outputs or inputs.

    Attributes:
        plan: the recipe, and how many outputs or inputs of which linear stay.
        device: where float64 factorisations run.
        squares: mean squares of the outputs of linears, (m,), by path, until their pair's turn.
        products: second moments of the outputs of each head, (key heads, d, d), by path.
        spectra: singular values by path: none, for nothing is factored.
    """

    plan: Plan
    device: torch.device
    squares: dict[str, Tensor] = field(default_factory=dict)
    products: dict[str, Tensor] = field(default_factory=dict)
    spectra: dict[str, Tensor] = field(default_factory=dict)

    @property
    def chosen(self) -> Narrow:
        """How widths shrink."""
        assert isinstance(self.plan.recipe.pairs, Narrow)
        return self.plan.recipe.pairs

    def due(self, groups: Collection[Group]) -> list[LinearRef]:
        """Return the linears of the pairs whose last linear is in some groups of a block, in order of execution."""
        block = self._block(next(iter(groups)))
        refs = {ref.name: ref for ref in block.linears}
        order = list(refs)
        here = {ref.name for group in groups for ref in group.linears}
        names = {n for pair in block.pairs if max(pair.names, key=order.index) in here for n in pair.names}
        return [ref for name, ref in refs.items() if name in names]

    def owners(self, refs: Sequence[LinearRef]) -> list[int]:
        """Return which process makes the layer of each linear: the first one, since pairs are not dealt out."""
        return [0] * len(refs)

    def replace_group(
        self,
        onloaded: OnloadedModule,
        group: Group,
        moments: Moments | None,
        output_energies: Mapping[LinearRef, float],
        projectors: Mapping[LinearRef, Tensor],
        refs: Collection[LinearRef] | None = None,
    ) -> list[LayerRecord]:
        """Look at what a group is handed, shrink the pairs whose turn it is, and return records of their linears.

        Args:
            onloaded: the block.
            group: of the block.
            moments: of the group's inputs.
            output_energies: ``||W X||^2`` of each linear in the original model, if both models' inputs are observed.
            projectors: there are none.
            refs: there is no choice among them.

        Raises:
            NonFiniteError: a weight or an input is NaN or infinite.
        """
        if processes.rank() != 0:
            return []
        assert moments is not None
        block = self._block(group)
        moments.check_finite(*(ref.path for ref in group.linears))
        pairs = {name: pair for pair in block.pairs for name in pair.names}
        for ref in group.linears:
            self._look(onloaded, ref, pairs[ref.name], moments)
        due = {ref.name: ref for ref in self.due([group])}
        found: list[LayerRecord] = []
        for pair in dict.fromkeys(pairs[name] for name in due):
            refs = [due[name] for name in pair.names]
            seen = None
            if pair.consumer is not None:
                seen = self._seen(onloaded, refs[-1], moments, output_energies.get(refs[-1], 0.0))
            found += self._shrunk(onloaded, pair, refs, seen)
        return found

    def comparable(self, block: Block, outputs: Outputs | None) -> Outputs | None:
        """Return outputs of the original linears without those that have other directions now, which are values."""
        if outputs is None:
            return None
        others = {name for pair in block.pairs if pair.kind == "values" for name in pair.producers}
        return replace(outputs, layers={ref: x for ref, x in outputs.layers.items() if ref.name not in others})

    def finish(self, block: Block) -> None:
        """Let what is between two linears of a block have fewer units where that runs as well."""
        for ref in block.linears:
            part, layer = self.plan.parts[ref.path], block.module.get_submodule(ref.name)
            if part.direct and isinstance(layer, KeptLinear):
                layer.drop_index()

    def _block(self, group: Group) -> Block:
        return next(block for block in self.plan.blocks if group in block.groups)

    def _look(self, onloaded: OnloadedModule, ref: LinearRef, pair: Pair, moments: Moments) -> None:
        """Keep what is asked of the outputs of a linear when the turn of its pair comes."""
        wanted = pair.kind == "keys" or (pair.kind == "values" and self.chosen.values == "inputs")
        if not wanted or ref.name == pair.consumer or self.plan.ranks[ref.path] is None:
            return
        weight, bias = self._weight(onloaded, ref), bias_vector(onloaded.module.get_submodule(ref.name))
        second, tokens = moments.second_moment, max(moments.tokens, 1)
        heads = heads_of(weight, pair.key_heads)
        mean = weight @ moments.mean
        constant = torch.zeros_like(mean) if bias is None else bias.detach().to(mean)
        if pair.kind == "keys":
            squares = ((weight @ second) * weight).sum(dim=1) / tokens
            self.squares[ref.path] = (squares + 2 * constant * mean + constant.square()).clamp_min(0)
            return
        mean, constant = (heads_of(v, pair.key_heads) for v in (mean, constant))
        crossed = mean[:, :, None] * constant[:, None, :]
        product = torch.einsum("aim,mn,ajn->aij", heads, second, heads) / tokens
        self.products[ref.path] = product + crossed + crossed.mT + constant[:, :, None] * constant[:, None, :]

    def _seen(self, onloaded: OnloadedModule, ref: LinearRef, moments: Moments, output_energy: float) -> Seen:
        weight, objective = self._weight(onloaded, ref), self.plan.recipe.objective
        whitening = objective.whitening(moments, ref.in_features, self.device)
        residual = None if ref.residual is None else moments.residuals.get(ref.residual)
        rank = min(self.plan.ranks[ref.path] or ref.in_features, *ref.shape)
        cross = objective.target(weight, moments, whitening, rank, residual).cross
        second = whitening.second_moment
        return Seen(ref, weight, second, weight @ second if cross is None else cross, moments, output_energy)

    def _shrunk(
        self, onloaded: OnloadedModule, pair: Pair, refs: Sequence[LinearRef], seen: Seen | None
    ) -> list[LayerRecord]:
        """Shrink one pair, if any of it is to go, and return a record of each of its linears."""
        rank = self.plan.ranks[refs[0].path]
        if rank is None:
            error = 0.0 if seen is None else seen.error(seen.weight)
            return [self._record(ref, 0.0 if ref.name != pair.consumer else error) for ref in refs]
        width = rank // self.plan.parts[refs[0].path].rows
        if pair.kind == "keys":
            return self._keys(onloaded, pair, refs, width)
        assert seen is not None
        make = self._units if pair.kind == "units" else self._values
        error = make(onloaded, pair, refs, seen, width)
        return [self._record(ref, error) for ref in refs]

    def _units(self, onloaded: OnloadedModule, pair: Pair, refs: Sequence[LinearRef], seen: Seen, width: int) -> float:
        moment, chosen = seen.second_moment, self.chosen
        if chosen.units == "greedy":
            places = greedy_units(moment, seen.cross_moment, width)
        else:
            each = moment / max(seen.moments.tokens, 1)
            ridge = chosen.ridge * (float(each.diagonal().mean()) if chosen.ridge_scale == "mean" else 1.0)
            scores = ridge_leverage(each, ridge) if ridge > 0 else each.diagonal()
            places = largest(scores, width)
        for ref in refs[:-1]:
            self._put(onloaded, ref, places, self._weight(onloaded, ref)[places])
        weight = refit_columns(moment, seen.cross_moment, seen.weight, places, seen.moments.floor)
        layer = self._put(onloaded, refs[-1], places, weight)
        return seen.error(layer.dense_weight())

    def _values(self, onloaded: OnloadedModule, pair: Pair, refs: Sequence[LinearRef], seen: Seen, width: int) -> float:
        heads, size, groups = list(pair.heads), pair.width, pair.key_heads
        values = self._weight(onloaded, refs[0])
        apart = heads_of(seen.weight, len(heads), 1).movedim(1, 0)  # (heads, n, d)
        of = [[number for number, owner in enumerate(heads) if owner == group] for group in range(groups)]
        if self.chosen.values == "inputs":
            products = self.products.pop(refs[0].path)
            both = [value_directions(products[a], apart[of[a]], width) for a in range(groups)]
            encoders = torch.stack([encoder for encoder, _ in both])
            weight = torch.cat([apart[number] @ both[a][1] for number, a in enumerate(heads)], dim=1)
        else:
            squares = heads_of(heads_of(seen.second_moment, len(heads)), len(heads), 2)
            blocks = squares.diagonal(dim1=0, dim2=2).movedim(-1, 0)  # (heads, d, d)
            encoders = torch.stack(
                [mixed_directions(blocks[of[a]].mean(dim=0), apart[of[a]], width) for a in range(groups)]
            )
            weight = self._fitted(seen, encoders, heads)
            for _ in range(self.chosen.sweeps):
                encoders = refine_directions(seen.second_moment, seen.cross_moment, weight, encoders, heads, STEPS)
                encoders = orthonormal(encoders)
                weight = self._fitted(seen, encoders, heads)
        rows = torch.einsum("adr,adn->arn", encoders, heads_of(values, groups)).flatten(0, 1)
        bias = bias_vector(onloaded.module.get_submodule(refs[0].name))
        if bias is not None:
            parts = heads_of(bias.detach().to(encoders), groups)
            bias = torch.einsum("adr,ad->ar", encoders, parts).flatten()
        first = torch.arange(width, device=self.device)
        self._put(onloaded, refs[0], _in_heads(first, size, groups), rows, bias)
        layer = self._put(onloaded, refs[1], _in_heads(first, size, len(heads)), weight)
        return seen.error(layer.weight.detach().to(weight) @ spread(encoders, heads).T)

    def _fitted(self, seen: Seen, encoders: Tensor, heads: list[int]) -> Tensor:
        """Return the projection (n, heads r) behind directions of values that loses least."""
        basis = spread(encoders, heads)
        moment = basis.T @ seen.second_moment @ basis
        everything = torch.arange(basis.shape[1], device=self.device)
        return refit_columns(moment, seen.cross_moment @ basis, seen.weight @ basis, everything, seen.moments.floor)

    def _keys(self, onloaded: OnloadedModule, pair: Pair, refs: Sequence[LinearRef], width: int) -> list[LayerRecord]:
        queries, keys = (self.squares.pop(ref.path) for ref in refs)
        planes = torch.tensor(pair.planes, device=self.device)
        heads, groups = list(pair.heads), pair.key_heads
        of_queries, of_keys = heads_of(queries, len(heads)), heads_of(keys, groups)
        # Heads that share a key need not be neighbours, and the sum over them is all that counts.
        owner = torch.tensor(heads, device=self.device)
        together = torch.zeros_like(of_keys).index_add_(0, owner, of_queries)
        scores = plane_scores(together, of_keys, planes, averaged=self.chosen.keys == "averaged")
        size = of_keys.shape[1]
        kept = planes[largest(scores, width)].flatten(1).sort(dim=1).values  # (key heads, directions)
        found = []
        for ref, owners, squares in ((refs[0], heads, queries), (refs[1], range(groups), keys)):
            places = torch.cat([kept[owner] + size * number for number, owner in enumerate(owners)])
            self._put(onloaded, ref, places, self._weight(onloaded, ref)[places])
            total = float(squares.sum())
            lost = max(total - float(squares[places].sum()), 0.0)
            found.append(self._record(ref, (lost / total) ** 0.5 if total > 0 else 0.0))
        return found

    def _put(
        self, onloaded: OnloadedModule, ref: LinearRef, places: Tensor, weight: Tensor, bias: Tensor | None = None
    ) -> KeptLinear:
        """Put a layer in the place of a linear, with what is kept of its weight and, if it is another one, its bias."""
        linear = onloaded.module.get_submodule(ref.name)
        layer = self.plan.layout(ref.path).empty_like(linear, len(places))
        assert isinstance(layer, KeptLinear)
        assert layer.index is not None
        before = bias_vector(linear)
        if bias is None and before is not None:
            bias = before.detach()
            bias = bias[places.to(bias.device)] if isinstance(layer, KeptOutputsLinear) else bias
        with torch.no_grad():
            layer.index.copy_(places)
            layer.weight.copy_(weight.to(onloaded.dtype(f"{ref.name}.weight")))
            if bias is not None:
                assert layer.bias is not None
                layer.bias.copy_(bias.to(onloaded.dtype(f"{ref.name}.bias")))
        onloaded.replace(ref.name, layer)
        return layer

    def _weight(self, onloaded: OnloadedModule, ref: LinearRef) -> Tensor:
        weight = weight_matrix(onloaded.module.get_submodule(ref.name)).detach().to(self.device, torch.float64)
        if not torch.isfinite(weight.sum()):
            raise NonFiniteError(f"The weight of {ref.path} is NaN or infinite. The model is not usable as it is.")
        return weight

    def _record(self, ref: LinearRef, error: float) -> LayerRecord:
        rank, part = self.plan.ranks[ref.path], self.plan.parts[ref.path]
        return LayerRecord(
            path=ref.path,
            out_features=ref.out_features,
            in_features=ref.in_features,
            rank=rank,
            bytes=self.plan.bytes_of(ref),
            error=error,
            kept=None if rank is None else part.side,
            direct=rank is not None and part.direct,
        )


def _in_heads(places: Tensor, size: int, heads: int) -> Tensor:
    """Return the same places in each of some heads, (heads times places,)."""
    return torch.cat([places + size * number for number in range(heads)])
