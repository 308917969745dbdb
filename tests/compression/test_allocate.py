"""Recipes with allocators, from the model to the folder on disk."""

from __future__ import annotations

import itertools
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest
import torch
from safetensors import safe_open
from tests.conftest import CONFIGS, SHORTER, Stop, contents, dealt, make_model, one_of_each
from torch import nn
from transformers import AutoModelForCausalLM, PreTrainedModel, PreTrainedTokenizerFast

import eckart
from eckart.blocks.blockwise_model import BlockwiseModel
from eckart.blocks.onload import ResidentWeights
from eckart.blocks.tensor_cache import ScratchSpace
from eckart.compression.allocate import allocate
from eckart.compression.embedding import losses_of_tables
from eckart.compression.plan import make_plan
from eckart.compression.request import request_of
from eckart.data.calibration import calibrate
from eckart.errors import CalibrationError, EckartError, InterruptedRun, NonFiniteError
from eckart.layers import LowRankLinear
from eckart.methods.allocation import ALLOCATIONS, Budgets
from eckart.methods.objectives import OBJECTIVES
from eckart.methods.recipes.loader import load_recipe
from eckart.methods.structure import STRUCTURES
from eckart.run.compress_checkpoint import compress_checkpoint
from eckart.run.whole_size import within_size

pytestmark = pytest.mark.filterwarnings("ignore::eckart.errors.EckartWarning")
# Those by which ranks and nothing else are chosen.
RANKS = [name for name, kind in ALLOCATIONS.items() if not (kind.chooses_bases or kind.chooses_sparsities)]


def overrides_for(allocation: str, objective: str = "input-aware") -> list[str]:
    return [f"objective={objective}", f"allocation={allocation}", "allocation.multiple=1", *SHORTER.get(allocation, [])]


def quick(recipe: str, keep: float = 0.8) -> list[str]:
    chosen = load_recipe(recipe, keep=keep)
    refined = ["refinement.epochs=1", "refinement.batch=2"] if chosen.refinement.needs_data else []
    # The matrices are small, so that eight ranks are a large step.
    return [*SHORTER.get(chosen.allocation.name, []), *refined, "allocation.multiple=1"]


# Recipes that are named after a paper round ranks down and leave the rest, unless they are told to fill it.
@pytest.mark.parametrize(
    ("recipe", "keep", "filling"),
    dealt(
        one_of_each("allocation", "structure", "precision", "pairs"), (0.8, 0.6), ([], ["allocation.fill_budget=true"])
    ),
)
def test_bytes_on_disk_are_at_most_the_budget_and_hardly_less(
    recipe: str, keep: float, filling: list[str], model_folder: Path, text_file: Path, tmp_path: Path
) -> None:
    AutoModelForCausalLM.from_pretrained(model_folder).bfloat16().save_pretrained(model_folder)
    out = tmp_path / "out"
    report = compress_checkpoint(
        model_folder, out, recipe, keep, str(text_file), samples=4, length=24, overrides=[*quick(recipe), *filling]
    )
    written, paths = 0, tuple(f"{layer.path}." for layer in report.layers)
    for shard in out.glob("*.safetensors"):
        with safe_open(shard, "pt") as file:
            for name in file.keys():  # noqa: SIM118
                # Of what is in the budget; two numbers a layer are its shape.
                if name.startswith(paths) and not name.endswith(".weight_shape"):
                    tensor = file.get_tensor(name)
                    written += tensor.numel() * tensor.element_size()
    dense = sum(layer.dense_bytes for layer in report.layers)
    assert written == sum(layer.bytes for layer in report.layers)
    assert written / dense <= keep
    # What is not factored at all may take less than was allowed; so does an index that turns out not to be needed.
    saved = sum(report.recipe.structure.index_bytes(layer.out_features) for layer in report.layers if layer.in_order)
    # Ranks are exchanged for whole columns.
    saved += sum(2 * layer.out_features for layer in report.layers if layer.columns)
    # Nor are bytes spent that would bring next to nothing.
    filled = report.recipe.allocation.fill_budget and not report.recipe.allocation.chooses_bases
    assert (written + saved) / dense > keep - 0.005 or not report.ranks or not filled


