"""Teaches a vision tower to see before it is put in front of a decoder: what is in each cell, of which colour and size.

A decoder that is trained together with a tower that sees nothing yet learns to guess for a long time first.
"""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path
from types import SimpleNamespace

import torch
from safetensors.torch import load_file, save_file
from torch import Tensor, nn
from torch.nn import functional
from transformers import LlavaProcessor, PreTrainedModel

from small_models.pictures import COLOURS, DIGIT, GRID, SHAPES, SIZES, Scene, draw_picture, make_scene
from small_models.training import Schedule, train

FOLDER, TOWER_NAME = "vision", "tower.safetensors"
FORMS = (*SHAPES, *(f"{DIGIT} {number}" for number in range(10)), "nothing")
NO_LABEL = -100


class CellReader(nn.Module):
    """Names what is in each cell of a picture from a tower's patches.

    Args:
        tower: gives a square of patches for a picture, as many to a cell in each.
    """

    def __init__(self, tower: PreTrainedModel) -> None:
        super().__init__()
        self.tower = tower
        sizes = {"form": len(FORMS), "colour": len(COLOURS), "size": len(SIZES)}
        self.heads = nn.ModuleDict({name: nn.Linear(tower.config.hidden_size, size) for name, size in sizes.items()})

    def forward(self, pixel_values: Tensor, **labels: Tensor) -> SimpleNamespace:
        """Return the loss, and the logits of each head.

        Args:
            pixel_values: (pictures, 3, side, side).
            labels: of each head, (pictures, cells), :data:`NO_LABEL` where there is nothing to name.
        """
        patches = self.tower(pixel_values=pixel_values).last_hidden_state
        side = round(patches.shape[1] ** 0.5) // GRID  # patches across a cell
        cells = patches.unflatten(1, (GRID, side, GRID, side)).mean((2, 4)).flatten(1, 2)
        logits = {name: head(cells).float() for name, head in self.heads.items()}
        losses = [functional.cross_entropy(logits[name].flatten(0, 1), labels[name].flatten()) for name in logits]
        return SimpleNamespace(loss=torch.stack(losses).sum(), logits=logits)


def labels_of(scenes: Sequence[Scene]) -> dict[str, Tensor]:
    """Return the labels of scenes for each head of a :class:`CellReader`: (scenes, cells) int64."""
    labels = {name: torch.full((len(scenes), GRID * GRID), NO_LABEL) for name in ("form", "colour", "size")}
    labels["form"].fill_(len(FORMS) - 1)
    for number, scene in enumerate(scenes):
        for thing in scene.things:
            cell = thing.row * GRID + thing.column
            form = thing.shape if thing.digit is None else f"{DIGIT} {thing.digit}"
            labels["form"][number, cell] = FORMS.index(form)
            labels["colour"][number, cell] = list(COLOURS).index(thing.colour)
            labels["size"][number, cell] = list(SIZES).index(thing.size)
    return labels


def train_tower(
    tower: PreTrainedModel, processor: LlavaProcessor, schedule: Schedule, folder: Path, dtype: torch.dtype
) -> CellReader:
    """Train a tower in place, in float32, or take what an earlier call made of it.

    Args:
        tower: with random weights.
        processor: whose ``image_processor`` makes pixels of pictures.
        schedule: steps and rates.
        folder: to keep the state and the trained tower in.
        dtype: of the products.

    Returns:
        What reads the cells through the tower; its heads are random again where an earlier call trained them.
    """
    torch.manual_seed(0)  # of the heads
    reader = CellReader(tower)
    here = folder / FOLDER
    here.mkdir(exist_ok=True)
    done = here / TOWER_NAME
    if not done.exists():
        size = schedule.batch

        def batch_at(step: int) -> dict[str, Tensor]:
            scenes = [make_scene("train", number) for number in range(step * size, (step + 1) * size)]
            pictures = [draw_picture(scene) for scene in scenes]
            pixels = processor.image_processor(pictures, return_tensors="pt")["pixel_values"]
            return {"pixel_values": pixels, **labels_of(scenes)}

        train(reader, batch_at, schedule, here, dtype)
        partial = done.with_suffix(".partial")
        save_file(tower.state_dict(), partial)
        partial.replace(done)
    tower.load_state_dict(load_file(done))
    return reader
