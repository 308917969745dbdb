from __future__ import annotations

import torch
from tests.conftest import make_model
from transformers import PreTrainedModel

import eckart
from eckart.evaluate.speed import Machine, Work, measure_machine
from eckart.evaluate.speed.roofline import multiplied_numbers


def test_work_of_a_dense_model(llama: PreTrainedModel) -> None:
    numbers = 3 * (32 * 32 * 2 + 2 * 16 * 32 + 3 * 48 * 32) + 256 * 32
    assert multiplied_numbers(llama) == numbers
    embedding = 4 * 256 * 32
    total = sum(tensor.nbytes for tensor in (*llama.parameters(), *llama.buffers()))
    assert Work.of(llama, 5, 1000) == Work(total - embedding + 1000, 2 * 5 * numbers)


def test_tied_embeddings_are_read_as_the_head() -> None:
    model = make_model("qwen2")
    total = sum(tensor.nbytes for tensor in (*model.parameters(), *model.buffers()))
    assert Work.of(model, 1, 0).bytes == total


def test_a_compressed_model_moves_and_multiplies_less(llama: PreTrainedModel, tokens: torch.Tensor) -> None:
    dense = Work.of(llama, 1, 0)
    report = eckart.compress(llama, "svd-llm", 0.5, tokens, overrides=["precision=8-bit"])
    work = Work.of(llama, 1, 0)
    assert work.operations < dense.operations
    ranks = [(layer.rank, layer.out_features, layer.in_features) for layer in report.layers]
    assert work.operations == 2 * (sum(r * (m + n) if r else m * n for r, m, n in ranks) + 256 * 32)
    assert work.bytes < dense.bytes


def test_seconds_are_those_of_what_takes_longer() -> None:
    machine = Machine(bandwidth=100.0, operations=1000.0)
    assert machine.seconds(Work(bytes=50, operations=2000)) == (0.5, 2.0)


def test_a_machine_is_measured() -> None:
    machine = measure_machine(torch.device("cpu"), torch.float32)
    assert machine.bandwidth > 1e8
    assert machine.operations > 1e8
