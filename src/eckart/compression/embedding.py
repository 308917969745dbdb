"""The embedding and the head in few bits: what that costs the model, and the tables themselves."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass, replace
from typing import Any

import torch
from pydantic import BaseModel, ConfigDict
from torch import Tensor, nn

from eckart import processes
from eckart.blocks.block_arguments import Inputs
from eckart.blocks.blockwise_model import BlockwiseModel, rows_of
from eckart.blocks.losses import divergence
from eckart.files.field_types import Label, Size
from eckart.layers import fill_table, input_of, weight_matrix
from eckart.layers.vocabulary import Vocabulary, original_tables, place_tables
from eckart.maths.products import gram
from eckart.methods.layout import BYTES_PER_NUMBER
from eckart.methods.precision import AnyPrecision
from eckart.methods.sensitivity.measure import Progress

SAMPLES, LENGTH = 16, 256  # of the calibration, at most, that the inputs of a head are summed over
COMPARED = 4  # of these samples, on which predictions are compared; those of all would not fit into memory


class EmbeddingRecord(BaseModel):
    """The tables of a vocabulary that were rounded.

    Attributes:
        embedding: path of the embedding.
        head: path of the head that was rounded with it; None if there is none.
        tied: whether that is the same table.
        tokens: rows of a table.
        width: of a row.
        precision: how they are stored.
        loss: how far predictions of the model with these tables alone are from those of the original one, in nats a
            token; None if that was not measured.
    """

    model_config = ConfigDict(frozen=True)

    embedding: Label
    head: Label | None
    tied: bool
    tokens: Size
    width: Size
    precision: AnyPrecision
    loss: float | None = None

    @property
    def vocabulary(self) -> Vocabulary:
        """Where the tables are."""
        return Vocabulary(self.embedding, self.head, self.tied, (self.tokens, self.width))

    @property
    def bytes(self) -> int:
        """Stored bytes of all tables."""
        return bytes_of_tables(self.vocabulary, self.precision)

    @property
    def dense_bytes(self) -> int:
        """Bytes of all tables in 16-bit numbers."""
        return self.vocabulary.tables * BYTES_PER_NUMBER * self.tokens * self.width


def bytes_of_tables(vocabulary: Vocabulary, precision: AnyPrecision) -> int:
    """Return the stored bytes of the tables of a vocabulary."""
    return vocabulary.tables * precision.bytes(*vocabulary.shape)


def head_moment(model: BlockwiseModel, vocabulary: Vocabulary) -> Tensor | None:
    """Return the second moment of a head's inputs in the original model, (width, width) float64; None without a head.

    Args:
        model: the original one. Nothing is known of one without calibration tokens.
        vocabulary: of it.
    """
    if model.calibration is None or vocabulary.head is None:
        return None
    few = model.whole().cropped(SAMPLES, LENGTH)
    total = torch.zeros(vocabulary.shape[1], vocabulary.shape[1], dtype=torch.float64)

    def add(_: nn.Module, args: tuple[Any, ...], kwargs: dict[str, Any], output: Tensor) -> None:
        rows = input_of(args, kwargs).detach().flatten(0, -2).float()
        total.add_(gram(rows).to(total))

    handle = model.model.get_submodule(vocabulary.head).register_forward_hook(add, with_kwargs=True)
    try:
        with _ends(few) as ends, torch.no_grad(), few.head() as head:
            for row, hidden in _rows(few, ends):
                head(row, hidden)
    finally:
        handle.remove()
    return total if total.diagonal().sum() > 0 else None


def losses_of_tables(
    model: BlockwiseModel,
    vocabulary: Vocabulary,
    precisions: Sequence[AnyPrecision],
    progress: Progress = lambda done, total: None,
) -> list[float]:
    """Return how far a model's predictions move if its tables are stored in each of some precisions, in nats a token.

    That is measured on a few samples, with the tables alone changed.

    Args:
        model: the original one, with calibration tokens.
        vocabulary: of it.
        precisions: to be tried; nothing is lost in 16 bits.
        progress: is called with (precisions done, precisions to do).
    """
    moment = head_moment(model, vocabulary)
    few = model.whole().cropped(COMPARED, LENGTH)
    with _ends(few) as ends, torch.no_grad(), few.head() as head:
        expected = [head(row, hidden) for row, hidden in _rows(few, ends)]
    found = []
    for number, precision in enumerate(precisions):
        total, count = 0.0, 0
        if precision.scheme is not None:
            with original_tables(model.model, vocabulary):
                _round(model, vocabulary, precision, moment, device=model.device, dtype=model.compute)
                again = replace(few, arguments={})
                with _ends(again) as ends, torch.no_grad(), again.head() as head:
                    for (row, hidden), theirs in zip(_rows(again, ends), expected, strict=True):
                        loss, made = divergence(head(row, hidden), theirs, row, predicts_next=model.predicts_next)
                        total, count = total + float(loss), count + made
        found.append(max(total, 0.0) / max(count, 1))
        progress(number + 1, len(precisions))
    known: list[float] = processes.give(found)
    return known


@dataclass(frozen=True)
class RoundedTables:
    """Tables that are to be rounded, and what is known for it of the original model.

    Attributes:
        record: of them.
        moment: of :func:`head_moment`.
    """

    record: EmbeddingRecord
    moment: Tensor | None

    @classmethod
    def of(
        cls, model: BlockwiseModel, vocabulary: Vocabulary | None, precision: AnyPrecision, loss: float | None
    ) -> RoundedTables | None:
        """Return those of a model; None if there are none, or if they stay in 16 bits.

        Args:
            model: the original one.
            vocabulary: of it.
            precision: of the tables.
            loss: what they cost, if that was measured.
        """
        if vocabulary is None or precision.scheme is None:
            return None
        tokens, width = vocabulary.shape
        record = EmbeddingRecord(
            embedding=vocabulary.embedding,
            head=vocabulary.head,
            tied=vocabulary.tied,
            tokens=tokens,
            width=width,
            precision=precision,
            loss=loss,
        )
        return cls(record, head_moment(model, vocabulary) if precision.feeds_back else None)

    def put_into(self, model: BlockwiseModel) -> EmbeddingRecord:
        """Put the tables into a model, in the place of those that it has, and return the record."""
        vocabulary = self.record.vocabulary
        device = weight_matrix(model.model.get_submodule(vocabulary.embedding)).device
        at_rest = torch.device("cpu") if device.type == "meta" else device
        _round(model, vocabulary, self.record.precision, self.moment, device=at_rest, dtype=model.dtype)
        return self.record


def _round(
    model: BlockwiseModel,
    vocabulary: Vocabulary,
    precision: AnyPrecision,
    moment: Tensor | None,
    *,
    device: torch.device,
    dtype: torch.dtype,
) -> None:
    assert precision.scheme is not None
    originals = [model.model.get_submodule(path) for path in vocabulary.paths]
    tables = place_tables(model.model, vocabulary, precision.scheme, device=device, dtype=dtype)
    feeds_back = precision.feeds_back and moment is not None
    for original, table in zip(originals, tables, strict=True):
        with model.weights.onload(original, model.device):
            fill_table(table, weight_matrix(original), moment if feeds_back else None, model.dtype)


@contextmanager
def _ends(model: BlockwiseModel) -> Iterator[dict[int, Sequence[Tensor]]]:
    """Give what the head of a model looks at, of the hidden states behind blocks."""
    streams = model.forward()
    try:
        yield dict(model.ends_of(streams.behinds))
    finally:
        streams.delete_all()


def _rows(model: BlockwiseModel, ends: dict[int, Sequence[Tensor]]) -> Iterator[tuple[Inputs, dict[int, Tensor]]]:
    """Yield the inputs of each sample, and what the head looks at."""
    for number, inputs in enumerate(model.batches()):
        behind = {n: stream[number] for n, stream in ends.items()}
        for row, hidden in rows_of(inputs, behind, model.known.at_once):
            yield row, {n: t.to(model.device, model.model.dtype) for n, t in hidden.items()}
