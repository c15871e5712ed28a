"""The blocks of the systems: spark, catalog, clickhouse, postgres, offload."""

from __future__ import annotations

import hashlib
import json
import math
import re
from collections.abc import Iterable
from datetime import timedelta
from pathlib import Path
from typing import Annotated, Literal

from pydantic import ConfigDict, Field, SecretStr, field_validator
from pydantic import ValidationInfo as Info
from pydantic.config import JsonDict
from pydantic_core import PydanticCustomError

from icekeeper.core.audit.source_settings import DISTRIBUTED_SETTINGS, EXACT_SETTINGS, FINAL
from icekeeper.settings.blocks import Block, contradiction, mistake, raise_mistakes
from icekeeper.settings.values.addresses import Dsn, HttpUrl, Master
from icekeeper.settings.values.heap import executor_mib, heap_mib, ordered, threads, writers
from icekeeper.settings.values.units import (
    AbsolutePath,
    CatalogName,
    Coordinate,
    Duration,
    Heap,
    Identifier,
    SettingMap,
    Text,
    TextMap,
)

# What an executor's heap is unless spark.conf says it, as Spark has it.
_EXECUTOR_MEMORY = "spark.executor.memory", "1g"
_LOCAL = re.compile(r"local(?:\[(\d+|\*)(?:,\d+)?\])?")
# Spark's settings for which the file has keys of its own: given twice they could differ.
_SPARK_KEYS = {
    "spark.master": "spark.master",
    "spark.driver.memory": "spark.driver_memory",
    "spark.jars": "spark.jars",
    "spark.jars.packages": "spark.packages",
}
# ClickHouse's settings with which a count could leave rows out, and what they are fixed to.
_FIXED_IN_COUNTS = {**EXACT_SETTINGS, **DISTRIBUTED_SETTINGS, FINAL: "by audit.final"}


def _none_of(*names: str) -> JsonDict:
    return {"propertyNames": {"not": {"enum": [*names]}}}


def _not_both(*names: str) -> ConfigDict:
    return ConfigDict(json_schema_extra={"not": {"required": [*names]}})


class Spark(Block):
    master: Master = "auto"
    """Spark's master: auto (on this host, threads enough to wait for S3), local[N], spark://host:7077, k8s://..."""
    driver_memory: Heap = "2g"
    """The heap of Spark's JVM, as Spark writes it: 2g, 1500m."""
    jars: tuple[Text, ...] = ()
    """Paths of jars. Given, nothing is fetched: they have to hold Iceberg's runtime and what the catalog needs."""
    packages: tuple[Coordinate, ...] | None = None
    """Maven coordinates fetched at the first start. By default they follow the catalog: Iceberg's runtime, the client
    of its cloud, the driver of its database; none where jars are given or came with the installation."""
    home: AbsolutePath | None = None
    """Another Spark than the one icekeeper brings. SPARK_HOME of the environment is ignored."""
    recycle: Duration = timedelta(days=1)
    """The session is renewed in the minutes before a slot at which it would be older than this."""
    conf: TextMap = Field(default_factory=dict, json_schema_extra=_none_of(*_SPARK_KEYS))
    """Any Spark setting. Those whose name says secret, password or token stay off the JVM's command line."""

    @field_validator("conf")
    @classmethod
    def _not_given_twice(cls, conf: dict[str, str]) -> dict[str, str]:
        twice = [name for name in conf if name in _SPARK_KEYS]
        if twice:
            raise_mistakes(
                [mistake((name,), conf[name], f"the key {_SPARK_KEYS[name]} says that: set it there") for name in twice]
            )
        return conf

    @property
    def resolved_master(self) -> str:
        """The master in Spark's own syntax."""
        return f"local[{threads(heap_mib(self.driver_memory))}]" if self.master == "auto" else self.master

    @property
    def _given_threads(self) -> float | None:
        """How many Spark tasks run at once on this host, of local[*] any number; None on a cluster."""
        local = _LOCAL.fullmatch(self.resolved_master)
        if local is None:
            return None
        return math.inf if local[1] == "*" else int(local[1] or 1)

    @property
    def fewer_threads(self) -> bool:
        """Whether the session has fewer threads on this host than `auto` would give it."""
        given = self._given_threads
        return given is not None and given < threads(heap_mib(self.driver_memory))

    @property
    def local(self) -> bool:
        """Whether the session works in one process on this host."""
        return self.resolved_master.startswith("local")

    @property
    def max_writers(self) -> int | None:
        """How many files may be written at once; None where the session never reaches the limit, or executors write."""
        most, given = writers(heap_mib(self.driver_memory)), self._given_threads
        return most if given is not None and given > most else None

    @property
    def spread_max(self) -> int:
        """The bytes of files whose rows a task can order in memory: this session's, or one of a cluster's executors."""
        return ordered(heap_mib(self.driver_memory) if self.local else executor_mib(self.conf.get(*_EXECUTOR_MEMORY)))


