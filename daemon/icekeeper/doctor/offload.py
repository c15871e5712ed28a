"""Checks of the offload: what its own table says of each source, against how often rows come and when nights begin."""

from __future__ import annotations

from collections.abc import Iterable, Mapping
from dataclasses import dataclass
from datetime import datetime, timedelta
from itertools import pairwise
from statistics import median

from icekeeper.adapters.postgres.pool import Postgres, quoted, quoted_exactly
from icekeeper.core.errors import IcekeeperError
from icekeeper.core.formats import counted, duration, iso_minute, listed
from icekeeper.core.offload import RUNNING, STARTING, OffloadRhythm, OffloadState, ahead
from icekeeper.core.policy import TablePolicy
from icekeeper.core.reasons import Reason
from icekeeper.core.tables.state import Snapshot
from icekeeper.doctor.check import Check, Subject, to_run
from icekeeper.execution.wiring import Services

FAILED, INITIALIZED = "failed", "initialized"
# A success may be late by this many of the table's usual gaps between two appends, and at least by so many cycles.
_LATE_GAPS = 3
_LATE_CYCLES = 4
# With fewer appends in its history a table's usual gap is not known.
_FEWEST_APPENDS = 3
_UNKNOWN = "when the offload writes is not known, and this catalog may lose commits of two writers at once"
_NOT_RUNNING = "Check whether the offload runs, and its log: by offload.every a cycle begins every {every}."


@dataclass(frozen=True, slots=True)
class Source:
    """What is known of one source: its state in the offload's table, and the table's usual gap between two appends.

    `one_writer`: its catalog takes one writer at a time.
    """

    name: str
    state: OffloadState | None
    gap: timedelta | None = None
    one_writer: bool = False


async def examine_offload(services: Services, policies: tuple[TablePolicy, ...]) -> list[Check]:
    """The state of each source in the offload's table, and whether we may read it."""
    postgres, name = services.offload_postgres, services.settings.offload.table
    sources = {
        table: (policy.source.only(table), policy)
        for policy in policies
        if policy.source is not None
        for table in policy.source.tables
    }
    if not sources:
        return []
    try:
        async with postgres.connection() as connection:
            there = await connection.fetchval("SELECT to_regclass($1) IS NOT NULL", quoted(name))
        if not there:
            return [no_table(name, one_writer=any(policy.single_writer for _, policy in sources.values()))]
        states = {name: await services.ports.offload.state(source) for name, (source, _) in sources.items()}
    except IcekeeperError as exc:
        return [_unreadable(exc, postgres, name)]
    rhythm, now = services.settings.run_policy().offload, services.ports.clock()
    known = [
        Source(name, states[name], await _gap(services, policy, states[name], rhythm), policy.single_writer)
        for name, (_, policy) in sources.items()
    ]
    return offload_checks(name, known, rhythm, now)


def no_table(name: str, *, one_writer: bool) -> Check:
    """There is no table of the offload's, which matters where it must not write beside icekeeper."""
    if not one_writer:
        return Subject.OFFLOAD.passed(f"there is no table {name}, which is fine: audits will not name a watermark")
    return Subject.OFFLOAD.warning(f"there is no table {name}: {_UNKNOWN}", "Correct offload.table, and offload.dsn.")


async def _gap(
    services: Services, policy: TablePolicy, state: OffloadState | None, rhythm: OffloadRhythm
) -> timedelta | None:
    """The table's usual gap between two appends, read only where the last success is not recent."""
    success = None if state is None else state.last_successful_run
    if success is None or services.ports.clock() - success <= _LATE_CYCLES * rhythm.every or not services.engine.up:
        return None
    try:
        found = await services.ports.lakehouse.inspect(policy.name, policy.compact.target_file_size)
    except IcekeeperError:
        return None  # the checks of the table say why
    return usual_gap(found.history)


def usual_gap(history: Iterable[Snapshot]) -> timedelta | None:
    """The median of the gaps between appends; None where the history has too few of them."""
    at = sorted(snapshot.committed_at for snapshot in history if snapshot.operation == "append")
    if len(at) < _FEWEST_APPENDS:
        return None
    return timedelta(seconds=median((later - earlier).total_seconds() for earlier, later in pairwise(at)))


def _unreadable(error: IcekeeperError, postgres: Postgres, name: str) -> Check:
    if error.reason is Reason.ACCESS_DENIED and "permission denied" in str(error):
        role = quoted_exactly(postgres.target.role)
        return Subject.OFFLOAD.failure_of(error, to_run("its owner", f"GRANT SELECT ON {name} TO {role};"))
    return Subject.OFFLOAD.failure_of(error)


