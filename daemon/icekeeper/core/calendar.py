"""Slots and windows: the instants at which nights begin, and the event times that they audit. No cron library."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from dataclasses import dataclass
from datetime import UTC, date, datetime, time, timedelta
from zoneinfo import ZoneInfo

from icekeeper.core.formats import iso_minute

# (instant) -> the first firing strictly after it, None if there is none.
NextFire = Callable[[datetime], datetime | None]


@dataclass(frozen=True, slots=True)
class Window:
    """A half-open span of event time, [start, end), in UTC; one that a run records is on whole hours."""

    start: datetime
    end: datetime

    @property
    def hours(self) -> int:
        return round((self.end - self.start).total_seconds() / 3600)

    def __str__(self) -> str:
        return f"[{_exact(self.start)}, {_exact(self.end)})"


def _exact(instant: datetime) -> str:
    on_minute = not instant.second and not instant.microsecond
    return iso_minute(instant) if on_minute else instant.astimezone(UTC).isoformat().replace("+00:00", "Z")


def is_of_days(window: Window) -> bool:
    """Whether a window begins and ends at midnight UTC."""
    return all(instant.astimezone(UTC).time() == time() for instant in (window.start, window.end))


def to_utc(instant: datetime) -> datetime:
    """The same instant in UTC. ValueError for a naive one: its zone could only be guessed."""
    if instant.tzinfo is None:
        raise ValueError(f"{instant.isoformat()} has no time zone")
    return instant.astimezone(UTC)


def window_of(slot: datetime, hours: int | None = None) -> Window:
    """The window that a slot audits: the UTC calendar day before the slot's, or the `hours` before its whole hour."""
    slot = to_utc(slot)
    if hours is None:
        day = slot.replace(hour=0, minute=0, second=0, microsecond=0)
        return Window(day - timedelta(days=1), day)
    if hours < 1:
        raise ValueError(f"a window has at least one hour, not {hours}")
    end = slot.replace(minute=0, second=0, microsecond=0)
    return Window(end - timedelta(hours=hours), end)


def expiry_cutoff(slot: datetime, now: datetime, older_than: timedelta) -> datetime:
    """Snapshots committed before this instant may expire; a slot caught up late expires no more than on time."""
    return min(to_utc(slot), to_utc(now)) - older_than


@dataclass(frozen=True, slots=True)
class Calendar:
    """The slots of a schedule in its time zone."""

    next_fire: NextFire
    timezone: ZoneInfo

    def slots(self, after: datetime) -> Iterator[datetime]:
        """The slots after an instant, in UTC, in order.

        When the clocks go back, a wall-clock time comes twice and the cron fires twice; the second firing is no slot.
        Times that the clocks skip are left to the cron library.
        """
        instant = to_utc(after)
        while (fired := self.next_fire(instant)) is not None:
            instant = to_utc(fired)
            if not instant.astimezone(self.timezone).fold:
                yield instant

    def next_slot(self, after: datetime) -> datetime | None:
        return next(self.slots(after), None)

    def audited_days(self, first: date, until: datetime) -> list[date]:
        """The UTC days from `first` on that the slots to `until` audit."""
        days: list[date] = []
        midnight = datetime(first.year, first.month, first.day, tzinfo=UTC) + timedelta(days=1)
        while (slot := self.next_slot(midnight - timedelta(microseconds=1))) is not None and slot <= until:
            window = window_of(slot)
            days.append(window.start.date())
            midnight = window.end + timedelta(days=1)
        return days

    def slot_on(self, day: date) -> datetime | None:
        """The first slot on a local calendar day, None where the schedule has none on it."""
        midnight = datetime(day.year, day.month, day.day, tzinfo=self.timezone)
        slot = self.next_slot(to_utc(midnight) - timedelta(microseconds=1))
        if slot is None or slot.astimezone(self.timezone).date() != day:
            return None
        return slot
