"""The API's schemas of audits and of what they found. What the words mean: core/audit. Instants are ISO 8601 in UTC."""

from __future__ import annotations

from datetime import date, datetime
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
    id: str = Field(default="", description="What `icekeeper repair --finding` takes; empty in audits of before 0.2.")

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
    fingerprint: str | None = Field(default=None, description="ClickHouse's, in hexadecimal.")


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


class Certificate(SnapshotIdText):
    """A certificate of a day, and since when it is revoked; the counts are of the first of its strongest audits."""

    by: str = Field(description="counts or keys")
    proof: str = Field(description="files or rows")
    certified_at: datetime = Field(description="Since when.")
    audited_at: datetime
    run_id: UUID
    ch_row_count: int
    iceberg_row_count: int
    fingerprint: str | None = Field(description="Of the keys, in hexadecimal; null where only rows were counted.")
    snapshot_id: int | None
    watermark: datetime | None
    revoked_at: datetime | None
    revoked_by: UUID | None = Field(description="The run whose audit did.")
    revoked_reason: str | None = Field(description="missing_rows, changed_rows or bad_files")


class CertifiedDay(Document):
    """A UTC day of a table, and its newest certificate, which may be revoked: docs/audit.md."""

    table: str
    day: date
    certified: bool = Field(description="Whether it is, by what was asked for.")
    uncertified: str | None = Field(description="Why it is not.")
    advice: str | None = Field(description="What to do about that.")
    audited_at: datetime | None = Field(description="Of its newest audit that could tell anything.")
    audited_by: UUID | None = Field(description="The run of that audit.")
    confirmed: str | None = Field(description="By what that audit alone certifies the day; null: it does not.")
    certificate: Certificate | None


class Certificates(Document):
    """Audited and certified days, by table, those of each table from the newest back."""

    items: tuple[CertifiedDay, ...]


class AuditedDay(Document):
    """A UTC day of a table by the newest of its audits that could count, or that found bad files."""

    table: str
    day: date
    run_id: UUID
    status: str = Field(description="The audit's verdict: ok, warning, missing_data or error.")
    reason: str | None
    ch_row_count: int | None
    iceberg_row_count: int | None
    proof: str | None
    certified_by: str | None = Field(description="counts or keys; null: the day is not certified.")
    revoked_reason: str | None = Field(
        description="missing_rows, changed_rows or bad_files, by an audit of any window, since its last certificate."
    )


class AuditedDays(Document):
    """Days by table, the oldest first."""

    items: tuple[AuditedDay, ...]


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
    ch_merges: bool | None = Field(default=None, description="Whether a table of the source may merge rows.")
    source_ttl_s: int | None = Field(default=None, description="How long the source keeps its rows at least (s).")
    watermark_read: bool | None = Field(default=None, description="False: how far the offload is, is not known.")
    clock_right: bool | None = Field(default=None, description="False: the host's clock was known to be wrong.")
    files_digest: str | None = Field(default=None, description="Of the files that the window's scan planned.")
    worse: bool | None = Field(
        default=None,
        description="Of an older day that was audited again: whether its verdict is worse than the one before.",
    )
    began_at: datetime | None = Field(
        default=None, description="When ClickHouse began to be counted; run_timestamp is the end."
    )
    ack: Acknowledgement | None = None
    certified: str | None = Field(
        default=None, description="By what the audited day is certified now, counts or keys; null: it is not."
    )
