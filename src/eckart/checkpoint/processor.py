"""What turns images, sound and text into a model's inputs: its processor, or a tokenizer where it reads text only."""

from __future__ import annotations

import shutil
from pathlib import Path
from typing import Any

from transformers import AutoFeatureExtractor, AutoImageProcessor, AutoProcessor
from transformers.utils import cached_file

from eckart.checkpoint.folder import QUIET, check_folder
from eckart.checkpoint.library import loading, reason_of
from eckart.checkpoint.tokenizer import load_tokenizer
from eckart.errors import CheckpointError
from eckart.files.names import file_inside

# Of processors that read more than text, and of sentence-transformers, which says how tokens become one vector.
FILES = (
    "preprocessor_config.json",
    "processor_config.json",
    "video_preprocessor_config.json",
    "audio_tokenizer_config.json",
    "modules.json",
    "sentence_bert_config.json",
    "config_sentence_transformers.json",
    "1_Pooling/config.json",
)
OF_PROCESSORS = FILES[:2]


def load_processor(source: str | Path, *, trust_remote_code: bool = False) -> Any | None:
    """Return what makes a model's inputs: a processor, an image processor, a feature extractor or a tokenizer.

    Args:
        source: a local folder, a hub id, or a ``.gguf`` file.
        trust_remote_code: whether Python code that comes with it may be run.

    Returns:
        What reads most; a tokenizer if there are no files of a processor; None if there is nothing of either.

    Raises:
        CheckpointError: there are files of one that cannot be loaded; says why.
    """
    if Path(source).suffix == ".gguf" or not has_processor(source):
        return load_tokenizer(source, trust_remote_code=trust_remote_code)
    first: Exception | None = None
    with loading():
        check_folder(source)
        # The first wants all parts that models of this type may have: one that reads sound may lack the tokenizer.
        for auto in (AutoProcessor, AutoImageProcessor, AutoFeatureExtractor):
            try:
                return auto.from_pretrained(source, trust_remote_code=trust_remote_code)
            except Exception as error:  # every class fails in its own way
                first = first or error
    assert first is not None
    raise CheckpointError(
        f"The processor of {source} is there ({', '.join(OF_PROCESSORS)}), but cannot be loaded: "
        f"{reason_of(first, source)}"
    ) from first


def copy_processor(source: str | Path, target: Path) -> list[str]:
    """Copy the files of a processor into a folder as they are, and return their names.

    Args:
        source: a local folder or a hub id; a ``.gguf`` file has none.
        target: folder.
    """
    names = []
    for name in FILES:
        path = _find(source, name)
        if path is not None:
            (target / name).parent.mkdir(exist_ok=True)
            shutil.copyfile(path, target / name)
            names.append(name)
    return names


def has_processor(source: str | Path) -> bool:
    """Return whether a model has the files of a processor."""
    return any(_find(source, name) is not None for name in OF_PROCESSORS)


def _find(source: str | Path, name: str) -> Path | None:
    """Return the path of a file of a model, or None if the model has none of that name."""
    if Path(source).exists():
        return file_inside(source, name) if (Path(source) / name).is_file() else None
    try:
        found = cached_file(str(source), name, **QUIET)
    except (OSError, ValueError):  # no such repository, or no name of one
        return None
    return None if found is None else Path(found)
