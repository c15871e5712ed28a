"""Reads a snapshot's manifests: the sizes of its data files by partition, in one answer of the JVM."""

from __future__ import annotations

from typing import Any

from icekeeper.adapters.iceberg.jvm import IcebergJvm, function_of, long_as_string


def file_sizes(jvm: IcebergJvm, table: Any, snapshot: Any) -> tuple[tuple[tuple[int, ...], ...], int]:
    """The sizes of a snapshot's data files in bytes, by partition, and the number of its manifests.

    One answer for all: thousands of files would be thousands of round trips.
    """
    files = table.newScan().useSnapshot(snapshot.snapshotId()).planFiles()
    try:
        # Not by `files.spliterator()`: py4j does not find default methods of an interface.
        rows = jvm.java.util.Spliterators.spliteratorUnknownSize(files.iterator(), 0)
        collector = jvm.once("sizes_by_partition", lambda: _sizes_by_partition(jvm))
        text = str(jvm.java.util.stream.StreamSupport.stream(rows, False).collect(collector))
    finally:
        files.close()
    partitions = tuple(tuple(map(int, sizes.split())) for sizes in text.strip("[]").split(",") if sizes)
    return partitions, snapshot.allManifests(table.io()).size()


def _sizes_by_partition(jvm: IcebergJvm) -> Any:
    """A Java Collector of files to be scanned: the sizes of each partition's, as in `[12 7, 34]`."""
    invoke, collectors = jvm.lang.invoke, jvm.java.util.stream.Collectors
    collection_type, string_type = jvm.java_class("java.util.Collection"), jvm.java_class("java.lang.String")
    size = long_as_string(jvm, "org.apache.iceberg.ContentScanTask", "length")
    sizes = collectors.mapping(size, collectors.joining(" "))
    values = jvm.lookup().findVirtual(
        jvm.java_class("java.util.Map"), "values", invoke.MethodType.methodType(collection_type)
    )
    to_string = jvm.lookup().findVirtual(
        jvm.java_class("java.lang.Object"), "toString", invoke.MethodType.methodType(string_type)
    )
    to_string = to_string.asType(invoke.MethodType.methodType(string_type, collection_type))
    # In Java to the end: a map that is returned becomes Python's, and each of its values a round trip.
    finish = function_of(jvm, invoke.MethodHandles.filterReturnValue(values, to_string))
    return collectors.collectingAndThen(collectors.groupingBy(_partition_path(jvm), sizes), finish)


def _partition_path(jvm: IcebergJvm) -> Any:
    """A Java Function: the path of the partition that a file to be scanned lies in. Equal ones have equal paths."""
    invoke, handles = jvm.lang.invoke, jvm.lang.invoke.MethodHandles
    method_type, lookup = invoke.MethodType.methodType, jvm.lookup()
    task_type, string_type = jvm.java_class("org.apache.iceberg.PartitionScanTask"), jvm.java_class("java.lang.String")
    spec_type, struct_type = (jvm.java_class(f"org.apache.iceberg.{name}") for name in ("PartitionSpec", "StructLike"))
    path = lookup.findVirtual(spec_type, "partitionToPath", method_type(string_type, struct_type))
    spec = lookup.findVirtual(task_type, "spec", method_type(spec_type))
    partition = lookup.findVirtual(task_type, "partition", method_type(struct_type))
    path = handles.filterArguments(path, 0, jvm.array(invoke.MethodHandle, (spec, partition)))
    path = handles.permuteArguments(path, method_type(string_type, task_type), jvm.array(jvm.int_type, (0, 0)))
    return function_of(jvm, path)
