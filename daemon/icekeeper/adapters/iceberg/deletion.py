"""Deleting files through a table's own FileIO: paths are collected in the JVM and deleted in bulk."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any

from py4j.protocol import Py4JJavaError

from icekeeper.adapters.iceberg.jvm import IcebergJvm, consumer_of


@dataclass(frozen=True, slots=True)
class PathCollector:
    """A Java Consumer<String> and the queue behind it."""

    consumer: Any
    queue: Any

    def count(self) -> int:
        return int(self.queue.size())

    def sample(self, most: int) -> tuple[str, ...]:
        """Some of the paths, evenly spread: all of them as Python strings could need more memory than the JVM has."""
        count = self.count()
        places = range(0, count, max(1, count // most))[:most]
        return tuple(str(self.queue.stream().skip(place).findFirst().get()) for place in places)


def path_collector(jvm: IcebergJvm) -> PathCollector:
    """Keeps the paths that an expiry wants deleted, so that they are known, counted and deleted in bulk."""
    queue = jvm.java.util.concurrent.ConcurrentLinkedQueue()
    signature = jvm.lang.invoke.MethodType.methodType(jvm.lang.Boolean.TYPE, jvm.java_class("java.lang.Object"))
    add = jvm.lookup().findVirtual(jvm.java_class("java.util.Collection"), "add", signature).bindTo(queue)
    return PathCollector(consumer_of(jvm, add), queue)


def delete_files(jvm: IcebergJvm, table: Any, paths: Any) -> int:
    """Deletes a Java collection of paths, in bulk where the store can; the number that failed, where it is reported.

    Threads are bounded either way: FileIOs with bulk deletion have their own pools, others get Iceberg's worker pool.
    """
    io = table.io()
    if not jvm.java_class("org.apache.iceberg.io.SupportsBulkOperations").isInstance(io):
        jvm.iceberg.CatalogUtil.deleteFiles(io, paths, "expired", True)
        return 0
    try:
        io.deleteFiles(paths)
    except Py4JJavaError as exc:
        if "BulkDeletionFailureException" not in exc.java_exception.getClass().getName():
            raise
        return int(exc.java_exception.numberFailedObjects())
    return 0


def exists(table: Any, path: str) -> bool:
    return bool(table.io().newInputFile(path).exists())
