"""The settings: typed, frozen and strict. Reading the file: loading/file.py; the syntax of values: values/."""

from __future__ import annotations

import hashlib
import json
from datetime import timedelta
from pathlib import Path
from typing import Annotated, Any, Literal

from pydantic import ConfigDict, Field, ModelWrapValidatorHandler, SecretStr, ValidationError, model_validator
from pydantic_core import InitErrorDetails, PydanticCustomError

from icekeeper.core.calendar import Calendar
from icekeeper.core.offload import OffloadRhythm
from icekeeper.core.policy import RunPolicy, TablePolicy
from icekeeper.settings.all_tables import completed, table_mistakes
from icekeeper.settings.notify import Notify
from icekeeper.settings.systems import DEFAULT_PACKAGES, Catalog, ClickHouse, Offload, Postgres, Spark
from icekeeper.settings.tables import Audit, Block, Compact, Expire, Table, raise_mistakes
from icekeeper.settings.values.addresses import ListenAddress, PageUrl
from icekeeper.settings.values.schedule import Cron, TimeZone, calendar_of
from icekeeper.settings.values.units import AbsolutePath, Duration, Size

__all__ = ["DEFAULT_PACKAGES", "Schedule", "Settings"]


class Schedule(Block):
    cron: Cron = "0 2 * * *"
    """When a night begins: minute, hour, day, month, weekday (by name)."""
    timezone: TimeZone = "UTC"
    """The zone of the cron expression. The audited day is a UTC day, whatever this says."""
    catch_up: Duration = timedelta(hours=12)
    """A slot that waited (for a pause, or while icekeeper was down) is run if younger than this, else missed."""

    def calendar(self) -> Calendar:
        """The slots."""
        return calendar_of(self.cron, self.timezone)


class Run(Block):
    max_duration: Duration = timedelta(hours=4)
    """A run's budget. Compactions and expiries that no longer fit are held; the audit always runs."""
    max_clock_skew: Duration = timedelta(minutes=5)
    """Compactions and expiries are held while this host's clock is further than this from the servers' clocks."""
    min_free_disk: Size = 1024**3
    """Compactions are held while the disk of state_dir (or of a warehouse on this host) has less than this free."""


class Http(Block):
    model_config = ConfigDict(json_schema_extra={"not": {"required": ["token", "token_file"]}})

    listen: ListenAddress = "127.0.0.1:9420"
    """The address of the page, its API, /metrics and /livez; reading needs no token. Port 0 takes any free one."""
    url: PageUrl | None = None
    """Where people reach the page, e.g. https://icekeeper.example.com: what links in messages begin with."""
    token: SecretStr | None = None
    """The bearer token that POST requests need; without one they are refused. Rather a token_file."""
    token_file: Path | None = None
    """A file that holds the token."""

    @property
    def address(self) -> tuple[str, int]:
        host, _, port = self.listen.rpartition(":")
        return host.strip("[]"), int(port)

    @property
    def base_url(self) -> str:
        """What links to the page begin with; without a slash at its end."""
        return self.url or f"http://{self.listen}"


class Logs(Block):
    level: Literal["debug", "info", "warning", "error"] = "info"
    """The least important lines that are still written."""
    format: Literal["auto", "json", "console"] = "auto"
    """auto: colours on a terminal, JSON elsewhere."""
    retention: Duration = timedelta(days=400)
    """How long the ledger keeps the log lines of runs. The runs themselves, tasks and audits stay."""


class Settings(Block):
    """icekeeper's settings: one YAML file, and ICEKEEPER_BLOCK__KEY of the environment over it."""

    model_config = ConfigDict(title="icekeeper")

    schedule: Schedule = Schedule()
    """When the nights are."""
    mode: Literal["maintain", "observe"] = "maintain"
    """observe: plans and audits, but changes no table (for the days of a cut-over)."""
    replicas: bool = False
    """true: daemons on several hosts share a lease in PostgreSQL: one leads, a standby takes over. No lease, no run."""
    spark: Spark = Spark()
    """The engine: one Spark session that stays warm."""
    catalog: Catalog
    """The Iceberg catalog that holds the tables."""
    clickhouse: ClickHouse
    """The ClickHouse that the tables are offloaded from: the audit counts there."""
    postgres: Postgres
    """The PostgreSQL database of the ledger: runs, tasks, audits, logs."""
    offload: Offload = Offload()
    """How far the offload has come, by its own table, and when it writes."""
    run: Run = Run()
    """What holds for a whole run."""
    compact: Compact = Compact()
    """How small files are packed together; a table may differ."""
    expire: Expire = Expire()
    """Which snapshots go; a table may differ."""
    audit: Audit = Audit()
    """How both sides are counted and judged; a table may differ."""
    tables: Annotated[tuple[Table, ...], Field(min_length=1)]
    """The tables, in the order in which a night works on them."""
    http: Http = Http()
    """The HTTP server: the page, its API, /metrics and /livez."""
    logs: Logs = Logs()
    """The daemon's own log lines."""
    notify: tuple[Notify, ...] = ()
    """Whom to notify of failed nights, and of their recovery."""
    state_dir: AbsolutePath = Path("/var/lib/icekeeper")
    """Where icekeeper keeps its locks, spool, logs of runs and Spark's scratch files. A reload can't change it."""

    @model_validator(mode="wrap")
    @classmethod
    def _all_at_once(cls, data: Any, validate: ModelWrapValidatorHandler[Settings]) -> Settings:
        """Completes the tables' blocks, and checks the tables together even if single values are wrong."""
        if not isinstance(data, dict):
            return validate(data)
        catalog, clickhouse = data.get("catalog"), data.get("clickhouse")
        found = table_mistakes(
            data.get("tables"),
            catalog.get("name") if isinstance(catalog, dict) else None,
            clickhouse.get("database") if isinstance(clickhouse, dict) else None,
        )
        if "tables" in data:
            data = {**data, "tables": completed(data["tables"], data)}
        try:
            settings = validate(data)
        except ValidationError as exc:
            found = [*(_to_raise_again(error) for error in exc.errors(include_url=False)), *found]
        if found:
            raise_mistakes(found)
        return settings

    def policies(self) -> tuple[TablePolicy, ...]:
        """The policies of the enabled tables, in their order."""
        # A hadoop catalog checks and then renames: of two processes that commit at once, one may lose its commit.
        single_writer = self.catalog.type == "hadoop"
        writers = self.spark.max_writers
        return tuple(
            table.policy(single_writer=single_writer, max_writers=writers) for table in self.tables if table.enabled
        )

    def run_policy(self) -> RunPolicy:
        """The policy of a whole run."""
        run, offload = self.run, self.offload
        return RunPolicy(
            run.max_duration,
            run.max_clock_skew,
            run.min_free_disk,
            observe=self.mode == "observe",
            offload=OffloadRhythm(offload.every, offload.cycle_max, offload.wait),
        )

    def digest(self) -> str:
        """A short hash of all settings: equal hashes mean equal settings."""
        text = json.dumps(self.model_dump(mode="json"), sort_keys=True)
        return hashlib.sha256(text.encode()).hexdigest()[:16]


def _to_raise_again(error: Any) -> InitErrorDetails:
    """An error that was found, to be raised together with others."""
    kind = PydanticCustomError(error["type"], "{message}", {**error.get("ctx", {}), "message": error["msg"]})
    return InitErrorDetails(type=kind, loc=error["loc"], input=error["input"])
