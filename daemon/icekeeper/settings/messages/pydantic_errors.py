"""Pydantic's errors as mistakes: one sentence each, with the key, the value and what is allowed."""

from __future__ import annotations

import re
from collections.abc import Mapping, Sequence
from typing import Any

from pydantic_core import ErrorDetails

from icekeeper.core.secrets import HIDDEN, hide_in_text, is_secret
from icekeeper.settings.loading.document import KeyPath, dotted
from icekeeper.settings.messages.known_keys import described, field_at, keys_at, number_at, unknown
from icekeeper.settings.messages.mistakes import Mistake, Origins
from icekeeper.settings.tables import STAGE_BLOCKS

_BLOCK = "it has to be a block of keys"
_LIST = "it has to be a list, like [a, b]"
_FLAG = "it is true or false"
# Sentences by pydantic's kinds of errors; those for numbers and choices are derived from the key.
_SENTENCES = {
    "tuple_type": _LIST,
    "list_type": _LIST,
    "dict_type": _BLOCK,
    "model_type": _BLOCK,
    "model_attributes_type": _BLOCK,
    "string_type": "it has to be text",
    "bool_type": _FLAG,
    "bool_parsing": _FLAG,
    "path_type": "it has to be a path, like /var/lib/icekeeper",
    "too_short": "it has to list at least one table",
}
_ABOUT_NUMBERS = re.compile(r"(int|decimal|float)_.*|finite_number|(greater|less)_than.*")
_CREDENTIALS = re.compile(r"(//)\S*(@)")
_LONGEST = 100


def mistakes_of(errors: Sequence[ErrorDetails], origins: Origins, data: Mapping[str, Any]) -> list[Mistake]:
    """The mistakes that pydantic found in `data`, without duplicates and values that could not be read."""
    own = {(_path(error), error["msg"]) for error in errors}
    return [
        _explain(error, _path(error), origins)
        for error in errors
        if not _follows_from_syntax(error, origins) and not _is_duplicate(error, own, data)
    ]


def _path(error: ErrorDetails) -> KeyPath:
    # Pydantic marks a map's key that is wrong itself.
    return tuple(step for step in error["loc"] if step != "[key]")


def _follows_from_syntax(error: ErrorDetails, origins: Origins) -> bool:
    """Whether a mistake of syntax causes the error: a value that could not be read, or a merge key that was ignored."""
    at, document = _path(error), origins.document
    if error["type"] in ("missing", "needed") and at[:-1] in document.partial:
        return True
    return any(at[:length] in document.unclear for length in range(1, len(at) + 1))


def _is_duplicate(error: ErrorDetails, own: set[tuple[KeyPath, str]], data: Mapping[str, Any]) -> bool:
    """Whether a table repeats a common block's mistake, or a list is too short because its items are wrong."""
    at = _path(error)
    if error["type"] == "too_short" and error["input"]:
        return True
    if len(at) < 4 or at[0] != "tables" or at[2] not in STAGE_BLOCKS or (at[2:], error["msg"]) not in own:
        return False
    block = data["tables"][at[1]].get(at[2])
    return not isinstance(block, dict) or at[3] not in block


def _explain(error: ErrorDetails, at: KeyPath, origins: Origins) -> Mistake:
    kind, context = error["type"], error.get("ctx", {})
    if kind == "missing":
        about = described(at)
        return Mistake(at, f"{dotted(at)} is missing{f': {about}' if about else ''}")
    if kind == "needed":
        return Mistake(at, f"{dotted(at)} is missing: {error['msg']}")
    if kind == "extra_forbidden":
        return Mistake(at, unknown(at))
    if kind == "contradiction":
        other = (*at[:-1], context["other"])
        where = other if not origins.given(at) and origins.given(other) else at
        return Mistake(where, f"{dotted(at[:-1])}: {error['msg']}")
    if kind == "listed_twice":
        first = ("tables", context["first"], "name")
        line = origins.document.line(first) if origins.variable(first) is None else None
        there = f"stands in line {line}" if line is not None else f"is {dotted(first)}"
        return Mistake(at, f"{dotted(at)}: {error['input']!r} is listed twice; it {there} already")
    allowed = _allowed(kind, error, at)
    if error["input"] is None and origins.given(at):
        field = field_at(at)
        or_not = ", or left out" if field is None or not field.is_required() else ""
        return Mistake(at, f"{dotted(at)} is empty: {allowed}{or_not}")
    if isinstance(error["input"], dict | list | tuple):
        return Mistake(at, f"{dotted(at)}: {allowed}")
    return Mistake(at, f"{dotted(at)}: {_quoted(at, error['input'], origins)} is not allowed: {allowed}")


def _allowed(kind: str, error: ErrorDetails, at: KeyPath) -> str:
    if kind == "literal_error":
        choices = re.findall(r"'([^']*)'", error["ctx"]["expected"])
        return f"it is one of {', '.join(choices)}" if choices[1:] else f"it can only be {choices[0]}"
    if _ABOUT_NUMBERS.fullmatch(kind):
        return number_at(at)
    if kind == "string_type" and isinstance(error["input"], dict | list | tuple | None):
        return _SENTENCES[kind]
    if kind == "string_type":
        return "it has to be text: put it in quotes"
    if kind == "model_type" and error["input"] is False and "enabled" in keys_at(at):
        return f"{_BLOCK}: {{enabled: false}} turns it off"
    return _SENTENCES.get(kind, error["msg"].removeprefix("Value error, "))


def _quoted(at: KeyPath, value: object, origins: Origins) -> str:
    """The value as it was written, secrets hidden."""
    if _is_hidden(at):
        return HIDDEN
    written = origins.document.written.get(at) if origins.variable(at) is None else None
    text = hide_in_text(_CREDENTIALS.sub(rf"\g<1>{HIDDEN}\g<2>", str(value) if written is None else written))
    text = text if len(text) <= _LONGEST else f"{text[:_LONGEST]}..."
    return repr(text) if written is None and isinstance(value, str) else text


def _is_hidden(at: KeyPath) -> bool:
    """Whether the value may be a secret. A URL of `notify` is one, even where it takes the place of a block."""
    if at[0] == "notify" and at[-1] != "url_file" and "on" not in at:
        return True
    return any(is_secret(str(key)) for key in at) and not str(at[-1]).endswith("_file")
