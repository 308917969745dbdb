from __future__ import annotations

import pytest
import transformers
from tests.tiny import MAKERS, make

from eckart.kinds import (
    KINDS,
    Answers,
    answers_of,
    auto_class_of,
    kind_of,
    loader_of,
    loader_of_code,
    names_of_kinds,
)

EXPECTED = {
    "llama": ("causal", "AutoModelForCausalLM", Answers.NEXT),
    "llava": ("image-text", "AutoModelForImageTextToText", Answers.NEXT),
    "clip": ("features", "AutoModel", Answers.NONE),
    "vit": ("image-classification", "AutoModelForImageClassification", Answers.CLASS),
    "bert-masked": ("masked", "AutoModelForMaskedLM", Answers.SAME),
    "bert-classifier": ("text-classification", "AutoModelForSequenceClassification", Answers.CLASS),
    "bert": ("features", "AutoModel", Answers.NONE),
    "t5": ("seq2seq", "AutoModelForSeq2SeqLM", Answers.SAME),
    "whisper": ("speech", "AutoModelForSpeechSeq2Seq", Answers.SAME),
    "wav2vec2-ctc": ("ctc", "AutoModelForCTC", Answers.ALIGNED),
    "wav2vec2-classifier": ("audio-classification", "AutoModelForAudioClassification", Answers.CLASS),
}


@pytest.mark.parametrize("name", MAKERS)
def test_the_kind_of_a_model_in_memory(name: str) -> None:
    model, _ = make(name)
    assert (kind_of(model).name, auto_class_of(model), answers_of(model)) == EXPECTED[name]


def test_a_derived_class_is_of_the_kind_of_its_parent() -> None:
    model, _ = make("vit")
    model.__class__ = type("Mine", (type(model),), {})
    assert kind_of(model).name == "image-classification"


@pytest.mark.parametrize(
    ("architecture", "model_type", "auto_class"),
    [
        ("LlamaForCausalLM", "llama", "AutoModelForCausalLM"),
        # In the mappings of causal and of image-text models: the second says more.
        ("Gemma3ForConditionalGeneration", "gemma3", "AutoModelForImageTextToText"),
        # In the mappings of masked and of sequence-to-sequence models.
        ("BartForConditionalGeneration", "bart", "AutoModelForSeq2SeqLM"),
        ("T5EncoderModel", "t5", "AutoModelForTextEncoding"),
        ("LlamaModel", "llama", "AutoModel"),
        # Of another model type than config.json says: the class counts.
        ("LlamaForCausalLM", "mistral", "AutoModelForCausalLM"),
    ],
)
def test_the_class_that_loads_an_architecture(architecture: str, model_type: str, auto_class: str) -> None:
    loader = loader_of([architecture], model_type)
    assert loader is not None
    assert loader.auto_class == auto_class
    assert loader.loads is getattr(transformers, auto_class)


def test_without_architectures_a_language_model_is_taken() -> None:
    for model_type, name in (("llama", "causal"), ("vit", "image-classification")):
        loader = loader_of([], model_type)
        assert loader is not None
        assert loader.kind.name == name
    assert loader_of([], "none") is None


def test_what_nobody_knows() -> None:
    assert loader_of(["Nonsense"], "llama") is None
    assert loader_of_code({"AutoConfig": "x.y"}) is None
    assert loader_of_code(None) is None
    loader = loader_of_code({"AutoModelForMaskedLM": "x.y"})
    assert loader is not None
    assert loader.kind.name == "masked"


def test_the_table_names_classes_that_there_are() -> None:
    assert len({kind.name for kind in KINDS}) == len(KINDS)
    for kind in KINDS:
        assert hasattr(transformers, kind.loaders[0][0])
        assert kind.name == "features" or kind.description in names_of_kinds()
