"""Kinds of models: which class of transformers loads one, what it reads, and what is measured of it.

This is the one table of kinds. A folder's ``architectures`` names a class; the auto mappings of transformers say which
task it is for, and a kind is one or more tasks that are fed and measured alike. The first kind that has a class counts.
"""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from enum import StrEnum
from functools import cache
from importlib import import_module
from typing import TYPE_CHECKING, Any

import transformers

if TYPE_CHECKING:
    from transformers import PreTrainedModel


class Answers(StrEnum):
    """Where a model's answer to an item is, among its outputs."""

    NEXT = "next"  # logits of a token are those of the next one
    SAME = "same"  # logits of a token are its own
    CLASS = "class"  # one row of logits an item
    ALIGNED = "aligned"  # logits of frames, whose alignment with the answer is unknown
    NONE = "none"


@dataclass(frozen=True)
class Kind:
    """A kind of model.

    Attributes:
        name: of it.
        description: of its models, in the plural.
        loaders: an auto class of transformers and the name of its mapping from a model type to classes, of each task.
        answers: where its answers are, if it has no separate decoder.
        measures: what ``eckart eval`` measures on items if nothing else is asked for.
    """

    name: str
    description: str
    loaders: tuple[tuple[str, str], ...]
    answers: Answers
    measures: tuple[str, ...]

    @property
    def writes(self) -> bool:
        """Whether its models write text: they are calibrated on answers, and have a perplexity."""
        return "perplexity" in self.measures and self.name != "masked"


def _loader(task: str, mapping: str) -> tuple[str, str]:
    return f"AutoModel{task}", f"MODEL_{mapping}MAPPING_NAMES"


CAUSAL = Kind(
    "causal",
    "language models (decoders)",
    (_loader("ForCausalLM", "FOR_CAUSAL_LM_"),),
    Answers.NEXT,
    ("perplexity",),
)
FEATURES = Kind(
    "features",
    "models without a head of their own task, such as embedding models",
    (
        _loader("", ""),
        _loader("ForTextEncoding", "FOR_TEXT_ENCODING_"),
        _loader("ForZeroShotImageClassification", "FOR_ZERO_SHOT_IMAGE_CLASSIFICATION_"),
        _loader("ForMaskedImageModeling", "FOR_MASKED_IMAGE_MODELING_"),
        _loader("ForSemanticSegmentation", "FOR_SEMANTIC_SEGMENTATION_"),
        _loader("ForDepthEstimation", "FOR_DEPTH_ESTIMATION_"),
        _loader("ForObjectDetection", "FOR_OBJECT_DETECTION_"),
        _loader("ForAudioFrameClassification", "FOR_AUDIO_FRAME_CLASSIFICATION_"),
        _loader("ForAudioXVector", "FOR_AUDIO_XVECTOR_"),
        _loader("ForPreTraining", "FOR_PRETRAINING_"),
    ),
    Answers.NONE,
    ("similarity", "distance"),
)
# Several classes are in more than one mapping: those that read images or sound are looked at first.
KINDS = (
    Kind(
        "image-text",
        "language models that read images",
        (_loader("ForImageTextToText", "FOR_IMAGE_TEXT_TO_TEXT_"),),
        Answers.NEXT,
        ("perplexity", "accuracy"),
    ),
    Kind(
        "speech",
        "language models that read sound",
        (
            _loader("ForSpeechSeq2Seq", "FOR_SPEECH_SEQ_2_SEQ_"),
            _loader("ForMultimodalLM", "FOR_MULTIMODAL_LM_"),
        ),
        Answers.NEXT,
        ("perplexity", "accuracy"),
    ),
    Kind(
        "seq2seq",
        "encoder-decoders of text",
        (_loader("ForSeq2SeqLM", "FOR_SEQ_TO_SEQ_CAUSAL_LM_"),),
        Answers.NEXT,
        ("perplexity", "accuracy"),
    ),
    CAUSAL,
    Kind(
        "masked",
        "encoders with a head for masked tokens",
        (_loader("ForMaskedLM", "FOR_MASKED_LM_"),),
        Answers.SAME,
        ("perplexity", "accuracy"),
    ),
    Kind(
        "text-classification",
        "classifiers of texts",
        (_loader("ForSequenceClassification", "FOR_SEQUENCE_CLASSIFICATION_"),),
        Answers.CLASS,
        ("accuracy",),
    ),
    Kind(
        "token-classification",
        "classifiers of tokens, and of where an answer is",
        (
            _loader("ForTokenClassification", "FOR_TOKEN_CLASSIFICATION_"),
            _loader("ForQuestionAnswering", "FOR_QUESTION_ANSWERING_"),
        ),
        Answers.NONE,
        ("divergence",),
    ),
    Kind(
        "image-classification",
        "classifiers of images",
        (_loader("ForImageClassification", "FOR_IMAGE_CLASSIFICATION_"),),
        Answers.CLASS,
        ("accuracy",),
    ),
    Kind(
        "audio-classification",
        "classifiers of sound",
        (_loader("ForAudioClassification", "FOR_AUDIO_CLASSIFICATION_"),),
        Answers.CLASS,
        ("accuracy",),
    ),
    Kind(
        "ctc",
        "encoders of speech with a head for letters",
        (_loader("ForCTC", "FOR_CTC_"),),
        Answers.ALIGNED,
        ("errors", "divergence"),
    ),
    FEATURES,
)


