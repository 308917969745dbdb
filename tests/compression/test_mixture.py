"""Mixtures of experts, against two whole models in memory and plain loops over tokens."""

from __future__ import annotations

import copy
from dataclasses import dataclass
from typing import Any

import pytest
import torch
import transformers as t
from tests.listed import ListedConfig, ListedForCausalLM
from torch import Tensor, nn
from torch.nn import functional

import eckart
from eckart.compression.drift import FOLLOWED_SAMPLES
from eckart.layers import is_replaced
from eckart.maths.prior import PRIOR_TOKENS

EXPERTS, CHOSEN, WIDTH, INNER, KEEP = 6, 2, 16, 20, 0.35
SIZES: dict[str, Any] = {
    "vocab_size": 256,
    "hidden_size": WIDTH,
    "intermediate_size": INNER,
    "num_hidden_layers": 2,
    "num_attention_heads": 2,
    "num_key_value_heads": 2,
    "max_position_embeddings": 64,
    "pad_token_id": 0,
}
PARTS = {"gate_up": WIDTH, "down": INNER}
pytestmark = pytest.mark.filterwarnings("ignore::eckart.errors.EckartWarning")


def make(kind: str) -> t.PreTrainedModel:
    """Return a model whose streams differ as soon as its first weights are cut."""
    torch.manual_seed(0)
    model: t.PreTrainedModel
    if kind == "fused":
        model = t.MixtralForCausalLM(t.MixtralConfig(**SIZES, num_local_experts=EXPERTS, num_experts_per_tok=CHOSEN))
    else:
        model = ListedForCausalLM(ListedConfig(**SIZES, experts=EXPERTS))
    with torch.no_grad():
        for name, parameter in model.named_parameters():
            if parameter.ndim > 1:
                parameter.normal_(std=2.0 if "router" in name or ".gate.weight" in name else 0.3)
    return model.eval()


@dataclass
class Weights:
    """The weights of one layer's mixture, wherever a model holds them."""

    mixture: Any

    @property
    def router(self) -> Tensor:
        holder = self.mixture.gate if hasattr(self.mixture, "gate") else self.mixture.router
        found: Tensor = holder.weight.detach().double()
        return found

    def parameters(self, expert: int, part: str) -> list[Tensor]:
        """Return views of the weights of which one on top of the other makes the part's."""
        experts = self.mixture.experts
        if isinstance(experts, nn.ModuleList):
            one: Any = experts[expert]
            linears = [one.gate_proj, one.up_proj] if part == "gate_up" else [one.down_proj]
            return [linear.weight.detach() for linear in linears]
        whole = experts.gate_up_proj if part == "gate_up" else experts.down_proj
        return [whole.detach()[expert]]

    def paths(self, expert: int, part: str) -> list[str]:
        if isinstance(self.mixture.experts, nn.ModuleList):
            return [
                f"experts.{expert}.{leaf}" for leaf in {"gate_up": ["gate_proj", "up_proj"]}.get(part, ["down_proj"])
            ]
        return [f"experts.{part}_proj.{expert}"]

    def of(self, expert: int, part: str) -> Tensor:
        return torch.cat(self.parameters(expert, part)).double()

    def units(self, expert: int, hidden: Tensor) -> Tensor:
        """Return the hidden units of an expert, (tokens, inner)."""
        gate, up = (hidden @ self.of(expert, "gate_up").T).chunk(2, dim=-1)
        return functional.silu(gate) * up


def handed(model: t.PreTrainedModel, path: str, tokens: Tensor) -> Tensor:
    """Return what a module is handed in a run of the whole model, (tokens, width) float64."""
    seen: list[Tensor] = []
    handle = model.get_submodule(path).register_forward_pre_hook(
        lambda _, args, kwargs: seen.append(args[0] if args else next(iter(kwargs.values()))), with_kwargs=True
    )
    with torch.no_grad():
        model(tokens)
    handle.remove()
    return torch.cat([found.flatten(0, -2) for found in seen]).double()


def routed(weights: Weights, hidden: Tensor) -> list[list[tuple[int, float]]]:
    """Return, for each expert, the numbers of its tokens and the router's weights."""
    found: list[list[tuple[int, float]]] = [[] for _ in range(EXPERTS)]
    for number, token in enumerate(hidden):
        odds = (weights.router @ token).softmax(dim=0)
        best = sorted(range(EXPERTS), key=lambda expert: -float(odds[expert]))[:CHOSEN]
        for expert in best:
            found[expert].append((number, float(odds[expert] / odds[best].sum())))
    return found


def best(weight: Tensor, second: Tensor, cross: Tensor, rank: int) -> Tensor:
    """Return the weight of a rank that is best for ``T = W X``, from ``Z Z^T`` and ``X Z^T``."""
    sizes, directions = torch.linalg.eigh(second)
    known = sizes > 1e-9 * sizes[-1]  # few values are mixed by attention, so that its inputs do not span all
    inverse = directions[:, known] / sizes[known].sqrt()
    left, values, right = torch.linalg.svd(weight @ cross @ inverse, full_matrices=False)
    found: Tensor = (left[:, :rank] * values[:rank]) @ right[:rank] @ inverse.T
    return found


