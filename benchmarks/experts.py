"""How long the experts of a mixture take: dense, as transformers runs them, and as linear layers with factors.

    python benchmarks/experts.py

One thread. Each number is the median of many runs, in milliseconds, and all kinds are timed in turn.
"""

from __future__ import annotations

import copy
import statistics
import time
from collections.abc import Callable
from functools import partial

import torch
from torch import Tensor, nn
from transformers import MixtralConfig, MixtralForCausalLM

import eckart
from eckart.layers.linear_stack import StackLayout, expand_parameter, part_of

EXPERTS, WIDTH, HIDDEN, CHOSEN = 16, 256, 512, 2
KEEP = 0.6
SECONDS = 3.0  # for each number of tokens


def dense() -> MixtralForCausalLM:
    """Return a model of one block."""
    torch.manual_seed(0)
    sizes = {"hidden_size": WIDTH, "intermediate_size": HIDDEN, "num_local_experts": EXPERTS}
    heads = {"num_attention_heads": 4, "num_key_value_heads": 2, "num_hidden_layers": 1, "vocab_size": 256}
    return MixtralForCausalLM(MixtralConfig(**sizes, **heads, num_experts_per_tok=CHOSEN)).eval()


def main() -> None:
    """Print one line for each number of tokens."""
    torch.set_num_threads(1)
    model = dense()
    experts: dict[str, nn.Module] = {"dense": model.model.layers[0].mlp.experts}
    eager = copy.deepcopy(model)
    eager.set_experts_implementation("eager")
    experts["dense, eager"] = eager.model.layers[0].mlp.experts
    stacked = copy.deepcopy(experts["dense"])
    for leaf in ("gate_up_proj", "down_proj"):
        whole = stacked.get_parameter(leaf).detach()
        stack = expand_parameter(stacked, leaf, StackLayout(EXPERTS, transposed=False))
        for number, layer in enumerate(stack.layers):
            layer.weight = nn.Parameter(part_of(whole, stack.layout, number).clone())
    experts["linear layers"] = stacked
    for sharing, name in (("separate", f"two factors at {KEEP}"), ("experts", f"one basis at {KEEP}")):
        compressed = copy.deepcopy(model)
        eckart.compress(compressed, "svd", KEEP, overrides=[f"sharing={sharing}"])
        experts[name] = compressed.model.layers[0].mlp.experts
    print(f"{EXPERTS} experts {WIDTH} x {HIDDEN}, {CHOSEN} of them for a token; milliseconds")
    print("tokens  " + "  ".join(f"{name:>20}" for name in experts))
    for tokens in (1, 16, 64, 512):
        hidden = torch.randn(tokens, WIDTH)
        chosen = torch.rand(tokens, EXPERTS).topk(CHOSEN).indices
        weights = torch.rand(tokens, CHOSEN)
        times = medians([partial(part, hidden, chosen, weights) for part in experts.values()])
        print(f"{tokens:6}  " + "  ".join(f"{1000 * seconds:20.3f}" for seconds in times))


def medians(runs: list[Callable[[], Tensor]]) -> list[float]:
    """Return the median time of each function in seconds; they take turns."""
    times: list[list[float]] = [[] for _ in runs]
    end = time.perf_counter() + SECONDS
    with torch.no_grad():
        while time.perf_counter() < end or len(times[0]) < 5:
            for run, found in zip(runs, times, strict=True):
                start = time.perf_counter()
                run()
                found.append(time.perf_counter() - start)
    return [statistics.median(found) for found in times]


if __name__ == "__main__":
    main()
