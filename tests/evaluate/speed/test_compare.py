from __future__ import annotations

import pytest
from tests.conftest import make_model
from transformers import PreTrainedModel

from eckart.errors import EckartError
from eckart.evaluate.speed import Machine, Speed, compare
from eckart.evaluate.speed.compare import Spread, random_prompt

MACHINE = Machine(bandwidth=1e6, operations=1e15)


def test_every_model_is_run_once_in_a_round(llama: PreTrainedModel) -> None:
    done: list[tuple[int, int]] = []
    speeds = compare(
        {"a": llama, "b": make_model("gpt2")},
        MACHINE,
        batches=[1, 3],
        prompt=8,
        generate=4,
        repeats=2,
        on_run=lambda count, total: done.append((count, total)),
    )
    assert [(speed.model, speed.batch) for speed in speeds] == [("a", 1), ("b", 1), ("a", 3), ("b", 3)]
    assert done == [(number, 12) for number in range(1, 13)]
    for speed in speeds:
        assert speed.decode.low <= speed.decode.median <= speed.decode.high
        assert speed.prefill.high == pytest.approx(speed.batch * 8 / speed.first_token.low)
        assert speed.prefill.low == pytest.approx(speed.batch * 8 / speed.first_token.high)
        assert speed.limit == "memory"
        assert speed.reached > 0
        assert speed.peak_bytes is None
        assert Speed.model_validate_json(speed.model_dump_json()) == speed
    assert speeds[0].cache_bytes_per_token == speeds[2].cache_bytes_per_token == 3 * 2 * 2 * 8 * 4
    assert speeds[0].weight_bytes == sum(t.nbytes for t in (*llama.parameters(), *llama.buffers()))


def test_a_slow_multiplier_is_the_limit(llama: PreTrainedModel) -> None:
    (speed,) = compare({"a": llama}, Machine(1e15, 1e6), prompt=4, generate=2, repeats=1)
    assert speed.limit == "operations"
    (speed,) = compare({"a": llama}, Machine(1e15, 1e18), prompt=4, generate=2, repeats=1)
    assert speed.limit == "overhead"
    assert speed.reached < 0.01


def test_more_tokens_than_there_is_room_for(llama: PreTrainedModel) -> None:
    with pytest.raises(EckartError, match="room for 128 tokens; found 100 of the prompt and 29 generated"):
        compare({"a": llama}, MACHINE, prompt=100, generate=29)


def test_prompts_repeat_and_stay_in_the_vocabulary(llama: PreTrainedModel) -> None:
    prompt = random_prompt(llama, 2, 50)
    assert prompt.shape == (2, 50)
    assert int(prompt.max()) < 256
    assert (prompt == random_prompt(llama, 2, 50)).all()


def test_spread() -> None:
    assert Spread.of([3.0, 1.0, 2.0]) == Spread(median=2.0, low=1.0, high=3.0)


def test_more_sequences_than_memory_holds(llama: PreTrainedModel) -> None:
    with pytest.raises(EckartError, match=r"1000000000000 sequences of 8 tokens take at least .* --batch"):
        compare({"a": llama}, MACHINE, batches=[1, 10**12], prompt=8, generate=2)
