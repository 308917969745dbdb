from __future__ import annotations

from eckart.methods.distillation import LogitDistillation, LoraRecovery


def test_others_train_all_parameters_once() -> None:
    assert LogitDistillation().sides == (None,)
    assert not LogitDistillation().adapts_factors
    assert not LogitDistillation().follows_text
    assert LoraRecovery().adapts_factors
