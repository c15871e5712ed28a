"""What is to be done with a table: the settings as the night knows them. Reading settings lives elsewhere."""

from __future__ import annotations

from dataclasses import dataclass
from datetime import timedelta
from decimal import Decimal
from typing import Literal

from icekeeper.core.enums import AuditStatus, Stage

# How files are packed: Iceberg's strategies, and the choice between two ways of reading.
Strategy = Literal["binpack", "auto", "sort"]


@dataclass(frozen=True, slots=True)
class StageLimits:
    """How long one attempt may take, how many more follow a failed one, and how long to wait before each."""

    timeout: timedelta
    retries: int
    retry_delay: timedelta


@dataclass(frozen=True, slots=True)
class RunPolicy:
    """What holds for a whole run. `observe`: nothing is changed, what would be is noted. Sizes are bytes."""

    max_duration: timedelta = timedelta(hours=4)
    max_clock_skew: timedelta = timedelta(minutes=5)
    min_free_disk: int = 1024**3
    observe: bool = False


@dataclass(frozen=True, slots=True)
class CompactPolicy:
    """`sort_by`: the column by which `sort` orders a table that has no order of its own.

    `max_writers`: so many files may be written at once (each takes memory until it is closed); None: any number.
    """

    limits: StageLimits
    strategy: Strategy = "binpack"
    target_file_size: int = 128 * 1024**2
    min_input_files: int = 5
    sort_by: str = ""
    max_writers: int | None = None


@dataclass(frozen=True, slots=True)
class ExpirePolicy:
    limits: StageLimits
    older_than: timedelta = timedelta(days=7)
    retain_last: int = 3
    hold_on: frozenset[AuditStatus] = frozenset()
    hold_max: timedelta = timedelta(days=7)


@dataclass(frozen=True, slots=True)
class AuditPolicy:
    """`warning_pct` and `missing_pct` are percentages of ClickHouse's rows; `final` None means: by the engine."""

    limits: StageLimits
    warning_pct: Decimal = Decimal(1)
    missing_pct: Decimal = Decimal(5)
    final: bool | None = None


@dataclass(frozen=True, slots=True)
class TablePolicy:
    """A table and what is to be done with it. `audit` is None where there is no source to compare with.

    `single_writer`: its catalog can't take two processes that commit at once (a `hadoop` catalog).
    """

    name: str
    source: str | None
    timestamp: str
    layer: str
    source_ttl: timedelta | None
    compact: CompactPolicy
    expire: ExpirePolicy
    audit: AuditPolicy | None
    single_writer: bool = False

    def limits(self, stage: Stage) -> StageLimits:
        """The limits of a stage on this table; `audit` must be on to ask for its own."""
        if stage is Stage.COMPACT:
            return self.compact.limits
        if stage is Stage.EXPIRE:
            return self.expire.limits
        if self.audit is None:
            raise ValueError(f"{self.name} has no audit")
        return self.audit.limits
