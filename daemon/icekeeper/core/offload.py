"""Whether the offload writes into a table now, judged from its own status table. Pure; reading it is the adapter's."""

from __future__ import annotations

from collections.abc import Collection, Sequence
from dataclasses import dataclass, replace
from datetime import UTC, datetime, timedelta

from icekeeper.core.formats import duration, iso_minute

RUNNING = "running"
# How long after its due minute a cycle may begin without having marked it: its JVM starts first.
STARTING = timedelta(minutes=1)
# A cycle may take so many times as long as the last one did, and at least so long.
_TIMES_THE_LAST = 3
_SHORTEST = timedelta(minutes=5)
# By so much the clocks of two hosts may differ.
_SAME_TIME = timedelta(minutes=1)
# After a longer time without a success the next cycle has a backlog: how long the last one took says nothing.
_BACKLOG_AFTER = timedelta(hours=1)


@dataclass(frozen=True, slots=True)
class OffloadState:
    """What the offload has recorded about a source. Times that are None are unknown: older tables lack the columns.

    `at`: the watermark, an event time; None before the first success. `updated_at`: when `status` was set. A cycle
    without rows ends without setting it, so that `running` stays until the next cycle.
    """

    at: datetime | None
    status: str
    updated_at: datetime | None = None
    last_successful_run: datetime | None = None
    last_run_duration: timedelta | None = None


@dataclass(frozen=True, slots=True)
class OffloadRhythm:
    """When cycles begin (at whole multiples of `every` in the UTC day), the longest that one takes (`cycle_max`), and
    how long a stage of a night waits for the end of cycles (`wait`).
    """

    every: timedelta = timedelta(minutes=15)
    cycle_max: timedelta = timedelta(minutes=10)
    wait: timedelta = timedelta(minutes=30)

    @property
    def usual_cycle(self) -> timedelta:
        """How long after its due minute a cycle usually has ended, where no more is known of it."""
        return min(self.every / 3, self.cycle_max)

    def due_before(self, now: datetime) -> datetime:
        """When the latest cycle was due: now, or the last multiple of `every` before."""
        midnight = now.astimezone(UTC).replace(hour=0, minute=0, second=0, microsecond=0)
        return now - (now - midnight) % self.every

    def longest_cycle(self, state: OffloadState, now: datetime) -> timedelta:
        """The longest that the cycle under way may take, going by the last one."""
        last, success = state.last_run_duration, state.last_successful_run
        if last is None or success is None or now - success > _BACKLOG_AFTER:
            return self.cycle_max
        return min(max(_TIMES_THE_LAST * last, _SHORTEST), self.cycle_max)


@dataclass(frozen=True, slots=True)
class Writing:
    """What of the offload has to be taken to write now, in words that follow "waits for"; `until` when at most."""

    what: str
    until: datetime | None


def names_of(table: str, database: str, sources: Collection[str]) -> tuple[str, ...]:
    """The names under which the offload may keep a table of ClickHouse, the likeliest first.

    `database`: clickhouse.database. `sources`: the tables of all sources. An offload may write names with or without
    their database; a bare one is not that of another database where a source has the table of this one.
    """
    own, _, bare = table.rpartition(".")
    if not own:
        return table, f"{database}.{table}"
    taken = own != database and bool({bare, f"{database}.{bare}"} & set(sources))
    return (table,) if taken else (table, bare)


def together(states: Sequence[OffloadState | None]) -> OffloadState | None:
    """The state of several tables that go into one: of a cycle that runs, the latest, with the lowest watermark.

    `at` is None where one of them has none; None where the offload knows none of them.
    """
    known = [state for state in states if state is not None]
    if len(states) < 2 or not known:
        return next(iter(known), None)
    marks = [None if state is None else state.at for state in states]
    least = None if None in marks else min(at for at in marks if at is not None)
    never = datetime.min.replace(tzinfo=UTC)
    latest = max(known, key=lambda state: (state.status == RUNNING, state.updated_at or never))
    return replace(latest, at=least)


def writing(state: OffloadState | None, now: datetime, rhythm: OffloadRhythm) -> Writing | None:
    """What the offload has to be taken to write now, or None. `state` None: the offload doesn't know the table.

    For catalogs that take one writer at a time.
    """
    if state is None:
        return None
    running, since = state.status == RUNNING, state.updated_at
    if since is None:
        return Writing("the offload, whose status is running", None) if running else None
    if running and now - since < (longest := rhythm.longest_cycle(state, now)):
        if ahead(state, now):
            what = f"the offload's cycle, running since {iso_minute(since)} by a clock that is ahead of this host's"
            return Writing(what, None)
        age = duration(max(0.0, (now - since).total_seconds()))
        return Writing(f"the offload's cycle, running for {age}", since + longest)
    due = rhythm.due_before(now)
    if now - due < STARTING and since < due:
        return Writing(f"the offload's cycle of {iso_minute(due)}, which may be starting", due + STARTING)
    return None


def ahead(state: OffloadState, now: datetime) -> bool:
    """Whether `updated_at` lies in the future: written in another time zone, or by a clock that is ahead."""
    return state.updated_at is not None and state.updated_at - now > _SAME_TIME


def left_over(state: OffloadState | None, now: datetime, rhythm: OffloadRhythm) -> str:
    """What to say of a status `running` that no cycle stands behind any more; empty where there is none."""
    if state is None or state.updated_at is None or state.status != RUNNING:
        return ""
    if now - state.updated_at < rhythm.longest_cycle(state, now):
        return ""
    return f"the offload's status, running since {iso_minute(state.updated_at)}, is left over from a cycle without rows"
