"""What a block of the file is, and how its mistakes are raised. The blocks themselves: beside this module."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any, NoReturn

from pydantic import BaseModel, ConfigDict, ValidationError
from pydantic_core import InitErrorDetails, PydanticCustomError


class Block(BaseModel):
    """A block of the file: unknown keys are refused, and it is frozen."""

    model_config = ConfigDict(extra="forbid", frozen=True, use_attribute_docstrings=True)


def contradiction(sentence: str, other: str) -> PydanticCustomError:
    """The error of a key that conflicts with `other` of its block. A field's validator raises it, so that it is found
    whatever else is wrong; its message points to the one of the two that is in the file."""
    return PydanticCustomError("contradiction", "{sentence}", {"sentence": sentence, "other": other})


def raise_mistakes(mistakes: Sequence[InitErrorDetails]) -> NoReturn:
    """Several mistakes at once, each with its path below the validated value."""
    raise ValidationError.from_exception_data("mistakes", list(mistakes))


def mistake(at: tuple[str | int, ...], value: Any, sentence: str) -> InitErrorDetails:
    return InitErrorDetails(type=PydanticCustomError("value_error", "{it}", {"it": sentence}), loc=at, input=value)
