"""The keys that the file may have, the values that they take, and what to say of an unknown one. Reads no file."""

from __future__ import annotations

import difflib
from collections.abc import Sequence
from decimal import Decimal
from types import UnionType
from typing import Any, Literal, Union, get_args, get_origin

from pydantic import BaseModel
from pydantic.fields import FieldInfo

from icekeeper.settings.loading.document import KeyPath, dotted
from icekeeper.settings.model import Settings

Kind = Literal["block", "list", "map", "plain"]


def field_at(at: Sequence[str | int]) -> FieldInfo | None:
    """The field at a path, or whose list or map the path leads into; None for an unknown key."""
    model: type[BaseModel] | None = Settings
    field: FieldInfo | None = None
    for key in at:
        if isinstance(key, int):
            continue
        if model is None:
            return field
        field = model.model_fields.get(key)
        if field is None:
            return None
        model = model_in(field.annotation)
    return field


def keys_at(at: Sequence[str | int]) -> list[str]:
    """The keys of the block that a path leads to."""
    if not at:
        return list(Settings.model_fields)
    field = field_at(at)
    model = model_in(field.annotation) if field is not None else None
    return list(model.model_fields) if model is not None else []


def maps_at(at: Sequence[str | int]) -> list[str]:
    """The keys of a block that are maps of arbitrary keys."""
    fields = ((key, field_at((*at, key))) for key in keys_at(at))
    return [key for key, field in fields if field is not None and kind_of(field.annotation) == "map"]


def homes_of(key: str) -> list[str]:
    """The blocks that have a key of this name."""
    blocks = ((name, model_in(field.annotation)) for name, field in Settings.model_fields.items())
    return [name for name, model in blocks if model is not None and key in model.model_fields]


def kind_of(annotation: Any) -> Kind:
    """The kind of value that the file has for a type."""
    origin = get_origin(annotation)
    if origin in (Union, UnionType):
        kinds = {kind_of(argument) for argument in get_args(annotation)} - {"plain"}
        return kinds.pop() if kinds else "plain"
    if origin is tuple:
        return "list"
    if origin is dict:
        return "map"
    return "block" if model_in(annotation) is not None else "plain"


def model_in(annotation: Any) -> type[BaseModel] | None:
    """The block in a type: itself, or the items of its list."""
    if isinstance(annotation, type) and issubclass(annotation, BaseModel):
        return annotation
    found = (model_in(argument) for argument in get_args(annotation))
    return next((model for model in found if model is not None), None)


def number_at(at: Sequence[str | int]) -> str:
    """The numbers that a key takes, as a sentence."""
    field = field_at(at)
    if field is None:
        return "it has to be a number"
    noun = "a number" if field.annotation is Decimal else "a whole number"
    least = next((limit.ge for limit in field.metadata if hasattr(limit, "ge")), None)
    most = next((limit.le for limit in field.metadata if hasattr(limit, "le")), None)
    if least is None or most is None:
        return f"it has to be {noun}"
    return f"it has to be {noun} from {least} to {most}"


def described(at: Sequence[str | int]) -> str | None:
    """The first sentence of a key's description."""
    field = field_at(at)
    if field is None or not field.description:
        return None
    sentence = " ".join(field.description.split()).split(". ")[0].rstrip(".")
    return sentence[0].lower() + sentence[1:]


def unknown(at: KeyPath) -> str:
    """The sentence about a key that its block does not have."""
    return f"{dotted(at)} is no key that icekeeper knows; {_hint(str(at[-1]), at[:-1])}"


def _hint(word: str, block: KeyPath) -> str:
    known = keys_at(block)
    close = difflib.get_close_matches(word.lower(), known, n=1)
    if close:
        return f"did you mean {close[0]}?"
    if homes := homes_of(word):
        return f"it is a key of {', '.join(homes)}"
    maps = "".join(f", and any key below {name}" for name in maps_at(block))
    return f"the keys here are {', '.join(sorted(known))}{maps}"
