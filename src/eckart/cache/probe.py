"""Finds by numbers how the keys and values of an attention module follow from latents."""

from __future__ import annotations

from collections.abc import Iterable
from dataclasses import dataclass, replace

import torch
from torch import Tensor

from eckart.cache.attention import Rebuilding
from eckart.cache.call import Roles
from eckart.cache.latent_codes import latent_codes
from eckart.cache.recording import TOKENS, Recording
from eckart.cache.replay import States, states_again
from eckart.cache.sources import FactoredSource, is_adapted, linears_below

NOT_FACTORED = "its projections are not factored"
NOT_REPEATED = "what it does to its projections cannot be done again from their outputs"
NOT_SMALLER = "its latents are no smaller than keys and values"


@dataclass(frozen=True)
class _Trial:
    """What is tried: which outputs are given, which are zeros, and what becomes of arguments."""

    wanted: frozenset[str]
    zeros: dict[str, int]
    roles: Roles


class Probe:
    """Runs one attention module again with some of what it was handed left out.

    Args:
        recording: of the module.

    Attributes:
        handed: the keys and values that a module hands to its cache.
    """

    def __init__(self, recording: Recording) -> None:
        self.recording = recording
        self.handed = recording.whole_states()
        calls = tuple(call.tensors() for call in recording.calls)
        self.calls = (calls[0], calls[1])
        self.outputs: dict[str, Tensor] = {}
        for number, source in enumerate(recording.sources):
            latents = recording.whole_latents(number)
            if latents is not None:
                self.outputs |= source.decode(latents, source.outputs)

    def find(self, bits: int) -> Rebuilding | str:
        """Return how keys and values follow from latents in so many bits, or why these are not kept."""
        if not self.outputs:
            return NOT_FACTORED
        others = {
            path: width for path, width in linears_below(self.recording.module).items() if path not in self.outputs
        }
        first = _Trial(frozenset(self.outputs), others, Roles.seen_in(self.calls, TOKENS))
        right = self._right(first)
        if not right:
            return NOT_REPEATED
        best, least = None, 0
        for sides in ({"keys"}, {"values"}, {"keys", "values"}):
            if sides <= right:
                found = self._least(first, sides)
                saved = self._saved(found, bits)
                if saved > least:
                    best, least = found, saved
        return NOT_SMALLER if best is None else best

    def _least(self, trial: _Trial, sides: set[str]) -> Rebuilding:
        """Return what some sides need and no more."""
        widths = {path: output.shape[-1] for path, output in self.outputs.items()}
        for path in sorted(trial.wanted):
            fewer = _Trial(trial.wanted - {path}, {**trial.zeros, path: widths[path]}, trial.roles)
            if fewer.wanted and sides <= self._right(fewer):
                trial = fewer
        # Rotating zeros of one head takes less time than rotating those of all.
        narrow = replace(trial, zeros=dict.fromkeys(trial.zeros, self.handed.keys.shape[-1]))
        if sides <= self._right(narrow):
            trial = narrow
        for path in list(trial.roles.stored):
            blank = replace(trial, roles=trial.roles.without(path))
            if sides <= self._right(blank):
                trial = blank
        sources = [source for source in self.recording.sources if trial.wanted & source.outputs.keys()]
        behind = set(self.recording.behind)
        return Rebuilding(
            tuple(sources),
            trial.wanted,
            "keys" in sides,
            "values" in sides,
            trial.roles,
            dict(trial.zeros),
            self._value_path(trial) if "values" in sides else None,
            next(iter(behind)) if len(behind) == 1 and not is_adapted(self.recording.module, *behind) else None,
        )

    def _value_path(self, trial: _Trial) -> str | None:
        """Return the module whose outputs are the values, in the order of heads, and nothing else follows from."""
        batch, heads, tokens, size = self.handed.values.shape
        for path in trial.wanted:
            outputs = self.outputs[path]
            if outputs.shape[-1] == heads * size and self._is_factored(path):
                values = outputs.reshape(batch, tokens, heads, size).transpose(1, 2)
                if alike(values, self.handed.values):
                    return path
        return None

    def _is_factored(self, path: str) -> bool:
        return any(isinstance(source, FactoredSource) and path in source.outputs for source in self.recording.sources)

    def _right(self, trial: _Trial) -> set[str]:
        """Return which of keys and values come out right."""
        kept = {}
        for path, dim in trial.roles.stored.items():
            parts = [call[path] for call in self.calls]
            kept[path] = torch.cat(parts, dim=dim)
        like, generator = next(iter(self.outputs.values())), torch.Generator().manual_seed(0)
        # What does not matter may be anything: zeros would hide what is nothing only now, such as an untrained adapter.
        outputs = {
            path: torch.randn(*like.shape[:2], width, generator=generator).to(like)
            for path, width in trial.zeros.items()
        }
        outputs |= {path: self.outputs[path] for path in trial.wanted}
        try:
            with torch.no_grad():
                found = states_again(self.recording.module, self.recording.calls[-1], trial.roles, kept, outputs)
        except Exception:  # what the module's code raises where something that it needs is missing can be anything
            return set()
        return set() if found is None else set(_alike(found, self.handed))

    def _saved(self, rebuilding: Rebuilding, bits: int) -> int:
        """Return the bytes of a token that are not stored."""
        codes = latent_codes(rebuilding.sources, rebuilding.wanted, bits)
        keys, values = side_bytes(self.handed)
        gone = keys * rebuilding.keys + values * rebuilding.values
        return gone - codes.token_bytes(self.handed.keys.dtype)


def side_bytes(states: States) -> tuple[int, int]:
    """Return the bytes of a token in keys and in values."""
    keys, values = ((side.shape[1] * side.shape[3] * side.element_size()) for side in (states.keys, states.values))
    return keys, values


def _alike(found: States, expected: States) -> Iterable[str]:
    for side in ("keys", "values"):
        ours, theirs = getattr(found, side), getattr(expected, side)
        if ours.shape == theirs.shape and alike(ours, theirs):
            yield side


def alike(ours: Tensor, theirs: Tensor) -> bool:
    """Return whether two tensors of one shape are the same but for rounding in their dtype."""
    tolerance = max(4 * torch.finfo(theirs.dtype).eps, 1e-5)
    return bool((ours - theirs).float().norm() <= tolerance * theirs.float().norm())
