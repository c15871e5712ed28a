"""The settings: typed, frozen and strict. Reading files lives in `file.py`, how values are written in `values.py`."""

from __future__ import annotations

import hashlib
import json
from datetime import timedelta
from pathlib import Path
from typing import Annotated, Any, Literal

from pydantic import Field, SecretStr, model_validator
from pydantic_settings import BaseSettings, PydanticBaseSettingsSource, SettingsConfigDict

from daemon.core.policy import RunPolicy, TablePolicy
from daemon.settings.tables import Audit, Block, Compact, Expire, Table
from daemon.settings.values import (
    AbsolutePath,
    Cron,
    Dsn,
    Duration,
    HttpUrl,
    Identifier,
    ListenAddress,
    NotYet,
    Size,
    TextMap,
    TimeZone,
)


class Schedule(Block):
    cron: Cron = "0 2 * * *"
    """When a night begins: minute, hour, day, month, weekday (by name)."""
    timezone: TimeZone = "UTC"
    """The zone of the cron expression. The audited day is a UTC day, whatever this says."""
    catch_up: Duration = timedelta(hours=12)
    """A slot missed while icekeeper was down is done at its start if it is younger than this."""


ENV_PREFIX = "ICEKEEPER_"
STAGE_BLOCKS = ("compact", "expire", "audit")

# Tested together: Spark 4.1 has an Iceberg runtime from 1.11 on. JDBC catalogs need a driver of their database.
DEFAULT_PACKAGES = (
    "org.apache.iceberg:iceberg-spark-runtime-4.1_2.13:1.12.0",
    "org.apache.iceberg:iceberg-aws-bundle:1.12.0",
    "org.postgresql:postgresql:42.7.13",
)


class Spark(Block):
    master: Annotated[str, Field(pattern=r"^(local(\[(\d+|\*)\])?|(spark|k8s)://.+|yarn)$")] = "local[2]"
    """Spark's master: local[N], spark://host:7077, k8s://..., yarn."""
    driver_memory: Annotated[str, Field(pattern=r"^\d+[mg]$")] = "2g"
    """The heap of Spark's JVM, as Spark writes it: 2g, 1500m."""
    jars: tuple[str, ...] = ()
    """Paths of jars. Given, nothing is fetched: they have to hold Iceberg's runtime and what the catalog needs."""
    packages: tuple[Annotated[str, Field(pattern=r"^[^:\s]+:[^:\s]+:[^:\s]+$")], ...] | None = None
    """Maven coordinates fetched at the first start; by default Iceberg's runtime, its AWS bundle and PostgreSQL's
    driver, or none where jars are given."""
    home: Path | None = None
    """Another Spark than the one icekeeper brings. SPARK_HOME of the environment is ignored."""
    recycle: Duration = timedelta(days=1)
    """The session is renewed after this time, between runs."""
    conf: TextMap = Field(default_factory=dict)
    """Any Spark setting. Those whose name says secret, password or token stay off the JVM's command line."""


_CATALOG_NEEDS = {"rest": ("uri",), "jdbc": ("uri", "warehouse"), "hive": ("uri",), "hadoop": ("warehouse",)}


class Catalog(Block):
    name: Annotated[Identifier, Field(pattern=r"^[A-Za-z0-9_]+$")]
    """The catalog's name in Spark. In a JDBC catalog it is part of the key: another name hides every table."""
    type: Literal["rest", "jdbc", "hadoop", "hive", "glue", "custom"]
    """Iceberg's catalog type; custom takes its class from properties: catalog-impl."""
    uri: str | None = None
    """Where the catalog is: http://... (rest), jdbc:postgresql://... (jdbc), thrift://... (hive)."""
    warehouse: str | None = None
    """The warehouse's location, or its name on a REST catalog."""
    properties: TextMap = Field(default_factory=dict, repr=False)
    """Any catalog property (s3.endpoint, jdbc.user, ...). NAME_file reads NAME's value from a file."""

    @model_validator(mode="after")
    def _complete(self) -> Catalog:
        for needed in _CATALOG_NEEDS.get(self.type, ()):
            if getattr(self, needed) is None:
                raise ValueError(f"a {self.type} catalog needs {needed}")
        if self.type == "jdbc" and not (self.uri or "").startswith("jdbc:"):
            raise ValueError("the uri of a jdbc catalog begins with jdbc:, like jdbc:postgresql://host/database")
        if self.type == "custom" and "catalog-impl" not in self.properties:
            raise ValueError("a custom catalog needs properties: {catalog-impl: its class}")
        return self

    def spark_properties(self) -> dict[str, str]:
        """What follows `spark.sql.catalog.NAME.` in Spark's settings."""
        own = {"uri": self.uri, "warehouse": self.warehouse}
        if self.type != "custom":
            own["type"] = self.type
        return {**{key: value for key, value in own.items() if value is not None}, **self.properties}


class ClickHouse(Block):
    url: HttpUrl
    """The HTTP interface: http://clickhouse:8123. No user or password in it."""
    database: Identifier
    """The database of the sources; a source may name another one: other.table."""
    user: str = "default"
    password: SecretStr = SecretStr("")
    """Rather a password_file, or ICEKEEPER_CLICKHOUSE__PASSWORD."""
    password_file: Path | None = None
    """A file that holds the password."""
    settings: dict[str, str | int | float] = {"max_memory_usage": 4 * 1024**3}  # noqa: RUF012 - pydantic copies it
    """ClickHouse settings of every count; max_execution_time follows the audit's timeout."""


class Postgres(Block):
    dsn: Dsn
    """postgresql://user@host:port/database, without the password."""
    password: SecretStr | None = None
    """Rather a password_file, or ICEKEEPER_POSTGRES__PASSWORD."""
    password_file: Path | None = None
    """A file that holds the password."""

    def secret(self) -> str | None:
        """The password, in clear."""
        return self.password.get_secret_value() if self.password is not None else None


