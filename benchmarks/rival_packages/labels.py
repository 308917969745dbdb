"""What a row is called, and what makes it."""

from __future__ import annotations

import re
from collections.abc import Callable
from functools import partial

from eckart.errors import EckartError
from rival_packages.by_workers import of_auto_round, of_gptq, of_hqq
from rival_packages.llama_cpp import of_fork, of_preset
from rival_packages.made import Job, Made

ROUNDED = " embedding int8"  # appended to what leaves the embedding in 16 bits: rounded after it, by us
PRESETS = ("Q4_K_M", "Q4_0", "Q3_K_M", "IQ4_XS", "IQ3_XXS", "IQ2_M", "IQ2_XXS", "Q2_K")
LIGHT = 50  # AutoRound's iterations at its own light setting; its default is 200

PATTERNS: dict[str, Callable[[re.Match[str]], Callable[[Job], Made]]] = {
    r"llama\.cpp (\w+?)(?: embedding (\w+))?": lambda m: partial(of_preset, kind=m[1], embedding=m[2]),
    r"ik_llama\.cpp (\w+?)(?: embedding (\w+))?": lambda m: partial(of_fork, kind=m[1], embedding=m[2]),
    r"hqq (\d)-bit g(\d+)": lambda m: partial(of_hqq, bits=int(m[1]), group=int(m[2])),
    r"gptq \(llm-compressor\) W(\d) g(\d+)( asymmetric)?": lambda m: partial(
        of_gptq, bits=int(m[1]), group=int(m[2]), symmetric=m[3] is None
    ),
    r"auto-round W(\d) g(\d+)(?: (\d+) iterations)?": lambda m: partial(
        of_auto_round, bits=int(m[1]), group=int(m[2]), iterations=int(m[3] or LIGHT)
    ),
}


def _all() -> tuple[str, ...]:
    presets = [f"llama.cpp {kind}{embedding}" for embedding in ("", " embedding iq4_nl") for kind in PRESETS]
    rounded = [f"hqq {bits}-bit g64" for bits in (4, 3, 2)]
    fed_back = [f"gptq (llm-compressor) W{bits} g64" for bits in (4, 3, 2)]
    trained = [f"auto-round W{bits} g64" for bits in (3, 2)]
    return (*presets, *(name + end for name in (*rounded, *fed_back, *trained) for end in ("", ROUNDED)))


ALL = _all()


def split(label: str) -> tuple[str, bool]:
    """Return what a package is to make, and whether the embedding is rounded to 8 bits after it."""
    made_by, found, _ = label.partition(ROUNDED)
    return (made_by, True) if found and not made_by.split()[0].endswith("llama.cpp") else (label, False)


def maker(label: str) -> Callable[[Job], Made]:
    """Return what makes a label without :data:`ROUNDED`.

    Raises:
        EckartError: there is no such label.
    """
    for pattern, of in PATTERNS.items():
        if found := re.fullmatch(pattern, label):
            return of(found)
    raise EckartError(f"There is no rival {label!r}. Some are: {', '.join(ALL[:: len(ALL) // 5])}.")
