"""The named recipes: one literal table."""

from __future__ import annotations

from eckart.methods.allocation import Curvature, Importance, Learned, Search, TruncationLoss, Uniform, ZeroSum
from eckart.methods.metric import Fisher
from eckart.methods.objectives import (
    ActivationScaled,
    Anchored,
    Blended,
    InputAware,
    PrincipalOutputs,
    ShiftAware,
    Weight,
)
from eckart.methods.precision import Bits4, Bits8
from eckart.methods.recipe import Recipe
from eckart.methods.recipes.eckart import BY_BUDGET, for_budget
from eckart.methods.refinement import BlockRefinement
from eckart.methods.structure import Hybrid, Remapped, TwoFactor

DEFAULT_KEEP = 0.8
# Papers take any rank, not multiples of 8, and leave what rounding down leaves of the budget.
AS_PUBLISHED = Uniform(multiple=1, fill_budget=False)
ZERO_SUM = ZeroSum(multiple=1, fill_budget=False)
BASELINE = Uniform(multiple=1)  # of few bits; ranks, where they cannot do without, are ours

# AA-SVD's own training: all samples, in their order, to the last of 25 epochs. Half of each singular value starts in
# either factor.
AA_SVD_STRUCTURE = TwoFactor(split="singular-values")
AA_SVD_REFINEMENT = BlockRefinement(shuffle=False, held_out=0.0)

RECIPES: dict[str, Recipe] = {
    recipe.name: recipe
    for recipe in (
        *(for_budget(name, DEFAULT_KEEP) for name in BY_BUDGET),
        Recipe(
            name="svd",
            reference="Eckart and Young 1936: truncated SVD of the weight",
            objective=Weight(),
            allocation=AS_PUBLISHED,
        ),
        Recipe(
            name="svd-llm",
            reference="SVD-LLM (arXiv 2403.07378), whitening only",
            objective=InputAware(),
            allocation=AS_PUBLISHED,
        ),
        Recipe(
            name="dobi-shift",
            reference="the shift-aware objective of Dobi-SVD (arXiv 2502.02723) and AA-SVD, uniform ranks",
            objective=ShiftAware(),
            allocation=AS_PUBLISHED,
        ),
        Recipe(
            name="aa-svd-layer",
            reference="AA-SVD (arXiv 2604.02119), anchored objective without block refinement",
            objective=Anchored(),
            allocation=AS_PUBLISHED,
        ),
        Recipe(
            name="aa-svd",
            reference="AA-SVD (arXiv 2604.02119), input-aware objective with block refinement: its headline",
            objective=InputAware(),
            allocation=AS_PUBLISHED,
            structure=AA_SVD_STRUCTURE,
            refinement=AA_SVD_REFINEMENT,
        ),
        Recipe(
            name="aa-svd-anchored",
            reference="AA-SVD (arXiv 2604.02119), anchored objective with block refinement",
            objective=Anchored(),
            allocation=AS_PUBLISHED,
            structure=AA_SVD_STRUCTURE,
            refinement=AA_SVD_REFINEMENT,
        ),
        Recipe(
            name="aa-svd-remap",
            reference="AA-SVD (arXiv 2604.02119) with the remap of Dobi-SVD, most numbers in 8 bits, refined behind it",
            objective=InputAware(),
            allocation=AS_PUBLISHED,
            structure=Remapped(feedback=False),
            refinement=AA_SVD_REFINEMENT,
        ),
        Recipe(
            name="saes-svd",
            reference="SAES-SVD (arXiv 2602.03051), cumulative errors with adaptive blend",
            objective=Blended(),
            allocation=AS_PUBLISHED,
        ),
        Recipe(
            name="asvd",
            reference="ASVD (arXiv 2312.05821), activation-scaled with searched ranks; of the blocks, not of the head",
            objective=ActivationScaled(),
            allocation=Search(multiple=1, fill_budget=False),
        ),
        Recipe(
            name="svd-llm-v2",
            reference="SVD-LLM V2 (arXiv 2503.12340), ranks by truncation loss",
            objective=InputAware(),
            allocation=TruncationLoss(multiple=1, fill_budget=False),
        ),
        Recipe(
            name="adasvd",
            reference="AdaSVD (arXiv 2502.01403), ranks by importance; its alternating update ends at input-aware",
            objective=InputAware(),
            allocation=Importance(multiple=1, fill_budget=False),
        ),
        Recipe(
            name="dobi-svd",
            reference="Dobi-SVD (arXiv 2502.02723), trained truncation positions; exact principal outputs",
            objective=PrincipalOutputs(),
            allocation=Learned(multiple=1, fill_budget=False),
        ),
        Recipe(
            name="zs-svd",
            reference="ZS-SVD (arXiv 2602.02848), one shot",
            objective=InputAware(),
            allocation=ZERO_SUM,
        ),
        Recipe(
            name="zs-svd-staged",
            reference="ZS-SVD (arXiv 2602.02848), truncate, correct, truncate again: its 5x",
            objective=InputAware(),
            allocation=ZERO_SUM.model_copy(update={"stages": 6}),
        ),
        Recipe(
            name="zs-svd-hq",
            reference="ZS-SVD (arXiv 2602.02848), its HQ variant: half as much is truncated, all is stored in 8 bits",
            objective=InputAware(),
            allocation=ZERO_SUM,
            precision=Bits8(feedback=False),
        ),
        Recipe(
            name="zs-svd-remap",
            reference="ZS-SVD (arXiv 2602.02848) with the remap of Dobi-SVD: most numbers of the factors in 8 bits",
            objective=InputAware(),
            allocation=ZERO_SUM,
            structure=Remapped(feedback=False),
        ),
        Recipe(
            name="io-svd",
            reference="IO-SVD (arXiv 2605.15626), input and output curvature; ranks on the convex hull",
            objective=InputAware(metric=Fisher(top_k=5)),
            allocation=Curvature(multiple=1, fill_budget=False),
        ),
        Recipe(
            name="int8",
            reference="no factors while 8 bits with a scale a row are few enough: a baseline",
            objective=Weight(),
            allocation=BASELINE,
            precision=Bits8(feedback=False),
        ),
        Recipe(
            name="int4",
            reference="no factors while 4 bits with a scale for 32 numbers are few enough: a baseline",
            objective=Weight(),
            allocation=BASELINE,
            precision=Bits4(feedback=False),
        ),
        Recipe(
            name="gptq",
            reference="GPTQ (arXiv 2210.17323), 4 bits with a scale for 32 numbers: a baseline",
            objective=InputAware(),
            allocation=BASELINE,
            precision=Bits4(),
        ),
        Recipe(
            name="eora",
            reference="EoRA (arXiv 2410.21271): a 4-bit weight and what it lost, in factors; no alternation",
            objective=InputAware(),
            allocation=AS_PUBLISHED,
            structure=Hybrid(alternations=0),
        ),
        Recipe(
            name="hybrid-anchored",
            reference="as eora, anchored (arXiv 2604.02119), the 4-bit weight and the factors found in turn",
            objective=Anchored(),
            allocation=BASELINE,
            structure=Hybrid(alternations=2),
        ),
    )
}

DEFAULT_RECIPE = "eckart"
