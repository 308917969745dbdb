from __future__ import annotations

import pytest
import torch
from small_models.pictures import Scene, Thing, draw_picture, make_scene
from small_models.training import Schedule
from small_models.vision_language import QUICK, Settings, make_model, make_processor
from small_models.vision_tower import FOLDER, FORMS, NO_LABEL, TOWER_NAME, CellReader, labels_of, train_tower
from torch import Tensor, nn
from transformers import PreTrainedModel

pytest.importorskip("matplotlib")


def tower_of(seed: int = 0) -> PreTrainedModel:
    torch.manual_seed(seed)
    tower: PreTrainedModel = make_model(QUICK, make_processor()).model.vision_tower
    return tower


def test_labels_name_what_is_in_each_cell():
    first = Thing("star", "blue", "large", 0, 2)
    second = Thing("digit", "red", "small", 2, 0, digit=4)
    labels = labels_of([Scene((first, second), seed=0), Scene((), seed=1)])
    assert [FORMS[number] for number in labels["form"][0]] == [
        *("nothing", "nothing", "star"),
        *("nothing", "nothing", "nothing"),
        *("digit 4", "nothing", "nothing"),
    ]
    assert {FORMS[number] for number in labels["form"][1]} == {"nothing"}
    assert labels["colour"][0].tolist() == [NO_LABEL, NO_LABEL, 2, NO_LABEL, NO_LABEL, NO_LABEL, 0, NO_LABEL, NO_LABEL]
    assert labels["size"][0, [2, 6]].tolist() == [1, 0]


def test_a_cell_is_read_from_its_own_patches():
    class Patches(nn.Module):
        """Gives patches whose features are those of the picture's pixels."""

        config = type("Config", (), {"hidden_size": 3})()

        def forward(self, pixel_values: Tensor) -> object:
            patches = nn.functional.avg_pool2d(pixel_values, 10).flatten(2).transpose(1, 2)
            return type("Output", (), {"last_hidden_state": patches})()

    reader = CellReader(Patches())
    pixels = torch.zeros(1, 3, 60, 60)
    pixels[:, :, 40:60, 20:40] = 1  # bottom, centre
    output = reader(pixels, **labels_of([Scene((Thing("star", "red", "small", 2, 1),), 0)]))
    shown = (output.logits["form"] - reader.heads["form"].bias).abs().sum(-1)[0]
    assert shown.nonzero().flatten().tolist() == [7]
    assert output.loss.isfinite()


def test_a_tower_is_trained_once(tmp_path):
    schedule = Schedule(steps=2, batch=2, rate=1e-3)
    processor = make_processor()
    tower, again = tower_of(), tower_of(seed=1)
    before = {name: value.clone() for name, value in tower.state_dict().items()}
    train_tower(tower, processor, schedule, tmp_path, torch.float32)
    assert any(not torch.equal(value, before[name]) for name, value in tower.state_dict().items())
    assert (tmp_path / FOLDER / TOWER_NAME).is_file()
    train_tower(again, processor, Schedule(steps=10**9, batch=2, rate=1e-3), tmp_path, torch.float32)
    assert all(torch.equal(value, again.state_dict()[name]) for name, value in tower.state_dict().items())


def test_a_tower_learns_to_see(tmp_path):
    """In seconds: colours and sizes of things on pictures of another part, far above chance."""
    torch.manual_seed(0)
    settings = Settings(hidden=64, text_layers=1, vision_layers=2, text_inner=64, vision_inner=128, heads=4)
    tower = make_model(settings, make_processor()).model.vision_tower
    processor = make_processor()
    reader = train_tower(tower, processor, Schedule(steps=80, batch=16, rate=3e-3), tmp_path, torch.float32)
    scenes = [make_scene("test", number) for number in range(50)]
    pixels = processor.image_processor([draw_picture(scene) for scene in scenes], return_tensors="pt")["pixel_values"]
    labels = labels_of(scenes)
    with torch.inference_mode():
        logits = reader(pixels, **labels).logits
    for name, least in (("colour", 0.6), ("size", 0.75)):
        known = labels[name] != NO_LABEL
        assert (logits[name].argmax(-1) == labels[name])[known].float().mean() > least, name
