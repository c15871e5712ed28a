"""Warnings about settings that are allowed and probably not intended. Reads and measures nothing. Notes: notes.py."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from dataclasses import dataclass
from datetime import UTC, datetime, timedelta
from itertools import islice, pairwise, takewhile

from icekeeper.core.calendar import window_of
from icekeeper.core.enums import NIGHT, AuditStatus
from icekeeper.core.formats import counted, listed
from icekeeper.core.offload import OffloadRhythm
from icekeeper.core.policy import ExpirePolicy, TablePolicy
from icekeeper.settings.model import Settings
from icekeeper.settings.values.heap import heap_mib, largest, needed
from icekeeper.settings.values.units import format_duration

# A year that ends with a leap day: every rule of a cron line and of a time zone occurs in it.
_FIRST_DAY = datetime(2027, 3, 1, tzinfo=UTC)
_DAYS = 366
_MOST_SLOTS = 2000
# The offload runs every 15 minutes and lags 5: this long after midnight a day's last rows are in Iceberg.
_AFTER_MIDNIGHT = timedelta(minutes=30)
_BETWEEN_COMMITS = timedelta(minutes=15)
_MIB = 1024**2
_MANY_SNAPSHOTS = 100
_MANY_FILES = 100
_NAMED = 3


def warnings(settings: Settings, *, memory: tuple[int, str] | None) -> list[str]:
    """One sentence each: the keys, why, and what to do.

    `memory`: the bytes that icekeeper and its JVM may use, and whose they are ("the container"); None: unknown.
    """
    policies, year = settings.policies(), _Year.of(settings)
    audited = any(policy.audit is not None for policy in policies)
    return [
        *_about_the_schedule(settings, year, audited=audited),
        *_about_cycles(settings, year, policies),
        *_about_the_heap(settings, memory),
        *_about_other_systems(settings),
        *_about_shared_sources(policies),
        *by_table(policies, _about_idle_tables),
        *by_table(policies, lambda policy: _about_times(policy, settings, year)),
        *by_table(policies, lambda policy: _about_holds(policy, year, audited=audited)),
        *by_table(policies, _about_limits),
    ]


@dataclass(frozen=True, slots=True)
class _Year:
    """The slots of a year: all, UTC days without one, slots too early in the day, the shortest time between two, and
    the longest time from the start of a window to its slot."""

    slots: tuple[datetime, ...]
    without: tuple[datetime, ...]
    early: tuple[datetime, ...]
    interval: timedelta | None
    window_age: timedelta

    @classmethod
    def of(cls, settings: Settings) -> _Year:
        calendar = settings.schedule.calendar()
        days = [_FIRST_DAY + timedelta(days=number) for number in range(_DAYS)]
        firsts = {day: calendar.next_slot(day - timedelta(microseconds=1)) for day in days}
        there = {day: slot for day, slot in firsts.items() if slot is not None and slot < day + timedelta(days=1)}
        end = days[-1] + timedelta(days=1)
        slots = list(takewhile(lambda slot: slot < end, islice(calendar.slots(_FIRST_DAY), _MOST_SLOTS)))
        return cls(
            slots=tuple(slots),
            without=tuple(day for day in days if day not in there),
            early=tuple(slot for day, slot in there.items() if slot - day < _AFTER_MIDNIGHT),
            interval=min((after - before for before, after in pairwise(slots)), default=None),
            window_age=max((slot - window_of(slot).start for slot in slots), default=timedelta(days=1)),
        )


def _about_the_schedule(settings: Settings, year: _Year, *, audited: bool) -> Iterator[str]:
    schedule, longest = settings.schedule, settings.run.max_duration
    named = f"schedule.cron ({schedule.cron!r} in {schedule.timezone})"
    if year.early and audited:
        yield (
            f"{named} begins a night less than 30 minutes after UTC midnight on {_days(len(year.early))} of a year "
            f"(e.g. {year.early[0]:%Y-%m-%d at %H:%M} UTC): the offload runs every 15 minutes and lags 5, so that the "
            "audited day's last rows may not be in Iceberg yet; let it begin at 00:30 UTC or later"
        )
    if year.without and audited:
        yield (
            f"{named} begins no night on {_days(len(year.without))} of a year (e.g. {year.without[0]:%Y-%m-%d} UTC): "
            "a night audits the UTC day before it, so that the day before each of those is never audited; "
            "let a night begin on every UTC day"
        )
    _, _, day, _, weekday = schedule.cron.split()
    if day != "*" and weekday != "*":
        yield (
            f"{named} names days of the month and weekdays: a night begins where both fit, while other crons take "
            "either; name only one of them"
        )
    if year.interval is not None and longest > year.interval:
        yield (
            f"run.max_duration ({_text(longest)}) is longer than the shortest time between two slots "
            f"({_text(year.interval)}): a long run makes the next slot late; lower it"
        )


def _about_cycles(settings: Settings, year: _Year, policies: tuple[TablePolicy, ...]) -> Iterator[str]:
    """How the offload's cycles and the nights fit together, where only one of both may write."""
    if not any(policy.single_writer and policy.source is not None for policy in policies):
        return
    schedule, rhythm = settings.schedule, settings.run_policy().offload
    if rhythm.cycle_max >= rhythm.every:
        yield (
            f"offload.cycle_max ({_text(rhythm.cycle_max)}) is not shorter than offload.every ({_text(rhythm.every)}): "
            "a status that a cycle without rows left behind is never told from a cycle, and its table is never free; "
            "lower it"
        )
    if rhythm.wait < rhythm.cycle_max:
        yield (
            f"offload.wait ({_text(rhythm.wait)}) is shorter than offload.cycle_max ({_text(rhythm.cycle_max)}): "
            "tables may be held before a cycle has ended; raise it"
        )
    inside = [slot for slot in year.slots if slot - rhythm.due_before(slot) < rhythm.usual_cycle]
    if not inside:
        return
    between = _between_cycles(schedule.cron, inside[0], rhythm)
    better = f"{between!r} begins" if between else "let it begin"
    yield (
        f"schedule.cron ({schedule.cron!r} in {schedule.timezone}) begins a night as a cycle of the offload begins, on "
        f"{_days(len(inside))} of a year (offload.every is {_text(rhythm.every)}), and a hadoop catalog takes one "
        f"writer at a time: the night first waits for the cycle's end; {better} between two cycles"
    )


