"""Expiring exactly the snapshots that a plan names, on the driver or with Spark. Which ones is decided in the core."""

from __future__ import annotations

from collections.abc import Iterable, Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import structlog
from py4j.protocol import Py4JJavaError
from pyspark.errors.exceptions.captured import CapturedException
from pyspark.sql import SparkSession

from icekeeper.adapters.iceberg.deleting.files import PathCollector, path_collector
from icekeeper.adapters.iceberg.jvm import IcebergJvm, consumer_of, long_as_string
from icekeeper.adapters.iceberg.proof.compiled import new_instance
from icekeeper.core.errors import TransientError
from icekeeper.core.reasons import Reason

log = structlog.get_logger(__name__)

# The driver is by far the faster way, but it holds the path of each file that the manifests of expired snapshots name
# in its heap at once, about 300 bytes each: above this a heap of 2 GB would get short. Spark's tasks spill to disk.
DRIVER_MOST_FILES = 1_000_000
# With a smaller heap, of which so many bytes are there for each of them.
DRIVER_BYTES_A_FILE = 2000
# Spark spreads over this many tasks what the driver would hold at once. The session's own number is for small work.
SPARK_PARTITIONS = 32

# One eighth of the heap is used for the bytes of lists and manifests that are read side by side.
READ_SHARE = 8

_FOLDER = Path(__file__).parent / "deleting"
_PARTITIONS = "spark.sql.shuffle.partitions"


def expire_snapshots(
    jvm: IcebergJvm, table: str, handle: Any, snapshot_ids: tuple[int, ...], retain_last: int, named_files: int
) -> PathCollector:
    """Expires them, or none and TransientError `conflict`; the files that nothing refers to any more.

    `named_files`: how many files the manifests name at most.
    """
    # Both ways only collect what is to be deleted: Iceberg's own deletes swallow their failures.
    unreferenced = path_collector(jvm)
    expiry = _bounded(_read_whole(jvm, handle).expireSnapshots(), retain_last).deleteWith(unreferenced.consumer)
    _name_snapshots(jvm, expiry, snapshot_ids)
    would_go = _ids_of(jvm, expiry.apply())
    if would_go != frozenset(snapshot_ids):
        raise TransientError(
            f"the table has moved since it was planned: {len(snapshot_ids)} snapshots were named, "
            f"{len(would_go)} would go; nothing was expired",
            reason=Reason.CONFLICT,
            where=table,
        )
    if named_files > min(DRIVER_MOST_FILES, _heap(jvm) // DRIVER_BYTES_A_FILE):
        action = _bounded(jvm.actions().expireSnapshots(handle), retain_last).option("stream-results", "true")
        for snapshot_id in snapshot_ids:
            action = action.expireSnapshotId(snapshot_id)
        with _partitions(jvm.spark, SPARK_PARTITIONS):
            action.deleteWith(unreferenced.consumer).execute()
    else:
        expiry.commit()
    return unreferenced


def _read_whole(jvm: IcebergJvm, table: Any) -> Any:
    """The table, whose lists and manifests are read by one request each.

    Encrypted ones are read as Iceberg does, and those of a FileIO that can't be read so: an expiry goes on either way.
    """
    operations = table.operations()
    if jvm.java_class("org.apache.iceberg.encryption.EncryptingFileIO").isInstance(operations.io()):
        return table
    try:
        reading = new_instance(jvm, "WholeReads", operations, _heap(jvm) // READ_SHARE, folder=_FOLDER)
        return jvm.iceberg.BaseTable(reading, table.name())
    except (Py4JJavaError, CapturedException) as exc:
        log.warning("metadata_read_in_pieces", table=str(table.name()), error=str(exc))
        return table


def _heap(jvm: IcebergJvm) -> int:
    """The most that the heap may become, in bytes."""
    return int(jvm.lang.Runtime.getRuntime().maxMemory())


def _bounded(expiry: Any, retain_last: int) -> Any:
    """Limits an expiry to the snapshots that are named. Iceberg's driver API and its Spark action share these methods.

    Named ids make Iceberg clean up by reachability, and bind the expiry to the plan. The age of 0 switches off the
    table's own age, which would act beside them.
    """
    return expiry.expireOlderThan(0).retainLast(retain_last)


def _name_snapshots(jvm: IcebergJvm, expiry: Any, snapshot_ids: Iterable[int]) -> None:
    """Names snapshots to an `ExpireSnapshots` of the driver in one call: each id would be two more."""
    invoke, expiry_type = jvm.lang.invoke, jvm.java_class("org.apache.iceberg.ExpireSnapshots")
    signature = invoke.MethodType.methodType(expiry_type, jvm.lang.Long.TYPE)
    name = jvm.lookup().findVirtual(expiry_type, "expireSnapshotId", signature).bindTo(expiry)
    parse = jvm.lookup().findStatic(
        jvm.java_class("java.lang.Long"),
        "parseLong",
        invoke.MethodType.methodType(jvm.lang.Long.TYPE, jvm.java_class("java.lang.String")),
    )
    consumer = consumer_of(jvm, invoke.MethodHandles.filterReturnValue(parse, name))
    ids = ",".join(str(snapshot_id) for snapshot_id in snapshot_ids)
    if ids:
        jvm.java.util.regex.Pattern.compile(",").splitAsStream(ids).forEach(consumer)


def _ids_of(jvm: IcebergJvm, snapshots: Any) -> frozenset[int]:
    """The ids of a Java list of snapshots, in one answer."""
    to_string = long_as_string(jvm, "org.apache.iceberg.Snapshot", "snapshotId")
    joined = str(snapshots.stream().map(to_string).collect(jvm.java.util.stream.Collectors.joining(",")))
    return frozenset(int(snapshot_id) for snapshot_id in joined.split(",") if joined)


@contextmanager
def _partitions(spark: SparkSession, number: int) -> Iterator[None]:
    """Sets the number of shuffle partitions meanwhile."""
    before = str(spark.conf.get(_PARTITIONS))
    spark.conf.set(_PARTITIONS, number)
    try:
        yield
    finally:
        spark.conf.set(_PARTITIONS, before)
