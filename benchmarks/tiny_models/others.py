"""Inputs that are no text, image or sound, by their names."""

from __future__ import annotations

from collections.abc import Callable, Iterator, Mapping

import torch
from torch import Tensor
from transformers import PreTrainedConfig

from tiny_models.draw import Draw, find

DECODED = 8  # tokens of a decoder
Provider = Callable[[PreTrainedConfig, Draw, Mapping[str, Tensor]], Tensor]


def _ones(*shape: int) -> Tensor:
    return torch.ones(*shape, dtype=torch.long)


def _boxes(config: PreTrainedConfig, draw: Draw, sample: Mapping[str, Tensor]) -> Tensor:
    length = sample["input_ids"].shape[1]
    return torch.tensor([[[1, 2, 3, 4]]]).expand(1, length, 4).contiguous()


# What is given wherever it is taken.
WANTED: dict[str, Provider] = {
    "decoder_input_ids": lambda config, draw, sample: draw.ids(DECODED),
    "bbox": _boxes,
    "qformer_input_ids": lambda config, draw, sample: draw.ids(DECODED),
    "entity_ids": lambda config, draw, sample: _ones(1, 2),
    "entity_position_ids": lambda config, draw, sample: torch.zeros(1, 2, 3, dtype=torch.long),
    "visual_embeds": lambda config, draw, sample: draw.real(1, 4, find(config, "visual_embedding_dim", default=64)),
    "visual_feats": lambda config, draw, sample: draw.real(1, 4, find(config, "visual_feat_dim", default=64)),
    "visual_pos": lambda config, draw, sample: draw.share(1, 4, 4),
    "protein_input_ids": lambda config, draw, sample: draw.ids(DECODED, below=20),
    "protein_attention_mask": lambda config, draw, sample: _ones(1, DECODED),
}
# What is given where it must be.
OTHERS: dict[str, Provider] = {
    **WANTED,
    "attention_mask": lambda config, draw, sample: _ones(1, sample["input_ids"].shape[1]),
    "past_values": lambda config, draw, sample: _past(config, draw),
    "past_time_features": lambda config, draw, sample: _past(config, draw)[..., None].expand(1, -1, _times(config)),
    "past_observed_mask": lambda config, draw, sample: torch.ones_like(_past(config, draw)),
    "hidden_states": lambda config, draw, sample: draw.real(1, 16, find(config, "hidden_size", default=64)),
    "query_embeds": lambda config, draw, sample: draw.real(1, 4, find(config, "hidden_size", default=64)),
    "latents": lambda config, draw, sample: draw.real(1, 8, find(config, "hidden_size", default=64)),
    "input_ids": lambda config, draw, sample: draw.ids(16),
}


def _past(config: PreTrainedConfig, draw: Draw) -> Tensor:
    length = find(config, "context_length", "prediction_length", default=32)
    lags = find(config, "lags_sequence", default=[0])
    return draw.real(1, length + max(lags))


def _times(config: PreTrainedConfig) -> int:
    return max(int(find(config, "num_time_features", default=1)), 1)


def other_inputs(
    config: PreTrainedConfig, names: Mapping[str, bool], draw: Draw, sample: dict[str, Tensor]
) -> Iterator[dict[str, Tensor]]:
    """Yield a sample with what else the model needs; nothing if that is not known.

    Args:
        config: of the model.
        names: what its forward takes, and whether it must be given.
        draw: what is drawn from.
        sample: what is known so far.
    """
    full = dict(sample)
    for name, must in names.items():
        provider = OTHERS.get(name) if must else WANTED.get(name)
        if name in full:
            continue
        if provider is not None and (must or name != "decoder_input_ids" or getattr(config, "is_encoder_decoder", True)):
            try:
                full[name] = provider(config, draw, full)
            except KeyError:
                continue
        elif must:
            return
    yield full
    if set(full) - set(sample) - {name for name, must in names.items() if must}:
        yield {name: value for name, value in full.items() if name in sample or names.get(name)}
