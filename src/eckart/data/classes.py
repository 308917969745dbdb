"""Which class of a classifier a label names."""

from __future__ import annotations

from typing import Any


def class_index(config: Any, label: str | int) -> int | None:
    """Return the index of a class, or None if the model has none of that name.

    Args:
        config: of the classifier, with its names of classes.
        label: a name, as it stands there but for case and underscores, or an index.
    """
    names: dict[int, str] = {int(index): str(name) for index, name in (config.id2label or {}).items()}
    if isinstance(label, int):
        return label if label in names else None
    wanted = _plain(label)
    found = next((index for index, name in names.items() if _plain(name) == wanted), None)
    if found is None and label.strip().isdigit():
        return class_index(config, int(label))
    return found


def names_of_classes(config: Any, most: int = 10) -> str:
    """Return the names of a classifier's classes, the first ones if there are many."""
    names = [str(name) for _, name in sorted((int(index), name) for index, name in (config.id2label or {}).items())]
    return ", ".join(names[:most]) + (f" and {len(names) - most} more" if len(names) > most else "")


def _plain(name: str) -> str:
    return " ".join(name.replace("_", " ").replace("-", " ").lower().split())
