from __future__ import annotations

import pytest
import torch
from tests.methods.sensitivity.helpers import original_of
from torch import nn

from eckart.errors import NonFiniteError
from eckart.methods.allocation import Budgets, Learned
from eckart.methods.allocation.truncation_points import TruncationTraining
from eckart.methods.layout import Layout


def test_an_output_that_is_not_a_number_is_told(llama, tokens):
    class Broken(TruncationTraining):
        def changed(self, ref: object, linear: nn.Module, output: torch.Tensor) -> torch.Tensor:
            return output * float("nan")

    original = original_of(llama, tokens[:1])
    training = Broken(original, Learned(), Budgets(0.5), Layout())
    with pytest.raises(NonFiniteError, match="perplexity of truncated outputs is nan: it gives no gradient"):
        training.accumulate(original.batch(0))
