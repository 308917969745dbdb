"""What a reader of GGUF files does with a tensor is undone, found by numbers."""

from __future__ import annotations

from typing import Any, NamedTuple

import numpy
import pytest
import torch
from tests.conftest import make_model

from eckart.errors import ExportError
from eckart.runtimes.gguf_tensors import architecture_of, tensors_for, undone

pytest.importorskip("gguf")


class Read(NamedTuple):
    weights: Any


class Reader:
    """Does one thing with each tensor."""

    def __init__(self, what: Any) -> None:
        self.what = what

    def process(self, weights: Any, name: str, **kwargs: Any) -> Read:
        return Read(self.what(weights))


READERS = {
    "nothing": lambda w: w,
    "transposed": lambda w: w.T,
    "rows turned": lambda w: w.reshape(2, -1, 2, w.shape[1]).swapaxes(1, 2).reshape(w.shape),
    "one taken off": lambda w: w - 1,
    "both": lambda w: w[::-1] - 1,
}


@pytest.mark.parametrize("name", READERS)
@pytest.mark.parametrize("shape", [(8, 6), (8, 8)])
def test_the_reader_gives_the_tensor_back(name: str, shape: tuple[int, int]) -> None:
    reader, tensor = Reader(READERS[name]), torch.randn(shape, generator=torch.Generator().manual_seed(0))
    stored = undone(reader, "any", tensor).numpy()
    read = reader.process(stored, "any").weights
    torch.testing.assert_close(torch.from_numpy(numpy.ascontiguousarray(read)), tensor, rtol=0, atol=1e-6)


def test_what_is_added_to_16_bits_is_kept_in_float32() -> None:
    tensor = torch.full((64,), 0.001953125, dtype=torch.bfloat16)  # lost beside 1 in bfloat16
    stored = undone(Reader(READERS["one taken off"]), "norm", tensor)
    assert stored.dtype == torch.float32
    assert torch.equal((stored - 1).to(torch.bfloat16), tensor)


@pytest.mark.parametrize("what", [lambda w: numpy.log(w + 2), lambda w: w * 2, lambda w: w[:-1], lambda w: None])
def test_a_reader_that_does_more_is_refused(what: Any) -> None:
    with pytest.raises(ExportError, match="'any' cannot be written as GGUF"):
        undone(Reader(what), "any", torch.ones(8, 6))


def test_all_tensors_have_a_name_in_the_file() -> None:
    model = make_model("llama")
    names = [name for name, _ in tensors_for(model, architecture_of(model))]
    assert {"token_embd.weight", "output.weight", "blk.0.attn_q.weight", "blk.2.ffn_norm.weight"} <= set(names)
    assert len(names) == len(set(names)) == len(model.state_dict())


def test_tied_embeddings_are_stored_once() -> None:
    model = make_model("qwen2")
    assert "output.weight" not in dict(tensors_for(model, architecture_of(model)))


def test_an_architecture_that_is_not_read_back_is_refused_by_name() -> None:
    with pytest.raises(ExportError, match=r"OPTForCausalLM \(opt\) cannot .*llama.*--to onnx, openvino, executorch"):
        architecture_of(make_model("opt"))
    assert architecture_of(make_model("gemma3")) == "gemma3"
