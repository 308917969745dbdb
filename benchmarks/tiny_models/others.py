"""Inputs that are no text, image or sound, by their names."""

from __future__ import annotations

import re
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
    "decoder_input_ids": lambda config, draw, sample: _decoded(config, draw),
    "bbox": _boxes,
    "qformer_input_ids": lambda config, draw, sample: draw.ids(DECODED),
    "entity_ids": lambda config, draw, sample: _ones(1, 2),
    "entity_position_ids": lambda config, draw, sample: torch.zeros(1, 2, 3, dtype=torch.long),
    "visual_embeds": lambda config, draw, sample: draw.real(1, 4, find(config, "visual_embedding_dim", default=64)),
    "visual_feats": lambda config, draw, sample: draw.real(1, 4, find(config, "visual_feat_dim", default=64)),
    "visual_pos": lambda config, draw, sample: draw.share(1, 4, 4),
    "protein_input_ids": lambda config, draw, sample: draw.ids(DECODED, below=20),
    "protein_attention_mask": lambda config, draw, sample: _ones(1, DECODED),
    "returns_to_go": lambda config, draw, sample: draw.real(1, DECODED, 1),
    "noise": lambda config, draw, sample: _actions(config, draw, beside=sample["state"]),
    "timestep": lambda config, draw, sample: draw.share(len(sample["state"])),
    "states": lambda config, draw, sample: draw.real(1, DECODED, find(config, "state_dim", default=8)),
    "actions": lambda config, draw, sample: draw.real(*sample["states"].shape[:2], find(config, "act_dim", default=4)),
    "rewards": lambda config, draw, sample: draw.real(1, DECODED, 1),
    "timesteps": lambda config, draw, sample: torch.arange(DECODED)[None],
    "prompt_pixel_values": lambda config, draw, sample: draw.real(*_pixels(sample).shape),
    "prompt_masks": lambda config, draw, sample: draw.share(*_pixels(sample).shape),
    "task_inputs": lambda config, draw, sample: draw.ids(find(config, "task_seq_len", default=DECODED)),
    "image_embeds_position_mask": lambda config, draw, sample: _image_places(config, sample),
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
    "latents": lambda config, draw, sample: draw.real(1, find(config, "hidden_size", default=64), 8),
    "inputs_embeds": lambda config, draw, sample: draw.real(1, 16, find(config, "hidden_size", default=64)),
    "noise_embeds": lambda config, draw, sample: draw.real(1, 16, find(config, "hidden_size", default=64)),
    "context_hidden_states": lambda config, draw, sample: _context(config, draw),
    "input_ids": lambda config, draw, sample: draw.ids(16),
    "state": lambda config, draw, sample: draw.real(1, find(config, "max_state_dim", default=8)),
    "freq": lambda config, draw, sample: torch.zeros(1, 1, dtype=torch.long),
    "past_values_padding": lambda config, draw, sample: torch.zeros(1, _past(config, draw).shape[1], dtype=torch.long),
}
# What is given where a class says that it lacks it.
NAMED: dict[str, Provider] = {
    **OTHERS,
    "encoder_hidden_states": lambda config, draw, sample: draw.real(
        1, DECODED, find(config, "encoder_hidden_size", "hidden_size", default=64)
    ),
    "image_attention_mask": lambda config, draw, sample: _ones(1, sample["input_ids"].shape[1], 1),
    "future_values": lambda config, draw, sample: draw.real(1, find(config, "prediction_length", default=4)),
    "future_time_features": lambda config, draw, sample: draw.real(
        1, find(config, "prediction_length", default=4), _times(config)
    ),
}


def _decoded(config: PreTrainedConfig, draw: Draw) -> Tensor:
    """Return what a decoder wrote, (1, tokens), or (1, tokens, streams) if it writes several streams of codes."""
    streams = getattr(getattr(config, "decoder_config", None), "num_channels", 1)
    ids = draw.ids(DECODED * streams)
    return ids if streams == 1 else ids.view(1, DECODED, streams)


def _pixels(sample: Mapping[str, Tensor]) -> Tensor:
    return sample["pixel_values"]


def _image_places(config: PreTrainedConfig, sample: Mapping[str, Tensor]) -> Tensor:
    """Return which tokens of a text stand for an image: the second and those that follow."""
    places = torch.zeros_like(sample["input_ids"])
    places[:, 1 : 1 + find(config, "latent_query_num", default=4)] = 1
    return places


def _context(config: PreTrainedConfig, draw: Draw) -> Tensor:
    layers = find(config, "target_layer_ids", default=[0])
    return draw.real(1, 16, find(config, "hidden_size", default=64) * len(layers))


def _actions(config: PreTrainedConfig, draw: Draw, beside: Tensor) -> Tensor:
    return draw.real(
        len(beside), find(config, "chunk_size", default=8), find(config, "max_action_dim", "act_dim", default=4)
    )


def named_inputs(
    config: PreTrainedConfig, names: Mapping[str, bool], draw: Draw, sample: dict[str, Tensor], message: str
) -> dict[str, Tensor]:
    """Return a sample with the inputs that a message names and that are known here.

    Args:
        config: of the model.
        names: what its forward takes.
        draw: what is drawn from.
        sample: what was given.
        message: of the error.
    """
    wanted = [name for name in names if name in NAMED and name not in sample and re.search(rf"\b{name}\b", message)]
    return {**sample, **{name: NAMED[name](config, draw, sample) for name in wanted}}


def _past(config: PreTrainedConfig, draw: Draw) -> Tensor:
    length = find(config, "context_length", "prediction_length", default=32)
    lags = find(config, "lags_sequence", default=[0])
    channels = find(config, "num_input_channels")
    return draw.real(1, length + max(lags), *([] if channels is None else [channels]))


def _times(config: PreTrainedConfig) -> int:
    return int(find(config, "num_time_features", default=0))


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
        if provider is not None and (
            must or name != "decoder_input_ids" or getattr(config, "is_encoder_decoder", True)
        ):
            try:
                full[name] = provider(config, draw, full)
            except KeyError:
                continue
        elif must:
            return
    yield full
    if names.get("hidden_states") and "hidden_states" not in sample:  # channels first, or a wave
        width = find(config, "hidden_size", default=64)
        for shape in ((1, width, 16), (1, 1, 3840)):
            yield {**full, "hidden_states": draw.real(*shape)}
    if set(full) - set(sample) - {name for name, must in names.items() if must}:
        yield {name: value for name, value in full.items() if name in sample or names.get(name)}