def _between_cycles(cron: str, slot: datetime, rhythm: OffloadRhythm) -> str | None:
    """The cron line with a minute halfway to the next cycle; None where its minute is not a single number."""
    minute, rest = cron.split(maxsplit=1)
    if not minute.isdecimal():
        return None
    later = int(minute) + (rhythm.every / 2 - (slot - rhythm.due_before(slot))) // timedelta(minutes=1)
    return f"{later} {rest}" if later < 60 else None


def _about_the_heap(settings: Settings, memory: tuple[int, str] | None) -> Iterator[str]:
    """Also with a cluster: the driver runs on this host, whatever the master is."""
    if memory is None:
        return
    room, whose = memory[0] // _MIB, memory[1]
    comes_to = needed(heap_mib(settings.spark.driver_memory))
    if comes_to <= room:
        return
    fits = largest(room)
    smaller = f"set it to {fits}m or less, or " if fits else ""
    yield (
        f"spark.driver_memory ({settings.spark.driver_memory}) does not fit the {room} MiB of memory that {whose} has: "
        f"with what the JVM needs beside its heap and with Python it comes to about {comes_to} MiB, and the kernel "
        f"kills what exceeds them; {smaller}give {whose} more"
    )


def _about_other_systems(settings: Settings) -> Iterator[str]:
    for name in settings.spark.conf:
        if not name.startswith("spark."):
            yield (
                f"spark.conf.{name} has no effect: Spark ignores settings that don't begin with spark.; "
                f"Hadoop's are written spark.hadoop.{name}"
            )
    if settings.clickhouse is not None and "max_execution_time" in settings.clickhouse.settings:
        yield (
            "clickhouse.settings.max_execution_time replaces what follows from audit.timeout: a count may go on after "
            "its audit gave up, or end before; leave it out and set audit.timeout"
        )
    if settings.http.beyond_loopback and settings.http.read_token is None:
        yield (
            f"http.listen ({settings.http.listen}) can be reached from other hosts, and reading needs no token: "
            "configuration, logs and names are seen there; icekeeper 0.3 will refuse that, set http.read_token_file"
        )


def _about_shared_sources(policies: tuple[TablePolicy, ...]) -> Iterator[str]:
    """The same rows can't have been offloaded into one table, and into another as well, unless both are the same."""
    named: dict[tuple[str, str], list[str]] = {}
    for policy in policies:
        for table in policy.source.tables if policy.audit is not None and policy.source is not None else ():
            named.setdefault((table, policy.source.where), []).append(policy.name)  # type: ignore[union-attr]
    for (source, _), names in named.items():
        if len(names) > 1:
            yield (
                f"tables[].source {source} is that of {_names(names, 0)}: each of them is audited against all of its "
                "rows; correct one, or say by source.where which rows are whose"
            )


def _about_idle_tables(policy: TablePolicy) -> Iterator[str]:
    if not any(map(policy.has, NIGHT)):
        yield "compact, expire and audit{of} are off: nothing is done there; say enabled: false"


