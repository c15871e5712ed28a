"""The blocks of tables: compact, expire, audit and tables, and the policies made from them."""

from __future__ import annotations

from datetime import timedelta
from decimal import Decimal
from typing import Annotated, Literal

from pydantic import BeforeValidator, ConfigDict, Field, PlainSerializer, field_validator
from pydantic import ValidationInfo as Info
from pydantic_core import PydanticCustomError

from icekeeper.core.audit.source import Source as SourceTables
from icekeeper.core.audit.source import TimestampAs
from icekeeper.core.enums import AuditStatus, Proof
from icekeeper.core.policy import (
    DEFAULT_PROOF,
    REPAIR_LIMITS,
    AuditPolicy,
    CompactPolicy,
    ExpirePolicy,
    KeyPolicy,
    StageLimits,
    Strategy,
    TablePolicy,
)
from icekeeper.core.reasons import Reason
from icekeeper.core.tables.writer_state import DEFAULT_WRITER_STATE
from icekeeper.settings.blocks import Block, contradiction
from icekeeper.settings.systems import Spark
from icekeeper.settings.values.conditions import Condition
from icekeeper.settings.values.units import (
    AutoOrBool,
    Columns,
    Duration,
    Flag,
    Identifier,
    LookBack,
    NoFlag,
    Percent,
    PercentOrOff,
    Share,
    Size,
    SourceTtl,
    TableName,
    WriterStateKey,
    identifier,
    such_that,
)

STAGE_BLOCKS = ("compact", "expire", "audit")


class _Stage(Block):
    timeout: Duration = timedelta(minutes=10)
    """How long one attempt may take."""
    retries: Annotated[int, Field(ge=0, le=10), NoFlag] = 1
    """How many attempts follow a failed one, where trying again can help."""
    retry_delay: Duration = timedelta(minutes=2)
    """How long to wait before each."""

    def limits(self) -> StageLimits:
        return StageLimits(self.timeout, self.retries, self.retry_delay)


_at_most_16_gib = such_that(lambda size: size <= 16 * 1024**3, "a file is packed to at most 16GiB")


class Compact(_Stage):
    enabled: bool = True
    """false: no compaction. A table says compact: off."""
    strategy: Strategy = "auto"
    """auto writes what binpack does, and has many tasks read where files are small; binpack and sort are Iceberg's."""
    target_file_size: Annotated[Size, _at_most_16_gib] = 128 * 1024**2
    """The size that files are packed to."""
    min_input_files: Annotated[int, Field(ge=2, le=1_000_000), NoFlag] = 5
    """A partition with fewer small files than this is left alone."""
    copy_row_groups: Flag = False
    """true: auto copies large row groups as they are, where that is safe."""
    copy_max: Size = 1024**3
    """On a cluster the driver copies them only of partitions with no more than this to compact."""
    prove: Share = Decimal(10)
    """For so much of the time that rewrites take their content is compared, of other partitions each night; or off."""

    def policy(self, *, sort_by: str, spark: Spark) -> CompactPolicy:
        copied = (None if spark.local else self.copy_max) if self.copy_row_groups else 0
        return CompactPolicy(
            self.limits(), self.strategy, self.target_file_size, self.min_input_files, sort_by, spark.max_writers,
            copy_max=copied, spread_max=spark.spread_max, prove_pct=self.prove, enabled=self.enabled,
        )  # fmt: skip


HoldOn = Literal["missing_data", "warning", "error", "file_missing", "file_corrupt", "count_mismatch"]
_at_least_an_hour = such_that(
    lambda age: age >= timedelta(hours=1), "it is at least 1h: readers and writers under way need their snapshots"
)


class Expire(_Stage):
    enabled: bool = True
    """false: no snapshot goes. A table says expire: off."""
    timeout: Duration = timedelta(minutes=5)
    """How long one attempt may take."""
    retry_delay: Duration = timedelta(minutes=1)
    """How long to wait before each."""
    older_than: Annotated[Duration, _at_least_an_hour] = timedelta(days=7)
    """Snapshots older than this go, measured from the slot."""
    retain_last: Annotated[int, Field(ge=1, le=1_000_000), NoFlag] = 3
    """So many last snapshots of a branch stay whatever their age."""
    hold_on: tuple[HoldOn, ...] = ("missing_data", "file_missing", "file_corrupt", "count_mismatch")
    """Audit findings that hold the table's expiry while they are open: old snapshots may be the only copy."""
    hold_max: Duration = timedelta(days=7)
    """No finding holds an expiry longer than this after it was first found, and no rewrite that was found wrong."""
    writer_state: tuple[WriterStateKey, ...] = DEFAULT_WRITER_STATE
    """Keys in snapshots under which streaming writers keep their offsets: what they need to find them stays."""
    writer_state_max: Duration = timedelta(days=30)
    """For no longer than this after the writer's last commit."""

    def policy(self) -> ExpirePolicy:
        kinds: dict[str, AuditStatus | Reason] = {each.value: each for each in (*Reason, *AuditStatus)}
        held = frozenset(kinds[each] for each in self.hold_on)
        return ExpirePolicy(
            self.limits(), self.older_than, self.retain_last, held, self.hold_max, self.writer_state,
            self.writer_state_max, self.enabled,
        )  # fmt: skip


