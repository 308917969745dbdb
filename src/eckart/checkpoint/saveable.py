"""What can be written of a compressed model that was not compressed just now: loaded, trained, resized."""

from __future__ import annotations

from pathlib import Path

from transformers import PreTrainedModel

from eckart.checkpoint.config import EckartConfig
from eckart.checkpoint.nested import order_now
from eckart.checkpoint.quantizer import missing_layers
from eckart.checkpoint.records import read_records
from eckart.compression.result import REPORT_NAME, CompressionResult
from eckart.errors import CheckpointError, warn


def check_saveable(model: PreTrainedModel) -> None:
    """Raise unless a model is a compressed one, with all layers that its config names.

    Raises:
        CheckpointError: says what it is instead.
    """
    if not isinstance(model, PreTrainedModel):
        raise CheckpointError(
            f"Found a {type(model).__name__}; expected a model of transformers. Of a model with adapters merge them "
            "first (merge_and_unload), and save what that gives, or write the adapters alone by their own "
            "save_pretrained."
        )
    config = getattr(model.config, "quantization_config", None)
    if not isinstance(config, EckartConfig):
        raise CheckpointError(
            f"The {type(model).__name__} is not compressed by eckart; expected what eckart.compress compressed, or "
            "what was loaded from such a folder. Write a dense model by its own save_pretrained."
        )
    gone = missing_layers(model, config)
    if gone:
        raise CheckpointError(
            f"{len(gone)} layers that the config says are compressed were replaced, such as {gone[0]}: what is written "
            "could not be loaded. Take adapters off first (merge_and_unload), or write a dense model after "
            "model.dequantize()."
        )


def records_beside(source: str | Path) -> CompressionResult | None:
    """Return the records of the local folder that a model was loaded from, or None if there are none."""
    folder = Path(source)
    return read_records(folder) if str(source) and (folder / REPORT_NAME).is_file() else None


def records_now(model: PreTrainedModel, report: CompressionResult) -> CompressionResult:
    """Return the records of a model with nested ranks as it is now, at a smaller size or trained since.

    Of a smaller size ranks and bytes are its own. Errors were measured on the larger model, and a note says so. Of a
    model that has other factors now the order of its components is left out.

    Args:
        model: in memory.
        report: of its compression, with the order.
    """
    assert report.nested is not None
    order = order_now(model, report.nested)
    if order is None:
        warn(
            "The factors were trained or changed since the model was compressed: their components have no order any "
            "more, and what is written is of this size only."
        )
        return report.model_copy(update={"nested": None})
    if order.ranks == report.nested.ranks:
        return report.model_copy(update={"nested": order})
    ranks = order.ranks
    layers = [
        layer.model_copy(update={"rank": ranks[layer.path], "bytes": order.bytes[layer.path] * ranks[layer.path]})
        if layer.path in ranks
        else layer
        for layer in report.layers
    ]
    note = (
        f"Resized from {report.keep:.2%} to {order.keep:.2%} of the bytes of the linear layers. Errors of layers and "
        "by depth are those of the larger model."
    )
    asked = (model.config.quantization_config.provenance or {}).get("keep") or order.keep
    update = {"layers": layers, "nested": order, "requested_keep": asked, "warnings": [*report.warnings, note]}
    return report.model_copy(update=update)
