"""Bringing missing rows back to Iceberg: which findings can be repaired, with which columns, and why not. Pure."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field, replace
from datetime import datetime
from enum import StrEnum
from uuid import UUID, uuid5

from icekeeper.core.audit.keys import Key
from icekeeper.core.audit.records import AuditResult, Explanation, Finding, FindingKind
from icekeeper.core.calendar import Window
from icekeeper.core.enums import Advised
from icekeeper.core.errors import PermanentError
from icekeeper.core.formats import counted, listed
from icekeeper.core.policy import TablePolicy
from icekeeper.core.reasons import Reason

# The key under which Iceberg keeps a finding's id in the summary of the snapshot that repaired it.
FINDING_ID_PROPERTY = "icekeeper.finding-id"


class Way(StrEnum):
    """Who brings the rows back."""

    ICEKEEPER = "icekeeper"
    OFFLOAD = "offload"


class Refusal(Advised):
    """Why a finding is not repaired."""

    NOT_MISSING = (
        "not_missing",
        "Only missing rows are brought back: what is surplus, doubled or changed in Iceberg has to be looked at first.",
    )
    NO_KEY = (
        "no_key",
        "Only a key tells which rows Iceberg has already: set audit.key, audit the day again, and repair what that "
        "finds.",
    )
    NOT_OFFLOADED = (
        "not_offloaded",
        "The offload has not come so far, and will write these rows itself: audit the day again after its next cycle.",
    )
    SOURCE_EXPIRED = (
        "source_expired",
        "The source's TTL may have taken rows of this time from ClickHouse: bring them back from where they are left.",
    )
    SOURCE_EMPTY = "source_empty", "ClickHouse holds no row of this time any more: audit the day again."
    COLUMN_REQUIRED = (
        "column_required",
        "Iceberg requires a column, places rows by it or has a default for it, and ClickHouse lacks it or holds NULL "
        "in it: name it in source.columns if it has another name there, else have the offload write these rows.",
    )
    COLUMN_TYPE = (
        "column_type",
        "ClickHouse holds a column in a type that Iceberg's can't hold exactly: have the offload write these rows.",
    )
    KEY_SHARED = (
        "key_shared",
        "Several rows share a key, and nothing shows which of them lack: set an audit.key that tells rows apart, and "
        "audit the day again, or bring these rows back by hand.",
    )
    REMOTE_ENGINE = (
        "remote_engine",
        "Rows reach Spark in a file on this host, which only a local spark.master reads: have the offload write them.",
    )
    CLAIMED = (
        "claimed",
        "This time is being repaired in the other way: wait until that is done, then audit the day again.",
    )
    REPAIRED = (
        "repaired",
        "Its rows were brought back already: audit the day again; what still lacks then is a finding of its own.",
    )


# What keeps icekeeper from a repair and not the offload, which knows its own columns.
ONLY_OURS = frozenset({Refusal.COLUMN_REQUIRED, Refusal.COLUMN_TYPE, Refusal.REMOTE_ENGINE})


class NotRepairable(PermanentError):
    """A finding can't be repaired: `refusal` says why."""

    default_reason = Reason.NOT_REPAIRABLE

    def __init__(self, refusal: Refusal, message: str, *, where: str | None = None) -> None:
        super().__init__(message, where=where)
        self.refusal = refusal


@dataclass(frozen=True, slots=True)
class TableColumn:
    """A column of an Iceberg table, its type in Iceberg's words.

    `used`: the table's partitions, order or identity need its values, or it has a default: NULL is no value of it.
    """

    name: str
    words: str
    required: bool = False
    used: bool = False


@dataclass(frozen=True, slots=True)
class SourceColumn:
    """A column of an Iceberg table, and its name in ClickHouse."""

    column: TableColumn
    source: str


@dataclass(frozen=True, slots=True)
class SourceRows:
    """What ClickHouse holds of a finding's time. By Iceberg's names of columns: those that it lacks, the types of those
    that can't be converted exactly, and in how many rows a required one is NULL, or Iceberg's type can't hold the value
    (none of 0)."""

    rows: int
    absent: frozenset[str] = frozenset()
    unfit: Mapping[str, str] = field(default_factory=dict)
    nulls: Mapping[str, int] = field(default_factory=dict)
    too_large: Mapping[str, int] = field(default_factory=dict)


