"""Records of the core as JSON and back, for the spool and for other processes. In PostgreSQL: adapters/ledger.

Decimals and instants are strings, enums their words, tuples arrays; a field that a reader doesn't know is ignored, and
one that it misses takes its default, so that two versions can talk.
"""

from __future__ import annotations

import json
from collections.abc import Callable, Mapping
from functools import cache
from typing import Any, TypeVar

from pydantic import TypeAdapter

from icekeeper.core.events import (
    Event,
    OlderDayAudited,
    RunEnded,
    RunStarted,
    TaskEnded,
    TaskProgressed,
    TaskStarted,
)
from icekeeper.core.plain import to_plain

T = TypeVar("T")

_EVENTS: dict[str, type[Event]] = {
    "run_started": RunStarted,
    "task_started": TaskStarted,
    "task_progressed": TaskProgressed,
    "task_ended": TaskEnded,
    "older_day_audited": OlderDayAudited,
    "run_ended": RunEnded,
}
_NAMES = {kind: name for name, kind in _EVENTS.items()}

# Building one takes milliseconds.
_adapter: Callable[[Any], TypeAdapter[Any]] = cache(TypeAdapter)


def to_json(record: object) -> str:
    """The record on one line of ASCII. Characters that are none (lone surrogates) become `?`."""
    return json.dumps(to_plain(record, exact=True), allow_nan=False)


def from_json(kind: type[T], text: str) -> T:
    """The record of that kind. ValueError where the text is none."""
    record: T = _adapter(kind).validate_json(text)
    return record


def from_plain(kind: type[T], values: Mapping[str, Any]) -> T:
    """The record with these fields, each as Python or JSON has it. ValueError where they make none."""
    record: T = _adapter(kind).validate_python(values)
    return record


def event_to_plain(event: Event) -> dict[str, Any]:
    """The event's name as `event`, what it says as `data`."""
    return {"event": _NAMES[type(event)], "data": to_plain(event, exact=True)}


def event_from_plain(document: Any) -> Event:
    """The event. ValueError where the document is none, or one that this version doesn't know."""
    if not isinstance(document, dict) or document.get("event") not in _EVENTS:
        raise ValueError(f"an unknown event: {str(document)[:200]}")
    event: Event = _adapter(_EVENTS[document["event"]]).validate_python(document.get("data"))
    return event
