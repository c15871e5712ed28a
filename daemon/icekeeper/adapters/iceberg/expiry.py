"""Expiring exactly the snapshots that a plan names, on the driver or with Spark. Which ones, the core has said."""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager
from typing import Any

from pyspark.sql import SparkSession

from icekeeper.adapters.iceberg.jvm import IcebergJvm, PathCollector
from icekeeper.core.errors import TransientError
from icekeeper.core.reasons import Reason
from icekeeper.core.tables.state import DeletedFiles

# The driver is the faster way by far, but it holds the path of each file that the manifests of expired snapshots name
# in its heap at once, about 300 bytes each: above this a heap of 2 GB would get short. Spark's tasks spill to disk.
DRIVER_MOST_FILES = 1_000_000
# Over so many tasks Spark spreads what the driver would hold at once. The session's own number is for small work.
SPARK_PARTITIONS = 32
# Of the files that an expiry deleted, this many are looked for in the store afterwards.
DELETED_SAMPLE = 5

_PARTITIONS = "spark.sql.shuffle.partitions"


def expire_snapshots(
    jvm: IcebergJvm, table: str, handle: Any, snapshot_ids: tuple[int, ...], retain_last: int, named_files: int
) -> DeletedFiles:
    """Expires them, or none and TransientError `conflict`; then deletes what nobody refers to any more.

    `named_files`: what the manifests name at most.
    """
    # Both ways only tell what is to be deleted: Iceberg's own deletes swallow their failures.
    unowned = jvm.path_collector()
    expiry = _bounded(handle.expireSnapshots(), retain_last).deleteWith(unowned.consumer)
    jvm.expire_ids(expiry, snapshot_ids)
    would_go = jvm.snapshot_ids(expiry.apply())
    if would_go != frozenset(snapshot_ids):
        raise TransientError(
            f"the table has moved since it was planned: {len(snapshot_ids)} snapshots were named, "
            f"{len(would_go)} would go; nothing was expired",
            reason=Reason.CONFLICT,
            where=table,
        )
    if named_files > DRIVER_MOST_FILES:
        action = _bounded(jvm.actions().expireSnapshots(handle), retain_last).option("stream-results", "true")
        for snapshot_id in snapshot_ids:
            action = action.expireSnapshotId(snapshot_id)
        with _partitions(jvm.spark, SPARK_PARTITIONS):
            action.deleteWith(unowned.consumer).execute()
    else:
        expiry.commit()
    return _delete(jvm, handle, unowned)


def _bounded(expiry: Any, retain_last: int) -> Any:
    """An expiry of nothing but what is named: Iceberg's API for the driver and its Spark action take the same words.

    Named ids make Iceberg clean up by reachability, and bind the expiry to the plan. The age of 0 switches off the
    table's own age, which would act beside them.
    """
    return expiry.expireOlderThan(0).retainLast(retain_last)


def _delete(jvm: IcebergJvm, handle: Any, unowned: PathCollector) -> DeletedFiles:
    """Deletes what the committed expiry left without an owner, and looks for a sample of it in the store."""
    files = unowned.count()
    sample = unowned.sample(DELETED_SAMPLE)
    failed = jvm.delete_files(handle, unowned.queue)
    there = [path for path in sample if jvm.exists(handle, path)]
    return DeletedFiles(files, max(failed, len(there)), there[0] if there else sample[0] if failed else None)


@contextmanager
def _partitions(spark: SparkSession, number: int) -> Iterator[None]:
    """So many partitions for what is shuffled meanwhile."""
    before = str(spark.conf.get(_PARTITIONS))
    spark.conf.set(_PARTITIONS, number)
    try:
        yield
    finally:
        spark.conf.set(_PARTITIONS, before)