@dataclass(frozen=True)
class Loader:
    """How a model of some architecture is loaded.

    Attributes:
        kind: of the model.
        auto_class: the name of the class of transformers that loads it.
    """

    kind: Kind
    auto_class: str

    @property
    def loads(self) -> Any:
        """The class, whose ``from_pretrained`` loads the model."""
        return getattr(transformers, self.auto_class)


def loader_of(architectures: Sequence[str], model_type: str | None) -> Loader | None:
    """Return what loads a model.

    Args:
        architectures: names of classes, as ``config.json`` has them; none stand for a language model if the model type
            has one.
        model_type: of ``config.json``.

    Returns:
        The first in :data:`KINDS` whose mapping has one of the classes for this model type, or else for any; None if
        there is none.
    """
    for kind, auto_class, mapping in _loaders():
        if set(architectures) & set(mapping.get(model_type or "", ())):
            return Loader(kind, auto_class)
    if not architectures:
        known = [(kind, auto_class) for kind, auto_class, mapping in _loaders() if model_type in mapping]
        return Loader(*next((row for row in known if row[0] is CAUSAL), known[0])) if known else None
    for kind, auto_class, mapping in _loaders():
        if set(architectures) & {name for names in mapping.values() for name in names}:
            return Loader(kind, auto_class)
    return None


def loader_of_code(auto_map: object) -> Loader | None:
    """Return what loads a model that comes with code of its own, by the ``auto_map`` of its ``config.json``."""
    named = auto_map if isinstance(auto_map, dict) else {}
    return next((Loader(kind, name) for kind in KINDS for name, _ in kind.loaders if name in named), None)


def kind_of(model: PreTrainedModel) -> Kind:
    """Return the kind of a model in memory: by its class, or one that it is derived from."""
    model_type = getattr(model.config, "model_type", None)
    for ancestor in type(model).__mro__:
        found = loader_of([ancestor.__name__], model_type)
        if found is not None:
            return found.kind
    return CAUSAL if model.can_generate() else FEATURES


def auto_class_of(model: PreTrainedModel) -> str:
    """Return the name of the class of transformers that loads what ``model`` is saved as."""
    found = loader_of([type(model).__name__], getattr(model.config, "model_type", None))
    return found.auto_class if found else kind_of(model).loaders[0][0]


def answers_of(model: PreTrainedModel) -> Answers:
    """Return where the answers of a model in memory are."""
    kind = kind_of(model)
    return Answers.SAME if kind.writes and is_encoder_decoder(model) else kind.answers


def is_encoder_decoder(model: PreTrainedModel) -> bool:
    """Return whether a model reads with one part and writes with another one."""
    return bool(getattr(model.config, "is_encoder_decoder", False))


def names_of_kinds() -> str:
    """Return all kinds in words, for a message."""
    return "; ".join(f"{kind.description} ({', '.join(name for name, _ in kind.loaders)})" for kind in KINDS)


@cache
def _loaders() -> tuple[tuple[Kind, str, dict[str, tuple[str, ...]]], ...]:
    return tuple(_rows())


def _rows() -> Iterator[tuple[Kind, str, dict[str, tuple[str, ...]]]]:
    modeling_auto = import_module("transformers.models.auto.modeling_auto")  # takes seconds: not before it is asked for
    for kind in KINDS:
        for auto_class, name in kind.loaders:
            # A newer or older transformers may lack one of the tasks.
            if hasattr(transformers, auto_class) and hasattr(modeling_auto, name):
                mapping = getattr(modeling_auto, name)
                yield kind, auto_class, {k: (v,) if isinstance(v, str) else tuple(v) for k, v in mapping.items()}
