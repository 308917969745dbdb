from __future__ import annotations

import torch
from tests.conftest import make_model

from eckart.compression.factorise import Factoriser
from eckart.compression.narrow import Narrowing
from eckart.compression.plan import make_plan
from eckart.compression.replacing import replacing
from eckart.methods.recipes import RECIPES
from eckart.methods.recipes.loader import load_recipe
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


def test_a_solution_of_other_weights_than_those_that_were_prepared_is_not_taken() -> None:
    for overrides, taken in (([], True), (["preparation=block"], False)):
        plan = make_plan(make_model("llama"), load_recipe("svd-llm", overrides), 0.6)
        linears = shapes_of(plan.blocks)
        measurements = Measurements(linears, solutions={linears[0].path: (torch.eye(1), torch.eye(1))})
        made = replacing(plan, measurements, torch.device("cpu"), inputs_kept=True)
        assert isinstance(made, Factoriser)
        assert (made.components is not None) is taken
