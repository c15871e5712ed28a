"""The syntax of a condition in ClickHouse's SQL, as far as a count relies on it; the server knows the rest."""

from __future__ import annotations

import re
from typing import Annotated

from pydantic import WithJsonSchema

from icekeeper.settings.values.units import text_by

# Quoted text and names, in which anything may be.
_QUOTED = re.compile(r"'(?:\\.|''|[^'\\])*'|`(?:\\.|``|[^`\\])*`|\"(?:\\.|\"\"|[^\"\\])*\"", re.DOTALL)
_ENDS_IT = re.compile(r"--|/\*|#|;|['`\"]")


def _condition(value: str) -> str:
    """A condition that stays one inside of brackets. ValueError says why it is none."""
    bare = _QUOTED.sub("x", value).strip()
    if not bare:
        raise ValueError("it is blank: leave it out to count all rows")
    if re.match(r"(WHERE|AND|OR|SELECT)\b", bare, re.IGNORECASE):
        raise ValueError(f"a condition does not begin with {bare.split()[0]}: it is written like is_deleted = 0")
    if found := _ENDS_IT.search(bare):
        raise ValueError(f"a condition has no {found[0]} outside of quoted text: it is written like is_deleted = 0")
    depth = 0
    for sign in bare:
        depth += (sign == "(") - (sign == ")")
        if depth < 0:
            break
    if depth:
        raise ValueError("its brackets don't match: it is written like is_deleted = 0")
    return value


Condition = Annotated[
    str,
    text_by(_condition),
    WithJsonSchema({"type": "string", "minLength": 1, "examples": ["is_deleted = 0"]}),
]
