"""What is to be measured on a model before its ranks are known, and what of it several recipes can share."""

from __future__ import annotations

from collections.abc import Iterable
from dataclasses import dataclass, field, replace

from eckart.maths.labels import NEXT_TOKENS, LabelSource
from eckart.methods.metric import Fisher
from eckart.methods.objectives import Objective
from eckart.methods.sensitivity.layer_statistics import Needs
from eckart.methods.structure import Structure, TwoFactor


@dataclass(frozen=True)
class Labels:
    """Which predictions a gradient of the loss is of.

    Attributes:
        metric: says where labels come from; None for the text's next tokens.
        samples: calibration samples that count; None for all.
    """

    metric: Fisher | None
    samples: int | None

    @property
    def source(self) -> LabelSource:
        """Where they come from."""
        return NEXT_TOKENS if self.metric is None else self.metric.label_source


@dataclass(frozen=True)
class Request:
    """What is to be measured.

    Attributes:
        objective: says what a component is.
        needs: on each linear.
        metric: how gradients of outputs are measured, for an output metric of linears or blocks, or for curvature.
        gradient_samples: calibration samples that first-order changes are taken on; None for all.
        keep_bases: whether the output bases are kept, in which linears can be truncated to any rank.
        structure: says what of a weight its components are those of.
        keep_inputs: whether what the objective makes of each linear's inputs is kept.
        keep_moments: whether the moments that it makes that of are.
        keep_metrics: whether gradients' moments are kept, also if the objective has no metric.
    """

    objective: Objective
    needs: Needs = Needs.NONE
    metric: Fisher | None = None
    gradient_samples: int | None = None
    keep_bases: bool = False
    structure: Structure = field(default_factory=TwoFactor)
    keep_inputs: bool = False
    keep_moments: bool = False
    keep_metrics: bool = False

    @property
    def is_empty(self) -> bool:
        """Whether nothing is to be measured."""
        return not (self.needs or self.metric is not None or self.keep_bases or self.keep_inputs or self.keep_moments)

    @property
    def needs_spectrum(self) -> bool:
        """Whether the equation is solved for each linear."""
        return Needs.SPECTRUM in self.needs or self.keep_bases

    @property
    def needs_moments(self) -> bool:
        """Whether inputs of linears are summed, all tokens alike."""
        kept = self.keep_inputs or self.keep_moments
        return self.objective.needs_data and (kept or (self.needs_spectrum and not self.weighs_tokens))

    @property
    def weighs_tokens(self) -> bool:
        """Whether tokens count differently in the equation, by gradients."""
        metric = self.objective.output_metric
        return metric is not None and metric.weighs_tokens

    @property
    def looks_at_data(self) -> bool:
        """Whether calibration tokens are looked at."""
        return self.objective.needs_data or bool(self.needs & ~Needs.SPECTRUM)

    @property
    def next_labels(self) -> Labels | None:
        """Those of the gradients that first-order changes are taken of; None if they are not asked for."""
        return Labels(None, self.gradient_samples) if Needs.FIRST_ORDER in self.needs else None

    @property
    def metric_labels(self) -> Labels | None:
        """Those of the gradients whose second moment is the metric; None if there is none."""
        return None if self.metric is None else Labels(self.metric, self.metric.samples)

    def merged(self, other: Request) -> Request | None:
        """Return the request for what both ask for; None if one measurement cannot give both what they would get."""
        if self.objective != other.objective or self.structure != other.structure:
            return None
        if None not in (self.metric, other.metric) and self.metric != other.metric:
            return None
        first_order = [r.gradient_samples for r in (self, other) if r.next_labels is not None]
        if len(set(first_order)) > 1:
            return None
        return replace(
            self,
            needs=self.needs | other.needs,
            metric=self.metric or other.metric,
            gradient_samples=first_order[0] if first_order else self.gradient_samples,
            keep_bases=self.keep_bases or other.keep_bases,
            keep_inputs=self.keep_inputs or other.keep_inputs,
            keep_moments=self.keep_moments or other.keep_moments,
            keep_metrics=self.keep_metrics or other.keep_metrics,
        )


def merge(requests: Iterable[Request]) -> list[Request]:
    """Return as few requests as give all that ``requests`` ask for."""
    merged: list[Request] = []
    for request in requests:
        for index, known in enumerate(merged):
            both = known.merged(request)
            if both is not None:
                merged[index] = both
                break
        else:
            merged.append(request)
    return merged
