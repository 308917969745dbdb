"""What the rows of a sweep share: how much memory it takes, and what comes of it."""

from __future__ import annotations

import pytest
import torch
from tests.conftest import make_model
from torch import Tensor
from transformers import MixtralConfig, MixtralForCausalLM, PreTrainedModel

import eckart
from eckart.blocks.expert_stacks import expand
from eckart.blocks.onload import ResidentWeights
from eckart.blocks.tensor_cache import TensorCache
from eckart.data.calibration import Calibration
from eckart.errors import NonFiniteError
from eckart.methods.recipe import Recipe
from eckart.methods.sensitivity.measurements import Measurements
from eckart.sweep.case import Way, recipe_of, way_of
from eckart.sweep.statistics import Statistics, collect, kept_bytes, stream_bytes

CPU = torch.device("cpu")
pytestmark = pytest.mark.filterwarnings("ignore::eckart.errors.EckartWarning")


def collected(
    model: PreTrainedModel, tokens: Tensor, *labels: str, limit: int | None = None
) -> tuple[Statistics, list[Recipe]]:
    recipes = [recipe_of(label) for label in labels]
    calibration = Calibration(tokens, "token ids", 0)
    return collect(model, {recipe: [0.6] for recipe in recipes}, calibration, CPU, limit=limit), recipes


def held(found: Measurements) -> int:
    """Return the bytes of all matrices that a measurement keeps."""
    pairs = [tensor for pair in (*found.solutions.values(), *found.whitenings.values()) for tensor in pair]
    sums = [(m.second_moment, m.absolute, m.sum) for m in found.moments.values()]
    moments = [tensor.float() for three in sums for tensor in three if tensor is not None]
    tensors = [*pairs, *found.metrics.values(), *found.means.values(), *moments]
    return sum({tensor.data_ptr(): tensor.nbytes for tensor in tensors}.values())


@pytest.mark.parametrize(
    "label",
    ["svd-llm", "svd-llm-v2", "io-svd", "io-svd+structure=pivoted", "svd-llm+objective.affine=true", "asvd", "auto"],
)
def test_what_is_kept_is_no_more_than_was_expected_and_not_much_less(
    label: str, llama: PreTrainedModel, tokens: Tensor
) -> None:
    statistics, (recipe,) = collected(llama, tokens, label)
    expected = kept_bytes(statistics.requests[recipe], statistics.original.blocks)
    assert 0.5 * expected < held(statistics.measurements(recipe)) <= expected


@pytest.mark.parametrize(("label", "gradients"), [("svd-llm", 0), ("zs-svd", 2), ("io-svd", 2), ("adasvd", 0)])
def test_streams_take_the_bytes_that_were_expected(
    label: str, gradients: int, llama: PreTrainedModel, tokens: Tensor, monkeypatch: pytest.MonkeyPatch
) -> None:
    """By the largest number of bytes that is held at once."""
    alive: dict[int, TensorCache] = {}
    most = 0
    append, delete = TensorCache.append, TensorCache.delete

    def appended(cache: TensorCache, tensor: Tensor) -> None:
        nonlocal most
        append(cache, tensor)
        if tensor.ndim == 3:  # hidden states and their gradients; what is kept of the layers is a matrix each
            alive[id(cache)] = cache
        most = max(most, sum(known.nbytes for known in alive.values()))

    def deleted(cache: TensorCache) -> None:
        alive.pop(id(cache), None)
        delete(cache)

    monkeypatch.setattr(TensorCache, "append", appended)
    monkeypatch.setattr(TensorCache, "delete", deleted)
    statistics, (recipe,) = collected(llama, tokens, label)
    numbers = tokens.numel() * 32
    expected = stream_bytes([statistics.requests[recipe]], [recipe], statistics.original.blocks, numbers, torch.float32)
    assert expected == most == (4 + gradients) * 4 * numbers
    assert not alive


