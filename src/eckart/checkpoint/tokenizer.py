"""The tokenizer beside a model: there, not there, or there and impossible to load."""

from __future__ import annotations

import shutil
from pathlib import Path

from transformers import AutoTokenizer, PreTrainedTokenizerBase
from transformers.utils import cached_file

from eckart.checkpoint.folder import QUIET, check_folder
from eckart.checkpoint.gguf import load_gguf_tokenizer
from eckart.checkpoint.library import loading, reason_of
from eckart.errors import CheckpointError
from eckart.files.names import file_inside

# What tokenizers of all kinds are stored in: by how the name begins, and by how it ends.
BEGINNINGS = ("tokenizer", "tokenization", "vocab", "merges", "spiece", "sentencepiece", "source.spm", "target.spm")
MORE_BEGINNINGS = ("special_tokens_map", "added_tokens", "chat_template", "tekken", "bpe.codes")
ENDINGS = (".model", ".tiktoken", ".spm", ".vocab")
# Of these, the ones without which there is no tokenizer, as they are called in a hub's repository.
ON_A_HUB = ("tokenizer.json", "tokenizer.model", "tokenizer_config.json", "vocab.json", "vocab.txt", "spiece.model")
PROBE = "a word"


def load_tokenizer(source: str | Path, *, trust_remote_code: bool = False) -> PreTrainedTokenizerBase | None:
    """Return the tokenizer at ``source``, or None if it has no file of a tokenizer.

    Args:
        source: a local folder, a hub id, or a ``.gguf`` file.
        trust_remote_code: whether Python code that comes with it may be run.

    Raises:
        CheckpointError: there is one that cannot be loaded; says why.
    """
    path = Path(source)
    try:
        with loading():
            if path.suffix == ".gguf":
                return load_gguf_tokenizer(path)
            check_folder(source)
            tokenizer = AutoTokenizer.from_pretrained(source, trust_remote_code=trust_remote_code)
            tokenizer(PROBE)  # some settings that cannot be are found at the first use
            return tokenizer
    except CheckpointError:
        raise
    except Exception as error:  # every tokenizer class fails in its own way
        if not _has_files(source):
            return None
        raise CheckpointError(
            f"The tokenizer of {source} is there, but cannot be loaded: {reason_of(error, source)}"
        ) from error


def copy_tokenizer(source: str | Path, target: Path) -> list[str]:
    """Copy the files of a tokenizer from one folder into another as they are, and return their names."""
    names = tokenizer_files(source)
    for name in names:
        shutil.copyfile(file_inside(source, name), target / name)
    return names


def tokenizer_files(source: str | Path) -> list[str]:
    """Return the names of the files of a tokenizer in a local folder."""
    folder = Path(source)
    if not folder.is_dir():
        return []
    return sorted(path.name for path in folder.iterdir() if path.is_file() and _is_of_tokenizer(path.name))


def _has_files(source: str | Path) -> bool:
    path = Path(source)
    if path.is_file():  # of GGUF
        return True
    if path.is_dir():
        # What only says how to talk, or which token is which, is no tokenizer yet.
        return any(not name.startswith(MORE_BEGINNINGS[:3]) for name in tokenizer_files(path))
    try:
        return any(cached_file(str(source), name, **QUIET) for name in ON_A_HUB)
    except (OSError, ValueError):  # no such repository, or no name of one
        return False


def _is_of_tokenizer(name: str) -> bool:
    return name.startswith(BEGINNINGS + MORE_BEGINNINGS) or name.endswith(ENDINGS)
