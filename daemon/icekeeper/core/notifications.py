"""Notifications about nights: which runs are worth one, and its text. Sending: scheduling/notifier.py."""

from __future__ import annotations

from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass, replace
from datetime import datetime
from enum import StrEnum
from itertools import takewhile
from uuid import UUID

from icekeeper.core.audit.days import EMPTY_DAYS, SOURCE_IS_EMPTY
from icekeeper.core.audit.findings import findings_note
from icekeeper.core.audit.records import AuditResult, Explanation
from icekeeper.core.calendar import Window, window_of
from icekeeper.core.enums import AuditStatus, RunOutcome, Stage, TaskOutcome, Trigger
from icekeeper.core.history import PastRun
from icekeeper.core.reasons import Reason
from icekeeper.core.resuming import latest_audits
from icekeeper.core.run_history import HELD_NIGHTS, Hold, PastTask, RunHistory, holds, past_of_tasks
from icekeeper.core.runs import StageResult
from icekeeper.core.secrets import hide_in_text

# What every service shows on a phone; the run's page has the rest.
LONGEST_BODY = 3000
_LONGEST_ERROR = 300
_MOST_SLOTS = 10
_MOST_FINDINGS = 3
_BAD = frozenset({RunOutcome.FAILED, RunOutcome.PARTIAL, RunOutcome.MISSED})
_WORST_FIRST = (AuditStatus.MISSING_DATA, AuditStatus.ERROR, AuditStatus.WARNING)


Holds = Mapping[tuple[Stage, str], Hold]


class Occasion(StrEnum):
    """Why a notification is sent."""

    FAILED = "failed"
    PARTIAL = "partial"
    HELD = "held"
    SOURCE_EMPTY = "source_empty"
    RECOVERED = "recovered"


@dataclass(frozen=True, slots=True)
class Notification:
    """A message about a run, as plain text."""

    run_id: UUID
    occasion: Occasion
    title: str
    body: str


@dataclass(frozen=True, slots=True)
class KnownSlot:
    """A slot that came due; `outcome` None: it is open."""

    slot: datetime
    outcome: RunOutcome | None


@dataclass(frozen=True, slots=True)
class PastSlot:
    """A slot that is closed."""

    slot: datetime
    outcome: RunOutcome


def answered_by_later(slots: Iterable[KnownSlot]) -> frozenset[datetime]:
    """The missed slots whose window a later slot audits, too, so that nothing is lost with them.

    They come from a stop where slots are closer than a day: core/resuming.py closes all of a day but the last.
    """
    answered: set[Window] = set()
    found: set[datetime] = set()
    for known in sorted(slots, key=lambda known: known.slot, reverse=True):
        if known.outcome is not RunOutcome.MISSED:
            answered.add(window_of(known.slot))
        elif window_of(known.slot) in answered:
            found.add(known.slot)
    return frozenset(found)


def closed_before(slot: datetime, slots: Iterable[KnownSlot]) -> tuple[PastSlot, ...]:
    """The closed slots before this one, newest first, without those that a later slot answers for."""
    known = sorted(slots, key=lambda known: known.slot, reverse=True)
    answered = answered_by_later(known)
    return tuple(
        PastSlot(one.slot, one.outcome)
        for one in known
        if one.slot < slot and one.outcome is not None and one.slot not in answered
    )


def occasion_of(trigger: Trigger, outcome: RunOutcome, earlier: Sequence[PastSlot]) -> Occasion | None:
    """Why the end of a run is worth a message; None if it isn't. `earlier`: `closed_before` of its slot.

    A manual run is not: its operator sees how it ends. An interrupted run is resumed, and the resuming run is reported.
    A cancelled one was ended by an operator.
    """
    if trigger is Trigger.MANUAL:
        return None
    if outcome in (RunOutcome.FAILED, RunOutcome.MISSED):
        return Occasion.FAILED
    if outcome is RunOutcome.PARTIAL:
        return Occasion.PARTIAL
    return Occasion.RECOVERED if outcome is RunOutcome.SUCCESS and bad_nights(earlier) else None


def newly_held(slot: datetime, tasks: Sequence[PastTask], ended: Mapping[tuple[Stage, str], datetime]) -> Holds:
    """What is held for HELD_NIGHTS nights in a row since this slot, and was not before its first run began.

    `tasks`: those of the last nights and of operators' runs, the slot's own among them. An interrupted run says
    nothing by itself: its tasks are compared together with those of the run that resumes it. `ended`: when holds ended
    last, by tasks that may not be among these.
    """
    own = [task for task in tasks if task.slot == slot and not task.manual]
    keys = {(task.stage, task.table) for task in own if task.outcome is TaskOutcome.HELD}
    if not keys:
        return {}
    first, last = (end(task.started_at for task in own) for end in (min, max))
    tasks = [task for task in tasks if (task.stage, task.table) in keys and task.started_at <= last]
    ends = RunHistory(not_held={key: at for key, at in ended.items() if at < first})
    before = holds(past_of_tasks(task for task in tasks if task.started_at < first).joined(ends))
    now = holds(past_of_tasks(tasks).joined(ends))
    known = {key for key, hold in before.items() if hold.nights >= HELD_NIGHTS}
    return {key: hold for key, hold in now.items() if hold.nights >= HELD_NIGHTS and key not in known}


