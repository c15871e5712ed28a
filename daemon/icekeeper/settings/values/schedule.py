"""The syntax of schedules: a cron line and its time zone, and the slots that they give."""

from __future__ import annotations

import re
from datetime import UTC, datetime, timedelta
from typing import Annotated
from zoneinfo import ZoneInfo, ZoneInfoNotFoundError

from apscheduler.triggers.cron import CronTrigger

from icekeeper.core.calendar import Calendar
from icekeeper.settings.values.units import pattern, text_by

# The fields of a cron line in their order, by APScheduler's names, with what they take.
_FIELDS = {
    "minute": "0 to 59",
    "hour": "0 to 23",
    "day": "1 to 31 or last",
    "month": "1 to 12 or jan to dec",
    "day_of_week": "mon to sun",
}


def calendar_of(cron: str, timezone: str) -> Calendar:
    """The slots of a cron line in its time zone; both have been checked."""
    zone = ZoneInfo(timezone)
    trigger = CronTrigger.from_crontab(cron, timezone=zone)

    def next_fire(after: datetime) -> datetime | None:
        # Without the trigger's "previous firing": in an hour that comes twice it compares instants of two zones, which
        # Python calls unequal there (PEP 495), and returns the same instant for ever.
        fired: datetime | None = trigger.get_next_fire_time(None, after + timedelta(microseconds=1))
        return fired

    return Calendar(next_fire, zone)


def _cron(value: str) -> str:
    fields = value.split()
    if len(fields) != len(_FIELDS):
        raise ValueError("a cron expression has five fields: minute hour day month weekday, like 0 2 * * *")
    if re.search(r"\d", fields[-1]):
        # Cron counts from Sunday = 0, APScheduler from Monday = 0: a number would silently mean another day.
        raise ValueError("weekdays are written as names (mon, tue, ... sun): a number means another day elsewhere")
    for (name, allowed), field in zip(_FIELDS.items(), fields, strict=True):
        _check_field(name, field, allowed)
    if calendar_of(value, "UTC").next_fire(datetime(2001, 1, 1, tzinfo=UTC)) is None:
        raise ValueError("it never fires: no such day is in the calendar")
    return value


def _check_field(name: str, field: str, allowed: str) -> None:
    try:
        CronTrigger(**{name: field}, timezone="UTC")
    except ValueError as exc:
        named = "weekday" if name == "day_of_week" else name
        raise ValueError(f"{field} is no {named}: {allowed}, *, a list (a,b), a range (a-b) or a step (*/n)") from exc


def _timezone(value: str) -> str:
    try:
        ZoneInfo(value)
    except (ZoneInfoNotFoundError, ValueError, OSError) as exc:  # OSError: a directory of the database, like Europe
        raise ValueError("a time zone is a name of the tz database, like UTC or Europe/Berlin") from exc
    return value


TimeZone = Annotated[str, text_by(_timezone), pattern("[A-Za-z0-9_+/-]+", "UTC", "Europe/Berlin")]
Cron = Annotated[
    str,
    text_by(_cron),
    pattern(r"\s*([\d*,/-]+\s+){2}[\w*,/-]+\s+[\w*,/-]+\s+[A-Za-z*,-]+\s*", "0 2 * * *", "30 1 * * mon-fri"),
]
