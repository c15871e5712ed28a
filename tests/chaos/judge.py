"""What must be true after a night, whatever happened in it; looked up by other means than the program's own.

Rows are read by pyiceberg, objects listed by pyarrow, the ledger asked by psycopg.
"""

from __future__ import annotations

from collections import Counter
from collections.abc import Iterator, Mapping
from dataclasses import dataclass
from datetime import datetime
from enum import StrEnum
from typing import Any

from pyiceberg.table import Table

from icekeeper.core.enums import NIGHT, Stage
from icekeeper.sandbox import Sandbox, World
from icekeeper.sandbox.table_shapes import SHAPES
from icekeeper.sandbox.world_spec import to_micros
from tests.conftest import SLOT

# A row with all its columns, as text. Rows may be equal: they are counted.
Rows = Counter[str]


class Wrong(StrEnum):
    """The ways in which a run can go wrong."""

    STUCK = "stuck"
    ROWS_LOST = "rows lost"
    ROWS_DOUBLED = "rows doubled"
    FILES_LOST = "files lost"
    AUDITS_LOST = "audit rows lost"
    AUDITS_DOUBLED = "audit rows doubled"
    AUDIT_UNTRUE = "audit untrue"
    LEDGER_UNTRUE = "ledger untrue"
    FAILED = "failed for nothing"
    SPOOL_LEFT = "records left in the spool"
    PROCESS_LEFT = "process left behind"
    DIED = "died by itself"
    LATE = "taken over late"
    NOT_JUDGED = "not judged"


@dataclass(frozen=True)
class Violation:
    """Something that must not be; `count` of what it is about."""

    wrong: Wrong
    text: str
    count: int = 1


@dataclass(frozen=True)
class Before:
    """What the tables held before the night."""

    rows: Mapping[str, Rows]
    watermarks: Mapping[str, datetime]

    @classmethod
    def of(cls, world: World) -> Before:
        marks = {table: world.watermark(table) for table in world.spec.tables}
        rows = {table: _rows(_table(world, table)) for table in world.spec.tables}
        return cls(rows, {table: mark for table, mark in marks.items() if mark is not None})


def judge_tables(box: Sandbox, world: World, before: Before) -> list[Violation]:
    """What is lost or doubled. Rows of a table that lacks files can't be read, and needn't."""
    found: list[Violation] = []
    for table in world.spec.tables:
        found += list(_judge_files(box, world, table)) or _judge_rows(world, table, before)
    return found


def judge_ledger(world: World, may_fail: frozenset[Stage]) -> list[Violation]:
    """What PostgreSQL tells of the slot that isn't so, or isn't all."""
    ledger = _Ledger.of(world)
    return [*ledger.judge_runs(), *ledger.judge_tasks(may_fail), *ledger.judge_audits(world, may_fail)]


# --- the tables


def _table(world: World, name: str) -> Table:
    return world.pyiceberg_catalog().load_table(SHAPES[name].identifier)


def _rows(table: Table) -> Rows:
    return Counter(repr(sorted(row.items())) for row in table.scan().to_arrow().to_pylist())


def _judge_rows(world: World, name: str, before: Before) -> Iterator[Violation]:
    written = before.rows[name].copy()
    mark = world.watermark(name)
    if mark is not None and mark > before.watermarks[name]:  # the offload has committed meanwhile
        shape = SHAPES[name]
        appended = world.read(shape, to_micros(before.watermarks[name]), to_micros(mark))
        as_stored = appended.cast(_table(world, name).schema().as_arrow())
        written.update(repr(sorted(row.items())) for row in as_stored.to_pylist())
    there = _rows(_table(world, name))
    for wrong, rows in ((Wrong.ROWS_LOST, written - there), (Wrong.ROWS_DOUBLED, there - written)):
        if rows:
            yield Violation(wrong, f"{name}: {rows.total()} rows, such as {next(iter(rows))[:300]}", rows.total())


def _judge_files(box: Sandbox, world: World, name: str) -> Iterator[Violation]:
    """Whether all that any snapshot refers to is in the store."""
    table = _table(world, name)
    snapshots = table.metadata.snapshots
    # Most manifests are shared by many snapshots.
    manifests = {manifest.manifest_path: manifest for one in snapshots for manifest in one.manifests(table.io)}
    named = {table.metadata_location, *(one.manifest_list for one in snapshots), *manifests}
    for manifest in manifests.values():
        named.update(entry.data_file.file_path for entry in manifest.fetch_manifest_entry(table.io))
    buckets = {uri.removeprefix("s3://").partition("/")[0] for uri in named}
    there = {f"s3://{bucket}/{key}" for bucket in buckets for key in box.s3.list(_below(table), bucket=bucket)}
    if gone := sorted(named - there):
        yield Violation(Wrong.FILES_LOST, f"{name}: {len(gone)} files, such as {gone[0]}", len(gone))


def _below(table: Table) -> str:
    """The table's place in its bucket."""
    return table.location().removeprefix("s3://").partition("/")[2].rstrip("/") + "/"


# --- the ledger

_RUNS = """
    SELECT run_id::text, trigger, outcome, finished_at, started_at FROM maintenance_runs WHERE slot = $1
    ORDER BY started_at
"""
_TASKS = """
    SELECT run_id::text, stage, iceberg_table, outcome, reason FROM maintenance_tasks
    WHERE run_id IN (SELECT run_id FROM maintenance_runs WHERE slot = $1)
"""
_AUDITS = """
    SELECT iceberg_table, run_id::text, status, ch_row_count, iceberg_row_count, delta, snapshot_id, ch_final,
      window_start, window_end, reason
    FROM maintenance_audit_log WHERE slot = $1
"""
_TRIGGERS = ("schedule", "catch_up", "resume")