def bad_nights(earlier: Sequence[PastSlot]) -> tuple[PastSlot, ...]:
    """The bad nights since the last success, oldest first; a cancelled one is neither good nor bad."""
    row = takewhile(lambda past: past.outcome is not RunOutcome.SUCCESS, earlier)
    return tuple(past for past in row if past.outcome in _BAD)[::-1]


def failure(run: PastRun, of_slot: Sequence[PastRun], occasion: Occasion, page: str) -> Notification:
    """A night that failed or was partial. `of_slot` are all runs of the slot, oldest first; `page` begins the link."""
    where = f" on {run.host}" if run.host else ""
    head = [f"{page}/runs/{run.run_id}", f"{_minute(run.slot)}, {run.trigger} run{where}"]
    # No failure is recorded where the process died every time, or another host had the slot before.
    body = _bounded(
        head, _findings(of_slot) or ["It never came to its end; the log says how far each of its runs came."]
    )
    return Notification(run.run_id, occasion, f"icekeeper: {run.outcome}, slot {_minute(run.slot)}", body)


def missed(runs: Sequence[PastRun], page: str) -> Notification:
    """Slots that will not be run any more, oldest first: one message for all that are found together."""
    last = runs[-1]
    what = f"slot {_minute(last.slot)}" if len(runs) == 1 else f"{len(runs)} slots, the last {_minute(last.slot)}"
    lines = ["Nothing was compacted, expired or audited for:", *_some([_minute(run.slot) for run in runs])]
    advice = (
        "They were too old when icekeeper came to them (schedule.catch_up). To audit one: icekeeper audit --slot DAY"
    )
    body = _bounded([f"{page}/runs/{last.run_id}"], ["\n".join(lines), advice])
    return Notification(last.run_id, Occasion.FAILED, f"icekeeper: missed, {what}", body)


def recovery(run: PastRun, bad: Sequence[PastSlot], of_last_bad: Sequence[PastRun], page: str) -> Notification:
    """A successful night after `bad` ones, oldest first. `of_last_bad` are the runs of the last of them."""
    since, number = bad[0], len(bad)
    nights = "one night" if number == 1 else f"{number} nights"
    outcomes = [f"{past.outcome}, slot {_minute(past.slot)}" for past in bad]
    was = "\n".join([f"Before it, {nights} since {_minute(since.slot)}:", *_some(outcomes)])
    last = "\n".join([f"What the last of them had ({_minute(bad[-1].slot)}):", *_some(_headings(of_last_bad))])
    parts = [was, last] if _headings(of_last_bad) else [was]
    if any(audit.status is AuditStatus.MISSING_DATA for past in of_last_bad for audit in past.audits):
        parts.append("A good night brings no rows back: `icekeeper ack` lists the days that are still open.")
    body = _bounded([f"{page}/runs/{run.run_id}"], parts)
    return Notification(run.run_id, Occasion.RECOVERED, f"icekeeper: recovered, slot {_minute(run.slot)}", body)


def held(run_id: UUID, slot: datetime, stages: Holds, page: str) -> Notification:
    """Stages that were held for too many nights in a row."""
    body = _bounded([f"{page}/runs/{run_id}"], _holds(stages))
    title = f"icekeeper: held {HELD_NIGHTS} nights in a row, slot {_minute(slot)}"
    return Notification(run_id, Occasion.HELD, title, body)


def source_empty(run_id: UUID, slot: datetime, tables: Mapping[str, int], page: str) -> Notification:
    """Sources that held no row of too many days in a row, though Iceberg did."""
    body = _bounded([f"{page}/runs/{run_id}"], _sources(tables))
    title = f"icekeeper: source empty {EMPTY_DAYS} days in a row, slot {_minute(slot)}"
    return Notification(run_id, Occasion.SOURCE_EMPTY, title, body)


def with_others(message: Notification, others: Sequence[Notification]) -> Notification:
    """The message of the same run, which says what the others say, too."""
    parts = [part for other in others for part in other.body.split("\n\n")[1:]]
    return replace(message, body=_bounded([message.body], parts))


# --- contents


