"""A catalog in Spark: the settings that define it, and names as Spark SQL takes them."""

from __future__ import annotations

from collections.abc import Mapping

_DEFAULTS = {
    # Spark's cache of tables expires after access: a session that reads a table every night would stay stale for ever.
    "cache-enabled": "false",
    # By default bulk deletes are sent by as many threads as there are cores; but they wait for the store, not a core.
    "s3.delete.num-threads": "8",
    # A compaction reads a table's manifests four times (inspect, plan, rewrite, commit), and they never change.
    "io.manifest.cache-enabled": "true",
}


_CACHED_BYTES = "io.manifest.cache.max-total-bytes"
# Iceberg keeps 100 MiB of manifests for each FileIO, and eight of them.
_MOST_CACHED = 100 * 1024**2
_CACHE_SHARE, _FILE_IOS = 3, 8
# These have one for all tables; others, as REST catalogs, give every table its own.
_ONE_FILE_IO = ("hadoop", "hive", "jdbc")


def catalog_conf(name: str, properties: Mapping[str, str], heap: int | None = None) -> dict[str, str]:
    """The Spark settings that define an Iceberg catalog of this name. All caches of manifests take a third of the heap
    (in bytes) at most.
    """
    prefix = f"spark.sql.catalog.{name}"
    share = _CACHE_SHARE * (1 if properties.get("type") in _ONE_FILE_IO else _FILE_IOS)
    cached = {} if heap is None else {_CACHED_BYTES: str(min(_MOST_CACHED, heap // share))}
    settings = {f"{prefix}.{key}": value for key, value in {**_DEFAULTS, **cached, **properties}.items()}
    return {prefix: "org.apache.iceberg.spark.SparkCatalog", **settings}


def quoted(identifier: str) -> str:
    """An identifier for Spark SQL; a backtick inside is doubled."""
    return "`" + identifier.replace("`", "``") + "`"


def quoted_name(catalog: str, table: str) -> str:
    """A table's name with its catalog, without which Spark first takes the namespace for a catalog."""
    return ".".join(map(quoted, (catalog, *table.split("."))))
