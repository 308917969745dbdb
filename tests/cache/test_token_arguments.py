from __future__ import annotations

import torch

from eckart.cache.token_arguments import TokenArguments


def store_with(layers: int) -> TokenArguments:
    store = TokenArguments({"angles": 1})
    assert [store.join() for _ in range(layers)] == list(range(layers))
    return store


def numbers(start: int, tokens: int, batch: int = 1) -> dict[str, torch.Tensor]:
    rows = torch.arange(start, start + tokens, dtype=torch.float32)
    return {"angles": (rows + 100 * torch.arange(batch)[:, None])[..., None]}


def test_one_of_the_layers_adds_and_all_read() -> None:
    store = store_with(2)
    for _ in range(2):
        store.extend(numbers(0, 3), 3)
    store.held[0] = 3
    for _ in range(2):
        store.extend(numbers(3, 2), 5)
    assert store.last(5)["angles"][0, :, 0].tolist() == [0, 1, 2, 3, 4]
    assert store.last(2)["angles"][0, :, 0].tolist() == [3, 4]
    assert store.bytes() == 20


def test_what_no_layer_holds_any_more_is_forgotten() -> None:
    store = store_with(2)
    store.extend(numbers(0, 4), 4)
    store.held = [2, 3]
    store.extend(numbers(4, 1), 5)
    assert store.last(4)["angles"][0, :, 0].tolist() == [1, 2, 3, 4]
    assert store.bytes() == 16


def test_last_tokens_are_dropped_and_others_take_their_place() -> None:
    store = store_with(1)
    store.extend(numbers(0, 4), 4)
    store.drop_last(3)
    store.held[0] = 1
    store.extend(numbers(9, 1), 2)
    assert store.last(2)["angles"][0, :, 0].tolist() == [0, 9]
    store.drop_last(5)
    assert store.bytes() == 0
    store.forget()
    assert (store.seen, store.kept) == (0, {})


def test_sequences_are_changed_where_they_are_told_apart() -> None:
    store = store_with(1)
    store.extend(numbers(0, 3, batch=2), 3)
    store.change_sequences(2, lambda tensor, dim: tensor.flip(dim))
    assert store.kept["angles"][:, 0, 0].tolist() == [100, 0]
    once = store_with(1)
    once.extend(numbers(0, 3), 3)
    once.change_sequences(2, lambda tensor, dim: tensor.repeat_interleave(2, dim))
    assert len(once.kept["angles"]) == 1


def test_what_was_the_same_for_all_sequences_is_repeated_when_it_differs() -> None:
    store = store_with(1)
    store.extend(numbers(0, 2), 2)
    store.held[0] = 2
    store.extend(numbers(2, 1, batch=3), 3)
    assert store.kept["angles"][:, :, 0].tolist() == [[0, 1, 2], [0, 1, 102], [0, 1, 202]]
    store.held[0] = 3
    store.extend(numbers(3, 1), 4)
    assert store.kept["angles"][:, -1, 0].tolist() == [3, 3, 3]