# The keys that a type of catalog needs, each with an example.
_CATALOG_NEEDS = {
    "rest": {"uri": "http://catalog:8181"},
    "jdbc": {"uri": "jdbc:postgresql://host/database", "warehouse": "s3://bucket/path"},
    "hive": {"uri": "thrift://metastore:9083"},
    "hadoop": {"warehouse": "/path/of/the/warehouse"},
}
_URI_BEGINS = {"rest": ("http://", "https://"), "jdbc": ("jdbc:",), "hive": ("thrift://",)}
_OWN_KEYS = ("type", "uri", "warehouse")
_CLASS = "catalog-impl"
_A_FILE: JsonDict = {"type": "string", "description": "A file that holds the property of this name without _file."}


def _then(type: str, needs: Iterable[str]) -> JsonDict:
    begins = "|".join(_URI_BEGINS.get(type, ()))
    return {"required": [*needs], "properties": {"uri": {"pattern": f"^({begins})"}}}


_THEN: dict[str, JsonDict] = {
    **{type: _then(type, needs) for type, needs in _CATALOG_NEEDS.items()},
    "custom": {"required": ["properties"], "properties": {"properties": {"required": [_CLASS]}}},
}


class Catalog(Block):
    model_config = ConfigDict(
        json_schema_extra={
            "allOf": [
                {"if": {"properties": {"type": {"const": type}}, "required": ["type"]}, "then": then}
                for type, then in _THEN.items()
            ]
        }
    )

    name: CatalogName
    """The catalog's name in Spark. In a JDBC catalog it is part of the key: another name hides every table."""
    type: Literal["rest", "jdbc", "hadoop", "hive", "glue", "custom"]
    """The type of the catalog: rest, jdbc, hadoop, hive, glue, or custom, whose class properties.catalog-impl names."""
    uri: Annotated[Text | None, Field(validate_default=True)] = None
    """Where the catalog is: http://... (rest), jdbc:postgresql://... (jdbc), thrift://... (hive)."""
    warehouse: Annotated[Text | None, Field(validate_default=True)] = None
    """The warehouse's location, or its name on a REST catalog."""
    properties: Annotated[TextMap, Field(validate_default=True)] = Field(
        default_factory=dict,
        repr=False,
        json_schema_extra=_none_of(*_OWN_KEYS) | {"patternProperties": {"_file$": _A_FILE}},
    )
    """Any catalog property (s3.endpoint, jdbc.user, ...). NAME_file reads NAME's value from a file."""

    @field_validator("uri", "warehouse")
    @classmethod
    def _needed(cls, value: str | None, info: Info) -> str | None:
        type, key = info.data.get("type", ""), info.field_name or ""
        example = _CATALOG_NEEDS.get(type, {}).get(key)
        if value is None and example is not None:
            context = {"who": f"a {type} catalog", "example": example}
            raise PydanticCustomError("needed", "{who} needs it, like {example}", context)
        begins = _URI_BEGINS.get(type, ())
        if value is not None and key == "uri" and begins and not value.startswith(begins):
            raise ValueError(f"the uri of a {type} catalog is written like {example}")
        return value

    @field_validator("properties")
    @classmethod
    def _not_given_twice(cls, properties: dict[str, str], info: Info) -> dict[str, str]:
        refused = [
            mistake((name,), properties[name], f"the key catalog.{name} says that: set it there")
            for name in _OWN_KEYS
            if name in properties
        ]
        type = info.data.get("type")
        if type == "custom" and _CLASS not in properties:
            needed = PydanticCustomError("needed", "a custom catalog needs it: the name of its class")
            refused.append({"type": needed, "loc": (_CLASS,), "input": None})
        if type not in ("custom", None) and _CLASS in properties:
            refused.append(mistake((_CLASS,), properties[_CLASS], "a class of its own goes with type: custom"))
        if refused:
            raise_mistakes(refused)
        return properties

    def digest(self) -> str:
        """A short hash of where the catalog is, whatever its other properties are."""
        where = (self.type, self.name, self.uri, self.warehouse, self.properties.get("ref"))
        return hashlib.sha256(json.dumps(where).encode()).hexdigest()[:16]

    def spark_properties(self) -> dict[str, str]:
        """The Spark settings below `spark.sql.catalog.NAME.`"""
        own = {"uri": self.uri, "warehouse": self.warehouse}
        if self.type != "custom":
            own["type"] = self.type
        if self.type == "jdbc":
            # Otherwise opening the catalog would create its tables, and a plan must not change anything.
            own["jdbc.init-catalog-tables"] = "false"
        return {**{key: value for key, value in own.items() if value is not None}, **self.properties}