def _about_times(policy: TablePolicy, settings: Settings, year: _Year) -> Iterator[str]:
    longest, catch_up = settings.run.max_duration, settings.schedule.catch_up
    for stage in NIGHT:
        if not policy.has(stage):
            continue
        limits = policy.limits(stage)
        worst = limits.timeout * (limits.retries + 1) + limits.retry_delay * limits.retries
        if worst > longest:
            yield (
                f"{stage}.timeout ({_text(limits.timeout)}){{of}} with {stage}.retries ({limits.retries}) can take "
                f"{_text(worst)}, longer than run.max_duration ({_text(longest)}): one table can use up the whole "
                "night; lower the one or raise the other"
            )
    if policy.audit is None:
        return
    age = year.window_age
    if isinstance(policy.source_ttl, timedelta) and policy.source_ttl < age + catch_up + longest:
        yield (
            f"source_ttl ({_text(policy.source_ttl)}){{of}} is too short for a slot that is caught up late: "
            f"its window begins {_text(age)} before it, schedule.catch_up ({_text(catch_up)}) and "
            f"run.max_duration ({_text(longest)}) may follow, and then the audit ends as source_expired; "
            "lower schedule.catch_up"
        )
    if isinstance(policy.source_ttl, timedelta) and policy.source_ttl - age < policy.audit.lookback:
        yield (
            f"audit.lookback ({_text(policy.audit.lookback)}){{of}} reaches back further than source_ttl "
            f"({_text(policy.source_ttl)}) keeps rows: the oldest of these days are never audited again; lower it"
        )
    if policy.expire.enabled and policy.expire.older_than < age:
        yield (
            f"expire.older_than ({_text(policy.expire.older_than)}){{of}} removes snapshots of a day before "
            f"that day is audited (its window begins {_text(age)} before the slot): they may be the only "
            "copy of what the audit then finds missing; set it to 2d or more"
        )


def _about_holds(policy: TablePolicy, year: _Year, *, audited: bool) -> Iterator[str]:
    held, longest = policy.expire.hold_on, policy.expire.hold_max
    default = ExpirePolicy(policy.expire.limits)
    if not policy.expire.enabled or not held or (held, longest) == (default.hold_on, default.hold_max):
        return
    if policy.audit is None:
        if not audited:
            yield "expire.hold_on{of} holds nothing: where no table is audited there is no finding; leave it out"
        return
    if AuditStatus.WARNING in held and AuditStatus.MISSING_DATA not in held:
        yield "expire.hold_on{of} holds where few rows are missing (warning) and not where many are; add missing_data"
    if year.interval is not None and longest <= year.interval:
        yield (
            f"expire.hold_max ({_text(longest)}){{of}} is over before the next night "
            f"({_text(year.interval)} later), so that expire.hold_on holds nothing; raise it"
        )
    if isinstance(policy.source_ttl, timedelta) and longest > policy.source_ttl:
        yield (
            f"expire.hold_max ({_text(longest)}){{of}} is longer than source_ttl "
            f"({_text(policy.source_ttl)}): when ClickHouse has dropped the rows they can't be offloaded "
            "again, and snapshots pile up until the finding is acknowledged; lower it to source_ttl"
        )


def _about_limits(policy: TablePolicy) -> Iterator[str]:
    kept, age = policy.expire.retain_last, policy.expire.older_than
    expires = policy.expire.enabled
    if expires and kept > _MANY_SNAPSHOTS and kept * _BETWEEN_COMMITS > age:
        yield (
            f"expire.retain_last ({kept}){{of}} keeps more snapshots than an offload every 15 minutes makes in "
            f"expire.older_than ({_text(age)}): that age never acts; lower expire.retain_last"
        )
    longest, default = policy.expire.writer_state_max, ExpirePolicy(policy.expire.limits).writer_state_max
    if expires and policy.expire.writer_state and longest <= age and longest != default:
        yield (
            f"expire.writer_state_max ({_text(longest)}){{of}} keeps nothing for writers that expire.older_than "
            f"({_text(age)}) would not keep; raise it, or say expire.writer_state: []"
        )
    if policy.compact.enabled and policy.compact.min_input_files > _MANY_FILES:
        yield (
            f"compact.min_input_files ({policy.compact.min_input_files}){{of}} leaves partitions alone that hold fewer "
            "small files than that, for good; 5 is the default"
        )
    if policy.audit is None:
        return
    warning, missing = policy.audit.warning_pct, policy.audit.missing_pct
    if missing == 100:
        yield "audit.missing_pct (100){of} means that no audit ever finds missing data; lower it"
    elif warning == missing:
        yield f"audit.warning_pct and audit.missing_pct{{of}} are both {missing}: no audit ever warns; lower the former"


def by_table(policies: tuple[TablePolicy, ...], about: Callable[[TablePolicy], Iterator[str]]) -> list[str]:
    """The warnings about tables, each once for all tables that it applies to: {of} is replaced by their names."""
    tables: dict[str, list[str]] = {}
    for policy in policies:
        for sentence in about(policy):
            tables.setdefault(sentence, []).append(policy.name)
    return [sentence.replace("{of}", f" of {_names(names, len(policies))}") for sentence, names in tables.items()]


def _names(names: list[str], count: int) -> str:
    if len(names) == count and count > 1:
        return "every table"
    return listed(names, most=_NAMED)


def _text(value: timedelta) -> str:
    """As the file writes durations, but 6h2m instead of 362m."""
    hours, rest = divmod(round(value.total_seconds()), 3600)
    return f"{hours}h{-(-rest // 60)}m" if hours and rest else format_duration(value)


def _days(count: int) -> str:
    return counted(count, "day") if count < _DAYS else "every day"