class Audit(_Stage):
    enabled: bool = True
    """false: no audit. A table says audit: off."""
    warning_pct: Percent = Decimal(1)
    """More missing rows than this share of ClickHouse's are a warning."""
    missing_pct: Annotated[Percent, Field(validate_default=True)] = Decimal(5)
    """More than this are missing data."""
    surplus_pct: PercentOrOff = "off"
    """More rows in Iceberg than this share of ClickHouse's are a warning, where it merges none; off: however many."""
    final: AutoOrBool = "auto"
    """Count with FINAL: auto does wherever an engine merges rows of one key, also behind views and Merge tables."""
    proof: Literal["manifests", "files", "rows"] = DEFAULT_PROOF.value
    """What Iceberg's count rests on: what manifests claim, files that are whole and hold as many rows, or rows read."""
    key: Columns = ()
    """Iceberg's columns that tell rows apart: with them an audit compares which rows are there, not only how many."""
    compare: Columns = ()
    """Columns whose values are compared besides, unless ClickHouse merges rows."""
    sample_keys: Annotated[int, Field(ge=0, le=1000), NoFlag] = 20
    """So many of the keys that differ are named; 0: none, as they may be private."""
    sample_above: Annotated[int, Field(ge=1000, le=10**12), NoFlag] = 10_000_000
    """Where ClickHouse merges rows: of more than this only a part of the keys is compared, another one each night."""
    drill_rows: Annotated[int, Field(ge=1000, le=1_000_000), NoFlag] = 200_000
    """So many rows of a side are read to find the keys that differ; what they leave unexplored is said."""
    drill_queries: Annotated[int, Field(ge=3, le=12), NoFlag] = 6
    """So many queries a side find when, and in which keys, both sides differ."""
    drill_timeout: Duration = timedelta(minutes=5)
    """How long that may take, within timeout; what is not found out by then is said."""
    lookback: LookBack = timedelta(0)
    """Each night audits so many days before its own again, as rows may be lost later; or off."""
    certificate_property: bool = False
    """true: the table's property icekeeper.certified-days names the days that are certified."""

    @field_validator("missing_pct")
    @classmethod
    def _ordered(cls, missing: Decimal, info: Info) -> Decimal:
        warning = info.data.get("warning_pct")
        if warning is not None and warning > missing:
            raise contradiction(f"warning_pct ({warning}) must not exceed missing_pct ({missing})", "warning_pct")
        return missing

    @field_validator("compare")
    @classmethod
    def _beside_a_key(cls, columns: tuple[str, ...], info: Info) -> tuple[str, ...]:
        if columns and info.data.get("key") == ():
            raise contradiction("compare needs key: the columns that tell rows apart", "key")
        if again := sorted({*info.data.get("key", ())} & {*columns}):
            raise contradiction(f"compare and key both name {', '.join(again)}: a column of the key is compared", "key")
        return columns

    def policy(self) -> AuditPolicy:
        final = None if self.final == "auto" else self.final
        keys = KeyPolicy(
            self.key, self.compare, self.sample_keys, self.sample_above, self.drill_rows, self.drill_queries
        )
        return AuditPolicy(
            self.limits(),
            self.warning_pct,
            self.missing_pct,
            final,
            Proof(self.proof),
            keys if keys.columns else None,
            self.drill_timeout,
            None if self.surplus_pct == "off" else self.surplus_pct,
            self.lookback,
            self.certificate_property,
        )


class Repair(_Stage):
    """Not a table's: a repair is of findings, whatever their table."""

    automatic: bool = False
    """true: the daemon repairs what a night found missing right after it, where the table has a key."""
    timeout: Duration = REPAIR_LIMITS.timeout
    """How long one attempt may take."""
    retries: Annotated[int, Field(ge=0, le=10), NoFlag] = REPAIR_LIMITS.retries
    """How many attempts follow a failed one, where trying again can help."""
    retry_delay: Duration = REPAIR_LIMITS.retry_delay
    """How long to wait before each."""


def _off(value: object) -> object:
    """`audit: off`, where YAML 1.1 reads false."""
    return {"enabled": False} if value is False or value == "off" else value