class ClickHouse(Block):
    model_config = _not_both("password", "password_file")

    url: HttpUrl
    """The HTTP interface: http://clickhouse:8123. A proxy may have it below a path. No user or password in it."""
    database: Identifier
    """The database of the sources; a source may name another one: other.table."""
    user: str = "default"
    """The user that counts; it only needs to read the sources."""
    password: SecretStr = SecretStr("")
    """Rather a password_file, or ICEKEEPER_CLICKHOUSE__PASSWORD."""
    password_file: Path | None = None
    """A file that holds the password."""
    settings: SettingMap = Field({"max_memory_usage": 4 * 1024**3}, json_schema_extra=_none_of(*_FIXED_IN_COUNTS))
    """ClickHouse settings of every count; max_execution_time follows the audit's timeout. Not those that could leave
    rows out of a count."""

    @field_validator("settings")
    @classmethod
    def _counts_stay_whole(cls, settings: dict[str, str | int | float]) -> dict[str, str | int | float]:
        mistakes = [
            mistake(
                (name,),
                value,
                f"every count fixes it ({_FIXED_IN_COUNTS[name] or 'empty'}), or rows could be left out: remove it",
            )
            for name, value in settings.items()
            if name in _FIXED_IN_COUNTS
        ]
        if mistakes:
            raise_mistakes(mistakes)
        return settings


class Postgres(Block):
    model_config = _not_both("password", "password_file")

    dsn: Dsn
    """postgresql://user@host:port/database, without the password."""
    password: SecretStr | None = None
    """Rather a password_file, or ICEKEEPER_POSTGRES__PASSWORD."""
    password_file: Path | None = None
    """A file that holds the password."""
    lease_dsn: Dsn | None = None
    """With replicas: the same database straight from its server, where dsn goes through a pooler (PgBouncer)."""

    def secret(self) -> str | None:
        """The password, in clear."""
        return self.password.get_secret_value() if self.password is not None else None


class Offload(Block):
    model_config = _not_both("password", "password_file")

    table: Identifier = "offload_watermarks"
    """The table in which the offload keeps its watermarks; that it is absent is fine."""
    every: Duration = timedelta(minutes=15)
    """A cycle of the offload begins at each whole multiple of this in the UTC day."""
    cycle_max: Duration = timedelta(minutes=10)
    """The longest that a cycle takes: on a hadoop catalog a status `running` that is older holds no table."""
    wait: Duration = timedelta(minutes=30)
    """How long a stage of a night waits for the end of cycles, on a hadoop catalog. Then its tables are held."""
    dsn: Dsn | None = None
    """Where that table is, if not in icekeeper's own database."""
    password: SecretStr | None = None
    """Of that dsn. Rather a password_file, or ICEKEEPER_OFFLOAD__PASSWORD."""
    password_file: Path | None = None
    """A file that holds the password."""

    @field_validator("every")
    @classmethod
    def _divides_a_day(cls, every: timedelta) -> timedelta:
        if timedelta(days=1) % every:
            raise ValueError("a period of cycles divides a day, like 15m or 1h")
        return every

    @field_validator("password")
    @classmethod
    def _of_a_dsn(cls, password: SecretStr | None, info: Info) -> SecretStr | None:
        if password is not None and info.data.get("dsn", "") is None:
            raise contradiction("a password is for a dsn of its own: give offload.dsn too", "password_file")
        return password
