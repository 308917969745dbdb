"""The forms in which classes take images."""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from typing import Any

import torch
from torch import Tensor
from transformers import PreTrainedConfig

from tiny_models.draw import Draw, all_configs, find

IMAGES = (
    "pixel_values",
    "image_pixel_values",
    "pixel_values_videos",
    "pixel_values_images",
    "flattened_patches",
    "image",
)
GRID = 4  # patches on a side, of images that are given as patches
FRAMES = 2
LENGTH = 16  # tokens of the text beside an image


def image_forms(config: PreTrainedConfig, names: Mapping[str, bool], draw: Draw) -> Iterator[dict[str, Tensor]]:
    """Yield the inputs of one image, in one form after the other.

    Args:
        config: of the model.
        names: what its forward takes.
        draw: what pixels come from.
    """
    pixels = next((name for name in IMAGES if name in names), None)
    if pixels is None and names.get("hidden_states") and "grid_thw" in names:
        pixels = "hidden_states"
    if pixels is None:
        return
    for values in _forms(config, names, draw):
        named = {pixels if name == "pixels" else name: value for name, value in values.items()}
        yield {name: value for name, value in named.items() if name == pixels or name in names}


def _forms(config: PreTrainedConfig, names: Mapping[str, bool], draw: Draw) -> Iterator[dict[str, Tensor]]:
    vision = vision_config(config)
    channels = _number(find(vision, "num_channels", "in_channels", "in_chans", default=3))
    yield from _patches(config, vision, names, draw, channels)
    side = find(vision, "image_size", "input_size", "img_size", default=32)
    height, width = (side, side) if isinstance(side, int) else (side[0], side[-1])
    frames = find(vision, "num_frames", "frames_per_clip", default=FRAMES)
    for tall, wide in dict.fromkeys([(height, width), (width, width), (64, 64), (96, 96), (224, 224)]):
        yield from _whole(draw, channels, tall, wide, frames)
    patch = _number(find(vision, "patch_size", default=8))
    flat = channels * patch * patch
    for shape in ((1, GRID * GRID, flat), (GRID * GRID, flat), (1, FRAMES, 4 * patch, 4 * patch, channels)):
        yield {"pixels": draw.real(*shape)}


def _patches(
    config: PreTrainedConfig, vision: PreTrainedConfig, names: Mapping[str, bool], draw: Draw, channels: int
) -> Iterator[dict[str, Tensor]]:
    """Yield forms of an image that is cut into patches before the model sees it."""
    patch = _number(find(vision, "patch_size", default=8))
    times = _number(find(vision, "temporal_patch_size", "patch_temporal", default=1))
    merge = _number(find(vision, "spatial_merge_size", default=1))
    count, flat = GRID * GRID, channels * patch * patch
    grid = torch.tensor([[1, GRID, GRID]])
    if {"image_grid_thw", "grid_thw", "image_grid_hw"} & set(names):
        merges = torch.tensor([merge])
        about = {
            "image_grid_thw": grid,
            "grid_thw": grid,
            "image_grid_hw": grid[:, 1:],
            "merge_sizes": merges,
            "image_merge_sizes": merges,
        }
        for shape in (
            (count, flat * times),
            (count, flat),
            (count, channels, patch, patch),
            (1, count, flat),
            (count, patch, patch, channels),
            (1, count, channels, patch, patch),
            (count, times, merge * patch, merge * patch, channels),
        ):
            yield {"pixels": draw.real(*shape), **about}
    if {"image_position_ids", "pixel_position_ids"} & set(names):
        for sides in (GRID, 6):
            places = _places(sides, "xy")
            pixels = draw.share(1, sides * sides, flat)
            yield {"pixels": pixels, "image_position_ids": places, "pixel_position_ids": places}
    if "spatial_shapes" in names:
        mask = torch.ones(1, count, dtype=torch.long)
        shapes = {"spatial_shapes": grid[:, 1:], "pixel_attention_mask": mask, "attention_mask": mask}
        yield {"pixels": draw.real(1, count, flat), **shapes}
    if "flattened_patches" in names:
        packed = draw.real(1, count, find(config, "patch_embed_hidden_size", default=flat))
        yield {"pixels": torch.cat((_places(GRID, "ij") + 1.0, packed), -1), "attention_mask": torch.ones(1, count)}
    if "image_token_pooling" in names:
        pools = torch.arange(count).reshape(-1, 4)
        grids = torch.tensor([[1, len(pools), 0, 0]])
        yield {"pixels": draw.real(1, count, flat), "image_token_pooling": pools, "image_grids": grids}
    if "target_sizes" in names:
        yield {"pixels": draw.real(1, channels, patch, count * patch), "target_sizes": grid[:, 1:]}


def _places(sides: int, indexing: str) -> Tensor:
    """Return the place of each patch of a square (1, patches, 2)."""
    axes = torch.meshgrid(torch.arange(sides), torch.arange(sides), indexing=indexing)
    return torch.stack(axes, -1).reshape(1, -1, 2)


def _whole(
    draw: Draw, channels: int, height: int, width: int, frames: int, text: int = LENGTH
) -> Iterator[dict[str, Tensor]]:
    """Yield forms of an image that is no list of patches."""
    pixels = draw.real(1, channels, height, width)
    mask = torch.ones(1, height, width, dtype=torch.long)
    sizes = {
        "image_sizes": torch.tensor([[height, width]]),
        "original_sizes": torch.tensor([[height, width]]),
        "batch_num_images": torch.tensor([1]),
        "num_local_patches": torch.tensor([0]),
    }
    yield {"pixels": pixels, "pixel_mask": mask}
    yield {"pixels": pixels, **sizes}
    for larger in (1, 2):
        yield {"pixels": pixels, "high_res_pixel_values": draw.real(1, channels, larger * height, larger * width)}
    yield {"pixels": pixels[None], "pixel_attention_mask": mask[None], **sizes}
    yield {"pixels": pixels[None], "pixel_attention_mask": torch.ones(1, 1, dtype=torch.bool)}
    yield {"pixels": pixels[None], "image_attention_mask": torch.ones(1, LENGTH, 1, dtype=torch.long)}
    for count in (1, 2, 3):
        yield {"pixels": draw.real(1, count, channels, height, width), **sizes}
    yield {"pixels": draw.real(1, frames, channels, height, width)}
    yield {"pixels": draw.real(1, channels, frames, height, width)}
    for tiles in (1, 4):
        yield {
            "pixels": draw.real(1, 1, tiles, channels, height, width),
            "aspect_ratio_ids": torch.ones(1, 1, dtype=torch.long),
            "aspect_ratio_mask": torch.ones(1, 1, tiles, dtype=torch.long),
        }


def vision_config(config: PreTrainedConfig) -> PreTrainedConfig:
    """Return the part of a config that is about images; all of it if no part says so."""
    names = ("vision_config", "vit_config", "vision_encoder_config", "vision_backbone_config", "sam_config")
    for place in all_configs(config):
        for name in names:
            part = getattr(place, name, None)
            if isinstance(part, PreTrainedConfig):
                return part
    return config


def _number(value: Any) -> int:
    return int(value[-1]) if isinstance(value, list | tuple) else int(value)
