"""The models as a benchmark asks for them: the dense one, what it is calibrated on, and how good one is."""

from __future__ import annotations

import functools
import math
from abc import ABC, abstractmethod
from pathlib import Path
from typing import Any, ClassVar

from torch import Tensor
from torch.nn import functional
from transformers import (
    AutoModel,
    AutoModelForCausalLM,
    AutoModelForImageTextToText,
    AutoProcessor,
    AutoTokenizer,
    PreTrainedModel,
)

import eckart
from eckart.data.draw import draw_samples, tokenize
from small_models import decoder, encoder, mixture, vision_language
from small_models.examination import MEAN, Exam, accuracy, make_exam
from small_models.similarity import pairs_of, sentences_of, training_sentences
from small_models.texts import text_parts

Samples = Tensor | list[dict[str, Tensor]]


class Subject(ABC):
    """A model and its task.

    Args:
        quick: make a smaller model, in two minutes at most.
        cache: folder of what is made; None for the platform's own.

    Attributes:
        folder: of the dense model.
        name: of the model.
        score: the number of :meth:`quality` that counts.
        parts: what of the model can be compressed alone: patterns of module paths, by name; none for all of it.
        samples: of calibration, if nobody says how many.
    """

    name: ClassVar[str]
    score: ClassVar[str]
    parts: ClassVar[dict[str, tuple[str, ...]]] = {"all": ()}
    samples: ClassVar[int] = 256
    folder: Path

    @abstractmethod
    def __init__(self, *, quick: bool = False, cache: Path | None = None) -> None: ...

    @abstractmethod
    def load(self) -> PreTrainedModel:
        """Return the dense model."""

    @abstractmethod
    def calibration(self, samples: int, seed: int = 0) -> Samples:
        """Return samples of the training part as :func:`eckart.compress` takes them."""

    @abstractmethod
    def quality(self, model: PreTrainedModel, part: str) -> dict[str, float]:
        """Return what a model scores on ``validation`` or ``test``, by the name of the score."""


class VisionLanguage(Subject):
    """Answers questions about pictures."""

    name, score = "vision-language", MEAN
    parts: ClassVar = {"language": ("*language_model*",), "vision": ("*vision_tower*",), "both": ()}
    questions: ClassVar[int] = 100  # of each kind

    def __init__(self, *, quick: bool = False, cache: Path | None = None) -> None:
        self.settings = vision_language.QUICK if quick else vision_language.Settings()
        self.folder = vision_language.trained(self.settings, cache)
        self.processor = AutoProcessor.from_pretrained(self.folder)
        self.exam = functools.cache(lambda part: make_exam(part, self.questions, self.settings.seed))

    def load(self) -> PreTrainedModel:
        model: PreTrainedModel = AutoModelForImageTextToText.from_pretrained(self.folder)
        return model.eval()

    def calibration(self, samples: int, seed: int = 0) -> Samples:
        numbers = range(seed * samples, (seed + 1) * samples)
        chats = vision_language.chats_of("train", numbers, self.settings.questions, self.settings.seed)
        return [vision_language.encode(self.processor, [chat]) for chat in chats]

    def quality(self, model: PreTrainedModel, part: str) -> dict[str, float]:
        exam: Exam = self.exam(part)
        return accuracy(model, self.processor, exam)


class LanguageModel(Subject):
    """Predicts the next token of a text, by default of what comes with Python."""

    score = "perplexity"
    samples: ClassVar[int] = 128
    windows: ClassVar[int] = 100
    settings: decoder.Settings | mixture.Settings

    @classmethod
    @abstractmethod
    def trained(cls, quick: bool, text: str | None, cache: Path | None) -> tuple[Any, Path]:
        """Return the settings and the folder of the trained model."""

    def __init__(self, *, quick: bool = False, cache: Path | None = None, text: str | None = None) -> None:
        self.settings, self.folder = self.trained(quick, text, cache)
        self.tokenizer = AutoTokenizer.from_pretrained(self.folder)
        texts = text_parts(text)
        self.ids = functools.cache(lambda part: tokenize(texts[part], self.tokenizer))

    def load(self) -> PreTrainedModel:
        model: PreTrainedModel = AutoModelForCausalLM.from_pretrained(self.folder)
        return model.eval()

    def calibration(self, samples: int, seed: int = 0) -> Samples:
        return draw_samples(self.ids("train"), samples, self.settings.length, seed, "train")

    def quality(self, model: PreTrainedModel, part: str) -> dict[str, float]:
        length = self.settings.length
        windows = min(self.windows, len(self.ids(part)) // length)
        found = eckart.perplexity(model, self.ids(part), length=length, windows=windows)
        return {"perplexity": found.perplexity, "log_perplexity": found.log_perplexity}


class Decoder(LanguageModel):
    """The dense one."""

    name = "decoder"

    @classmethod
    def trained(cls, quick: bool, text: str | None, cache: Path | None) -> tuple[decoder.Settings, Path]:
        settings = decoder.QUICK if quick else decoder.Settings()
        return settings, decoder.trained(settings, text, cache)


class Mixture(LanguageModel):
    """The one with experts."""

    name = "mixture"

    @classmethod
    def trained(cls, quick: bool, text: str | None, cache: Path | None) -> tuple[mixture.Settings, Path]:
        settings = mixture.QUICK if quick else mixture.Settings()
        return settings, mixture.trained(settings, text, cache)

    def evenness(self, model: PreTrainedModel, part: str) -> dict[str, float]:
        """Return how evenly tokens of a part are spread over experts (see :func:`mixture.evenness`)."""
        length = self.settings.length
        ids = self.ids(part)[: 32 * length]
        return mixture.evenness(model, ids[: len(ids) // length * length].view(-1, length))


class Encoder(Subject):
    """Tells how alike two sentences are."""

    name, score = "encoder", "spearman"

    def __init__(self, *, quick: bool = False, cache: Path | None = None) -> None:
        self.folder = encoder.fetched(cache)  # nothing is trained: there is no quicker one
        self.tokenizer = AutoTokenizer.from_pretrained(self.folder)
        self.dense = functools.cache(lambda part: encoder.embed(self.load(), self.tokenizer, sentences_of(part)))

    def load(self) -> PreTrainedModel:
        model: PreTrainedModel = AutoModel.from_pretrained(self.folder)
        return model.eval()

    def calibration(self, samples: int, seed: int = 0) -> Samples:
        sentences = training_sentences(samples, seed)
        return [dict(self.tokenizer(sentence, return_tensors="pt")) for sentence in sentences]

    def quality(self, model: PreTrainedModel, part: str) -> dict[str, float]:
        alike = functional.cosine_similarity(
            encoder.embed(model, self.tokenizer, sentences_of(part)), self.dense(part), dim=1
        )
        found = encoder.rank_correlation(model, self.tokenizer, pairs_of(part))
        return {"spearman": 0.0 if math.isnan(found) else found, "cosine to dense": float(alike.mean())}


SUBJECTS: dict[str, type[Subject]] = {kind.name: kind for kind in (VisionLanguage, Mixture, Encoder, Decoder)}
