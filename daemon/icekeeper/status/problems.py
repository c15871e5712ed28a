"""What needs an operator's attention, in sentences, the worst first. Decided from records; reads nothing."""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from dataclasses import dataclass
from datetime import datetime, timedelta
from typing import Literal
from urllib.parse import quote

from icekeeper.core.audit.days import EMPTY_DAYS, SOURCE_IS_EMPTY
from icekeeper.core.enums import NIGHT, RunOutcome
from icekeeper.core.formats import counted, listed, minute_utc
from icekeeper.core.reasons import Reason
from icekeeper.core.run_history import HELD_NIGHTS, PastNight
from icekeeper.core.tables.holds import given_together
from icekeeper.status.gauges import DaemonState, HistorySummary
from icekeeper.status.schemas import Trouble

# A slot that has been due for longer without a run is late.
LATE = timedelta(hours=1)


@dataclass(frozen=True, slots=True)
class Facts:
    """What the problems are derived from. `components` is each component's state in a word (ServiceHealth.parts).

    `has_leader`: this daemon or another one runs the nights, as far as is known.
    """

    state: DaemonState
    history: HistorySummary
    components: Mapping[str, str]
    running: bool
    has_leader: bool = True


def problems(facts: Facts, now: datetime) -> tuple[Trouble, ...]:
    """The worst first."""
    return tuple(sorted(_all(facts, now), key=lambda problem: problem.severity != "error"))


def overall(found: tuple[Trouble, ...]) -> str:
    """`ok`, `warning` or `error`, of problems with the worst first."""
    return found[0].severity if found else "ok"


def open_days(history: HistorySummary, table: str) -> int:
    """The number of days whose rows are missing from the table or could not be counted."""
    return sum(days for (name, _), days in history.open_days.items() if name == table)


def _problem(severity: Literal["warning", "error"], text: str, advice: str, link: str | None = None) -> Trouble:
    return Trouble(severity=severity, text=text, advice=advice, link=link)


def _all(facts: Facts, now: datetime) -> Iterator[Trouble]:
    yield from _of_nights(facts, now)
    yield from _of_findings(facts.history)
    yield from _of_holds(facts)
    yield from _of_operator_holds(facts.state)
    yield from _of_sources(facts)
    yield from _of_files(facts.state)
    yield from _of_components(facts.components)
    yield from _of_spool(facts.state)
    if not facts.has_leader:
        advice = "PostgreSQL keeps the lease: see who holds it, and the `lease` lines in the log."
        yield _problem("error", "No daemon runs the nights.", advice)
    if (pause := facts.state.pause) is not None:
        yield _problem("warning", f"The nights are {pause}.", "`icekeeper unpause` lets them go on.")


def _of_nights(facts: Facts, now: datetime) -> Iterator[Trouble]:
    if (last := facts.history.runs.last) is not None:
        yield from _of_last(last, failure_open=facts.history.failure_open)
    oldest = min(facts.state.open_slots, default=now)
    # A pause is intended, and is a problem of its own.
    if now - oldest >= LATE and not facts.running and facts.state.pause is None:
        text = f"The slot {minute_utc(oldest)} is due, and no run works on it."
        yield _problem("error", text, "The log says what it waits for: a pause, a command, or the lease.")


def _of_last(last: PastNight, *, failure_open: bool) -> Iterator[Trouble]:
    night, run = f"The night of {last.slot:%Y-%m-%d}", f"/runs/{last.run_id}"
    if last.outcome is RunOutcome.FAILED and failure_open:
        yield _problem("error", f"{night} failed.", "Its run says which tables, and what to do about each.", run)
    elif last.outcome is RunOutcome.MISSED:
        advice = f"It was too old to be caught up: `icekeeper run --slot {last.slot:%Y-%m-%d}` does it."
        yield _problem("error", f"{night} was missed.", advice, run)
    elif last.outcome is RunOutcome.PARTIAL:
        advice = "A compaction or expiry failed: the next night tries it again."
        yield _problem("warning", f"{night} is partial.", advice, run)