class Offload(Block):
    table: Identifier = "offload_watermarks"
    """The table in which the offload keeps its watermarks; that it is absent is fine."""
    dsn: Dsn | None = None
    """Where that table is, if not in icekeeper's own database."""
    password: SecretStr | None = None
    password_file: Path | None = None


class Run(Block):
    max_duration: Duration = timedelta(hours=4)
    """A run's budget. Compactions and expiries that no longer fit are held; the audit always runs."""
    max_clock_skew: Duration = timedelta(minutes=5)
    """Compactions and expiries are held while this host's clock is further than this from the servers' clocks."""
    min_free_disk: Size = 1024**3
    """Compactions are held while the disk of state_dir (or of a warehouse on this host) has less than this free."""


class Http(Block):
    listen: ListenAddress = "127.0.0.1:9420"
    """The address of metrics, health and page. Port 0 takes any free one."""
    token: SecretStr | None = None
    """The bearer token that POST requests need; without one they are refused. Rather a token_file."""
    token_file: Path | None = None
    """A file that holds the token."""

    @property
    def address(self) -> tuple[str, int]:
        host, _, port = self.listen.rpartition(":")
        return host.strip("[]"), int(port)


class Logs(Block):
    level: Literal["debug", "info", "warning", "error"] = "info"
    format: Literal["auto", "json", "console"] = "auto"
    """auto: colours on a terminal, JSON elsewhere."""
    retention: Duration = timedelta(days=400)
    """How long the ledger keeps the logs of runs."""


class Settings(BaseSettings):
    """icekeeper's settings: one YAML file, and ICEKEEPER_BLOCK__KEY of the environment over it."""

    model_config = SettingsConfigDict(
        extra="forbid",
        frozen=True,
        use_attribute_docstrings=True,
        env_prefix=ENV_PREFIX,
        env_nested_delimiter="__",
        title="icekeeper",
    )

    schedule: Schedule = Schedule()
    mode: Literal["maintain", "observe"] = "maintain"
    """observe: plans and audits, but changes no table (for the days of a cut-over)."""
    replicas: Annotated[bool, NotYet] = False
    """true: a lease in PostgreSQL lets a standby take over. Not available yet."""
    spark: Spark = Spark()
    catalog: Catalog
    clickhouse: ClickHouse
    postgres: Postgres
    offload: Offload = Offload()
    run: Run = Run()
    compact: Compact = Compact()
    expire: Expire = Expire()
    audit: Audit = Audit()
    tables: Annotated[tuple[Table, ...], Field(min_length=1)]
    http: Http = Http()
    logs: Logs = Logs()
    notify: Annotated[tuple[str, ...], NotYet] = ()
    """Whom to tell. Not available yet."""
    state_dir: AbsolutePath = Path("/var/lib/icekeeper")
    """Where icekeeper keeps its lock, logs of runs and Spark's scratch files."""

    @classmethod
    def settings_customise_sources(
        cls,
        settings_cls: type[BaseSettings],
        init_settings: PydanticBaseSettingsSource,
        env_settings: PydanticBaseSettingsSource,
        dotenv_settings: PydanticBaseSettingsSource,
        file_secret_settings: PydanticBaseSettingsSource,
    ) -> tuple[PydanticBaseSettingsSource, ...]:
        """Only what it is given: `file.py` has merged the environment already, before it read the secret files."""
        return (init_settings,)

    @model_validator(mode="before")
    @classmethod
    def _blocks_reach_tables(cls, data: dict[str, Any]) -> dict[str, Any]:
        """A table's compact, expire and audit blocks hold only what differs: the rest is the common block's."""
        tables = data.get("tables")
        if not isinstance(tables, list):
            return data
        return {**data, "tables": [_completed(table, data) if isinstance(table, dict) else table for table in tables]}

    @model_validator(mode="after")
    def _tables_fit(self) -> Settings:
        seen: set[str] = set()
        for table in self.tables:
            if table.name in seen:
                raise ValueError(f"tables: {table.name} is listed twice")
            if table.name.startswith(f"{self.catalog.name}.") and table.name.count(".") > 1:
                short = table.name.removeprefix(f"{self.catalog.name}.")
                raise ValueError(f"tables: {table.name} is named without its catalog: {short}")
            seen.add(table.name)
        if not any(table.enabled for table in self.tables):
            raise ValueError("tables: none of them is enabled")
        return self

    def policies(self) -> tuple[TablePolicy, ...]:
        """The enabled tables in their order, each with what is to be done with it."""
        # Such a catalog checks and then renames: of two processes that commit at once, one may lose its commit.
        single_writer = self.catalog.type == "hadoop"
        return tuple(table.policy(single_writer=single_writer) for table in self.tables if table.enabled)

    def run_policy(self) -> RunPolicy:
        """What holds for a whole run."""
        run = self.run
        return RunPolicy(run.max_duration, run.max_clock_skew, run.min_free_disk, observe=self.mode == "observe")

    def digest(self) -> str:
        """A short hash of everything that is set: two runs with the same one ran with the same settings."""
        text = json.dumps(self.model_dump(mode="json"), sort_keys=True)
        return hashlib.sha256(text.encode()).hexdigest()[:16]


def _completed(table: dict[str, Any], data: dict[str, Any]) -> dict[str, Any]:
    completed = dict(table)
    for block in STAGE_BLOCKS:
        common, own = data.get(block, {}), table.get(block, {})
        if isinstance(common, dict) and isinstance(own, dict):
            completed[block] = {**common, **own}
    return completed
