from __future__ import annotations

import json
import struct
from functools import partial
from pathlib import Path
from typing import Any

import gguf
import numpy as np
import pytest
import rivals
import torch
from rival_packages.environments import Environment, MissingPackageError, RivalError, run
from rival_packages.imatrix import gguf_names, mean_squares, named, read_imatrix, write_imatrix
from rival_packages.labels import ALL, ROUNDED, maker, split
from rival_packages.libllama import Parameters, preset, type_of
from rival_packages.llama_cpp import bits_of_blocks, check_converted, tensor_sizes
from rival_packages.made import (
    Job,
    Made,
    bits_of,
    embeddings_of,
    linears_of,
    round_rows,
    saved_by_rounding,
    sizes_of,
    weight_counts,
)
from safetensors.torch import save_file

from eckart.errors import EckartError

TEXTS = ("wikitext2.train-head.txt", "wikitext2.test.txt", "ptb.test.txt", "c4.calib.jsonl", "c4.eval.jsonl")
OPTIONS: dict[str, Any] = {"samples": 2, "windows": 2, "length": 32}


@pytest.fixture
def data(tmp_path: Path) -> Path:
    folder = tmp_path / "data"
    folder.mkdir()
    lines = [f"Line {i} says that {i} squared is {i * i}." for i in range(100)]
    for name in TEXTS:
        written = lines if name.endswith("txt") else [json.dumps({"text": line}) for line in lines]
        (folder / name).write_text("\n".join(written), encoding="utf-8")
    return folder


def entries_of(path: Path) -> dict[str, tuple[int, list[float]]]:
    """Read an importance matrix as llama.cpp does: number of calls and sums over them."""
    with path.open("rb") as file:

        def number() -> int:
            return int(struct.unpack("<i", file.read(4))[0])

        found = {}
        for _ in range(number()):
            name = file.read(number()).decode()
            calls, columns = number(), number()
            found[name] = calls, list(struct.unpack(f"<{columns}f", file.read(4 * columns)))
        assert not file.read()
    return found


def test_an_importance_matrix_holds_the_mean_squares_of_the_inputs(llama, tmp_path):
    llama.float()
    ids = torch.randint(llama.config.vocab_size, (3, 7), generator=torch.Generator().manual_seed(0))
    squares = mean_squares(llama, ids)
    assert set(squares) == set(linears_of(llama))
    names = gguf_names(llama)
    assert set(names) == set(squares)
    write_imatrix(tmp_path / "im.dat", named(squares, names))
    entries = entries_of(tmp_path / "im.dat")
    assert {name.split(".")[2] for name in entries} == {
        *("attn_q", "attn_k", "attn_v", "attn_output"),
        *("ffn_gate", "ffn_up", "ffn_down"),
    }
    first = llama.model.layers[0]
    with torch.no_grad():
        inputs = first.input_layernorm(llama.model.embed_tokens(ids)).flatten(0, 1)
    calls, sums = entries["blk.0.attn_q.weight"]
    assert calls == 1
    assert torch.allclose(torch.tensor(sums), inputs.square().mean(0), rtol=1e-5)
    again = read_imatrix(tmp_path / "im.dat")
    assert {name: values.tolist() for name, values in again.items()} == {
        name: sums for name, (_, sums) in entries.items()
    }