@pytest.mark.parametrize("allocation", RANKS)
def test_any_objective_takes_any_allocation(allocation: str, tokens: torch.Tensor) -> None:
    for objective in list(OBJECTIVES)[RANKS.index(allocation) % 2 :: 2]:  # half of all pairs
        report = eckart.compress(
            make_model("llama"), "svd-llm", 0.6, tokens[:4], overrides=overrides_for(allocation, objective)
        )
        assert 0.59 < report.keep <= 0.6
        assert all(layer.error < 1 for layer in report.layers)


@pytest.mark.parametrize("allocation", [name for name in RANKS if not ALLOCATIONS[name].model_validate({}).truncates])
def test_allocations_that_look_at_spectra_share_out_what_a_base_leaves(
    allocation: str, llama: PreTrainedModel, tokens: torch.Tensor
) -> None:
    settings = [*overrides_for(allocation), "structure.base.group=16"]
    report = eckart.compress(llama, "eora", 0.45, tokens, overrides=settings)
    assert 0.44 < report.keep <= 0.45
    assert all(layer.error < 0.1 for layer in report.layers)


def test_a_budget_below_the_bases_says_what_they_take(llama: PreTrainedModel, tokens: torch.Tensor) -> None:
    with pytest.raises(EckartError, match=r"smallest ranks allowed take .*Use --keep 0\.\d+ or more"):
        eckart.compress(llama, "eora", 0.25, tokens)


@pytest.mark.parametrize("allocation", RANKS)
def test_any_allocation_can_be_refined(allocation: str, llama: PreTrainedModel, tokens: torch.Tensor) -> None:
    refinement = ["refinement=block", "refinement.epochs=1", "refinement.batch=2"]
    report = eckart.compress(llama, "svd-llm", 0.6, tokens, overrides=[*overrides_for(allocation), *refinement])
    assert len(report.refinements) == 3


MEASURING = ("io-svd", "zs-svd-staged", "asvd", "dobi-svd")


@pytest.mark.parametrize(
    ("recipe", "kind"),
    # Half of all pairs: each architecture with two of the recipes, each recipe with half of the architectures.
    [(MEASURING[(number + place) % 4], kind) for number, kind in enumerate(CONFIGS) for place in (0, 2)],
)
def test_every_architecture_is_measured(recipe: str, kind: str, tokens: torch.Tensor) -> None:
    model = make_model(kind)
    report = eckart.compress(model, recipe, 0.6, tokens[:4], overrides=quick(recipe))
    assert report.keep <= 0.6
    assert torch.isfinite(model(tokens[:2]).logits).all()


@pytest.mark.parametrize(
    "recipe",
    [name for name in one_of_each("allocation", "structure", "pairs") if not name.startswith("auto")],  # of 8 bits
)
def test_all_is_kept_where_all_may_be(recipe: str, llama: PreTrainedModel, tokens: torch.Tensor) -> None:
    with torch.no_grad():
        before = llama(tokens).logits
    report = eckart.compress(llama, recipe, 1.0, tokens, overrides=[*quick(recipe, 1.0), "precision=16-bit"])
    with torch.no_grad():
        assert torch.equal(llama(tokens).logits, before)
    assert report.ranks == {}


