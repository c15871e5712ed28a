"""The settings: typed, frozen and strict. Reading the file: loading/file.py; the syntax of values: values/."""

from __future__ import annotations

import hashlib
import ipaddress
import json
from collections.abc import Mapping
from datetime import timedelta
from pathlib import Path
from typing import Annotated, Any, Literal

from pydantic import (
    ConfigDict,
    Field,
    ModelWrapValidatorHandler,
    PrivateAttr,
    SecretStr,
    ValidationError,
    model_validator,
)
from pydantic_core import InitErrorDetails, PydanticCustomError

from icekeeper.core.calendar import Calendar
from icekeeper.core.offload import OffloadRhythm
from icekeeper.core.policy import RunPolicy, TablePolicy
from icekeeper.settings.all_tables import (
    AUDIT_NEEDS_CLICKHOUSE,
    REPLICAS_NEED_POSTGRES,
    completed,
    needs_clickhouse,
    table_mistakes,
)
from icekeeper.settings.blocks import Block, mistake, raise_mistakes
from icekeeper.settings.notify import Notify
from icekeeper.settings.systems import Catalog, ClickHouse, Offload, Postgres, Spark
from icekeeper.settings.tables import Audit, Compact, Expire, Repair, Table
from icekeeper.settings.values.addresses import HeaderName, ListenAddress, Network, PageUrl
from icekeeper.settings.values.schedule import Cron, TimeZone, calendar_of
from icekeeper.settings.values.units import AbsolutePath, Duration, InstallationName, Size

# What pydantic takes for true, in lower case.
_TRUE = ("true", "yes", "on", "y", "t", "1")


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
    model_config = ConfigDict(
        json_schema_extra={
            "allOf": [{"not": {"required": [key, f"{key}_file"]}} for key in ("token", "read_token")],
        }
    )

    listen: ListenAddress = "127.0.0.1:9420"
    """The address of the page, its API, /metrics and /livez. Port 0 takes any free one."""
    url: PageUrl | None = None
    """Where people reach the page, also below a proxy's path: what links begin with, and the only name answered to."""
    token: SecretStr | None = None
    """The bearer token that POST requests need; without one they are refused. Rather a token_file."""
    token_file: Path | None = None
    """A file that holds the token."""
    read_token: SecretStr | None = None
    """The bearer token that reading needs, as which token does, too; /metrics, /livez and /readyz need none."""
    read_token_file: Path | None = None
    """A file that holds it."""
    trusted_proxies: tuple[Network, ...] = ()
    """Addresses or networks of the proxies before the page whose headers are believed."""
    user_header: HeaderName = "X-Forwarded-User"
    """The header in which these name the user: the actor of what is ordered, in the ledger and in log lines."""

    @property
    def beyond_loopback(self) -> bool:
        """Whether other hosts can connect."""
        try:
            return not ipaddress.ip_address(self.address[0]).is_loopback
        except ValueError:
            return self.address[0] != "localhost"

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

    model_config = ConfigDict(
        title="icekeeper", json_schema_extra={"allOf": [AUDIT_NEEDS_CLICKHOUSE, REPLICAS_NEED_POSTGRES]}
    )

    schedule: Schedule = Schedule()
    """When the nights are."""
    installation: InstallationName | None = None
    """The name of what keeps its rows in the ledger, where several share one. Left out: the catalog's name, once."""
    mode: Literal["maintain", "observe"] = "maintain"
    """observe: plans and audits, but changes no table (for the days of a cut-over)."""
    replicas: bool = False
    """true: daemons on several hosts share a lease in PostgreSQL: one leads, a standby takes over. No lease, no run."""
    spark: Spark = Spark()
    """The engine: one Spark session that stays warm."""
    catalog: Catalog
    """The Iceberg catalog that holds the tables."""
    clickhouse: ClickHouse | None = None
    """The ClickHouse that the tables are offloaded from: the audit counts there. Not needed where none has a source."""
    postgres: Postgres | None = None
    """The PostgreSQL database of the ledger: runs, tasks, audits, logs. Without it they are kept by an embedded
    PostgreSQL in state_dir, the extra icekeeper[embedded]."""
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
    repair: Repair = Repair()
    """How missing rows are brought back, and whether nights are followed by that."""
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

    _secret_files: Mapping[tuple[str | int, ...], Path] = PrivateAttr(default_factory=dict)

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
        if data.get("postgres") is None and str(data.get("replicas")).lower() in _TRUE:
            sentence = "the lease is held in a PostgreSQL server that the hosts share: give postgres.dsn"
            found.append(mistake(("replicas",), data["replicas"], sentence))
        if clickhouse is None:
            found += needs_clickhouse(data.get("tables"), data.get("audit"))
        try:
            settings = validate(data)
        except ValidationError as exc:
            found = [*(_to_raise_again(error) for error in exc.errors(include_url=False)), *found]
        if found:
            raise_mistakes(found)
        return settings

    def note_secret_files(self, files: Mapping[tuple[str | int, ...], Path]) -> None:
        """Keeps which keys were read from which files."""
        self._secret_files = dict(files)

    @property
    def secret_files(self) -> Mapping[tuple[str | int, ...], Path]:
        """The files that secrets were read from, by the path of the secret's key: `("clickhouse", "password")`."""
        return self._secret_files

    def without_file_secrets(self) -> dict[str, Any]:
        """All values but the secrets that were read from files: equal where nothing else differs."""
        data = self.model_dump()
        for *blocks, key in self._secret_files:
            block: Any = data
            for name in blocks:
                block = block[name]
            block[key] = None
        return data

    def policies(self) -> tuple[TablePolicy, ...]:
        """The policies of the enabled tables, in their order."""
        # A hadoop catalog checks and then renames: of two processes that commit at once, one may lose its commit.
        single_writer = self.catalog.type == "hadoop"
        repair = self.repair.limits()
        return tuple(
            table.policy(single_writer=single_writer, spark=self.spark, repair=repair)
            for table in self.tables
            if table.enabled
        )

    @property
    def asks_clickhouse(self) -> bool:
        """Whether an enabled table is audited: without one ClickHouse has nothing to answer."""
        return any(policy.audit is not None for policy in self.policies())

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
