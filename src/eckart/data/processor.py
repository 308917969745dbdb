"""A model's processor, whatever class it is of, and what the model's forward pass takes of what it gives."""

from __future__ import annotations

import inspect
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

import torch
import transformers
from torch import Tensor

from eckart.data.items import Item, ItemError
from eckart.data.samples import Sample
from eckart.errors import CalibrationError
from eckart.kinds import Kind, is_encoder_decoder, kind_of

if TYPE_CHECKING:
    from transformers import BatchFeature, PreTrainedModel, PreTrainedTokenizerBase, ProcessorMixin

SOUND_INPUTS = ("input_features", "input_values", "audio_values")
IMAGE_INPUTS = ("pixel_values", "flattened_patches", "image_patches")
FILES = {
    "tokenizer": "tokenizer.json and tokenizer_config.json",
    "images": "preprocessor_config.json (or processor_config.json)",
    "sounds": "preprocessor_config.json (or processor_config.json)",
}


@dataclass(frozen=True)
class Inputs:
    """What a model takes.

    Attributes:
        model: of transformers.
        kind: of it.
        names: of the arguments of its forward pass.
    """

    model: PreTrainedModel
    kind: Kind
    names: tuple[str, ...]

    @classmethod
    def of(cls, model: PreTrainedModel) -> Inputs:
        """Return what ``model`` takes."""
        return cls(model, kind_of(model), tuple(inspect.signature(model.forward).parameters))

    @property
    def text(self) -> bool:
        """Whether it takes tokens."""
        return "input_ids" in self.names

    @property
    def images(self) -> bool:
        """Whether it takes images."""
        return any(name in self.names for name in IMAGE_INPUTS)

    @property
    def sounds(self) -> bool:
        """Whether it takes sound."""
        return any(name in self.names for name in SOUND_INPUTS)

    @property
    def text_alone(self) -> bool:
        """Whether text without images or sound is enough."""
        return self.text and (self.kind.writes or not (self.images or self.sounds))

    @property
    def separate_decoder(self) -> bool:
        """Whether what is written is another argument than what is read."""
        return is_encoder_decoder(self.model) and "decoder_input_ids" in self.names

    def sample(self, given: Mapping[str, Any]) -> dict[str, Tensor]:
        """Return those tensors of a processor's output that the forward pass names, its labels aside."""
        named = (name for name in given if name in self.names and name != "labels")
        return {name: given[name] for name in named if isinstance(given[name], Tensor)}


@dataclass(frozen=True)
class Processor:
    """The parts of a processor; None for those that are not there.

    Attributes:
        whole: what puts text together with images or sound.
        tokenizer: of text.
        images: for images.
        sounds: for sound.
    """

    whole: ProcessorMixin | None
    tokenizer: PreTrainedTokenizerBase | None
    images: Any | None
    sounds: Any | None

    @classmethod
    def of(cls, given: Any) -> Processor:
        """Return the parts of what :func:`eckart.checkpoint.processor.load_processor` gives."""
        if isinstance(given, transformers.ProcessorMixin):
            parts = (getattr(given, name, None) for name in ("tokenizer", "image_processor", "feature_extractor"))
            return cls(given, *parts)
        if isinstance(given, transformers.PreTrainedTokenizerBase):
            return cls(None, given, None, None)
        if isinstance(given, transformers.image_processing_utils.BaseImageProcessor):
            return cls(None, None, given, None)
        return cls(None, None, None, given)

    @property
    def chat(self) -> Any | None:
        """What has a chat template, if anything has."""
        return next((part for part in (self.whole, self.tokenizer) if getattr(part, "chat_template", None)), None)

    @property
    def rate(self) -> int:
        """Samples of sound a second."""
        return int(getattr(self.need("sounds", "sound"), "sampling_rate", 16000))

    def need(self, part: str, what: str) -> Any:
        """Return a part.

        Raises:
            CalibrationError: it is not there; names the file that is missing.
        """
        found = getattr(self, part)
        if found is None:
            raise CalibrationError(
                f"The model reads {what}, and what prepares it was not found: its folder lacks {FILES[part]}. Copy "
                "that file from the original model, or give a processor (in Python)."
            )
        return found

    def __call__(
        self,
        text: str | None = None,
        images: Sequence[Any] = (),
        sounds: Sequence[Tensor] = (),
        *,
        specials: bool = True,
    ) -> dict[str, Any]:
        """Return what the parts make of one item, with a dimension of 1 in front where they give one.

        Args:
            text: with a mark for each image and each sound, where the processor wants one.
            images: in the order of their marks.
            sounds: (time,) each, at :attr:`rate`.
            specials: add the special tokens that the tokenizer puts around a text.

        Raises:
            CalibrationError: a part is missing.
            ItemError: a part cannot take what it is given; says what it said.
        """
        kinds = (text is not None) + bool(images) + bool(sounds)
        arrays = [sound.numpy() for sound in sounds]
        options: dict[str, Any] = {} if specials else {"add_special_tokens": False}
        try:
            if kinds > 1:
                given: dict[str, Any] = {"text": [text], "return_tensors": "pt", **options}
                if images:
                    given["images"] = list(images)
                if arrays:
                    given |= {"audio": arrays, "sampling_rate": self.rate}
                return _tensors(self._whole(images)(**given))
            if images:
                return _tensors(self.need("images", "images")(images=list(images), return_tensors="pt"))
            if arrays:
                hears = self.need("sounds", "sound")
                return _tensors(hears(arrays, sampling_rate=self.rate, return_tensors="pt"))
            return _tensors(self.need("tokenizer", "text")([text], return_tensors="pt", verbose=False, **options))
        except CalibrationError:
            raise
        except Exception as error:  # each processor fails in its own way
            raise ItemError(f"the processor cannot take it ({type(error).__name__}: {error})") from error

    def _whole(self, images: Sequence[Any]) -> ProcessorMixin:
        if self.whole is None:
            self.need("tokenizer", "text")
            self.need("images" if images else "sounds", "images" if images else "sound")
            raise CalibrationError(
                "The model reads text together with images or sound, and what puts them together was not found: its "
                "folder lacks processor_config.json. Copy that file from the original model."
            )
        return self.whole


def _tensors(given: BatchFeature | Mapping[str, Any]) -> dict[str, Any]:
    return {name: value if isinstance(value, Tensor) else _tensor(value) for name, value in given.items()}


def _tensor(value: Any) -> Any:
    """Return a tensor where a processor has left a list of one, and other things as they are."""
    if isinstance(value, list) and len(value) == 1 and isinstance(value[0], Tensor):
        return value[0][None]
    return value


def tokens_of(sample: Sample) -> int:
    """Return how many tokens of an item are there, and not padding; of an item without tokens, 1."""
    mask = sample.get("attention_mask")
    if mask is not None and mask.ndim == 2:
        return int(mask.sum())
    ids = sample.get("input_ids")
    return 1 if ids is None else ids.shape[-1]


def check_item(item: Item, sample: Sample) -> None:
    """Raise if a sample holds nothing to look at.

    Raises:
        ItemError: all of its tokens are padding, or numbers in it are not finite.
    """
    if not tokens_of(sample):
        raise ItemError(f"{item.where}: all tokens are padding.")
    for name, value in sample.items():
        if value.is_floating_point() and not bool(torch.isfinite(value).all()):
            raise ItemError(f"{item.where}: the processor gives {name} with numbers that are not finite.")