@pytest.mark.parametrize(
    ("recipe", "memory"),
    dealt(["io-svd", "zs-svd-staged", "zs-svd", "asvd", "dobi-svd", "svd-llm-v2", "adasvd"], [None, 1]),
)
def test_from_disk_in_files_and_resumed_it_is_the_same(
    recipe: str,
    memory: int | None,
    model_folder: Path,
    tokenizer: PreTrainedTokenizerFast,
    text_file: Path,
    tmp_path: Path,
) -> None:
    def run(out: Path, **options: Any) -> dict[str, str]:
        compress_checkpoint(
            model_folder, out, recipe, 0.6, str(text_file), samples=4, length=24, overrides=quick(recipe), **options
        )
        return contents(out)

    expected = run(tmp_path / "memory")
    assert run(tmp_path / "files", memory=1) == expected
    out = tmp_path / "stopped"
    with pytest.raises(InterruptedRun, match="1 finished blocks are kept"):
        run(out, memory=memory, callback=Stop(1, KeyboardInterrupt()))
    assert run(out, memory=memory, resume=True) == expected

    model = AutoModelForCausalLM.from_pretrained(model_folder)
    report = eckart.compress(
        model, recipe, 0.6, str(text_file), samples=4, length=24, overrides=quick(recipe), tokenizer=tokenizer
    )
    loaded = AutoModelForCausalLM.from_pretrained(tmp_path / "memory")
    assert report.ranks == {
        path: module.rank for path, module in loaded.named_modules() if isinstance(module, LowRankLinear)
    }


@pytest.mark.parametrize("recipe", ["io-svd", "zs-svd", "eora", "eckart-fast"])
def test_what_was_solved_for_the_ranks_is_not_summed_again_and_gives_the_same(
    recipe: str, monkeypatch: pytest.MonkeyPatch, tokens: torch.Tensor
) -> None:
    overrides = ["allocation=curvature", "allocation.multiple=1", "objective=input-aware"]
    overrides = [*quick(recipe), *(overrides if recipe == "eora" else [])]

    def compressed() -> tuple[PreTrainedModel, eckart.CompressionResult]:
        model = make_model("llama")
        return model, eckart.compress(model, recipe, 0.7, tokens, overrides=overrides)

    with monkeypatch.context() as patch:
        patch.setattr("eckart.compression.allocate.request_for_walk", request_of)
        again, expected = compressed()
    with monkeypatch.context() as patch:
        patch.delattr("eckart.compression.walk.input_moments")
        model, report = compressed()
    assert report.ranks == expected.ranks
    for layer, other in zip(report.layers, expected.layers, strict=True):
        assert layer.error == pytest.approx(other.error, rel=1e-3)
    assert len(report.blocks) == len(expected.blocks) == 3
    with torch.no_grad():
        torch.testing.assert_close(model(tokens).logits, again(tokens).logits, rtol=1e-3, atol=1e-4)


def test_one_target_linear_only(tokens: torch.Tensor) -> None:
    for allocation in RANKS:
        model = make_model("llama")
        for layer in model.model.layers:
            layer.self_attn = Passing()
            layer.mlp = nn.Identity()
        model.model.layers[1].mlp = nn.Linear(32, 32)
        report = eckart.compress(model, "svd-llm", 0.5, tokens[:4], overrides=overrides_for(allocation))
        assert report.ranks == {"model.layers.1.mlp": 8}


class Passing(nn.Module):
    """Attention that looks at nothing."""

    def forward(self, hidden_states: torch.Tensor, **_: object) -> tuple[torch.Tensor, None]:
        return hidden_states, None


@pytest.mark.parametrize("recipe", ["io-svd", "zs-svd-staged", "asvd", "dobi-svd"])
def test_frozen_and_unused_layers_are_no_obstacle(recipe: str, llama: PreTrainedModel, tokens: torch.Tensor) -> None:
    llama.requires_grad_(False)
    llama.model.layers[0].unused = nn.Linear(4, 4)
    report = eckart.compress(llama, recipe, 0.6, tokens[:4], overrides=quick(recipe))
    assert len(report.layers) == 21
    assert type(llama.model.layers[0].unused) is nn.Linear
    assert not any(parameter.requires_grad for parameter in llama.model.layers[0].input_layernorm.parameters())


@pytest.mark.parametrize(("recipe", "place"), list(itertools.product(["io-svd", "zs-svd"], ["lm_head", "model.norm"])))
def test_gradients_that_are_not_finite_are_an_error(
    recipe: str, place: str, llama: PreTrainedModel, tokens: torch.Tensor
) -> None:
    with torch.no_grad():
        llama.get_submodule(place).weight.fill_(torch.finfo(torch.float32).max)
    with pytest.raises(NonFiniteError, match="gradient of the loss is NaN or infinite"):
        eckart.compress(llama, recipe, 0.6, tokens)


