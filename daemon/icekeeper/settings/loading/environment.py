"""The ICEKEEPER_BLOCK__KEY variables as data that overrides the file's. Validating the values: settings/model.py."""

from __future__ import annotations

import json
import re
from collections.abc import Mapping
from dataclasses import dataclass, field
from typing import Any

from icekeeper.settings.loading.document import KeyPath, dotted
from icekeeper.settings.messages.known_keys import field_at, kind_of, model_in, unknown
from icekeeper.settings.messages.mistakes import Mistake

PREFIX = "ICEKEEPER_"
CONFIG_VARIABLE = f"{PREFIX}CONFIG"
# Kubernetes sets such variables in every container of a namespace with a service named icekeeper.
_OF_A_SERVICE = re.compile(rf"{PREFIX}(SERVICE_.*|PORT|PORT_.*)")


@dataclass
class Overrides:
    """The data, the variable that each key comes from, and mistakes in the variables themselves."""

    data: dict[str, Any] = field(default_factory=dict)
    variables: dict[KeyPath, str] = field(default_factory=dict)
    mistakes: list[Mistake] = field(default_factory=list)


def overrides(environ: Mapping[str, str]) -> Overrides:
    """The overrides of all variables. The variable of a key wins over that of its block, which sorts before it."""
    found = Overrides()
    for name in sorted(environ):
        if not name.startswith(PREFIX) or name == CONFIG_VARIABLE or _OF_A_SERVICE.fullmatch(name):
            continue
        at = tuple(name.removeprefix(PREFIX).lower().split("__"))
        sentence = _misplaced(at)
        value: Any = environ[name]
        if sentence is None:
            value, sentence = _value(at, value)
        if sentence is not None:
            found.mistakes.append(Mistake(at, sentence, variable=name))
            continue
        found.data = merged(found.data, _nested(at, value))
        for path in _leaves(at, value):
            found.variables[path] = name
    return found


def merged(below: Mapping[str, Any], above: Mapping[str, Any]) -> dict[str, Any]:
    """`above` merged over `below`, key by key. A block does not replace a plain value: that stays, and is reported."""
    result = dict(below)
    for key, value in above.items():
        under = result.get(key)
        if isinstance(value, dict) and under is not None:
            result[key] = merged(under, value) if isinstance(under, dict) else under
        else:
            result[key] = value
    return result


def _misplaced(at: tuple[str, ...]) -> str | None:
    """Why no variable can set such a key; None if one can."""
    for length in range(1, len(at) + 1):
        key = field_at(at[:length])
        if key is None:
            return unknown(at[:length])
        kind = kind_of(key.annotation)
        if kind == "map" or length == len(at):
            return None
        if kind == "list":
            whole = f"{PREFIX}{'__'.join(at[:length]).upper()}"
            return f"{dotted(at[:length])} is a list: {whole} gives the whole of it, as JSON"
        if kind == "plain":
            return f"{dotted(at[:length])} is a value and has no keys of its own"
    return None


def _value(at: tuple[str, ...], text: str) -> tuple[Any, str | None]:
    """A variable's value, or why it is invalid. Plain values are text; whole blocks and lists are JSON."""
    key = field_at(at)
    kind = kind_of(key.annotation) if key is not None else "plain"
    entry_of_map = kind == "map" and field_at(at[:-1]) is key
    if kind == "plain" or entry_of_map:
        return text, None
    try:
        return json.loads(text), None
    except (json.JSONDecodeError, RecursionError):
        block = '{"key": "value"}'
        like = block if kind != "list" else f"[{block}]" if key and model_in(key.annotation) else '["a", "b"]'
        return None, f"{dotted(at)} is written as JSON in the environment, like {like}"


def _nested(at: tuple[str, ...], value: Any) -> dict[str, Any]:
    for key in reversed(at):
        value = {key: value}
    assert isinstance(value, dict)  # a path has at least one key
    return value


def _leaves(at: KeyPath, value: Any) -> list[KeyPath]:
    if isinstance(value, dict):
        return [path for key, inner in value.items() for path in _leaves((*at, key), inner)]
    return [at]
