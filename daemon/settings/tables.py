"""The blocks about tables: compact, expire, audit and the tables themselves, and the policies that they make."""

from __future__ import annotations

from datetime import timedelta
from decimal import Decimal
from typing import Annotated, Literal

from pydantic import AfterValidator, BaseModel, BeforeValidator, ConfigDict, Field, model_validator

from daemon.core.model import AuditStatus
from daemon.core.policy import AuditPolicy, CompactPolicy, ExpirePolicy, StageLimits, TablePolicy
from daemon.settings.values import AutoOrBool, Duration, Identifier, Percent, Size


class Block(BaseModel):
    """A block of the file: unknown keys are refused, and nothing changes after it was read."""

    model_config = ConfigDict(extra="forbid", frozen=True, use_attribute_docstrings=True)


class _Stage(Block):
    timeout: Duration = timedelta(minutes=10)
    """How long one attempt may take."""
    retries: Annotated[int, Field(ge=0, le=10)] = 1
    """How many attempts follow a failed one, where trying again can help."""
    retry_delay: Duration = timedelta(minutes=2)
    """How long to wait before each."""

    def limits(self) -> StageLimits:
        return StageLimits(self.timeout, self.retries, self.retry_delay)


class Compact(_Stage):
    strategy: Literal["binpack"] = "binpack"
    """Iceberg's rewrite strategy."""
    target_file_size: Size = 128 * 1024**2
    """The size that files are packed to."""
    min_input_files: Annotated[int, Field(ge=2)] = 5
    """A partition with fewer small files than this is left alone."""

    def policy(self) -> CompactPolicy:
        return CompactPolicy(self.limits(), self.strategy, self.target_file_size, self.min_input_files)


def _an_hour(value: timedelta) -> timedelta:
    if value < timedelta(hours=1):
        raise ValueError("at least 1h: readers and writers under way need their snapshots")
    return value


class Expire(_Stage):
    timeout: Duration = timedelta(minutes=5)
    retry_delay: Duration = timedelta(minutes=1)
    older_than: Annotated[Duration, AfterValidator(_an_hour)] = timedelta(days=7)
    """Snapshots older than this go, measured from the slot."""
    retain_last: Annotated[int, Field(ge=1)] = 3
    """So many last snapshots of a branch stay whatever their age."""
    hold_on: tuple[Literal["missing_data", "warning", "error"], ...] = ()
    """Audit findings that hold the table's expiry while they are open: old snapshots may be the only copy."""
    hold_max: Duration = timedelta(days=7)
    """No finding holds an expiry longer than this after it was first found."""

    def policy(self) -> ExpirePolicy:
        held = frozenset(AuditStatus(status) for status in self.hold_on)
        return ExpirePolicy(self.limits(), self.older_than, self.retain_last, held, self.hold_max)


class Audit(_Stage):
    enabled: bool = True
    """false: no audit. A table says audit: off."""
    warning_pct: Percent = Decimal(1)
    """More missing rows than this share of ClickHouse's are a warning."""
    missing_pct: Percent = Decimal(5)
    """More than this are missing data."""
    final: AutoOrBool = "auto"
    """Count with FINAL: auto does on Replacing-, Summing- and AggregatingMergeTree."""

    @model_validator(mode="after")
    def _ordered(self) -> Audit:
        if self.warning_pct > self.missing_pct:
            raise ValueError(f"warning_pct ({self.warning_pct}) must not exceed missing_pct ({self.missing_pct})")
        return self

    def policy(self) -> AuditPolicy:
        final = None if self.final == "auto" else self.final
        return AuditPolicy(self.limits(), self.warning_pct, self.missing_pct, final)


def _off(value: object) -> object:
    """`audit: off`, which YAML 1.1 reads as false."""
    return {"enabled": False} if value is False or value == "off" else value


# The audited day begins a day and some hours before its slot.
_SHORTEST_TTL = timedelta(days=2)


class Table(Block):
    name: Identifier
    """The Iceberg table: namespace.table."""
    source: Identifier | None = None
    """The ClickHouse table it is offloaded from; without one there is no audit."""
    timestamp: Identifier = "timestamp"
    """The event-time column, of the same name on both sides."""
    layer: str = ""
    """bronze, silver, gold: what people group their queries by."""
    source_ttl: Duration | None = None
    """How long ClickHouse keeps rows; a window that begins earlier can't be judged."""
    enabled: bool = True
    """false: icekeeper leaves the table alone."""
    compact: Compact = Compact()
    """Keys that differ from the compact block for this table."""
    expire: Expire = Expire()
    """Keys that differ from the expire block for this table."""
    audit: Annotated[Audit, BeforeValidator(_off)] = Audit()
    """Keys that differ from the audit block for this table; or off."""

    @model_validator(mode="after")
    def _named(self) -> Table:
        if "." not in self.name:
            raise ValueError(f"{self.name} needs its namespace: namespace.{self.name}")
        if self.source_ttl is not None and self.source_ttl < _SHORTEST_TTL:
            raise ValueError("source_ttl is at least 2d: of a shorter one no whole day is left to count")
        return self

    def policy(self, *, single_writer: bool) -> TablePolicy:
        """What is to be done with this table; a table without a source has no audit."""
        return TablePolicy(
            name=self.name,
            source=self.source,
            timestamp=self.timestamp,
            layer=self.layer,
            source_ttl=self.source_ttl,
            compact=self.compact.policy(),
            expire=self.expire.policy(),
            audit=self.audit.policy() if self.source is not None and self.audit.enabled else None,
            single_writer=single_writer,
        )