def _of_findings(history: HistorySummary) -> Iterator[Trouble]:
    for table in sorted({name for name, _ in history.open_days}):
        days = open_days(history, table)
        what = f"{counted(days, 'day')} {'lacks' if days == 1 else 'lack'} rows"
        advice = f"Repair it and audit it again, or say that it may stay so: `icekeeper ack {table}`."
        yield _problem("error", f"{table}: {what}, or could not be counted.", advice, f"/tables/{quote(table)}")


def _of_holds(facts: Facts) -> Iterator[Trouble]:
    for policy in sorted(facts.state.policies, key=lambda policy: policy.name):
        table = policy.name
        for stage in filter(policy.has, NIGHT):
            hold = facts.history.holds.get((stage, table))
            if hold is None:
                continue
            wrong = hold.reason is Reason.REWRITE_MISMATCH
            if wrong or hold.nights >= HELD_NIGHTS:
                nights = f"{hold.nights} nights in a row" if hold.nights > 1 else "last night"
                text = f"{table}: {stage} held {nights} ({hold.reason})."
                yield _problem("error" if wrong else "warning", text, hold.reason.advice, f"/tables/{quote(table)}")


def _of_operator_holds(state: DaemonState) -> Iterator[Trouble]:
    maintained = {policy.name for policy in state.policies}
    if not state.holds_known:
        advice = "While PostgreSQL is away, expiries are held. Remove `holds.json` from state_dir if it stays so."
        yield _problem("warning", "What operators have put on hold can't be read from state_dir.", advice)
    for hold, stages in given_together(state.operator_holds).items():
        link = f"/tables/{quote(hold.table)}" if hold.table in maintained else None
        advice = f"`icekeeper release {hold.table}` ends that."
        yield _problem("warning", f"{hold.table}: {listed(stages)} {hold}.", advice, link)


def _of_sources(facts: Facts) -> Iterator[Trouble]:
    for table in sorted({policy.name for policy in facts.state.policies if policy.audit is not None}):
        if (days := facts.history.empty_days.get(table, 0)) >= EMPTY_DAYS:
            text = f"{table}: ClickHouse held no row of the last {days} days that were counted, and Iceberg did."
            yield _problem("warning", text, SOURCE_IS_EMPTY, f"/tables/{quote(table)}")


def _of_files(state: DaemonState) -> Iterator[Trouble]:
    maintained = {policy.name for policy in state.policies}
    expired = {policy.name for policy in state.policies if policy.expire.enabled}
    for table, files in sorted(state.undeleted_files.items()):
        text = f"{table}: {counted(files, 'file')} of expired snapshots could not be deleted."
        if table in expired:
            advice = "They are tried again with every expiry: check the right to delete, and if the store throttles."
        else:
            advice = "No expiry of this name tries them again: free them by hand, and remove the file in undeleted/."
        yield _problem("warning", text, advice, f"/tables/{quote(table)}" if table in maintained else None)


def _of_components(components: Mapping[str, str]) -> Iterator[Trouble]:
    if components.get("ledger") == "down":
        yield _problem("warning", "PostgreSQL does not answer: records wait on disk.", Reason.LEDGER_DOWN.advice)
    if components.get("engine") not in ("up", None):
        yield _problem("warning", "There is no Spark session yet.", Reason.ENGINE_DOWN.advice)
    if components.get("spool") == "down":
        yield _problem("error", "The spool can't be read.", "The log says why; the disk of state_dir may be full.")
    if components.get("configuration") not in ("loaded", None):
        text = "The last reload was refused: the configuration is as it was before."
        yield _problem("error", text, "`icekeeper config check` says what is wrong with the file.")


def _of_spool(state: DaemonState) -> Iterator[Trouble]:
    if state.spool.quarantined:
        text = f"PostgreSQL refused {counted(state.spool.quarantined, 'record')}."
        yield _problem("error", text, "`icekeeper spool` says which and why; then `icekeeper spool --retry`.")
    if state.unrecorded_runs:
        text = (
            f"The disk could not take the record of {counted(state.unrecorded_runs, 'run')}: a restart would lose it."
        )
        yield _problem("error", text, "Free space in the file system of state_dir: it is tried every minute.")
    if state.spool_corrupt_files:
        text = "A damaged spool was set aside."
        yield _problem(
            "warning", text, "Look whether the last runs are in the history, then remove spool.db.corrupt-*."
        )
