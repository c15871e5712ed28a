"""What an audit counts, what it concludes and what it stores. Judging the counts is verdict.py's."""

from __future__ import annotations

from dataclasses import dataclass
from datetime import datetime, timedelta
from decimal import Decimal
from enum import StrEnum
from uuid import UUID

from icekeeper.core.calendar import Window
from icekeeper.core.enums import Advised, AuditStatus, Proof, Trigger
from icekeeper.core.formats import duration
from icekeeper.core.reasons import Reason

# How many bad files an audit keeps, and how many findings of each kind.
MOST_BAD_FILES = 100
MOST_FINDINGS = 50


@dataclass(frozen=True, slots=True)
class SourceTtl:
    """How long a source keeps its rows, at least and at most (months differ).

    `column`: what the time is counted from; None: the event time. `every_row` False: only rows that meet a condition
    are deleted.
    """

    least: timedelta
    most: timedelta
    column: str | None = None
    every_row: bool = True

    def __str__(self) -> str:
        """`7 d after ingestion_timestamp`."""
        after = f" after {self.column}" if self.column else ""
        return f"{duration(self.least.total_seconds())}{after}{'' if self.every_row else ', for some of the rows'}"


@dataclass(frozen=True, slots=True)
class Fingerprint:
    """How many rows, and the two sums of hashes over their keys; over keys and compared values where those are."""

    rows: int = 0
    keys: tuple[int, ...] = (0, 0)
    values: tuple[int, ...] = ()

    def __add__(self, other: Fingerprint) -> Fingerprint:
        """The fingerprint of the rows of both. Sums of hashes wrap at 64 bits."""
        keys, values = (
            tuple((one + more) % 2**64 for one, more in zip(ours, theirs, strict=True))
            for ours, theirs in ((self.keys, other.keys), (self.values, other.values))
        )
        return Fingerprint(self.rows + other.rows, keys, values)

    @property
    def text(self) -> str:
        """The sums as hexadecimal digits, 16 for each: two of the keys, and two with the values where those are."""
        return "".join(f"{number:016x}" for number in (*self.keys, *self.values))


@dataclass(frozen=True, slots=True)
class SourceCount:
    """Rows of a window in ClickHouse, and how they were counted.

    `final`: whether FINAL was applied; `merges`: whether a table of the source may merge rows, whatever the settings
    say. `ttl`: the table's own, by its definition; None where it has none, or none that is understood. `fingerprint`:
    of the rows that were counted; None where no key was given, or the source merges rows. `began_at`: when that began.
    """

    rows: int
    query: str
    final: bool
    ttl: SourceTtl | None = None
    fingerprint: Fingerprint | None = None
    merges: bool = False
    began_at: datetime | None = None


@dataclass(frozen=True, slots=True)
class LakehouseCount:
    """Rows of a window in Iceberg at one snapshot (None: the table has none yet), and how they were counted."""

    rows: int
    query: str
    snapshot_id: int | None


@dataclass(frozen=True, slots=True)
class MissingHour:
    """An hour of a window in which Iceberg holds fewer rows than ClickHouse."""

    start: datetime
    clickhouse: int
    iceberg: int


class FileFault(StrEnum):
    """What is wrong with a file: it is not there, has another length than its manifest says, its footer (of a deletion
    vector: its blob) can't be read or holds another number of rows, manifests list it twice, so that its rows count
    twice, or it does not fit the table's schema, so that a rewrite would change its values."""

    MISSING = "missing"
    LENGTH = "length"
    UNREADABLE = "unreadable"
    COUNT = "count"
    LISTED_TWICE = "listed_twice"
    SCHEMA = "schema_mismatch"


@dataclass(frozen=True, slots=True)
class BadFile:
    """A file that is not what its manifest says. `content`: data, position_deletes or equality_deletes.

    `rows` and `bytes` are the manifest's, `rows_found` and `bytes_found` the file's, as far as they are known; `first`
    and `last` bounds of its event times, by the manifest.
    """

    path: str
    partition: str
    content: str
    fault: FileFault
    rows: int
    bytes: int
    rows_found: int | None = None
    bytes_found: int | None = None
    detail: str = ""
    first: datetime | None = None
    last: datetime | None = None


class FindingKind(StrEnum):
    """What is wrong with rows in Iceberg: they are missing, ClickHouse has no such rows, they are there more often than
    in ClickHouse, their compared values are others, or their file is bad."""

    MISSING = "missing"
    EXTRA = "extra"
    DUPLICATE = "duplicate"
    CHANGED = "changed"
    FILE = "file"


class Explanation(Advised):
    """Why rows differ, as far as it can be told."""

    NOT_OFFLOADED = "not_offloaded", "The offload has not come so far yet: audit the day again after its next cycle."
    CYCLE_LOST = (
        "cycle_lost",
        "Iceberg holds no row of whole cycles: offload this time again while ClickHouse still has it.",
    )
    BEHIND_WATERMARK = (
        "behind_watermark",
        "The offload has passed this time and won't come back to it: rows came late, or a part of a cycle was lost; "
        "offload them again while ClickHouse still has them.",
    )
    WRITTEN_TWICE = (
        "written_twice",
        "Whole cycles are there more than once: find the commits of the offload that wrote them, see that they hold "
        "the same rows, and delete one copy.",
    )
    MERGED_IN_SOURCE = (
        "merged_in_source",
        "ClickHouse merges rows of this table, and may have merged or deleted these since they were offloaded; many of "
        "them may be rows that it never held.",
    )
    BAD_FILE = (
        "bad_file",
        "Files are not what their manifests or the table's schema say: restore them, or offload their time again while "
        "ClickHouse has it.",
    )


