"""LoRA on one factor after the other, against a literal loop over the whole model and against PEFT."""

from __future__ import annotations

import copy
import math
from pathlib import Path
from typing import Any

import pytest
import torch
from tests.conftest import make_model
from torch import Tensor, nn
from torch.func import functional_call
from transformers import PreTrainedModel

import eckart
from eckart.compression.distil.lora import LoraBlock
from eckart.errors import InterruptedRun
from eckart.layers import FactoredLinear
from eckart.methods.distillation import LoraRecovery
from eckart.methods.training.schedule import learning_rate_factor
from eckart.run.compress_checkpoint import compress_checkpoint

pytestmark = pytest.mark.filterwarnings("ignore::eckart.errors.EckartWarning")
CPU = torch.device("cpu")
CONFIG = LoraRecovery(rank=2, alpha=3.0, epochs=2, batch=5, learning_rate=1e-2, shuffle=False)
SETTINGS = [
    f"distillation.{field}={getattr(CONFIG, field)}" for field in ("rank", "alpha", "epochs", "batch", "learning_rate")
]


def text_loss(model: PreTrainedModel, weights: dict[str, Tensor], tokens: Tensor) -> Tensor:
    """Return the mean cross-entropy of the next token."""
    logits = functional_call(model, weights, (tokens,)).logits[:, :-1]
    return nn.functional.cross_entropy(logits.flatten(0, 1), tokens[:, 1:].flatten())


def literal(model: PreTrainedModel, tokens: Tensor, seed: int) -> None:
    """Train in place: adapters of the second factors, merged, and then those of the first ones."""
    for number, side in enumerate(("second", "first")):
        generator = torch.Generator().manual_seed(2 * seed + number)
        adapters: list[dict[str, tuple[Tensor, Tensor]]] = []
        for block in model.model.layers:
            adapters.append({})
            for name, layer in block.named_modules():
                if isinstance(layer, FactoredLinear):
                    weight = layer.get_submodule(side).get_parameter("weight")
                    bound = 1 / math.sqrt(weight.shape[1])
                    down = torch.empty(CONFIG.rank, weight.shape[1]).uniform_(-bound, bound, generator=generator)
                    up = torch.zeros(len(weight), CONFIG.rank)
                    adapters[-1][f"{name}.{side}.weight"] = down.requires_grad_(), up.requires_grad_()
        before = {name: p.detach().clone() for name, p in model.named_parameters()}

        def merged(before: dict[str, Tensor] = before, adapters: list = adapters) -> dict[str, Tensor]:  # type: ignore[type-arg]
            added = {
                f"model.layers.{i}.{name}": CONFIG.alpha / CONFIG.rank * up @ down
                for i, block in enumerate(adapters)
                for name, (down, up) in block.items()
            }
            return {name: w + added[name] if name in added else w for name, w in before.items()}

        optimisers = [
            torch.optim.AdamW([p for pair in block.values() for p in pair], CONFIG.learning_rate, weight_decay=0.0)
            for block in adapters
        ]
        batches = torch.split(tokens, CONFIG.batch)
        step, steps = 0, CONFIG.epochs * len(batches)
        for _ in range(CONFIG.epochs):
            for batch in batches:
                text_loss(model, merged(), batch).backward()
                factor = learning_rate_factor(step, steps, CONFIG.warmup, 0.0)
                for optimiser in optimisers:
                    group = optimiser.param_groups[0]
                    nn.utils.clip_grad_norm_(group["params"], CONFIG.gradient_norm)
                    group["lr"] = CONFIG.learning_rate * factor
                    optimiser.step()
                    optimiser.zero_grad()
                step += 1
        with torch.no_grad():
            for name, tensor in merged().items():
                model.get_parameter(name).copy_(tensor)


@pytest.mark.parametrize("memory", [None, 1])
def test_the_recipe_is_the_literal_loop(memory: int | None, tokens: Tensor) -> None:
    start, student = make_model("llama"), make_model("llama")
    eckart.compress(start, "svd-llm", 0.5, tokens)
    overrides = [*SETTINGS, "distillation.shuffle=false"]
    report = eckart.compress(student, "svd-llm-lora", 0.5, tokens, overrides=overrides, seed=3, memory=memory)
    expected = copy.deepcopy(start)
    literal(expected, tokens, 3)
    assert report.distillation is not None
    assert len(report.distillation.epochs) == report.distillation.kept_epoch == 4
    loss = report.distillation.epochs[0].training
    theirs, unmoved = dict(expected.named_parameters()), dict(start.named_parameters())
    for name, ours in student.named_parameters():
        torch.testing.assert_close(ours, theirs[name], rtol=1e-3, atol=1e-4, msg=name)
        factor = ".first." in name or name.endswith(".second.weight")
        assert factor == (not torch.equal(ours, unmoved[name])), name
    with torch.no_grad():
        found, before = (float(text_loss(m, dict(m.named_parameters()), tokens)) for m in (student, start))
    assert found < loss < before + 0.1


