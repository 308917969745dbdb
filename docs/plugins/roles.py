"""Makes links of the Sphinx roles in docstrings, such as those of functions and classes."""

from __future__ import annotations

import re
from typing import Any

from griffe import Extension, Object

ROLE = re.compile(r":(?:func|class|meth|data|attr|mod):`~?([\w.]+)`")


class Roles(Extension):
    """Rewrites docstrings before they are rendered."""

    def on_object(self, *, obj: Object, **kwargs: Any) -> None:
        """Turn each role into a reference that stays plain code where its target is on no page."""
        if obj.docstring is not None:
            obj.docstring.value = ROLE.sub(lambda found: _link(found[1], obj), obj.docstring.value)


def _link(name: str, obj: Object) -> str:
    target = name
    if "." not in name:
        holder = obj if obj.is_class or obj.is_module else obj.parent
        while holder is not None and name not in holder.all_members and holder.parent is not None:
            holder = holder.parent
        target = f"{holder.path}.{name}" if holder is not None else name
    return f'<autoref identifier="{target}" optional><code>{name}</code></autoref>'
