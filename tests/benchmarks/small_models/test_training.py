from __future__ import annotations

import json

import pytest
import torch
from small_models.training import LOG_NAME, STATE_NAME, Schedule, train
from tests.conftest import make_model

SCHEDULE = Schedule(steps=6, batch=4, rate=1e-3)


def batch_at(step: int) -> dict[str, torch.Tensor]:
    ids = torch.randint(256, (4, 16), generator=torch.Generator().manual_seed(step))
    return {"input_ids": ids, "labels": ids}


def weights(model: torch.nn.Module) -> torch.Tensor:
    return torch.cat([parameter.detach().flatten() for parameter in model.parameters()])


def test_rates_rise_and_fall():
    schedule = Schedule(steps=100, batch=1, rate=2.0)
    rates = [schedule.rate_at(step) for step in range(100)]
    assert rates[0] == pytest.approx(0.4)
    assert max(rates) == rates[4] == pytest.approx(2.0)
    assert rates[5:] == sorted(rates[5:], reverse=True)
    assert rates[-1] == pytest.approx(0.04, rel=0.05)


def test_the_loss_falls_on_what_can_be_learnt(tmp_path):
    """Batches of one repeated token."""
    model = make_model()

    def repeated(step: int) -> dict[str, torch.Tensor]:
        ids = torch.full((4, 16), 7)
        return {"input_ids": ids, "labels": ids}

    before = model(**repeated(0)).loss.item()
    train(model, repeated, Schedule(steps=40, batch=4, rate=3e-3), tmp_path, torch.float32)
    assert model(**repeated(0)).loss.item() < before / 4
    assert not model.training
    assert not (tmp_path / STATE_NAME).exists()
    assert [json.loads(line)["step"] for line in (tmp_path / LOG_NAME).read_text().splitlines()] == [20, 40]


def test_a_run_that_was_cut_off_ends_with_the_same_weights(tmp_path, monkeypatch):
    whole = make_model()
    (tmp_path / "whole").mkdir()
    train(whole, batch_at, SCHEDULE, tmp_path / "whole", torch.float32)

    monkeypatch.setattr("small_models.training.SAVE_SECONDS", 0.0)
    (tmp_path / "cut").mkdir()

    def stops(step: int) -> dict[str, torch.Tensor]:
        if step == 3:
            raise KeyboardInterrupt
        return batch_at(step)

    with pytest.raises(KeyboardInterrupt):
        train(make_model(), stops, SCHEDULE, tmp_path / "cut", torch.float32)

    def goes_on(step: int) -> dict[str, torch.Tensor]:
        assert step >= 3
        return batch_at(step)

    resumed = make_model(seed=1)  # all comes from the file
    train(resumed, goes_on, SCHEDULE, tmp_path / "cut", torch.float32)
    assert torch.equal(weights(resumed), weights(whole))