def net() -> tuple[nn.Module, dict[str, Tensor]]:
    from eckart.layers import LowRankLinear

    torch.manual_seed(0)
    block = nn.ModuleDict({"one": LowRankLinear(4, 5, 3), "two": nn.Linear(5, 3)})
    for parameter in block.parameters():
        nn.init.normal_(parameter)
    return block, {name: tensor.bfloat16() for name, tensor in block.state_dict().items()}


@pytest.mark.parametrize("file", [False, True])
@pytest.mark.parametrize("side", ["first", "second"])
def test_what_is_stored_is_merged(side: str, file: bool, tmp_path: Path) -> None:
    module, stored = net()
    path = tmp_path / "student" if file else None
    block = LoraBlock(module, stored, CONFIG, CPU, path, (), side, torch.Generator().manual_seed(0))
    with block.used():
        block.snapshot()
        assert all(torch.equal(tensor, stored[name].float()) for name, tensor in block.tensors.items())
        for parameter in block.parameters.values():
            parameter.grad = torch.ones_like(parameter)
        block.step(0.1)
        down, up = (block.parameters[f"one.{side}.weight.{part}"].detach() for part in ("down", "up"))
        expected = stored[f"one.{side}.weight"].float() + 1.5 * up @ down
        torch.testing.assert_close(block.tensors[f"one.{side}.weight"], expected)
        block.snapshot()
    found = block.result()
    assert found.keys() == stored.keys()
    for name, tensor in found.items():
        wanted = expected.bfloat16() if name == f"one.{side}.weight" else stored[name]
        assert torch.equal(tensor, wanted)
    assert list(tmp_path.iterdir()) == []


def test_a_block_without_factors_stays_as_it_is() -> None:
    module = nn.ModuleDict({"two": nn.Linear(5, 3)})
    stored = dict(module.state_dict())
    block = LoraBlock(module, stored, CONFIG, CPU, None, (), "first", torch.Generator())
    block.step(0.1)
    block.snapshot()
    assert all(torch.equal(tensor, stored[name]) for name, tensor in block.result().items())


def test_an_adapter_starts_and_counts_as_those_of_peft() -> None:
    peft = pytest.importorskip("peft")
    module, stored = net()
    stored = {name: tensor.float() for name, tensor in stored.items()}
    module.load_state_dict(stored)
    block = LoraBlock(module, stored, CONFIG, CPU, None, (), "first", torch.Generator().manual_seed(0))
    config = peft.LoraConfig(r=CONFIG.rank, lora_alpha=CONFIG.alpha, target_modules=["first"])
    theirs = peft.get_peft_model(module.get_submodule("one"), config)
    layer = theirs.base_model.model.first
    bound = 1 / math.sqrt(4)
    for down in (layer.lora_A.default.weight, block.parameters["one.first.weight.down"]):
        assert float(down.detach().abs().max()) <= bound
    with torch.no_grad():
        for part, name in (("down", "lora_A"), ("up", "lora_B")):
            block.parameters[f"one.first.weight.{part}"].normal_()
            getattr(layer, name).default.weight.copy_(block.parameters[f"one.first.weight.{part}"])
        torch.testing.assert_close(
            block.tensors["one.first.weight"], layer.base_layer.weight + layer.get_delta_weight("default")
        )


def test_an_interrupted_recovery_is_resumed_to_the_same_bytes(
    model_folder: Path, text_file: Path, tmp_path: Path
) -> None:
    def run(out: str, **options: Any) -> eckart.CompressionResult:
        settings: dict[str, Any] = {"overrides": SETTINGS, "samples": 6, "length": 24, **options}
        return compress_checkpoint(model_folder, tmp_path / out, "svd-llm-lora", 0.6, str(text_file), **settings)

    class Stops(eckart.Callback):
        def on_distillation(self, number: int, record: object) -> None:
            if number == 3:  # the first epoch of the second side
                raise KeyboardInterrupt

    expected = run("whole")
    with pytest.raises(InterruptedRun):
        run("stopped", callback=Stops())
    assert run("stopped", resume=True).distillation == expected.distillation
    for file in (tmp_path / "whole").glob("*.safetensors"):
        assert file.read_bytes() == (tmp_path / "stopped" / file.name).read_bytes()