@dataclass(frozen=True, slots=True)
class Finding:
    """A half-open part of an audited window, and one thing that is wrong with rows of it.

    `rows`: how many, of distinct keys where the source merges rows, of a bad file by its manifest. `clickhouse` and
    `iceberg` are all rows of that time, None where they were not counted. `evidence`: what `explanation` rests on.
    `sample_keys`: some of the keys, their values in the order of the key's columns (None: NULL). `id`: what names it to
    a repair; empty in audits of before there were repairs.
    """

    kind: FindingKind
    start: datetime
    end: datetime
    rows: int
    clickhouse: int | None = None
    iceberg: int | None = None
    explanation: Explanation | None = None
    evidence: str = ""
    sample_keys: tuple[tuple[str | None, ...], ...] = ()
    files: tuple[str, ...] = ()
    id: str = ""


@dataclass(frozen=True, slots=True)
class KeyComparison:
    """What was compared of the keys of both sides, and how they differ.

    `columns` and `compare` are Iceberg's names. `clickhouse` and `iceberg` are rows; where the source merges rows
    (`distinct`) they are distinct keys, and no values are compared. `sample`: only the keys whose hash ends with this
    number of so many were compared. `missing` to `changed` are what was found among `explored` rows, None where it is
    not known; `unexplored` rows lie in parts that differ as well, and were more than the budget allows. Which keys
    differ: the audit's findings. `fingerprint`: ClickHouse's, as Fingerprint.text has it.
    """

    columns: tuple[str, ...]
    compare: tuple[str, ...]
    distinct: bool
    clickhouse: int
    iceberg: int
    equal: bool
    sample: tuple[int, int] | None = None
    missing: int | None = 0
    extra: int | None = 0
    duplicate: int | None = 0
    changed: int | None = 0
    explored: int = 0
    unexplored: int = 0
    fingerprint: str | None = None


@dataclass(frozen=True, slots=True)
class Verdict:
    """What the two counts mean. `delta` = iceberg - clickhouse; `delta_pct` is rounded, for display only."""

    status: AuditStatus
    reason: Reason | None
    delta: int | None
    delta_pct: Decimal | None
    note: str


@dataclass(frozen=True, slots=True)
class AuditResult:
    """A row of `maintenance_audit_log`, column by column.

    `bad_files`: at most MOST_BAD_FILES of them; `bad_file_rows`: of all of them, by their manifests, None where no file
    is bad. `ch_merges`: whether the source may merge rows; `source_ttl_s`: how long it keeps them at least (s);
    `watermark_read`: False where the offload's watermark could not be read. They are None where nothing was
    counted, or by an icekeeper before 0.2.0; the TTL also where it is not known. `clock_right`: False where the host's
    clock was known to be wrong. `files_digest`: of the data and delete files that a scan of the window planned at
    `snapshot_id`. `worse`: of an older day that was audited again, whether its verdict is worse than the one before.
    `began_at`: when ClickHouse began to be counted; `run_timestamp` is the audit's end.
    """

    run_id: UUID
    slot: datetime
    trigger: Trigger
    run_timestamp: datetime
    iceberg_table: str
    ch_source: str
    layer: str
    audit_window_hours: int
    window_start: datetime
    window_end: datetime
    ch_row_count: int | None
    iceberg_row_count: int | None
    delta: int | None
    delta_pct: Decimal | None
    status: AuditStatus
    reason: Reason | None
    notes: str
    snapshot_id: int | None = None
    ch_query: str | None = None
    iceberg_query: str | None = None
    ch_final: bool | None = None
    watermark: datetime | None = None
    missing_hours: tuple[MissingHour, ...] = ()
    proof: Proof | None = None
    bad_files: tuple[BadFile, ...] = ()
    bad_file_rows: int | None = None
    key_comparison: KeyComparison | None = None
    findings: tuple[Finding, ...] = ()
    ch_merges: bool | None = None
    source_ttl_s: int | None = None
    watermark_read: bool | None = None
    clock_right: bool | None = None
    files_digest: str | None = None
    worse: bool | None = None
    began_at: datetime | None = None

    @property
    def window(self) -> Window:
        return Window(self.window_start, self.window_end)

    @property
    def decides(self) -> bool:
        """Whether the run's outcome and its notifications follow from it: not from older days that are no worse."""
        return self.worse is not False


@dataclass(frozen=True, slots=True)
class OpenWindow:
    """An audited window with missing or uncounted rows, or with bad files, neither repaired nor acknowledged.

    `since` is when it was first found, `status` the one of the last audit of that window. `bad_files` and
    `bad_file_rows` as in AuditResult: a finding of bad files has the latter.
    """

    table: str
    window: Window
    status: AuditStatus
    since: datetime
    delta: int | None = None
    reason: Reason | None = None
    bad_files: tuple[BadFile, ...] = ()
    bad_file_rows: int | None = None

    @property
    def bad_partitions(self) -> frozenset[str] | None:
        """The partitions of its bad files; None where not all of them are known."""
        if not 0 < len(self.bad_files) < MOST_BAD_FILES:
            return None
        return frozenset(file.partition for file in self.bad_files)
