"""The settings in the form that the night uses: what is to be done with each table. Reading them: settings/."""

from __future__ import annotations

from dataclasses import dataclass, field
from datetime import timedelta
from decimal import Decimal
from typing import Final, Literal

from icekeeper.core.audit.source import Source
from icekeeper.core.enums import AuditStatus, Proof, Stage
from icekeeper.core.offload import OffloadRhythm
from icekeeper.core.reasons import Reason
from icekeeper.core.tables.writer_state import DEFAULT_WRITER_STATE, StateKey

# Iceberg's strategies, and `auto`, which chooses between binpack, spread and copy (core/tables/plan.py).
Strategy = Literal["auto", "binpack", "sort"]
# How long a source keeps its rows: as its own definition says (auto), for ever (none), or so long.
SourceTtlSetting = timedelta | Literal["auto", "none"]

# Where the settings name none.
DEFAULT_PROOF: Final = Proof.FILES
# Findings for which an older snapshot may be the way back: rows that are missing, and files that are not as they were.
DEFAULT_HOLD_ON: Final = (
    AuditStatus.MISSING_DATA,
    Reason.FILE_MISSING,
    Reason.FILE_CORRUPT,
    Reason.COUNT_MISMATCH,
)


@dataclass(frozen=True, slots=True)
class StageLimits:
    """The timeout of one attempt, the number of retries after a failed one, and the delay before each."""

    timeout: timedelta
    retries: int
    retry_delay: timedelta


# A repair reads what is missing, which may be a day.
REPAIR_LIMITS: Final = StageLimits(timedelta(hours=1), 1, timedelta(seconds=30))


@dataclass(frozen=True, slots=True)
class RunPolicy:
    """`observe`: nothing is changed, only planned and audited. Sizes are bytes. `offload`: when the offload writes."""

    max_duration: timedelta = timedelta(hours=4)
    max_clock_skew: timedelta = timedelta(minutes=5)
    min_free_disk: int = 1024**3
    observe: bool = False
    offload: OffloadRhythm = field(default_factory=OffloadRhythm)


@dataclass(frozen=True, slots=True)
class CompactPolicy:
    """`sort_by`: the column by which `sort` orders a table that has no order of its own.

    `max_writers`: how many files may be written at once (each takes memory until it is closed); None: any number.
    `spread_max`: the bytes of files whose rows one task can hold and order without spilling; None: any number.
    `copy_max`: the bytes of a partition up to which row groups are copied, which one process does; None: any number.
    `prove_pct`: the time that rewrites' content may be proven for, in percent of the time that rewrites take.
    """

    limits: StageLimits
    strategy: Strategy = "auto"
    target_file_size: int = 128 * 1024**2
    min_input_files: int = 5
    sort_by: str = ""
    max_writers: int | None = None
    copy_max: int | None = None
    spread_max: int | None = None
    prove_pct: Decimal = Decimal(0)
    enabled: bool = True


@dataclass(frozen=True, slots=True)
class ExpirePolicy:
    """`hold_on`: the status or the reason of findings that hold it while they are open, for `hold_max` at most.

    `writer_state`: where writers keep their state in snapshots, which stays for `writer_state_max` at most.
    """

    limits: StageLimits
    older_than: timedelta = timedelta(days=7)
    retain_last: int = 3
    hold_on: frozenset[AuditStatus | Reason] = frozenset(DEFAULT_HOLD_ON)
    hold_max: timedelta = timedelta(days=7)
    writer_state: tuple[StateKey, ...] = DEFAULT_WRITER_STATE
    writer_state_max: timedelta = timedelta(days=30)
    enabled: bool = True


@dataclass(frozen=True, slots=True)
class KeyPolicy:
    """The key by which an audit tells rows apart, and the columns that it compares besides: Iceberg's names.

    `samples`: how many keys that differ it names. `sample_above` and `drill_rows` are rows of a side: of how many the
    keys of a merging source are sampled, and how many are read to find the keys that differ; `drill_queries` a side are
    made for that, with the one that counts by the minute.
    """

    columns: tuple[str, ...]
    compare: tuple[str, ...] = ()
    samples: int = 20
    sample_above: int = 10_000_000
    drill_rows: int = 200_000
    drill_queries: int = 6


@dataclass(frozen=True, slots=True)
class AuditPolicy:
    """`warning_pct` and `missing_pct` are percentages of ClickHouse's rows; `final` None: by the table's engine.

    `surplus_pct`, of ClickHouse's rows, too; None: no surplus is judged.
    `keys` None: only numbers of rows are compared. `drill_timeout`: for finding out where both sides differ.
    `lookback`: the days before the window, in so much time, are audited again. `certificate_property`: the table's
    properties name its certified days.
    """

    limits: StageLimits
    warning_pct: Decimal = Decimal(1)
    missing_pct: Decimal = Decimal(5)
    final: bool | None = None
    proof: Proof = DEFAULT_PROOF
    keys: KeyPolicy | None = None
    drill_timeout: timedelta = timedelta(minutes=5)
    surplus_pct: Decimal | None = None
    lookback: timedelta = timedelta(0)
    certificate_property: bool = False


@dataclass(frozen=True, slots=True)
class TablePolicy:
    """`audit` is None where the table has no source or its audit is off; `timestamp` is Iceberg's event-time column.

    `single_writer`: its catalog can't take commits of two processes at once (a `hadoop` catalog).
    """

    name: str
    source: Source | None
    timestamp: str
    layer: str
    source_ttl: SourceTtlSetting
    compact: CompactPolicy
    expire: ExpirePolicy
    audit: AuditPolicy | None
    single_writer: bool = False
    repair: StageLimits = REPAIR_LIMITS

    @property
    def keys(self) -> KeyPolicy | None:
        """By which keys its audit compares rows; None where it compares numbers only, or where there is none."""
        return self.audit.keys if self.audit is not None else None

    def has(self, stage: Stage) -> bool:
        """Whether a night has this stage for the table, as it is not off."""
        match stage:
            case Stage.COMPACT:
                return self.compact.enabled
            case Stage.EXPIRE:
                return self.expire.enabled
            case Stage.AUDIT:
                return self.audit is not None
            case Stage.REPAIR:
                return True

    def limits(self, stage: Stage) -> StageLimits:
        """The limits of a stage on this table. ValueError for the audit of a table that has none."""
        if stage is Stage.COMPACT:
            return self.compact.limits
        if stage is Stage.EXPIRE:
            return self.expire.limits
        if stage is Stage.REPAIR:
            return self.repair
        if self.audit is None:
            raise ValueError(f"{self.name} has no audit")
        return self.audit.limits