@dataclass(frozen=True, slots=True)
class RepairJob:
    """Rows in a file, which a table is to be given unless it holds their keys.

    `path`: a Parquet file on this host with the columns in their order. `window`: the finding's, within which no other
    writer may add rows meanwhile; `audited`: the audit's, in which keys count as held. `by_rows`: each row of a key
    counts, else only whether there is one.
    """

    finding_id: str
    run_id: UUID
    path: str
    columns: tuple[TableColumn, ...]
    key: Key
    timestamp: str
    window: Window
    audited: Window
    by_rows: bool


@dataclass(frozen=True, slots=True)
class Repaired:
    """How many rows were added, and the snapshot that did it (None where nothing was missing any more)."""

    rows: int
    snapshot_id: int | None = None


@dataclass(frozen=True, slots=True)
class FindingRepair:
    """What a repair of a finding would do, or why it does nothing.

    `rows`: how many are missing by the audit, `rows_to_read` in ClickHouse at that time (None: not asked). `columns`
    are filled from ClickHouse, `left_null` are not there. `final`: whether ClickHouse merges rows as they are read.
    """

    finding_id: str
    start: datetime
    end: datetime
    rows: int
    key: tuple[str, ...] = ()
    rows_to_read: int | None = None
    columns: tuple[str, ...] = ()
    left_null: tuple[str, ...] = ()
    final: bool = False
    refusal: Refusal | None = None
    note: str = ""


def finding_id(run_id: UUID, table: str, finding: Finding) -> str:
    """The id of a finding of a run's audit, 16 hex digits: the same whenever it is computed."""
    place = f"{table} {finding.kind} {finding.start.isoformat()} {finding.end.isoformat()}"
    return uuid5(run_id, place).hex[:16]


def identified(row: AuditResult) -> AuditResult:
    """The audit with an id for each of its findings."""
    found = (replace(one, id=finding_id(row.run_id, row.iceberg_table, one)) for one in row.findings)
    return replace(row, findings=tuple(found))


def refusal_of(policy: TablePolicy, finding: Finding, offloaded_until: datetime | None) -> Refusal | None:
    """Why a finding can't be repaired, as far as no system has to be asked.

    `offloaded_until`: what the offload has passed and won't come back to; None: it is not known how far it is.
    """
    if finding.kind is not FindingKind.MISSING:
        return Refusal.NOT_MISSING
    if policy.keys is None:
        return Refusal.NO_KEY
    ahead = offloaded_until is not None and offloaded_until < finding.end
    if ahead or (offloaded_until is None and finding.explanation is Explanation.NOT_OFFLOADED):
        return Refusal.NOT_OFFLOADED
    return None


def fillable(columns: Sequence[TableColumn], found: SourceRows, table: str) -> tuple[TableColumn, ...]:
    """The columns that ClickHouse fills, the others stay NULL. NotRepairable where it can't be so."""
    if not found.rows:
        raise NotRepairable(Refusal.SOURCE_EMPTY, "ClickHouse holds no row of that time", where=table)
    lacking = [column.name for column in columns if (column.required or column.used) and column.name in found.absent]
    if lacking:
        raise NotRepairable(Refusal.COLUMN_REQUIRED, f"ClickHouse has no {listed(lacking)}", where=table)
    if found.unfit:
        words = {column.name: column.words for column in columns}
        wrong = [f"{name} is {theirs} there and {words[name]} in Iceberg" for name, theirs in found.unfit.items()]
        raise NotRepairable(Refusal.COLUMN_TYPE, "; ".join(wrong), where=table)
    if found.too_large:
        large = [f"{name} in {counted(rows, 'row')}" for name, rows in found.too_large.items()]
        text = f"ClickHouse holds values that Iceberg's type can't: {', '.join(large)}"
        raise NotRepairable(Refusal.COLUMN_TYPE, text, where=table)
    if found.nulls:
        nulls = [f"{name} is NULL in {counted(rows, 'row')}" for name, rows in found.nulls.items()]
        raise NotRepairable(Refusal.COLUMN_REQUIRED, f"in ClickHouse {', '.join(nulls)}", where=table)
    return tuple(column for column in columns if column.name not in found.absent)