# The audited day begins a day and some hours before its slot.
SHORTEST_TTL = timedelta(days=2)
_at_least_two_days = such_that(
    lambda ttl: not isinstance(ttl, timedelta) or ttl >= SHORTEST_TTL,
    "it is at least 2d: of a shorter one no whole day is left to count",
)


class Source(Block):
    model_config = ConfigDict(json_schema_extra={"oneOf": [{"required": ["table"]}, {"required": ["tables"]}]})

    tables: Annotated[tuple[Identifier, ...], Field(min_length=1)] | None = None
    """Several ClickHouse tables in place of one: their rows are counted together."""
    # A table that is left out is missing, not wrong.
    table: Identifier | None = Field(default=None, validate_default=True)
    """The ClickHouse table; one of another database than clickhouse.database is named with it: other.table."""
    timestamp: Identifier | None = None
    """ClickHouse's name of the event-time column, where it differs from the table's timestamp."""
    timestamp_as: TimestampAs | None = None
    """How ClickHouse stores the event time where it is no DateTime64 or DateTime; text is ISO 8601."""
    where: Condition | None = None
    """Which of ClickHouse's rows are offloaded, as a condition in its SQL: is_deleted = 0."""
    columns: dict[Identifier, Identifier] = Field(
        default_factory=dict, json_schema_extra={"additionalProperties": False}
    )
    """ClickHouse's names of columns, by Iceberg's, where they differ."""

    @field_validator("table")
    @classmethod
    def _one_of_both(cls, table: str | None, info: Info) -> str | None:
        if table is None and info.data.get("tables", ()) is None:
            raise PydanticCustomError("needed", "the name of a ClickHouse table, or tables: [a, b]")
        if table is not None and info.data.get("tables"):
            raise contradiction("table and tables say the same: one of the two has to go", "tables")
        return table

    def tables_for(self, timestamp: str) -> SourceTables:
        """`timestamp`: Iceberg's event-time column."""
        own = self.timestamp or self.columns.get(timestamp, timestamp)
        renamed = {} if own == timestamp else {timestamp: own}
        return SourceTables(
            tables=self.tables or (self.table or "",),
            timestamp=own,
            timestamp_as=self.timestamp_as,
            where=self.where or "",
            columns={**self.columns, **renamed},
        )


def _named(value: object) -> object:
    """`source: trades` is short for {table: trades}."""
    if isinstance(value, dict | Source | None):
        return value
    if isinstance(value, list | tuple):
        sentence = "it has to be the name of a table, or a block of keys, like {tables: [a, b]}"
        raise PydanticCustomError("source", "{it}", {"it": sentence})
    identifier(str(value))
    if not isinstance(value, str):
        raise PydanticCustomError("string_type", "it has to be text")
    return {"table": value}


def _short(source: Source | None) -> object:
    if source is None:
        return None
    given = source.model_dump(mode="json", exclude_defaults=True)
    return source.table if given.keys() == {"table"} else given


class Table(Block):
    name: TableName
    """The Iceberg table: namespace.table."""
    source: Annotated[Source | None, BeforeValidator(_named), PlainSerializer(_short, when_used="json")] = None
    """The ClickHouse table it is offloaded from, or a block that says more of it; without one there is no audit."""
    timestamp: Identifier = "timestamp"
    """The event-time column; ClickHouse may have another name for it (source.timestamp)."""
    layer: str = ""
    """bronze, silver, gold: what people group their queries by."""
    source_ttl: Annotated[SourceTtl, _at_least_two_days] = "auto"
    """How long ClickHouse keeps rows: a window that begins earlier can't be judged. auto: as the table's TTL says."""
    enabled: Flag = True
    """false: icekeeper leaves the table alone."""
    compact: Annotated[Compact, BeforeValidator(_off)] = Compact()
    """Keys that differ from the compact block for this table; or off."""
    expire: Annotated[Expire, BeforeValidator(_off)] = Expire()
    """Keys that differ from the expire block for this table; or off."""
    audit: Annotated[Audit, BeforeValidator(_off)] = Audit()
    """Keys that differ from the audit block for this table; or off."""

    def policy(self, *, single_writer: bool, spark: Spark, repair: StageLimits) -> TablePolicy:
        """The table's policy; a table without a source has no audit."""
        return TablePolicy(
            name=self.name,
            source=None if self.source is None else self.source.tables_for(self.timestamp),
            timestamp=self.timestamp,
            layer=self.layer,
            source_ttl=self.source_ttl,
            compact=self.compact.policy(sort_by=self.timestamp, spark=spark),
            expire=self.expire.policy(),
            audit=self.audit.policy() if self.source is not None and self.audit.enabled else None,
            single_writer=single_writer,
            repair=repair,
        )
