"""The API's schemas of audits and of what they found. What the words mean: core/audit. Instants are ISO 8601 in UTC."""

from __future__ import annotations

from datetime import datetime
from typing import Annotated, Protocol
from uuid import UUID

from pydantic import BaseModel, BeforeValidator, ConfigDict, Field, computed_field

from icekeeper.core.audit.records import Explanation

Number = Annotated[float, BeforeValidator(float)]


class Document(BaseModel):
    model_config = ConfigDict(frozen=True, from_attributes=True)


class _HasSnapshotId(Protocol):
    @property
    def snapshot_id(self) -> int | None: ...


class SnapshotIdText(Document):
    @computed_field(description="The same as text: JavaScript's numbers are exact only up to 2^53.")  # type: ignore[prop-decorator]
    @property
    def snapshot_id_text(self: _HasSnapshotId) -> str | None:
        return None if self.snapshot_id is None else str(self.snapshot_id)


class MissingHour(Document):
    """An hour in which Iceberg holds fewer rows than ClickHouse."""

    start: datetime
    clickhouse: int
    iceberg: int


class BadFile(Document):
    """A file that is not what its manifest says."""

    path: str
    partition: str
    content: str = Field(description="data, position_deletes or equality_deletes")
    fault: str = Field(description="missing, length, unreadable, count or listed_twice")
    rows: int = Field(description="By its manifest.")
    bytes: int = Field(description="By its manifest.")
    rows_found: int | None
    bytes_found: int | None
    detail: str
    first: datetime | None = Field(default=None, description="A bound of its event times, by its manifest.")
    last: datetime | None = None


class Finding(Document):
    """A part of an audited window in which both sides differ in one way: docs/audit.md."""

    kind: str = Field(description="missing, extra, duplicate, changed or file")
    start: datetime
    end: datetime = Field(description="exclusive")
    rows: int = Field(description="Of distinct keys where ClickHouse merges rows; of files by their manifests.")
    clickhouse: int | None = Field(description="All rows of that time; null where they were not counted.")
    iceberg: int | None
    explanation: str | None = Field(description="Null where nothing explains it.")
    evidence: str = Field(description="What the explanation rests on.")
    sample_keys: tuple[tuple[str | None, ...], ...] = Field(
        description="Some of the keys, their values in the order of the key's columns."
    )
    files: tuple[str, ...]

    @computed_field(description="The explanation's advice.")  # type: ignore[prop-decorator]
    @property
    def advice(self) -> str | None:
        return next((each.advice for each in Explanation if each.value == self.explanation), None)


class KeyComparison(Document):
    """What was compared of the keys of both sides, and how they differ: docs/audit.md."""

    columns: tuple[str, ...]
    compare: tuple[str, ...] = Field(description="Columns whose values were compared, too.")
    distinct: bool = Field(description="Whether distinct keys were compared, because ClickHouse merges rows.")
    clickhouse: int = Field(description="Rows, or distinct keys.")
    iceberg: int
    equal: bool
    sample: tuple[int, int] | None = Field(description="Which part of how many was compared; null: all.")
    missing: int | None = Field(description="Null where it could not be found out.")
    extra: int | None
    duplicate: int | None
    changed: int | None
    explored: int = Field(description="Rows that were compared key by key.")
    unexplored: int = Field(description="Rows of parts that differ, too, and were more than audit.drill_rows.")


class AuditedFinding(Finding):
    """A finding of the newest audit of its window."""

    table: str
    open: bool = Field(description="Neither repaired nor acknowledged, in a window whose verdict is not ok.")
    run_id: UUID = Field(description="The run that found it.")
    audited_at: datetime
    status: str = Field(description="The audit's verdict: ok, warning, missing_data or error.")
    window_start: datetime = Field(description="Of the audited window.")
    window_end: datetime = Field(description="exclusive")


class Findings(Document):
    """Findings, those of the newest windows first."""

    items: tuple[AuditedFinding, ...]


class Acknowledgement(Document):
    """Who closed a finding, and why."""

    by: str
    host: str
    at: datetime
    note: str


class Audit(SnapshotIdText):
    """A row of maintenance_audit_log."""

    run_id: UUID
    slot: datetime | None
    trigger: str | None
    iceberg_table: str
    ch_source: str
    layer: str
    run_timestamp: datetime
    audit_window_hours: int
    window_start: datetime
    window_end: datetime = Field(description="exclusive")
    ch_row_count: int | None
    iceberg_row_count: int | None
    delta: int | None = Field(description="iceberg_row_count - ch_row_count")
    delta_pct: Number | None
    status: str = Field(description="ok, warning, missing_data or error")
    reason: str | None
    advice: str | None = Field(default=None, description="The reason's advice.")
    notes: str | None
    snapshot_id: int | None
    ch_query: str | None
    iceberg_query: str | None
    ch_final: bool | None
    watermark: datetime | None
    missing_hours: tuple[MissingHour, ...]
    proof: str | None = Field(
        default=None, description="What Iceberg's count rests on: manifests, lengths, files or rows."
    )
    bad_files: tuple[BadFile, ...] = Field(default=(), description="The first 100 of them.")
    bad_file_rows: int | None = Field(
        default=None, description="Rows of all bad data files, by their manifests; null: no file is bad."
    )
    key_comparison: KeyComparison | None = Field(default=None, description="Null where no keys were compared.")
    findings: tuple[Finding, ...] = Field(default=(), description="The parts of the window in which both sides differ.")
    ack: Acknowledgement | None = None
