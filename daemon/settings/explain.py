"""From what pydantic found wrong to one sentence: where it is, which key and value, what is allowed."""

from __future__ import annotations

import difflib
from collections.abc import Iterable
from typing import Any

from pydantic import BaseModel
from pydantic_core import ErrorDetails

from daemon.core.secrets import HIDDEN, hide_in_text, is_secret
from daemon.settings.document import Document, KeyPath, dotted
from daemon.settings.model import STAGE_BLOCKS, Settings

# What pydantic calls its kinds of mistakes, in our words.
_SENTENCES = {
    "tuple_type": "it has to be a list",
    "list_type": "it has to be a list",
    "dict_type": "it has to be a block of keys",
    "model_type": "it has to be a block of keys",
    "model_attributes_type": "it has to be a block of keys",
    "string_type": "it has to be text",
    "bool_type": "it is true or false",
    "bool_parsing": "it is true or false",
    "int_type": "it has to be a whole number",
    "int_parsing": "it has to be a whole number",
    "int_from_float": "it has to be a whole number",
    "path_type": "it has to be a path",
    "decimal_parsing": "it has to be a number",
    "decimal_type": "it has to be a number",
    "finite_number": "it has to be a number",
}


def explained(errors: Iterable[ErrorDetails], document: Document, variables: dict[KeyPath, str]) -> list[str]:
    """One line for each mistake, none twice. `variables` tells which keys come from the environment."""
    lines = (_explain(error, document, variables) for error in errors)
    return list(dict.fromkeys(line for line in lines if line))


def nearest(word: str, known: Iterable[str]) -> str:
    """The known word that an unknown one was perhaps meant to be, or all that are known."""
    known = sorted(known)
    close = difflib.get_close_matches(word, known, n=1)
    return f"did you mean {close[0]}?" if close else f"here it knows {', '.join(known)}"


def _explain(error: ErrorDetails, document: Document, variables: dict[KeyPath, str]) -> str | None:
    at: KeyPath = tuple(part for part in error["loc"] if not _is_tag(part))
    kind = error["type"]
    if at[:1] == ("tables",) and len(at) >= 3 and at[2] in STAGE_BLOCKS and not document.has(at):
        return None  # the common block's mistake, seen again through a table
    if kind == "too_short" and error["input"]:
        return None  # its items were wrong, and that is said for each of them
    where = _origin(at, document, variables)
    if kind == "missing":
        return f"{document.place(at)}: {dotted(at)} is missing"
    if kind == "extra_forbidden":
        return f"{where}: {dotted(at)} is no key that icekeeper knows; {nearest(str(at[-1]), _keys_at(at[:-1]))}"
    message = _SENTENCES.get(kind, error["msg"].removeprefix("Value error, "))
    if not at or isinstance(error["input"], dict | list):
        return f"{where}: {dotted(at)}{': ' if at else ''}{message}"
    shown = HIDDEN if is_secret(str(at[-1])) else hide_in_text(repr(error["input"]))
    return f"{where}: {dotted(at)}: {shown} is not allowed: {message}"


def _origin(at: KeyPath, document: Document, variables: dict[KeyPath, str]) -> str:
    for length in range(len(at), 0, -1):
        if (variable := variables.get(at[:length])) is not None:
            return f"environment variable {variable}"
    return document.place(at)


def _is_tag(part: str | int) -> bool:
    """pydantic puts the branch of a union into the path of an error; no such key is in the file."""
    return isinstance(part, str) and (part in {"bool", "int", "float", "str"} or "[" in part)


def _keys_at(at: KeyPath) -> list[str]:
    model: type[BaseModel] = Settings
    for part in at:
        if isinstance(part, int) or part not in model.model_fields:
            continue
        inner = _model_in(model.model_fields[part].annotation)
        if inner is None:
            return []
        model = inner
    return list(model.model_fields)


def _model_in(annotation: Any) -> type[BaseModel] | None:
    if isinstance(annotation, type) and issubclass(annotation, BaseModel):
        return annotation
    for argument in getattr(annotation, "__args__", ()):
        if (found := _model_in(argument)) is not None:
            return found
    return None