def test_no_streams_are_needed_where_no_data_is_looked_at(llama: PreTrainedModel) -> None:
    recipe = recipe_of("svd+allocation=truncation-loss")
    statistics = collect(llama, {recipe: [0.6]}, None, CPU)
    assert stream_bytes([statistics.requests[recipe]], [recipe], statistics.original.blocks, 1000, torch.float32) == 0


@pytest.mark.parametrize("keep", [0.8, 0.5])
@pytest.mark.parametrize("label", ["svd-llm", "svd-llm-v2", "zs-svd", "adasvd", "asvd+allocation.trial_samples=2"])
def test_ranks_are_those_of_compress(label: str, keep: float, llama: PreTrainedModel, tokens: Tensor) -> None:
    statistics, (recipe,) = collected(llama, tokens, label)
    ranks = statistics.storage(recipe, keep).ranks
    report = eckart.compress(make_model("llama"), recipe, keep, tokens)
    assert dict(ranks) == {layer.path: layer.rank for layer in report.layers}


def test_trials_of_a_search_are_made_once_for_all_sizes(llama: PreTrainedModel, tokens: Tensor) -> None:
    statistics, (recipe,) = collected(llama, tokens, "asvd+allocation.trial_samples=2")
    steps: list[tuple[int, int]] = []
    statistics.storage(recipe, 0.8, lambda done, total: steps.append((done, total)))
    assert steps
    made = len(steps)
    statistics.storage(recipe, 0.6, lambda done, total: steps.append((done, total)))
    assert len(steps) == made


def test_what_fails_is_known_by_its_recipe(llama: PreTrainedModel, tokens: Tensor) -> None:
    with torch.no_grad():
        llama.lm_head.weight[0] = torch.finfo(torch.float32).max  # no gradients, and nothing else is wrong
    statistics, (bad, good) = collected(llama, tokens, "zs-svd+objective.shrinkage=0.1", "svd-llm-v2")
    assert statistics.measurements(good).linears[0].energy is not None
    with pytest.raises(NonFiniteError, match="gradient"):
        statistics.measurements(bad)


def test_what_does_not_fit_goes_to_files_that_are_given_back(llama: PreTrainedModel, tokens: Tensor) -> None:
    inside, (recipe,) = collected(llama, tokens, "io-svd", limit=10**9)
    assert inside.original.scratch.in_memory
    outside, _ = collected(llama, tokens, "io-svd", limit=1)
    scratch = outside.original.scratch
    assert not scratch.in_memory
    folder = scratch.folder
    assert folder is not None
    assert folder.exists()
    assert outside.storage(recipe, 0.6) == inside.storage(recipe, 0.6)
    outside.close()
    assert not folder.exists()


def test_fusing_for_shared_bases_leaves_the_model_alone(tokens: Tensor) -> None:
    model = make_model("qwen2")
    before = [name for name, _ in model.named_modules()]
    statistics, _ = collected(model, tokens, "io-svd+sharing=shared")
    assert statistics.original.model is not model
    assert [name for name, _ in model.named_modules()] == before
    assert len(statistics.original.blocks[0].linears) < 7


def test_experts_are_fused_for_a_basis_of_theirs(tokens: Tensor) -> None:
    sizes = {"vocab_size": 256, "hidden_size": 16, "intermediate_size": 12, "num_hidden_layers": 1}
    heads = {"num_attention_heads": 2, "num_key_value_heads": 1}
    model = MixtralForCausalLM(MixtralConfig(**sizes, **heads, num_local_experts=4)).eval()
    expand(model, ResidentWeights())
    statistics, (recipe,) = collected(model, tokens, "io-svd+sharing=experts")
    assert way_of(recipe) is Way.WALKED
    found = [ref for ref in statistics.original.blocks[0].linears if ref.runs == 4]
    assert [ref.path for ref in found] == ["model.layers.0.mlp.experts.gate_up_proj.0.joint"]
    assert statistics.storage(recipe, 0.6).ranks.keys() >= {found[0].path}
