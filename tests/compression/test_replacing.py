from __future__ import annotations

import torch
from tests.conftest import make_model

from eckart.compression.factorise import Factoriser
from eckart.compression.narrow import Narrowing
from eckart.compression.plan import make_plan
from eckart.compression.replacing import replacing
from eckart.methods.recipes import RECIPES
from eckart.methods.sensitivity.layer_statistics import shapes_of
from eckart.methods.sensitivity.measurements import Measurements


def test_widths_shrink_or_linears_are_factored() -> None:
    for name, expected in (("modegpt", Narrowing), ("svd-llm", Factoriser)):
        plan = make_plan(make_model("llama"), RECIPES[name], 0.6)
        made = replacing(plan, Measurements(shapes_of(plan.blocks)), torch.device("cpu"), inputs_kept=False)
        assert type(made) is expected


def test_what_was_kept_of_inputs_is_looked_at_where_no_moments_come() -> None:
    plan = make_plan(make_model("llama"), RECIPES["svd-llm"], 0.6)
    measurements = Measurements(shapes_of(plan.blocks))
    for kept in (True, False):
        made = replacing(plan, measurements, torch.device("cpu"), inputs_kept=kept)
        assert isinstance(made, Factoriser)
        assert (made.kept is measurements) is kept
        assert made.components is None  # nothing was solved yet
