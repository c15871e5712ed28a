"""What a run needs of the outside world, as Protocols: adapters implement them, unit tests fake them.

Every method raises the errors of `core.errors` only: TransientError where trying again may help, PermanentError where
it can't. Instants are aware UTC datetimes, durations of work are seconds.
"""

from __future__ import annotations

from collections.abc import Awaitable, Callable, Mapping, Sequence
from contextlib import AbstractAsyncContextManager
from dataclasses import dataclass, field
from datetime import date, datetime, timedelta
from typing import Protocol
from uuid import UUID

from icekeeper.core.audit.certificates import CertifiedBy
from icekeeper.core.audit.keys import ColumnType, Key, KeyQuery, KeyRows
from icekeeper.core.audit.records import AuditResult, Finding, Fingerprint, OpenWindow, SourceCount
from icekeeper.core.audit.repair import Refusal, Repaired, RepairJob, SourceColumn, SourceRows, TableColumn
from icekeeper.core.audit.source import Source
from icekeeper.core.calendar import Window
from icekeeper.core.offload import OffloadState
from icekeeper.core.tables.holds import OperatorHold
from icekeeper.core.tables.proof_budget import ProofBudget
from icekeeper.core.tables.restraints import Disk
from icekeeper.night.lakehouse import BeforeCommit, Lakehouse

# Time is injected: only `execution` and above read the wall clock or sleep.
Clock = Callable[[], datetime]
Sleep = Callable[[float], Awaitable[None]]


class EngineLog(Protocol):
    """The engine's own log. Both methods return at once."""

    def mark(self) -> int:
        """Where its log ends now."""

    def since(self, mark: int) -> str:
        """The last lines since then, secrets hidden; empty where there are none."""


class SourceCounter(Protocol):
    """The ClickHouse side."""

    async def count(
        self, source: Source, window: Window, final: bool | None, timeout: timedelta, key: Key | None = None
    ) -> SourceCount:
        """Rows of the window; `final` None lets each table's engine decide.

        With a key the same scan gives their fingerprint, unless one of the tables merges rows.
        """

    async def count_by_minute(
        self, source: Source, window: Window, final: bool, timeout: timedelta, *, dates: bool = False
    ) -> Mapping[datetime, int]:
        """Rows of each minute of the window that has any.

        An event time that is a date has none: its rows are those of midnight with `dates`, else it is PermanentError
        `source_type`.
        """

    async def newest(self, source: Source, window: Window, timeout: timedelta) -> datetime | None:
        """The event time of the window's newest row; None where the window has none."""


class SourceKeys(Protocol):
    """The keys of ClickHouse's rows."""

    async def column_types(self, source: Source, columns: Sequence[str]) -> Mapping[str, ColumnType]:
        """The types of those of these columns that the source has."""

    async def fingerprints(
        self, source: Source, window: Window, final: bool, query: KeyQuery, bits: int, timeout: timedelta
    ) -> Mapping[int, Fingerprint]:
        """As of the lakehouse."""

    async def key_rows(
        self, source: Source, window: Window, final: bool, query: KeyQuery, timeout: timedelta
    ) -> Mapping[bytes, KeyRows]:
        """As of the lakehouse."""


class OffloadStatus(Protocol):
    """The offload's own account of its progress."""

    async def state(self, source: Source) -> OffloadState | None:
        """How far it has come with a source, and what it is at; None where it keeps no such row or table.

        Of several tables: the state of what it is at, with the watermark of the one that is least far.
        """


class Findings(Protocol):
    """What audits found that is still open."""

    async def open_windows(self, table: str) -> tuple[OpenWindow, ...]:
        """The table's windows whose last audit was no `ok`, and whose day is not acknowledged; oldest first."""

    async def last_audits(self, table: str, days: Window, but_of: datetime) -> Mapping[Window, AuditResult | None]:
        """The newest audit of each UTC day in this time that counted or found bad files, else its newest.

        Without those of runs that answer for the slot `but_of`. None: this version does not understand it.
        """

    async def certified_days(
        self, table: str, first: date, last: date, audits: Sequence[AuditResult]
    ) -> Mapping[date, CertifiedBy]:
        """The table's UTC days from `first` to `last` that are certified once these audits, too, are in the ledger."""


