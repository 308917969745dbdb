"""Measures other ways to store an embedding that is also the head: rows of two precisions, and low rank.

    python benchmarks/embedding_rows.py MODEL --data DATA

Each way takes the bytes of a uniform precision of the same line. Rows are sorted by how often a token is read or
predicted on the calibration text; the most frequent ones have 8 bits, as many as fit, and an index of one bit a row is
counted. The low rank is that of the whitened table. Everything else of the model stays as it is.
"""

from __future__ import annotations

import warnings
from pathlib import Path
from typing import Annotated, Any

import torch
import typer
from harness import Texts, table
from leaderboard import CALIBRATION, CHOOSING, LENGTH
from torch import Tensor
from transformers import PreTrainedModel

import eckart
from eckart.data.calibration import calibrate
from eckart.layers.embedding import fill_table
from eckart.layers.quantized import QuantizedLinear
from eckart.maths.quantization import QuantScheme

GROUP, FINE = 64, 8
COLUMNS = {"table": "", "share": ".3f"}
PAIRS = ((6, 4), (5, 4), (5, 3), (4, 3))  # bits of a uniform table, and of its rare rows


def main(
    model: Annotated[str, typer.Argument(help="Local folder, hub id or .gguf file.")],
    data: Annotated[Path, typer.Option(help="Folder of the texts.")],
    samples: int = 16,
    windows: int = 4,
    length: Annotated[int, typer.Option(help="Tokens in a sample and in a window.")] = LENGTH,
) -> None:
    """Print excess log-perplexities in nats a token on the texts that constants are chosen on."""
    warnings.simplefilter("ignore")
    tokenizer, loaded = eckart.load_tokenizer(model), eckart.load_model(model).float().eval()
    assert tokenizer is not None, f"{model} has no tokenizer"
    texts = Texts([str(data / name) for name in CHOOSING], tokenizer, windows, length)
    source = " + ".join(str(data / text) for text in CALIBRATION)
    tokens = calibrate(source, samples=samples, length=length, seed=0, tokenizer=tokenizer, model=loaded)
    weight = loaded.get_input_embeddings().weight
    assert loaded.get_output_embeddings().weight is weight, f"{model} has a head of its own"
    original = weight.detach().clone()
    counts, moment = usage(loaded, tokens.ids)
    order = counts.argsort(descending=True)
    base = texts.log_perplexities(loaded)
    rounded = {bits: fitted(original, bits, moment) for bits in {FINE, *(b for pair in PAIRS for b in pair)}}
    rows: list[dict[str, Any]] = []

    def measure(name: str, share: float, values: Tensor) -> None:
        with torch.no_grad():
            weight.copy_(values)
        rows.append({"table": name, "share": share, "log_perplexity": texts.log_perplexities(loaded)})
        print(table(rows[-1:], COLUMNS, base).splitlines()[-1], flush=True)

    for bits in sorted({uniform for uniform, _ in PAIRS}, reverse=True):
        measure(f"{bits} bits", stored(bits) / 16, rounded[bits])
        rank = int(stored(bits) / 16 * original.numel() / sum(original.shape))
        measure(f"rank {rank}", stored(bits) / 16, truncated(original, moment, counts, rank))
    for uniform, rare in PAIRS:
        share = (stored(uniform) - stored(rare) - 1 / original.shape[1]) / (stored(FINE) - stored(rare))
        fine = order[: int(share * len(order))]
        mixed = rounded[rare].clone()
        mixed[fine] = rounded[FINE][fine]
        covered = float(counts[fine].sum() / counts.sum())
        measure(f"8 bits for {share:.2f} of the rows ({covered:.3f} of use), else {rare}", stored(uniform) / 16, mixed)
    print(table(rows, COLUMNS, base))


def stored(bits: int) -> float:
    """Return the bits of one number, its part of a scale included."""
    return bits + 8 / GROUP


def usage(model: PreTrainedModel, ids: Tensor) -> tuple[Tensor, Tensor]:
    """Return how often each token is read or predicted, (tokens,), and the second moment of the head's inputs."""
    width, size = model.get_input_embeddings().weight.shape[1], model.get_input_embeddings().weight.shape[0]
    counts = torch.bincount(ids.flatten(), minlength=size).double() + 1
    moment = torch.zeros(width, width, dtype=torch.float64)
    with torch.no_grad():
        for row in ids:
            hidden = model.base_model(row[None])[0][0]
            moment += (hidden.T @ hidden).double()
            for part in hidden.split(256):
                counts += model.get_output_embeddings()(part).softmax(-1).sum(0).double()
    return counts, moment


def fitted(weight: Tensor, bits: int, moment: Tensor) -> Tensor:
    """Return a table that was rounded with feedback."""
    layer = QuantizedLinear(weight.shape[1], weight.shape[0], QuantScheme(bits, GROUP, 8), bias=False)
    fill_table(layer, weight, moment)
    return layer.dense_weight().float()


def truncated(weight: Tensor, moment: Tensor, counts: Tensor, rank: int) -> Tensor:
    """Return the table of that rank that is nearest where rows count by their use, and columns by the moment."""
    rows = counts.sqrt()[:, None]
    values, vectors = torch.linalg.eigh(moment)
    root = vectors * values.clamp_min(values.max() * 1e-8).sqrt()
    inverse = (vectors / values.clamp_min(values.max() * 1e-8).sqrt()).T
    left = rows * weight.double() @ root
    basis = torch.linalg.eigh(left.T @ left).eigenvectors[:, -rank:]
    found: Tensor = left @ basis @ (basis.T @ inverse) / rows
    return found.float()


if __name__ == "__main__":
    typer.run(main)
