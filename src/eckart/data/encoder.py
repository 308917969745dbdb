"""Items to samples: what a model's forward pass takes for each, with labels where there is an answer."""

from __future__ import annotations

from dataclasses import dataclass, replace
from typing import TYPE_CHECKING, Any

import torch
from torch import Tensor

from eckart.data.answers import IGNORED, decoder_inputs, labels_from, shared_prefix
from eckart.data.chat import render
from eckart.data.classes import class_index
from eckart.data.context import check_ids, context_of, token_embedding
from eckart.data.images import read_image
from eckart.data.items import Item, ItemError
from eckart.data.processor import Inputs, Processor, check_item, tokens_of
from eckart.data.sound import read_sound
from eckart.kinds import Answers

if TYPE_CHECKING:
    from transformers import PreTrainedModel


@dataclass(frozen=True)
class Encoder:
    """Makes samples for one model.

    Attributes:
        inputs: what the model takes.
        processor: of it.
        length: tokens after which text is cut.
        chat: write prompts and answers by the model's chat template. Where an item has images or sound, that is done
            whenever there is a template: only it knows where their marks stand.
        question: is asked of items that ask nothing themselves, by a model that writes.
    """

    inputs: Inputs
    processor: Processor
    length: int
    chat: bool = False
    question: str | None = None

    @classmethod
    def of(cls, model: PreTrainedModel, processor: Any, length: int, *, chat: bool = False) -> Encoder:
        """Return one for a model and what :func:`eckart.checkpoint.processor.load_processor` gives."""
        return cls(Inputs.of(model), Processor.of(processor), length, chat)

    def encode(self, item: Item) -> dict[str, Tensor]:
        """Return the sample of an item.

        Returns:
            What the forward pass takes, and ``labels`` where there is an answer or a label: (1, length) with -100 for
            tokens that do not count, or the index of the class, (1,).

        Raises:
            ItemError: it cannot be read, lacks what the model reads, or has no answer left.
            CalibrationError: a part of the processor is missing.
        """
        item = self._fitting(item)
        images = [] if item.image is None else [read_image(item.image, item.where, channels=self._channels)]
        sounds = [] if item.sound is None else [read_sound(item.sound, self.processor.rate, item.where)]
        try:
            sample = self._encode(item, images, sounds)
        except ItemError as error:
            raise (error if str(error).startswith(item.where) else ItemError(f"{item.where}: {error}")) from error
        check_item(item, sample)
        if "input_ids" in sample and not (images or sounds) and token_embedding(self.inputs.model) is not None:
            check_ids(self.inputs.model, sample["input_ids"], item.where, ItemError)
        return sample

    def _fitting(self, item: Item) -> Item:
        """Return an item with what the model reads only."""
        takes = self.inputs
        item = replace(item, image=item.image if takes.images else None, sound=item.sound if takes.sounds else None)
        if takes.kind.writes and isinstance(item.label, str) and item.answer is None and item.messages is None:
            # A labelled folder asks what is shown; a caption beside it says more.
            item = replace(item, answer=item.label) if item.text is None or item.prompt is None else item
        if takes.kind.writes and self.question is not None and item.prompt is None and item.messages is None:
            item = replace(item, prompt=self.question)
        if takes.text_alone and (item.text or item.messages or item.prompt or item.answer):
            return item
        lacks = [
            what
            for what, needed, there in (
                ("image", takes.images, item.image),
                ("sound", takes.sounds, item.sound),
            )
            if needed and there is None
        ]
        if lacks and not (takes.images and takes.sounds and len(lacks) == 1):
            raise ItemError(f"{item.where} has no {' and no '.join(lacks)}, which {self._name} reads.")
        if takes.text and not lacks and not (takes.images or takes.sounds):
            raise ItemError(f"{item.where} has no text, which {self._name} reads.")
        return item

    @property
    def _name(self) -> str:
        return type(self.inputs.model).__name__

    @property
    def _channels(self) -> int:
        return int(getattr(self.inputs.model.config, "num_channels", None) or 3)

    def _encode(self, item: Item, images: list[Any], sounds: list[Tensor]) -> dict[str, Tensor]:
        kind = self.inputs.kind
        if self.inputs.separate_decoder and kind.writes:
            return self._for_decoder(item, images, sounds)
        if kind.writes:
            return self._continued(item, images, sounds)
        text = None
        if self.inputs.text:
            # Towers of text and images are run together: an image without words is beside an empty text.
            text = next((t for t in (item.text, item.prompt, item.answer) if t is not None), None)
            text = str(item.label or "") if text is None else text
        sample = self._cut(self.inputs.sample(self.processor(text, images, sounds)), images, sounds)
        if kind.answers is Answers.CLASS and item.label is not None:
            index = class_index(self.inputs.model.config, item.label)
            if index is not None:
                sample["labels"] = torch.tensor([index])
        if kind.answers is Answers.ALIGNED and (item.text or item.answer) and self.processor.tokenizer is not None:
            sample["labels"] = self._ids(item.answer or item.text or "")
        if self.inputs.separate_decoder:
            sample["decoder_input_ids"] = decoder_inputs(self.inputs.model, sample.get("input_ids"))
        return sample

    def _for_decoder(self, item: Item, images: list[Any], sounds: list[Tensor]) -> dict[str, Tensor]:
        """Return the sample of a model that reads with one part and writes with another."""
        answer = item.answer
        prompt = item.prompt if item.prompt is not None else item.text
        if answer is None and (images or sounds):
            answer, prompt = item.text, item.prompt  # what is said, or a caption
        if not self.inputs.text:
            prompt = None
        elif images or sounds:
            prompt = prompt or ""
        if prompt is None and not (images or sounds):
            raise ItemError(f"{item.where} has no text, which {self._name} reads.")
        sample = self._cut(self.inputs.sample(self.processor(prompt, images, sounds)), images, sounds)
        labels = None if answer is None else self._ids(answer)[:, : self.length]
        sample["decoder_input_ids"] = decoder_inputs(self.inputs.model, labels)
        if labels is not None:
            if not labels.numel():
                raise ItemError(f"{item.where} has no answer tokens: its answer is empty.")
            sample["labels"] = labels
        return sample

    def _continued(self, item: Item, images: list[Any], sounds: list[Tensor]) -> dict[str, Tensor]:
        """Return the sample of a model that goes on from what it reads."""
        by_template = item.messages is not None or self.chat or bool((images or sounds) and self.processor.chat)
        cuts = render(self.processor, item) if by_template else self._plain(item, images)
        start = getattr(self.processor.tokenizer, "bos_token", None)
        # Most templates write the first special token themselves.
        specials = not (by_template and (start is None or cuts[-1][0].startswith(start)))
        parts = [self.processor(text, images, sounds, specials=specials) for text, _ in cuts]
        sample, ids = self.inputs.sample(parts[-1]), parts[-1]["input_ids"]
        spans, begun = [], 0
        for (_, ends), part in zip(cuts, parts, strict=True):
            place = shared_prefix(ids[0], part["input_ids"][0])
            if ends:
                spans.append((begun, place))
            begun = place
        sample = self._cut(sample, images, sounds)
        if spans:
            labels = labels_from(ids, spans)[:, : sample["input_ids"].shape[1]]
            if not bool((labels != IGNORED).any()):
                raise ItemError(f"{item.where} has no answer tokens among its first {labels.shape[1]} tokens.")
            sample["labels"] = labels
        return sample

    def _plain(self, item: Item, images: list[Any]) -> list[tuple[str, bool]]:
        """Return prompt and answer without a template, as :func:`eckart.data.chat.render` does."""
        answer = item.answer if item.answer is not None else (item.text if images or item.prompt is not None else None)
        prompt = item.prompt if item.prompt is not None else (item.text if answer is None else "")
        mark = getattr(self.processor.whole, "image_token", None)
        if images and mark and mark not in (prompt or ""):
            prompt = f"{mark}\n{prompt or ''}"
        if answer is None:
            return [(prompt or "", False)]
        space = "" if not prompt or prompt[-1].isspace() or not answer or answer[0].isspace() else " "
        end = getattr(self.processor.tokenizer, "eos_token", None) or ""
        return [(prompt or "", False), (f"{prompt or ''}{space}{answer}{end}", True)]

    def _ids(self, text: str) -> Tensor:
        tokenizer = self.processor.need("tokenizer", "text")
        ids: Tensor = torch.tensor([tokenizer(text, verbose=False)["input_ids"]], dtype=torch.int64)
        return ids

    def _cut(self, sample: dict[str, Tensor], images: list[Any], sounds: list[Tensor]) -> dict[str, Tensor]:
        """Return text cut after so many tokens; what has images or sound in it cannot be cut, and must fit."""
        ids = sample.get("input_ids")
        if ids is None:
            return sample
        if not (images or sounds):
            return {
                name: value[:, : self.length] if value.shape == ids.shape else value for name, value in sample.items()
            }
        context = context_of(self.inputs.model)
        if self.inputs.kind.writes and context is not None and tokens_of(sample) > context:
            raise ItemError(f"it has {tokens_of(sample)} tokens, and the model's context is {context}")
        return sample
