"""Sums the moments of what groups are handed, batch by batch; those of experts with weights, pairs and a prior."""

from __future__ import annotations

from collections.abc import Mapping, Sequence

import torch
from torch import Tensor

from eckart import processes
from eckart.blocks.block import Group
from eckart.blocks.mixture_run import MixtureRun
from eckart.blocks.shared_sums import add_moments
from eckart.device import moment_device
from eckart.maths.moments import Moments
from eckart.maths.prior import add_prior, balance


class InputSums:
    """Moments of groups, as they grow.

    Tokens of an expert are weighed by the squares of the router's weights, since an error of its output reaches the
    residual stream with these; over all experts they weigh 1 in the mean.

    Args:
        groups: whose inputs are summed.
        device: where they are run.
        paired: whether both models' inputs are observed.
    """

    def __init__(self, groups: Sequence[Group], device: torch.device, *, paired: bool = False) -> None:
        self.moments = {
            group: Moments.zeros(
                group.linears[0].in_features,
                paired=paired,
                device=moment_device(device),
                original=paired and group.expert is not None,
            )
            for group in groups
        }
        self._paired = paired
        self._siblings: dict[tuple[str, str | None], list[Group]] = {}
        for group in groups:
            if group.expert is not None:
                self._siblings.setdefault((group.expert.mixture, group.stage), []).append(group)
        self._rows = dict.fromkeys(self._siblings, 0)

    def add(
        self,
        inputs: Mapping[Group, Tensor],
        runs: Mapping[str, MixtureRun],
        originals: Mapping[Group, Tensor] | None = None,
    ) -> None:
        """Add a batch.

        Args:
            inputs: (tokens, in features) of each group.
            runs: of the mixtures in the same run.
            originals: of the same tokens in the original model, where they are known; else the inputs stand for them.
        """
        for siblings in self._siblings.values():
            weights = self._weights(siblings, inputs, runs)
            for group in siblings:
                self._add(group, inputs[group], originals, weights.get(group))
        for group, tokens in inputs.items():
            if group.expert is None:
                self._add(group, tokens, originals, None)
            else:
                self._rows[group.expert.mixture, group.stage] += len(tokens)

    def result(self) -> dict[Group, Moments]:
        """Return the moments of all groups, when all batches have been added; in all processes at once."""
        add_moments(list(self.moments.values()))
        self._rows = dict(zip(self._rows, map(round, processes.total(*self._rows.values())), strict=True))
        for key, siblings in self._siblings.items():
            moments = [self.moments[group] for group in siblings]
            balance(moments, self._rows[key])
            first = siblings[0].expert
            assert first is not None
            add_prior(moments, inner=first.inner)
        return self.moments

    def _add(
        self, group: Group, tokens: Tensor, originals: Mapping[Group, Tensor] | None, weights: Tensor | None
    ) -> None:
        before = None if not self._paired else (originals or {}).get(group, tokens)
        self.moments[group].add(tokens, before, weights)

    def _weights(
        self, siblings: Sequence[Group], inputs: Mapping[Group, Tensor], runs: Mapping[str, MixtureRun]
    ) -> dict[Group, Tensor]:
        """Return the weights of each group's tokens; none where they are not known of all."""
        found: dict[Group, Tensor] = {}
        for group in siblings:
            assert group.expert is not None
            run = runs.get(group.expert.mixture)
            weights = None if run is None or run.weights is None else run.weights.get(group.expert.path)
            if weights is None or len(weights) != len(inputs[group]):
                return {}
            found[group] = weights
        return found