class Holds(Protocol):
    """What operators have put on hold."""

    async def of(self, table: str, *, anew: bool = False) -> tuple[OperatorHold, ...]:
        """The table's holds, as last known where the ledger can't be asked. Its error where none are known, either.

        `anew`: a ledger that was away a moment ago is asked again.
        """


class RepairLedger(Protocol):
    """Findings, and which of them are being repaired or were. TransientError `ledger_down` where it can't be asked."""

    async def findings(self, table: str, window: Window) -> tuple[Finding, ...]:
        """Those of the window's newest audit, open or not."""

    async def refusal(self, table: str, finding: Finding) -> Refusal | None:
        """What `claim` would answer; changes nothing."""

    async def claim(self, table: str, finding: Finding, run_id: UUID) -> Refusal | None:
        """Claims a finding for the run; None where it did: it is new, or an earlier run of icekeeper's left it."""

    async def finish(self, finding_id: str, repaired: Repaired) -> None:
        """Notes that a claimed finding is repaired."""

    async def release(self, finding_id: str, run_id: UUID) -> None:
        """Gives the run's claim up: nothing was added."""


class RepairSource(Protocol):
    """Rows of ClickHouse, as they are brought back."""

    async def examine(
        self, source: Source, window: Window, final: bool, columns: Sequence[SourceColumn], timeout: timedelta
    ) -> SourceRows:
        """What there is of the window's rows, and which of their columns don't fit."""

    def exported(
        self, source: Source, window: Window, final: bool, columns: Sequence[SourceColumn], timeout: timedelta
    ) -> AbstractAsyncContextManager[str]:
        """The window's rows in a Parquet file on this host, their columns in this order and as Iceberg has them.

        Its path; the file is gone when the context ends.
        """


class RepairLakehouse(Protocol):
    """Iceberg, where rows are brought back."""

    async def table_columns(self, table: str) -> tuple[TableColumn, ...]:
        """The table's columns. NotRepairable where the engine can't read files of this host."""

    async def repair(
        self, table: str, job: RepairJob, timeout: timedelta, before_commit: BeforeCommit | None = None
    ) -> Repaired:
        """Adds the rows of the file whose keys the table lacks, in one commit that carries the finding's id.

        Where a snapshot has that id already: what that one added. TransientError `conflict`, with nothing added, where
        another writer added rows to the window meanwhile; `before_commit` as in `Lakehouse.compact`.
        """


@dataclass(frozen=True, slots=True)
class RepairPorts:
    """All that repairs use beside the other ports."""

    ledger: RepairLedger
    source: RepairSource
    lakehouse: RepairLakehouse


class Surroundings(Protocol):
    """The host of the run, and how its clock compares with the servers'."""

    async def clock_ahead(self) -> Mapping[str, timedelta]:
        """By how much this host's clock is ahead of each server's that answered, by the server's name."""

    async def disks(self) -> tuple[Disk, ...]:
        """The file systems on this host that the work needs."""


@dataclass(frozen=True, slots=True)
class RunPorts:
    """All that a run uses of the outside world, its time among it."""

    lakehouse: Lakehouse
    source: SourceCounter
    source_keys: SourceKeys
    offload: OffloadStatus
    findings: Findings
    holds: Holds
    surroundings: Surroundings
    clock: Clock
    sleep: Sleep
    engine_log: EngineLog | None = None
    # What its rewrites have earned for comparing their content: kept from run to run.
    proofs: ProofBudget = field(default_factory=ProofBudget)
    repairs: RepairPorts | None = None
