"""What a model can take: how many tokens at once, and which ids."""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager
from typing import TYPE_CHECKING, Any, cast

from torch import Tensor, nn

from eckart.errors import EckartError

if TYPE_CHECKING:
    from transformers import PreTrainedModel

# What configurations call the longest sequence; the first of them that is there counts.
NAMES = ("max_position_embeddings", "n_positions", "max_seq_len", "max_target_positions")


def token_embedding(model: nn.Module) -> nn.Module | None:
    """Return the embedding of token ids; None if the model has none."""
    try:
        found = model.get_input_embeddings()  # type: ignore[operator]
    except (AttributeError, NotImplementedError):
        return None
    # That of images has pixels for inputs.
    return found if isinstance(getattr(found, "num_embeddings", None), int) else None


def context_of(model: PreTrainedModel) -> int | None:
    """Return how many tokens a model can take at once, as its configuration has it; None if that does not say.

    Where positions are counted behind the number of padding, the rows up to that are not for tokens.
    """
    config = model.config.get_text_config()
    found = next((size for size in (_size(getattr(config, name, None)) for name in NAMES) if size), None)
    rotary = getattr(config, "rope_parameters", None)
    if found is None or not isinstance(rotary, dict):
        return found and found - _rows_for_padding(model, found)
    # Rotary positions that are stretched: some configurations give the length before that.
    factor, before = rotary.get("factor"), _size(rotary.get("original_max_position_embeddings"))
    return max(found, int(before * factor)) if before and isinstance(factor, int | float) else found


def _rows_for_padding(model: PreTrainedModel, positions: int) -> int:
    """Return how many rows of a learned table of so many positions come before that of the first token."""
    tokens = token_embedding(model)
    tables = (m for m in model.modules() if isinstance(m, nn.Embedding) and m is not tokens)
    rows = (1 + t.padding_idx for t in tables if t.num_embeddings == positions and t.padding_idx is not None)
    return max(rows, default=0)


def length_for(*models: PreTrainedModel, default: int) -> int:
    """Return ``default`` tokens, or what all of the models can take if that is less."""
    return min(default, *(context_of(model) or default for model in models))


def check_length(
    model: PreTrainedModel, length: int, what: str, option: str, kind: type[EckartError] = EckartError
) -> None:
    """Raise if a model cannot take so many tokens at once.

    Beyond its context a model with learned positions fails, and one with rotary positions gives numbers that mean
    nothing.

    Args:
        model: that is to be run.
        length: tokens at once.
        what: they are, in the plural, for the message.
        option: of the command that asks for them.
        kind: of the error.

    Raises:
        EckartError: with the longest length that it can take.
    """
    context = context_of(model)
    if context is not None and length > context:
        raise kind(
            f"{what} of {length} tokens do not fit into the model's context of {context}. Use {option} {context}."
        )


def check_ids(model: PreTrainedModel, ids: Tensor, what: str, kind: type[EckartError] = EckartError) -> None:
    """Raise if a model's embedding lacks some of the token ids.

    Args:
        model: that is to be run.
        ids: of any shape.
        what: they are of, for the message.
        kind: of the error.

    Raises:
        EckartError: the tokenizer is of another model, or has tokens that were added to it alone; or the model has no
            embedding of token ids, or several.
    """
    embedding = token_embedding(model)
    if embedding is None:
        raise kind(
            f"{what} is token ids, and {type(model).__name__} is not run on those alone. Expected samples of all that "
            "its forward takes: [{name: tensor, ...}, ...]."
        )
    if not ids.numel():
        return
    rows = cast(int, embedding.num_embeddings)
    low, high = int(ids.min()), int(ids.max())
    if low < 0 or high >= rows:
        raise kind(
            f"{what} has the token id {low if low < 0 else high}, and the model's embedding has {rows} rows. Expected "
            "ids from 0 on and below that: use the tokenizer that belongs to the model."
        )


@contextmanager
def checked_ids(model: PreTrainedModel, what: str) -> Iterator[None]:
    """Check the ids of every forward pass of ``model`` as :func:`check_ids` does, for those that others make."""

    def check(_: nn.Module, args: tuple[Any, ...]) -> None:
        if args:
            check_ids(model, args[0], what)

    handle = model.get_input_embeddings().register_forward_pre_hook(check)
    try:
        yield
    finally:
        handle.remove()


def _size(value: object) -> int | None:
    return value if isinstance(value, int) and not isinstance(value, bool) and value > 0 else None