def offload_checks(table: str, sources: Iterable[Source], rhythm: OffloadRhythm, now: datetime) -> list[Check]:
    """Whether the offload knows each source, has not failed on it, works on it still, and brings its rows.

    A watermark is no measure of that: the one of candles is the start of the newest.
    """
    sources = tuple(sources)
    checks = []
    unknown = [source.name for source in sources if _has_no_watermark(source.state)]
    if unknown:
        text = f"{table} has no watermark of {listed(unknown)}"
        if any(source.state is None and source.one_writer for source in sources):
            text += f": {_UNKNOWN}"
        advice = f"Compare tables[].source with {table}.table_name, or let the offload take that table on."
        checks.append(Subject.OFFLOAD.warning(text, advice))
    known = {source.name: source.state for source in sources if source.state is not None}
    for name, state in known.items():
        if state.status == FAILED:
            mark = "it has none" if state.at is None else f"{state.at:%Y-%m-%dT%H:%M:%SZ}"
            text = f"the offload of {name} has failed, its watermark is {mark}"
            advice = f"Look at {table}.last_error_message and at the offload's log."
            checks.append(Subject.OFFLOAD.warning(text, advice))
    if early := [name for name, state in known.items() if ahead(state, now)]:
        text = f"{table}.updated_at of {listed(early)} is ahead of this host's clock: when a cycle began is not known"
        checks.append(Subject.OFFLOAD.warning(text, "Let the offload write it in UTC or as timestamptz; check NTP."))
    stopped = {name: state for name, state in known.items() if _has_stopped(state, rhythm, now)}
    checks += _stopped(stopped, rhythm)
    late = [source for source in sources if source.name not in stopped and _is_late(source, rhythm, now)]
    checks += [_late(source, rhythm) for source in late]
    if not checks:
        checks.append(Subject.OFFLOAD.passed(f"{table} has a working offload of {counted(len(sources), 'source')}"))
    return checks


def _has_no_watermark(state: OffloadState | None) -> bool:
    return state is None or state.at is None or state.status == INITIALIZED


def _has_stopped(state: OffloadState, rhythm: OffloadRhythm, now: datetime) -> bool:
    """Every cycle marks its beginning, whether or not there are rows: two are missing."""
    return state.updated_at is not None and now - state.updated_at > 2 * rhythm.every + STARTING


def _stopped(stopped: Mapping[str, OffloadState], rhythm: OffloadRhythm) -> Iterable[Check]:
    hanging = {name: state for name, state in stopped.items() if state.status == RUNNING}
    idle = {name: state for name, state in stopped.items() if state.status != RUNNING}
    advice = _NOT_RUNNING.format(every=duration(rhythm.every.total_seconds()))
    if hanging:
        since = iso_minute(_oldest(hanging))
        text = f"the offload's status of {listed(hanging)} is running since {since}, and no cycle has begun after it"
        yield Subject.OFFLOAD.warning(text, advice)
    if idle:
        text = f"the offload has begun no cycle of {listed(idle)} since {iso_minute(_oldest(idle))}"
        yield Subject.OFFLOAD.warning(text, advice)


def _oldest(states: Mapping[str, OffloadState]) -> datetime:
    return min(state.updated_at for state in states.values() if state.updated_at is not None)


def _is_late(source: Source, rhythm: OffloadRhythm, now: datetime) -> bool:
    """Whether a success is overdue by the table's own rhythm; without `updated_at` also where that is unknown."""
    state, gap = source.state, source.gap
    if state is None or state.status == FAILED or state.last_successful_run is None:
        return False
    if gap is None and state.updated_at is not None:
        return False
    limit = max(_LATE_CYCLES * rhythm.every, _LATE_GAPS * (gap or rhythm.every))
    return now - state.last_successful_run > limit


def _late(source: Source, rhythm: OffloadRhythm) -> Check:
    assert source.state is not None  # _is_late asked it
    assert source.state.last_successful_run is not None
    usual = (source.gap or rhythm.every).total_seconds()
    text = (
        f"the offload has brought no row of {source.name} since {iso_minute(source.state.last_successful_run)}; "
        f"usually rows come every {duration(usual)}"
    )
    return Subject.OFFLOAD.warning(text, "Look whether ClickHouse still gets rows, and at the offload's log.")