@dataclass(frozen=True)
class _Ledger:
    """What PostgreSQL tells of the slot."""

    tables: tuple[str, ...]
    runs: list[dict[str, Any]]
    tasks: list[dict[str, Any]]
    audits: list[dict[str, Any]]
    others: int

    @classmethod
    def of(cls, world: World) -> _Ledger:
        def ask(columns: str, query: str) -> list[dict[str, Any]]:
            rows = world.postgres.execute(world.postgres_database, query, SLOT)
            return [dict(zip(columns.split(), row, strict=True)) for row in rows]

        return cls(
            world.spec.tables,
            ask("run_id trigger outcome finished_at started_at", _RUNS),
            ask("run_id stage table outcome reason", _TASKS),
            ask(
                "table run_id status clickhouse iceberg delta snapshot_id final window_start window_end reason", _AUDITS
            ),
            ask("n", "SELECT count(*) FROM maintenance_runs WHERE slot <> $1")[0]["n"],
        )

    def judge_runs(self) -> Iterator[Violation]:
        """Every run is closed, exactly one closed the slot, and it was the last."""
        outcomes = [run["outcome"] for run in self.runs]
        listing = ", ".join(f"{run['trigger']} {run['outcome']}" for run in self.runs) or "none"
        if any(run["outcome"] is None or run["finished_at"] is None for run in self.runs):
            yield Violation(Wrong.LEDGER_UNTRUE, f"a run was never closed: {listing}")
        closing = [outcome for outcome in outcomes if outcome not in (None, "interrupted")]
        if len(closing) != 1 or closing != outcomes[-1:]:
            yield Violation(Wrong.LEDGER_UNTRUE, f"the slot was not closed exactly once, by its last run: {listing}")
        for number, run in enumerate(self.runs):
            if run["trigger"] not in (_TRIGGERS[2:] if number else _TRIGGERS[:2]):
                yield Violation(Wrong.LEDGER_UNTRUE, f"run {number + 1} has another trigger than its place: {listing}")
        if self.others:
            yield Violation(Wrong.LEDGER_UNTRUE, f"{self.others} runs of other slots")

    def judge_tasks(self, may_fail: frozenset[Stage]) -> Iterator[Violation]:
        """Of each task there is an end, and the outcome of the slot follows from these and from the audits."""
        last: dict[tuple[str, str], dict[str, Any]] = {}
        order = {run["run_id"]: number for number, run in enumerate(self.runs)}
        for task in sorted(self.tasks, key=lambda task: order[task["run_id"]]):
            last[task["stage"], task["table"]] = task
        wanted = {(stage.value, table) for stage in NIGHT for table in self.tables}
        if set(last) != wanted:
            yield Violation(Wrong.LEDGER_UNTRUE, f"tasks missing: {wanted - set(last)}, unknown: {set(last) - wanted}")
        failed = {key: task["reason"] for key, task in last.items() if task["outcome"] == "failed"}
        for (stage, table), reason in failed.items():
            if Stage(stage) not in may_fail:
                yield Violation(Wrong.FAILED, f"{stage} of {table} failed: {reason}")
        by_verdict = "missing_data" in self._verdicts() or "error" in self._verdicts()
        expected = "failed" if by_verdict or any(stage == "audit" for stage, _ in failed) else "success"
        if expected == "success" and failed:
            expected = "partial"
        if self.runs and self.runs[-1]["outcome"] != expected:
            text = f"the slot was closed as {self.runs[-1]['outcome']}, and its tasks and audits say {expected}"
            yield Violation(Wrong.LEDGER_UNTRUE, text)

    def _verdicts(self) -> set[str]:
        return {audit["status"] for audit in self.audits}

    def judge_audits(self, world: World, may_fail: frozenset[Stage]) -> Iterator[Violation]:
        """One row a table, of a run of this slot, with the counts that anyone gets who counts again."""
        rows = Counter(audit["table"] for audit in self.audits)
        for table in self.tables:
            if rows[table] == 0:
                yield Violation(Wrong.AUDITS_LOST, f"{table} has no audit row")
            if rows[table] > 1:
                yield Violation(Wrong.AUDITS_DOUBLED, f"{table} has {rows[table]} audit rows", rows[table] - 1)
        known = {run["run_id"] for run in self.runs}
        for audit in self.audits:
            if audit["run_id"] not in known:
                yield Violation(Wrong.AUDIT_UNTRUE, f"{audit['table']}: by a run that the ledger doesn't know")
            if audit["status"] == "error":
                if Stage.AUDIT not in may_fail:
                    yield Violation(Wrong.FAILED, f"the audit of {audit['table']} failed: {audit['reason']}")
                continue
            counted, recounted = (audit["clickhouse"], audit["iceberg"]), _count_again(world, audit)
            if counted != recounted or audit["delta"] != counted[1] - counted[0] or audit["status"] != "ok":
                text = f"{audit['table']}: {counted} {audit['status']}, and counted again {recounted}"
                yield Violation(Wrong.AUDIT_UNTRUE, text)


def _count_again(world: World, audit: Mapping[str, Any]) -> tuple[int, int]:
    name, start, end = audit["table"], audit["window_start"], audit["window_end"]
    column = SHAPES[name].timestamp
    window = f"{column} >= '{start.isoformat()}' AND {column} < '{end.isoformat()}'"
    scan = _table(world, name).scan(row_filter=window, snapshot_id=audit["snapshot_id"])
    return world.rows_clickhouse(name, start, end, final=bool(audit["final"])), scan.count()
