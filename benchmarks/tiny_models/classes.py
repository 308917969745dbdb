"""The classes of transformers, by what they are for: one entry for each config class and kind."""

from __future__ import annotations

import re
from collections.abc import Iterable
from dataclasses import dataclass

from transformers.models.auto import modeling_auto
from transformers.models.auto.configuration_auto import CONFIG_MAPPING_NAMES

# Of a kind with several mappings, the first that knows a config is taken.
KINDS = {
    "causal": ("FOR_CAUSAL_LM",),
    "image-text": ("FOR_IMAGE_TEXT_TO_TEXT", "FOR_MULTIMODAL_LM"),
    "seq2seq": ("FOR_SEQ_TO_SEQ_CAUSAL_LM",),
    "speech": ("FOR_SPEECH_SEQ_2_SEQ",),
    "masked": ("FOR_MASKED_LM",),
    "classification": ("FOR_SEQUENCE_CLASSIFICATION",),
    "image": ("FOR_IMAGE_CLASSIFICATION", "FOR_IMAGE"),
    "audio": ("FOR_CTC", "FOR_AUDIO_CLASSIFICATION"),
    "other": ("",),
}


@dataclass(frozen=True)
class Entry:
    """A class of models.

    Attributes:
        kind: a key of :data:`KINDS`.
        model_type: of its config.
        model_class: its name in transformers.
    """

    kind: str
    model_type: str
    model_class: str

    @property
    def is_text(self) -> bool:
        """Whether it is run on text alone, even where its class takes images or sounds, too."""
        return self.kind == "causal"

    @property
    def name(self) -> str:
        """By which it is chosen and told apart, such as ``causal/llama``."""
        return f"{self.kind}/{self.model_type}"


def entries(kinds: Iterable[str] = KINDS) -> list[Entry]:
    """Return the entries of some kinds, in the order of :data:`KINDS` and of the names of configs.

    A class is in one kind only: where kinds share it, in the first. Sequence classification is asked only of what has
    no masked language model, and ``other`` are the classes of ``AutoModel`` whose config is in no other kind.
    """
    masked = _mapping("FOR_MASKED_LM")
    found: dict[str, list[Entry]] = {}
    known: set[tuple[str, str]] = set()
    configs: set[str] = set()
    for kind, mappings in KINDS.items():
        classes: dict[str, str] = {}
        for mapping in mappings:
            for model_type, model_class in _mapping(mapping).items():
                classes.setdefault(model_type, model_class)
        chosen = []
        for model_type, model_class in sorted(classes.items(), key=lambda item: (_is_alias(item[0]), item[0])):
            config = CONFIG_MAPPING_NAMES[model_type]
            if (kind == "classification" and model_type in masked) or (kind == "other" and config in configs):
                continue
            if (config, model_class) not in known:
                chosen.append(Entry(kind, model_type, model_class))
            known.add((config, model_class))
        configs.update(CONFIG_MAPPING_NAMES[model_type] for model_type in classes)
        found[kind] = sorted(chosen, key=lambda entry: entry.model_type)
    return [entry for kind in kinds for entry in found[kind]]


def _is_alias(model_type: str) -> bool:
    """Return whether a type's config is named after another type."""
    name = re.sub("[^a-z0-9]", "", model_type)
    config: str = CONFIG_MAPPING_NAMES[model_type]
    return f"{name}config" != config.lower().replace("_", "")


def _mapping(name: str) -> dict[str, str]:
    names = getattr(modeling_auto, f"MODEL_{name}_MAPPING_NAMES" if name else "MODEL_MAPPING_NAMES")
    # Some configs have several classes, of which the first is the one that is meant without more words.
    return {key: value if isinstance(value, str) else value[0] for key, value in names.items()}
