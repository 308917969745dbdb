"""What of task definitions would run Python code: it needs the user's word."""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path

import yaml

from eckart.errors import EckartError

PLAIN = "tag:yaml.org,2002:"
# The harness's own choice: what one parser refuses, the other may read.
LOADER = yaml.CSafeLoader if yaml.__with_libyaml__ else yaml.SafeLoader


def check_plain(folder: Path) -> None:
    """Raise if a task definition in ``folder``, or a file that one includes, names Python code.

    Raises:
        EckartError: names the file and what it names.
    """
    seen: set[Path] = set()
    waiting = sorted(folder.rglob("*.yaml"))
    while waiting:
        try:
            path = waiting.pop().resolve()
        except (OSError, ValueError, RuntimeError):  # no name of a file, or links in a circle
            continue
        if path in seen:
            continue
        seen.add(path)
        for key, node in _scalars(path):
            if _names_code(key, node):
                what = f"{key.lstrip('.')}: {node.tag} {node.value[:80]}"
                raise EckartError(
                    f"The task definition {path} names Python code ({what}), "
                    "which would be run. Expected plain YAML. If you have read that code and trust it, add "
                    "--trust-remote-code (trust_remote_code=True)."
                )
            if key.endswith(".include"):
                waiting.append(path.parent / node.value)


def _names_code(key: str, node: yaml.ScalarNode) -> bool:
    if not node.tag.startswith(PLAIN) or node.tag.startswith(f"{PLAIN}python"):
        return True
    # A metric that the harness has not is looked for as a Python script, on the disk and on the hub.
    if key == "metric_list.hf_evaluate":
        return node.value.lower() not in ("false", "no", "off")
    return key == "metric_list.metric" and node.value not in _metrics()


def _metrics() -> set[str]:
    import lm_eval.api.metrics  # noqa: F401  # fills the registry
    from lm_eval.api.registry import metric_registry

    return set(metric_registry.keys())


def _scalars(path: Path) -> Iterator[tuple[str, yaml.ScalarNode]]:
    """Yield each scalar in a file, with the last two keys on the way to it."""
    try:
        root = yaml.compose(path.read_bytes(), Loader=LOADER)
    except (OSError, UnicodeDecodeError, yaml.YAMLError, RecursionError):
        return  # the harness cannot read it either, and it is named by check_names()
    seen: set[tuple[str, int]] = set()
    waiting: list[tuple[str, yaml.Node | None]] = [("", root)]
    while waiting:
        key, node = waiting.pop()
        if node is None or (key, id(node)) in seen:
            continue
        seen.add((key, id(node)))
        if isinstance(node, yaml.ScalarNode):
            yield key, node
        elif isinstance(node, yaml.SequenceNode):
            waiting += [(key, each) for each in node.value]
        elif isinstance(node, yaml.MappingNode):
            for name, value in node.value:
                last = name.value if isinstance(name, yaml.ScalarNode) else ""
                waiting += [("", name), (key if last == "<<" else f"{key.rpartition('.')[2]}.{last}", value)]