def literal(
    model: t.PreTrainedModel, source: str, tokens: Tensor, report: eckart.CompressionResult
) -> tuple[dict[str, Tensor], dict[str, float], list[float]]:
    """Return what each expert's weights must be, the errors, and the shares of pairs that both models choose."""
    original, compressed = copy.deepcopy(model), copy.deepcopy(model)
    products: dict[str, Tensor] = {}
    errors: dict[str, float] = {}
    shared: list[float] = []
    for layer in range(2):
        block = f"model.layers.{layer}"
        for names in (["q_proj", "k_proj", "v_proj"], ["o_proj"]):
            paths = [f"{block}.self_attn.{name}" for name in names]
            x, z = handed(original, paths[0], tokens), handed(compressed, paths[0], tokens)
            z, x = (x, x) if source == "original" else (z, x) if source == "both" else (z, z)
            for path in paths:
                linear: Any = compressed.get_submodule(path)
                rank = report.ranks[path]
                linear.weight.data = best(linear.weight.detach().double(), z.T @ z, x.T @ z, rank).float()
        before, now = (Weights(m.get_submodule(f"{block}.mlp")) for m in (original, compressed))
        x, z = handed(original, f"{block}.mlp", tokens), handed(compressed, f"{block}.mlp", tokens)
        theirs, ours = routed(before, x), routed(now, z)
        same = sum(len({n for n, _ in a} & {n for n, _ in b}) for a, b in zip(theirs, ours, strict=True))
        shared.append(same / (len(x) * CHOSEN))
        if source == "original":
            ours = theirs
        total = sum(p**2 for pairs in ours for _, p in pairs)
        scale = len(x) * CHOSEN / total
        for part, width in PARTS.items():
            sums = []
            for expert, pairs in enumerate(ours):
                second, cross, first = (torch.zeros(width, width, dtype=torch.float64) for _ in range(3))
                for number, p in pairs:
                    one, other = x[number], z[number]
                    if part == "down":
                        one, other = before.units(expert, one), now.units(expert, other)
                        if source == "original":
                            other = one
                    other = one if source == "original" else other
                    one = other if source == "compressed" else one
                    second += p**2 * scale * torch.outer(other, other)
                    cross += p**2 * scale * torch.outer(one, other)
                    first += p**2 * scale * torch.outer(one, one)
                sums.append((second, cross, first))
            count = len(x) * CHOSEN
            means = [sum(found, torch.zeros(())) / count for found in zip(*sums, strict=True)]
            if part == "down":
                means = [means[0].diagonal().mean() * torch.eye(width, dtype=torch.float64)] * 3
            for expert, found in enumerate(sums):
                second, cross, first = (
                    one + PRIOR_TOKENS * width * mean for one, mean in zip(found, means, strict=True)
                )
                for path, weight in zip(now.paths(expert, part), now.parameters(expert, part), strict=True):
                    name = f"{block}.mlp.{path}"
                    dense = weight.double()
                    product = best(dense, second, cross, report.ranks[name])
                    lost = (
                        ((dense @ first) * dense).sum()
                        - 2 * ((dense @ cross) * product).sum()
                        + ((product @ second) * product).sum()
                    )
                    errors[name] = float((lost / ((dense @ first) * dense).sum()).sqrt())
                    products[name] = product
                    weight.copy_(product)
    return products, errors, shared


def assert_drift(
    dense: t.PreTrainedModel, model: t.PreTrainedModel, report: eckart.CompressionResult, tokens: Tensor
) -> None:
    """Check what is recorded of how far outputs of experts are from the original ones for the same tokens."""
    for number, record in enumerate(report.blocks):
        place = f"model.layers.{number}.mlp"
        before, now = Weights(dense.get_submodule(place)), Weights(model.get_submodule(place))
        x, z = handed(dense, place, tokens), handed(model, place, tokens)
        for expert, pairs in enumerate(routed(now, z)):
            numbers = [number for number, _ in pairs]
            path = f"{place}.{before.paths(expert, 'gate_up')[0]}"
            if not numbers:
                assert path not in record.layers or record.layers[path] is None
                continue
            linear: Any = model.get_submodule(path)
            y = x[numbers] @ before.parameters(expert, "gate_up")[0].double().T
            other = z[numbers] @ linear.dense_weight().detach().double().T
            found = record.layers[path]
            assert found is not None
            assert found.relative == pytest.approx(float(((y - other).norm(dim=1) / y.norm(dim=1)).mean()), rel=1e-3)


@pytest.mark.parametrize("kind", ["fused", "listed"])
@pytest.mark.parametrize(
    ("recipe", "source"), [("svd-llm", "original"), ("dobi-shift", "compressed"), ("aa-svd-layer", "both")]
)
def test_equals_the_literal_implementation(kind: str, recipe: str, source: str) -> None:
    tokens = torch.randint(1, 250, (12, 20), generator=torch.Generator().manual_seed(1))
    model = make(kind)
    expected = copy.deepcopy(model)
    dense = copy.deepcopy(model)
    report = eckart.compress(model, recipe, KEEP, tokens)
    assert_drift(dense, model, report, tokens[:FOLLOWED_SAMPLES])
    products, errors, shared = literal(expected, source, tokens, report)
    assert len(products) == 2 * EXPERTS * (2 if kind == "fused" else 3)
    assert all(0.4 < share < 0.9 for share in shared)  # so that what is paired wrongly would be seen
    found = {layer.path: layer.error for layer in report.layers}
    for path, product in products.items():
        layer = model.get_submodule(path)
        assert is_replaced(layer)
        ours = layer.dense_weight().detach().double()
        assert (ours - product).norm() < 1e-2 * product.norm(), path
        assert found[path] == pytest.approx(errors[path], rel=1e-2), path
