"""The forms in which classes take sounds."""

from __future__ import annotations

from collections.abc import Iterator, Mapping

import torch
from torch import Tensor
from transformers import PreTrainedConfig

from tiny_models.draw import Draw, find

SPECTRA = ("input_features", "audio_input_features", "audio_mel")
WAVES = ("input_values", "audio_values")
SAMPLES = (3840, 16000)


def sound_forms(config: PreTrainedConfig, names: Mapping[str, bool], draw: Draw) -> Iterator[dict[str, Tensor]]:
    """Yield the inputs of one sound, in one form after the other.

    Args:
        config: of the model.
        names: what its forward takes.
        draw: what sounds come from.
    """
    spectra = next((name for name in SPECTRA if name in names), None)
    if spectra:
        for values in _spectra(config, draw):
            named = {spectra if name == "sound" else name: value for name, value in values.items()}
            yield {name: value for name, value in named.items() if name == spectra or name in names}
    waves = next((name for name in WAVES if name in names), None)
    if spectra and waves and names[spectra] and names[waves]:
        for values in _spectra(config, draw):
            frames = values["sound"].shape[1]
            for shape in ((1, 1, 320 * frames), (1, 320 * frames)):
                yield {spectra: values["sound"], waves: draw.real(*shape)}
    elif waves:
        for samples in SAMPLES:
            for shape in ((1, samples), (1, 1, samples)):
                wave = draw.real(*shape)
                masks = {"padding_mask": torch.ones(1, samples, dtype=torch.long)}
                yield {waves: wave, **{name: value for name, value in masks.items() if name in names}}
                yield {waves: wave}
        bins = find(config, "num_mel_bins", "feature_size", default=32)
        yield {waves: draw.real(1, find(config, "max_length", default=64), bins)}


def _spectra(config: PreTrainedConfig, draw: Draw) -> Iterator[dict[str, Tensor]]:
    bins = find(
        config, "num_mel_bins", "n_mels", "mel_dim", "n_mel_bins", "feature_size", "input_feat_size", "input_dim",
        "feature_projection_input_dim", "input_feat_per_channel", default=32,
    )  # fmt: skip
    places = find(config, "max_source_positions", default=32)
    stacked = bins * find(config, "num_stacked_frames", default=1)
    for frames in dict.fromkeys((2 * places, 64, 128, 200, 400, 3000)):
        mask = torch.ones(1, frames, dtype=torch.long)
        masks = {
            "input_features_mask": mask,
            "feature_attention_mask": mask,
            "audio_mel_mask": mask.bool(),
            "audio_embed_sizes": torch.tensor([frames // 8]),
            "audio_feature_lengths": torch.tensor([frames]),
            "chunk_sample_lengths": torch.tensor([frames * find(config, "hop_length", default=160)]),
            "feature_lens": torch.tensor([frames]),
        }
        forms = [draw.real(1, bins, frames), draw.real(1, frames, stacked), draw.real(1, 1, frames, bins)]
        for sound in forms:
            yield {"sound": sound, **masks, "attention_mask": mask}
            yield {"sound": sound, **masks}
            yield {"sound": sound}
