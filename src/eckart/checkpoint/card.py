"""The model card that is written into a compressed model's folder."""

from __future__ import annotations

import re
from collections.abc import Sequence
from typing import TYPE_CHECKING

from eckart.checkpoint.origin import front_matter
from eckart.compression.model_check import MOST_SHARE
from eckart.compression.result import CompressionResult
from eckart.kinds import auto_class_of
from eckart.methods.recipe import Recipe

if TYPE_CHECKING:
    from transformers import PreTrainedModel

# What Markdown or HTML take for their own: written as numbers, characters are only themselves.
MARKS = re.compile(r"[\\`*\[\]<>&|#!$~^{}@]|(?<!\w)_|_(?!\w)|:(?=//)|(?<=www)\.|^[-+=]", re.IGNORECASE)

TEMPLATE = """\
---
{front}
---

# {source}, compressed to {keep:.1%} of its linear layers

{source} with {factored} of {linears} linear layers replaced by {what}, made by
[Eckart](https://pypi.org/project/eckart/) {version}.{again}

{use}

| | |
|---|---|
| recipe | {recipe} |
| what it is | {reference} |
{paper}| layout | {layout} |
| bytes of the linear layers kept | {keep:.2%} |
| bytes of the whole model kept | {whole:.2%} ({before:.1f} to {after:.1f} MB, at 16 bits) |
{reached}| calibration | {calibration} |
| mean relative error of the layers on it, as factored | {error:.3f} |
{prepared}| refined afterwards | {refined} |

The recipe and the versions of the software are in `config.json`, the ranks and errors of all layers in
`eckart/report.json`. The licence is that of the original model{licences}.
"""

USE = """\
```python
import eckart  # registers the format; pip install eckart
from transformers import {auto_class}

model = {auto_class}.from_pretrained("PATH_OR_ID_OF_THIS_MODEL")
```

Without `import eckart`, transformers stops with an error that says so. `eckart merge` multiplies the factors back into
a dense model that loads anywhere."""
USE_STANDARD = """\
```python
from transformers import {auto_class}  # and pip install compressed-tensors

model = {auto_class}.from_pretrained("PATH_OR_ID_OF_THIS_MODEL")
```

Nothing is factored: the weights are in the format of compressed-tensors, which other programs read too."""
USE_PLAIN = """\
```python
from transformers import {auto_class}

model = {auto_class}.from_pretrained("PATH_OR_ID_OF_THIS_MODEL")
```

Nothing is factored: it is a model of its class with fewer hidden units, as its `config.json` says."""


AGAIN = (
    "\n\nThe model was loaded and saved again since, and may have been trained in between. The numbers below are those "
    "of its compression."
)


def model_card(
    model: PreTrainedModel,
    report: CompressionResult,
    *,
    again: bool = False,
    standard: bool = False,
    licences: Sequence[str] = (),
) -> str:
    """Return the text of the card.

    Args:
        model: compressed.
        report: of its compression.
        again: whether it was loaded since, and so may have been changed.
        standard: whether it is written in a format that other programs read too.
        licences: names of files beside the card.
    """
    provenance = model.config.quantization_config.provenance
    calibration = "none"
    if report.calibration:
        record = report.calibration
        calibration = (
            f"{record.samples} x {record.length} tokens of {code(record.source)}, seed {record.seed}, "
            f"SHA-256 of the ids `{record.sha256[:16]}`"
        )
    auto_class = auto_class_of(model)
    return TEMPLATE.format(
        front=front_matter(
            model.config.name_or_path, provenance["source"], report.calibration.source if report.calibration else None
        ),
        use=(USE if not standard else USE_PLAIN if report.recipe.pairs.narrows else USE_STANDARD).format(
            auto_class=auto_class
        ),
        licences=f" ({', '.join(map(code, licences))})" if licences else "",
        source=plain(provenance["source"]),
        version=plain(provenance["versions"]["eckart"]),
        again=AGAIN if again else "",
        keep=report.keep,
        factored=len(report.ranks),
        what="narrower ones" if report.recipe.pairs.narrows else "low-rank factors",
        linears=len(report.layers),
        recipe=code(report.recipe.name),
        reference=plain(report.recipe.reference),
        paper=f"| paper | {plain(report.recipe.citation)} |\n" if report.recipe.paper else "",
        layout=_layout(report.recipe),
        whole=report.keep_whole_model,
        before=report.whole_bytes / 1e6,
        after=report.whole_bytes_after / 1e6,
        reached=_reached(report),
        calibration=calibration,
        prepared=_prepared(report),
        refined=f"{len(report.refinements)} blocks, as a whole" if report.refinements else "no",
        error=sum(layer.error for layer in report.layers) / len(report.layers),
    )


def plain(text: object) -> str:
    """Return text of somebody else as a line of Markdown that shows it, and neither formats, links nor runs it."""
    return MARKS.sub(lambda mark: f"&#{ord(mark[0])};", _line(text))


def code(text: object) -> str:
    """Return text of somebody else in the type of code, in a cell of a table."""
    line = _line(text).replace("|", "\\|")
    longest = max(map(len, re.findall("`+", line)), default=0)
    return f"`{line}`" if line and not longest else f"{'`' * (longest + 1)} {line} {'`' * (longest + 1)}"


def _reached(report: CompressionResult) -> str:
    """Return a row on how much is in linear layers that were looked at, if a part of the blocks is not."""
    check = report.check
    if check is None or check.share_of_blocks >= MOST_SHARE:
        return ""
    return (
        f"| reached | {check.share_of_model:.1%} of the weights' bytes, {check.share_of_blocks:.1%} of the blocks' |\n"
    )


def _prepared(report: CompressionResult) -> str:
    """Return a row on how many blocks were trained before they were factored, if any were."""
    taken = sum(bool(record.kept_epoch) for record in report.preparations)
    count = len(report.preparations)
    return f"| prepared before | {count} blocks; of {taken} the prepared weights lost less |\n" if count else ""


def _line(text: object) -> str:
    return " ".join("".join(c if c.isprintable() else " " for c in str(text)).split())


def _layout(recipe: Recipe) -> str:
    """Return the choices that say how the linear layers are stored."""
    if recipe.pairs.narrows:
        return "fewer hidden units, values or rotary planes, none of it factored"
    biases = ", with a bias each" if recipe.objective.adds_bias else ""
    return f"{plain(recipe.structure.name)}, {recipe.precision.name}, bases {recipe.sharing.name}{biases}"
