"""The named recipes: one literal table."""

from __future__ import annotations

from typing import Any

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
from eckart.methods.recipes import pairs, preparation, ranks, recovery, structures
from eckart.methods.recipes.eckart import BY_BUDGET, for_budget
from eckart.methods.refinement import BlockRefinement
from eckart.methods.structure import Hybrid, Remapped, TwoFactor


def _paper(paper: str, year: int, arxiv: str = "") -> dict[str, Any]:
    return {"paper": paper, "arxiv": arxiv, "year": year}


ECKART_YOUNG = _paper("The approximation of one matrix by another of lower rank", 1936)
SVD_LLM = _paper(
    "SVD-LLM: Truncation-aware Singular Value Decomposition for Large Language Model Compression", 2024, "2403.07378"
)
DOBI_SVD = _paper("Dobi-SVD: Differentiable SVD for LLM Compression and Some New Perspectives", 2025, "2502.02723")
AA_SVD = _paper("AA-SVD: Anchored and Adaptive SVD for Large Language Model Compression", 2026, "2604.02119")
SAES_SVD = _paper(
    "SAES-SVD: Self-Adaptive Suppression of Accumulated and Local Errors for SVD-based LLM Compression",
    2026,
    "2602.03051",
)
ASVD = _paper(
    "ASVD: Activation-aware Singular Value Decomposition for Compressing Large Language Models", 2023, "2312.05821"
)
SVD_LLM_V2 = _paper(
    "SVD-LLM V2: Optimizing Singular Value Truncation for Large Language Model Compression", 2025, "2503.12340"
)
ADASVD = _paper("AdaSVD: Adaptive Singular Value Decomposition for Large Language Models", 2025, "2502.01403")
ZS_SVD = _paper("Zero Sum SVD: Balancing Loss Sensitivity for Low Rank LLM Compression", 2026, "2602.02848")
IO_SVD = _paper("IO-SVD: Input-Output Whitened SVD for Adaptive-Rank LLM Compression", 2026, "2605.15626")
GPTQ = _paper("GPTQ: Accurate Post-Training Quantization for Generative Pre-trained Transformers", 2022, "2210.17323")
EORA = _paper(
    "EoRA: Training-free Compensation for Compressed LLM with Eigenspace Low-Rank Approximation", 2024, "2410.21271"
)

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
            reference="truncated SVD of the weight",
            **ECKART_YOUNG,
            objective=Weight(),
            allocation=AS_PUBLISHED,
        ),
        Recipe(
            name="svd-llm",
            reference="whitening only",
            **SVD_LLM,
            objective=InputAware(),
            allocation=AS_PUBLISHED,
        ),
        Recipe(
            name="dobi-shift",
            reference="the shift-aware objective alone, uniform ranks; AA-SVD has it too",
            **DOBI_SVD,
            objective=ShiftAware(),
            allocation=AS_PUBLISHED,
        ),
        Recipe(
            name="aa-svd-layer",
            reference="anchored objective, without block refinement",
            **AA_SVD,
            objective=Anchored(),
            allocation=AS_PUBLISHED,
        ),
        Recipe(
            name="aa-svd",
            reference="input-aware objective with block refinement: its headline",
            **AA_SVD,
            objective=InputAware(),
            allocation=AS_PUBLISHED,
            structure=AA_SVD_STRUCTURE,
            refinement=AA_SVD_REFINEMENT,
        ),
        Recipe(
            name="aa-svd-anchored",
            reference="anchored objective with block refinement",
            **AA_SVD,
            objective=Anchored(),
            allocation=AS_PUBLISHED,
            structure=AA_SVD_STRUCTURE,
            refinement=AA_SVD_REFINEMENT,
        ),
        Recipe(
            name="aa-svd-remap",
            reference="with the remap of Dobi-SVD, most numbers in 8 bits, refined behind it",
            **AA_SVD,
            objective=InputAware(),
            allocation=AS_PUBLISHED,
            structure=Remapped(feedback=False),
            refinement=AA_SVD_REFINEMENT,
        ),
        Recipe(
            name="saes-svd",
            reference="cumulative errors with adaptive blend",
            **SAES_SVD,
            objective=Blended(),
            allocation=AS_PUBLISHED,
        ),
        Recipe(
            name="asvd",
            reference="activation-scaled with searched ranks; of the blocks, not of the head",
            **ASVD,
            objective=ActivationScaled(),
            allocation=Search(multiple=1, fill_budget=False),
        ),
        Recipe(
            name="svd-llm-v2",
            reference="ranks by truncation loss",
            **SVD_LLM_V2,
            objective=InputAware(),
            allocation=TruncationLoss(multiple=1, fill_budget=False),
        ),
        Recipe(
            name="adasvd",
            reference="ranks by importance; its alternating update ends at input-aware",
            **ADASVD,
            objective=InputAware(),
            allocation=Importance(multiple=1, fill_budget=False),
        ),
        Recipe(
            name="dobi-svd",
            reference="trained truncation positions; exact principal outputs",
            **DOBI_SVD,
            objective=PrincipalOutputs(),
            allocation=Learned(multiple=1, fill_budget=False),
        ),
        Recipe(
            name="zs-svd",
            reference="one shot",
            **ZS_SVD,
            objective=InputAware(),
            allocation=ZERO_SUM,
        ),
        Recipe(
            name="zs-svd-staged",
            reference="truncate, correct, truncate again: its 5x",
            **ZS_SVD,
            objective=InputAware(),
            allocation=ZERO_SUM.model_copy(update={"stages": 6}),
        ),
        Recipe(
            name="zs-svd-hq",
            reference="its HQ variant: half as much is truncated, all is stored in 8 bits",
            **ZS_SVD,
            objective=InputAware(),
            allocation=ZERO_SUM,
            precision=Bits8(feedback=False),
        ),
        Recipe(
            name="zs-svd-remap",
            reference="with the remap of Dobi-SVD: most numbers of the factors in 8 bits",
            **ZS_SVD,
            objective=InputAware(),
            allocation=ZERO_SUM,
            structure=Remapped(feedback=False),
        ),
        Recipe(
            name="io-svd",
            reference="input and output curvature; ranks on the convex hull",
            **IO_SVD,
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
            reference="4 bits with a scale for 32 numbers: a baseline",
            **GPTQ,
            objective=InputAware(),
            allocation=BASELINE,
            precision=Bits4(),
        ),
        Recipe(
            name="eora",
            reference="a 4-bit weight and what it lost, in factors; no alternation",
            **EORA,
            objective=InputAware(),
            allocation=AS_PUBLISHED,
            structure=Hybrid(alternations=0),
        ),
        Recipe(
            name="hybrid-anchored",
            reference="as eora, anchored as in AA-SVD, the 4-bit weight and the factors found in turn",
            objective=Anchored(),
            allocation=BASELINE,
            structure=Hybrid(alternations=2),
        ),
        *ranks.RECIPES,
        *preparation.RECIPES,
        *recovery.RECIPES,
        *structures.RECIPES,
        *pairs.RECIPES,
    )
}

DEFAULT_RECIPE = "auto"
# What a user may want, and the recipe for it.
GOALS = {"size": "auto", "speed": "auto-speed", "16-bit": "eckart"}