def test_a_budget_that_floors_make_impossible_is_refused_at_once(llama: PreTrainedModel) -> None:
    with pytest.raises(EckartError, match=r"smallest ranks allowed take .* Use --keep 0\.\d+ or more"):
        eckart.compress(llama, "zs-svd", 0.5, torch.zeros(4, 24, dtype=torch.int64), overrides=["allocation.floor=0.9"])


def test_linears_of_a_group_are_of_one_kind_if_they_must_be(llama: PreTrainedModel, tokens: torch.Tensor) -> None:
    report = eckart.compress(llama, "io-svd", 0.7, tokens, overrides=["allocation.fused_groups=true"])
    for block in range(3):
        for names in (("q_proj", "k_proj", "v_proj"), ("gate_proj", "up_proj")):
            kinds = {
                layer.rank is None
                for layer in report.layers
                if f".{block}." in layer.path and layer.path.rsplit(".", 1)[-1] in names
            }
            assert len(kinds) == 1


def test_an_allocation_that_looks_at_data_asks_for_some(model_folder: Path, tmp_path: Path) -> None:
    with pytest.raises(CalibrationError):
        compress_checkpoint(
            model_folder, tmp_path / "out", "svd", 0.6, "nowhere.txt", overrides=["allocation=curvature"]
        )
    compress_checkpoint(model_folder, tmp_path / "out", "svd", 0.6, "nowhere.txt", overrides=["allocation=energy"])


def test_the_embedding_that_goes_best_with_the_rest_is_taken(model_folder: Path, text_file: Path) -> None:
    """Of those that fit, by the losses of both together."""
    model = make_model("llama").bfloat16()
    tokenizer = eckart.load_tokenizer(model_folder)
    calibration = calibrate(str(text_file), samples=8, length=24, seed=0, tokenizer=tokenizer)
    whole = 2 * sum(parameter.numel() for parameter in model.parameters())
    recipe = load_recipe("auto", ["allocation.multiple=1"])
    weights = ResidentWeights()
    for share in (0.5, 0.6, 0.75):
        room = within_size(model, recipe, int(share * whole), weights, calibration)
        plan = replace(make_plan(model, recipe, room.keep, weights, calibration), shares=room.shares)
        run = BlockwiseModel(model, plan.blocks, weights, torch.device("cpu"), ScratchSpace(), calibration)
        found = allocate(run, plan)
        assert found.plan.vocabulary is not None
        losses = losses_of_tables(run, found.plan.vocabulary, [precision for precision, _ in room.shares])
        totals = {}
        for (precision, keep), loss in zip(room.shares, losses, strict=True):
            outlook = recipe.allocation.storage_within(found.measurements.linears, Budgets(keep), recipe.layout).outlook
            assert outlook is not None
            totals[precision] = outlook.loss + loss
        assert found.plan.embedding == min(totals, key=lambda precision: totals[precision])
        assert found.plan.outlook is not None
        assert found.plan.outlook.loss == pytest.approx(min(totals.values()))
        assert found.plan.bytes <= share * whole


@pytest.mark.parametrize(
    ("recipe", "structure"),
    [*itertools.product(["kfac-svd-lems"], STRUCTURES), ("ara", "dictionary"), ("swift-svd", "kept-columns")],
)
@pytest.mark.filterwarnings("ignore::eckart.errors.EckartWarning")
def test_any_structure_takes_any_allocation(
    recipe: str, structure: str, llama: PreTrainedModel, tokens: torch.Tensor
) -> None:
    chosen = eckart.RECIPES[recipe].allocation
    if STRUCTURES[structure].adds_to_base and chosen.truncates:
        pytest.skip("what is truncated beside a base is not the model")
    report = eckart.compress(llama, recipe, 0.7, tokens, overrides=[f"structure={structure}", *quick(recipe)])
    assert report.ranks
    assert report.keep <= 0.7