def _holds(stages: Holds) -> list[str]:
    in_order = sorted(stages.items(), key=lambda item: (list(Stage).index(item[0][0]), item[0][1]))
    return [
        "\n".join([f"{stage} {table}: held {hold.nights} nights in a row ({hold.reason})", *_advice(hold.reason)])
        for (stage, table), hold in in_order
    ]


def _sources(tables: Mapping[str, int]) -> list[str]:
    heads = (f"audit {table}: source empty {days} days in a row, Iceberg not" for table, days in sorted(tables.items()))
    return ["\n".join([*heads, f"  {SOURCE_IS_EMPTY}"])]


def _findings(runs: Iterable[PastRun]) -> list[str]:
    audits, tasks = _latest(runs)
    return [*map(_audit, audits), *map(_task, tasks)]


def _headings(runs: Iterable[PastRun]) -> list[str]:
    audits, tasks = _latest(runs)
    return [*map(_audit_heading, audits), *map(_task_heading, tasks)]


def _latest(runs: Iterable[PastRun]) -> tuple[list[AuditResult], list[StageResult]]:
    """The latest audits and tasks of a slot's runs: the audits that are not ok, worst first, and the failed tasks."""
    runs = tuple(runs)
    audits = [audit for audit in latest_audits(audit for run in runs for audit in run.audits) if audit.decides]
    tasks: dict[tuple[Stage, str], StageResult] = {}
    for run in runs:
        tasks.update({(task.stage, task.table): task for task in run.tasks if task.reason is not Reason.CANCELLED})
    bad = [audit for status in _WORST_FIRST for audit in audits if audit.status is status]
    # An audit that could not count is among the audits, which say more.
    audited = {audit.iceberg_table for audit in audits}
    failed = [
        task
        for task in tasks.values()
        if task.outcome is TaskOutcome.FAILED and not (task.stage is Stage.AUDIT and task.table in audited)
    ]
    return bad, failed


def _audit_heading(audit: AuditResult) -> str:
    # The night's own day is said by its slot.
    day = "" if audit.worse is None else f" of {audit.window_start:%Y-%m-%d}, worse than before"
    return f"audit {audit.iceberg_table}{day}: {audit.status}{f' ({audit.reason})' if audit.reason else ''}"


def _audit(audit: AuditResult) -> str:
    window = Window(audit.window_start, audit.window_end)
    delta = "" if audit.delta is None else f"; delta {audit.delta:+,}"
    percent = "" if audit.delta_pct is None else f" ({audit.delta_pct:+.2f} %)"
    lines = [
        _audit_heading(audit),
        f"  {window}: ClickHouse {_rows(audit.ch_row_count)}, Iceberg {_rows(audit.iceberg_row_count)}{delta}{percent}",
    ]
    if audit.findings:
        lines.append(f"  found: {findings_note(audit.findings, _MOST_FINDINGS)}")
    if audit.status is AuditStatus.ERROR and audit.notes:
        lines.append(f"  {_short(audit.notes)}")
    lines += (f"  {explanation.advice}" for explanation in Explanation if explanation in _explanations(audit))
    return "\n".join([*lines, *_advice(audit.reason)])


def _explanations(audit: AuditResult) -> set[Explanation | None]:
    return {finding.explanation for finding in audit.findings if finding.explanation is not Explanation.BAD_FILE}


def _task_heading(task: StageResult) -> str:
    return f"{task.stage} {task.table}: failed{f' ({task.reason})' if task.reason else ''}"


def _task(task: StageResult) -> str:
    times = f" after {task.attempts} attempts" if task.attempts > 1 else ""
    error = [f"  {_short(task.error)}"] if task.error else []
    return "\n".join([f"{_task_heading(task)}{times}", *error, *_advice(task.reason)])


def _advice(reason: Reason | None) -> list[str]:
    return [] if reason is None else [f"  {reason.advice}"]


# --- format


def _minute(instant: datetime) -> str:
    return f"{instant:%Y-%m-%d %H:%M} UTC"


def _rows(count: int | None) -> str:
    return "not counted" if count is None else f"{count:,} rows"


def _short(text: str) -> str:
    line = " ".join(hide_in_text(text).split())
    return line if len(line) <= _LONGEST_ERROR else f"{line[:_LONGEST_ERROR]}..."


def _some(lines: Sequence[str]) -> list[str]:
    more = [f"  and {len(lines) - _MOST_SLOTS} more"] if len(lines) > _MOST_SLOTS else []
    return [*(f"  {line}" for line in lines[:_MOST_SLOTS]), *more]


def _bounded(head: Sequence[str], parts: Sequence[str]) -> str:
    """The head, which begins with the link, and as many parts as fit."""
    text = "\n".join(head)
    for number, part in enumerate(parts):
        if len(text) + len(part) > LONGEST_BODY:
            return f"{text}\n\nand {len(parts) - number} more: see the run"
        text = f"{text}\n\n{part}"
    return text
