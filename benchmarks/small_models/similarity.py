"""Pairs of sentences with grades of how alike they are, and sentences to calibrate an encoder on.

The groups in ``sentences.txt`` are written by hand: a sentence, a paraphrase, one in which something else happens, one
of the same field.
"""

from __future__ import annotations

import random
import re
from dataclasses import dataclass
from itertools import product
from pathlib import Path

from eckart.data.text import PYTHON_DOCS, read_text

SENTENCES = Path(__file__).with_name("sentences.txt")
PARAPHRASE, CHANGED, RELATED, UNRELATED = 3, 2, 1, 0
LENGTHS = (40, 200)  # characters of a sentence of the language reference that is taken

WHO = (
    "The young teacher",
    "My neighbour",
    "An old sailor",
    "The mayor of the village",
    "A group of tourists",
    "Her brother",
    "The chef",
    "One of the nurses",
)
DID = ("lost", "found", "painted", "repaired", "photographed", "borrowed", "described", "hid")
WHAT = (
    "a wooden chair",
    "the yellow bus",
    "an expensive watch",
    "a letter from Spain",
    "two small boats",
    "the broken radio",
    "a basket of apples",
    "the longest ladder",
)
WHERE = (
    "near the harbour",
    "in the attic",
    "behind the church",
    "on a rainy Sunday",
    "before the meeting began",
    "at the end of the summer",
    "during the school holidays",
    "without telling anybody",
)


@dataclass(frozen=True)
class Pair:
    """Two sentences, and how alike they are: from 0, of other matters, to 3, a paraphrase."""

    first: str
    second: str
    grade: int


def pairs_of(part: str) -> list[Pair]:
    """Return the pairs of ``validation`` or ``test``, which share no sentence; four grades, equally often.

    Raises:
        ValueError: there is no such part.
    """
    if part not in ("validation", "test"):
        raise ValueError(f"Pairs are of the parts validation and test; found {part!r}.")
    text = SENTENCES.read_text(encoding="utf-8").strip()
    groups = [group.split("\n") for group in text.split("\n\n")][part == "test" :: 2]
    pairs = []
    for number, (sentence, *others) in enumerate(groups):
        pairs += [Pair(sentence, o, g) for o, g in zip(others, (PARAPHRASE, CHANGED, RELATED), strict=True)]
        pairs.append(Pair(sentence, groups[(number + 1) % len(groups)][0], UNRELATED))
    return pairs


def sentences_of(part: str) -> list[str]:
    """Return all sentences of the pairs of a part, once each, in order."""
    return list(dict.fromkeys(sentence for pair in pairs_of(part) for sentence in (pair.first, pair.second)))


def training_sentences(count: int, seed: int = 0) -> list[str]:
    """Return sentences to calibrate on, none of which is in a pair: made of parts, and of the language reference.

    Raises:
        ValueError: there are fewer.
    """
    made = [f"{' '.join(words)}." for words in product(WHO, DID, WHAT, WHERE)]
    text = re.sub(r"\s+", " ", read_text(PYTHON_DOCS))
    shortest, longest = LENGTHS
    prose = re.findall(r"(?<=[.:] )[A-Z][\w ,'()-]+\.(?= )", text)
    read = sorted({sentence for sentence in prose if shortest <= len(sentence) <= longest})
    draw = random.Random(seed)
    half = count // 2
    if half > len(read) or count - half > len(made):
        raise ValueError(f"There are {len(read)} and {len(made)} sentences to calibrate on; {count} were asked for.")
    chosen = draw.sample(read, half) + draw.sample(made, count - half)
    draw.shuffle(chosen)
    return chosen