def test_the_bytes_of_a_safetensors_file(llama, tmp_path):
    counts = weight_counts(llama)
    assert "lm_head" not in counts
    path = next(iter(counts))
    rows, columns = llama.get_submodule(path).weight.shape
    tensors = {
        "embedding.weight": torch.zeros(8, 4, dtype=torch.bfloat16),
        f"{path}.weight_packed": torch.zeros(rows, columns // 8, dtype=torch.int32),  # 4 bits
        f"{path}.weight_scale": torch.zeros(rows, 1, dtype=torch.float16),
    }
    save_file(tensors, tmp_path / "model.safetensors", metadata={"format": "pt"})
    sizes = sizes_of(tmp_path / "model.safetensors")
    assert sizes == {name: tensor.numel() * tensor.element_size() for name, tensor in tensors.items()}
    assert bits_of(sizes, {path: counts[path]}) == pytest.approx(4 + 16 / columns)


def test_the_bytes_of_a_gguf_file_of_types_that_nobody_knows(tmp_path):
    path = tmp_path / "m.gguf"
    writer = gguf.GGUFWriter(path, "llama")
    writer.add_uint32("llama.block_count", 1)
    for name in ("token_embd.weight", "blk.0.ffn_up.weight", "blk.0.attn_norm.weight"):
        writer.add_tensor(name, np.zeros((16, 64), np.float32))
    packed = gguf.quants.quantize(np.ones((16, 64), np.float32), gguf.GGMLQuantizationType.Q4_0)
    writer.add_tensor("blk.0.ffn_down.weight", packed, raw_dtype=gguf.GGMLQuantizationType.Q4_0)
    writer.write_header_to_file()
    writer.write_kv_data_to_file()
    writer.write_tensors_to_file()
    writer.close()
    known = {tensor.name: (tensor.n_bytes, tensor.n_elements) for tensor in gguf.GGUFReader(path).tensors}
    data = bytearray(path.read_bytes())
    last = b"blk.0.ffn_down.weight"
    data[(place := data.index(last) + len(last) + 4 + 2 * 8) : place + 4] = struct.pack("<I", 153)
    path.write_bytes(data)
    sizes = tensor_sizes(path)
    assert sizes == known
    assert bits_of_blocks(sizes) == pytest.approx((32 + 4.5) / 2)


def test_rows_are_rounded_to_8_bits():
    weight = torch.randn(50, 24, generator=torch.Generator().manual_seed(0)).bfloat16().float()
    weight[3] = 0
    rounded = round_rows(weight)
    step = (weight.abs().amax(1, keepdim=True) / 127).half().float()
    assert (rounded[3] == 0).all()
    assert ((rounded - weight).abs() <= step * 0.5 + weight.abs() * 1e-3 + 1e-7).all()
    codes = rounded / torch.where(step == 0, 1, step)
    assert torch.allclose(codes, codes.round(), atol=1e-4)
    assert codes.abs().max() == 127
    assert saved_by_rounding(weight) == 2 * 50 * 24 - (50 * 24 + 2 * 50)


def test_a_tied_embedding_is_one_matrix(llama):
    assert len(embeddings_of(llama)) == 2 - llama.config.tie_word_embeddings
    llama.lm_head.weight = llama.model.embed_tokens.weight
    assert len(embeddings_of(llama)) == 1


def test_every_label_has_what_makes_it():
    assert all(callable(maker(split(label)[0])) for label in ALL)
    assert split("hqq 3-bit g64" + ROUNDED) == ("hqq 3-bit g64", True)
    asymmetric, small = maker("gptq (llm-compressor) W2 g32 asymmetric"), maker("llama.cpp IQ2_M embedding q4_0")
    assert isinstance(asymmetric, partial)
    assert asymmetric.keywords == {"bits": 2, "group": 32, "symmetric": False}
    assert isinstance(small, partial)
    assert small.keywords == {"kind": "IQ2_M", "embedding": "q4_0"}
    with pytest.raises(EckartError, match="There is no rival 'squeeze'"):
        maker("squeeze")


def test_numbers_of_llama_cpp():
    assert [preset(name) for name in ("Q4_0", "Q4_K_M", "IQ2_XXS")] == [2, 15, 19]
    assert type_of("iq4_nl") == 20
    assert (Parameters.imatrix.offset, Parameters.max_buf_size.offset) == (24, 56)
    with pytest.raises(RivalError, match="no preset IQ9"):
        preset("IQ9")
    with pytest.raises(RivalError, match="no type iq9"):
        type_of("iq9")


def test_a_converted_file_has_to_give_the_same_logits(llama, monkeypatch, tmp_path):
    llama.float()
    ids = torch.arange(8)
    monkeypatch.setattr("eckart.load_model", lambda *_, **__: llama)
    check_converted(tmp_path / "m.gguf", llama, ids)
    other = type(llama)(llama.config)
    with pytest.raises(RivalError, match="gives other logits"):
        check_converted(tmp_path / "m.gguf", other.float().eval(), ids)


def test_what_is_not_installed_is_named(model_folder, data, tmp_path, capsys):
    output, tools = tmp_path / "rows.jsonl", tmp_path / "tools"
    labels = ["llama.cpp Q4_0", "ik_llama.cpp IQ2_KT", "hqq 3-bit g64", "gptq (llm-compressor) W3 g64"]
    rivals.main(model_folder, data, tools, output, rival=[*labels, "auto-round W3 g64"], **OPTIONS)
    rows = [json.loads(line) for line in output.read_text().splitlines()]
    assert [row["recipe"] for row in rows] == ["dense"]
    shown = capsys.readouterr().out
    for name in ("llama.cpp", "hqq", "llm-compressor", "auto-round"):
        assert f"run `sh benchmarks/install_rivals.sh {tools} {name}`" in shown


def test_a_failed_program_says_why(tmp_path):
    with pytest.raises(MissingPackageError, match="There is no Python in"):
        Environment(tmp_path, "hqq").version("hqq")
    with pytest.raises(RivalError, match=r"sh ended with 3: no such type"):
        run(["/bin/sh", "-c", "echo no such type; exit 3"])


def test_what_is_measured_is_not_measured_again(model_folder, data, tmp_path, capsys, monkeypatch):
    output = tmp_path / "rows.jsonl"
    calls = []

    def make(job: Job) -> Made:
        calls.append(job)
        assert job.tokens.exists()
        assert not list(job.scratch.iterdir())
        (job.scratch / "left.txt").touch()
        return Made(model_folder, 70000, 65000, 3.7, "hqq", "1")

    monkeypatch.setattr(rivals, "maker", lambda label: make)
    labels = ["hqq 3-bit g64", "hqq 3-bit g64" + ROUNDED, "hqq 2-bit g64"]
    rivals.main(model_folder, data, tmp_path, output, rival=labels, **OPTIONS)
    rows = [json.loads(line) for line in output.read_text().splitlines()]
    assert [row["recipe"] for row in rows] == ["dense", *labels]
    assert len(calls) == 2
    dense, whole, rounded = rows[:3]
    assert dense["file_bytes"] == (model_folder / "model.safetensors").stat().st_size
    assert whole["log_perplexity"] == dense["log_perplexity"] != rounded["log_perplexity"]
    assert (whole["file_bytes"], whole["tensor_bytes"], whole["linear_bits"]) == (70000, 65000, 3.7)
    assert whole["file_bytes"] - rounded["file_bytes"] == whole["tensor_bytes"] - rounded["tensor_bytes"] > 0
    shown = capsys.readouterr().out

    def fail(*_, **__):
        pytest.fail("evaluated again")

    monkeypatch.setattr("harness.Texts.log_perplexities", fail)
    rivals.main(model_folder, data, tmp_path, output, rival=labels, **OPTIONS)
    assert capsys.readouterr().out.endswith(shown[shown.index("| recipe |") :])
    rivals.main(model_folder, data, tmp_path, output, rival=["hqq 4-bit g64"], limit=0, **OPTIONS)
    assert len(calls) == 2
