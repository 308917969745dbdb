"""What is measured on the model of a row: bytes, perplexity, and speed if it is asked for."""

from __future__ import annotations

import copy
import hashlib
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from functools import cached_property
from typing import TYPE_CHECKING, Any

import torch
from torch import Tensor

from eckart.data.context import check_ids, check_length, context_of, length_for
from eckart.data.draw import tokenize
from eckart.data.text import read_text, text_name
from eckart.device import compute_dtype
from eckart.errors import EckartError
from eckart.evaluate import Perplexity, perplexity
from eckart.evaluate.speed import Machine, compare, measure_machine
from eckart.evaluate.windows import count_windows
from eckart.sweep.case import DENSE
from eckart.sweep.row import SpeedResult

if TYPE_CHECKING:
    from transformers import PreTrainedModel, PreTrainedTokenizerBase

DEFAULT_WINDOW = 1024
SPEED_PROMPT, SPEED_TOKENS, SPEED_ROUNDS = 128, 48, 3


@dataclass(frozen=True)
class Evaluation:
    """Texts to measure on.

    Attributes:
        texts: token ids, (tokens,) int64, by the name of the text.
        windows: how many of each; None for all.
        length: tokens in each window.
        device: where models are run.
    """

    texts: Mapping[str, Tensor]
    windows: int | None
    length: int
    device: torch.device

    @staticmethod
    def of(
        model: PreTrainedModel,
        tokenizer: PreTrainedTokenizerBase,
        texts: Sequence[str],
        windows: int | None,
        length: int | None,
        device: torch.device,
    ) -> Evaluation:
        """Read the texts.

        Args:
            model: that will be compressed; windows must fit into its context.
            tokenizer: of it.
            texts: specifications that :func:`eckart.data.text.read_text` knows.
            windows: how many of each text; None for all.
            length: tokens in each window; None for :data:`DEFAULT_WINDOW`, or the model's context if that is shorter.
            device: where models are run.

        Raises:
            EckartError: a text cannot be read, is shorter than a window, or two have one name, or the model cannot take
                the windows or the ids.
        """
        length = length_for(model, default=DEFAULT_WINDOW) if length is None else length
        check_length(model, length, "Windows", "--window-length")
        found: dict[str, Tensor] = {}
        for specification in texts:
            name = text_name(specification)
            if name in found:
                raise EckartError(f"Two texts are called {name!r}. Each needs a name of its own.")
            found[name] = tokenize(read_text(specification), tokenizer)
            check_ids(model, found[name], f"The text {name!r}")
            count_windows(found[name], length, windows, "--window-length")
        if not found:
            raise EckartError("A sweep needs at least one text to measure on.")
        return Evaluation(found, windows, length, device)

    @property
    def identity(self) -> dict[str, Any]:
        """What is measured, as plain data."""
        return {
            "texts": {name: hashlib.sha256(ids.numpy().tobytes()).hexdigest() for name, ids in self.texts.items()},
            "windows": self.windows,
            "length": self.length,
        }

    def perplexities(self, model: PreTrainedModel) -> dict[str, Perplexity]:
        """Return the perplexity on each text; ``model`` is left on the device, on a CPU in float32.

        Raises:
            EckartError: a loss is not finite.
        """
        # As `eckart eval` does: what is stored in 16 bits is widened, not rounded again.
        model.to(self.device, torch.float32 if self.device.type == "cpu" else model.dtype)
        return {
            name: perplexity(model, ids, length=self.length, windows=self.windows) for name, ids in self.texts.items()
        }


def stored_bytes(model: PreTrainedModel) -> int:
    """Return the bytes of all tensors that are saved, each once."""
    return sum({tensor.data_ptr(): tensor.nbytes for tensor in model.state_dict().values()}.values())


@dataclass(frozen=True)
class Stopwatch:
    """Times models against the dense one, which is held in memory for that.

    Attributes:
        dense: stays as it is.
        device: where models are run.
    """

    dense: PreTrainedModel
    device: torch.device

    def time(self, model: PreTrainedModel) -> SpeedResult:
        """Return how fast ``model`` is; it is left in the dtype that the device is fastest in."""
        context = context_of(model) or 4 * max(SPEED_PROMPT, SPEED_TOKENS)
        model.to(self.device, self._dtype)
        dense, ours = compare(
            {DENSE: self._placed, "model": model},
            self._machine,
            prompt=max(1, min(SPEED_PROMPT, context // 2)),
            generate=max(2, min(SPEED_TOKENS, context // 4)),
            repeats=SPEED_ROUNDS,
        )
        return SpeedResult(
            prefill=ours.prefill.median,
            decode=ours.decode.median,
            dense_prefill=dense.prefill.median,
            dense_decode=dense.decode.median,
        )

    @property
    def _dtype(self) -> torch.dtype:
        return compute_dtype(self.dense.dtype, self.device)

    @cached_property
    def _placed(self) -> PreTrainedModel:
        return copy.deepcopy(self.dense).to(self.device, self._dtype)

    @cached_property
    def _machine(self) -> Machine:
        return measure_machine(self.device, self._dtype)
