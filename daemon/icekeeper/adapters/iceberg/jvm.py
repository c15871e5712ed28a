"""Iceberg's Java API as a session's JVM offers it, in few and large calls. No rule of the night lives here."""

from __future__ import annotations

import math
import re
import threading
from collections.abc import Iterable, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from py4j.java_gateway import JavaClass, JavaPackage
from py4j.protocol import Py4JJavaError
from pyspark.sql import SparkSession

from icekeeper.core.tables.planning import large_file_limit
from icekeeper.core.tables.state import FileGroup

# In the name of a metadata file of any catalog but Hadoop's, which numbers them.
_UUID = re.compile(r"[0-9a-f]{8}(-[0-9a-f]{4}){3}-[0-9a-f]{12}[^/]*$")


@dataclass(frozen=True, slots=True)
class PathCollector:
    """A Java Consumer<String> and the queue behind it."""

    consumer: Any
    queue: Any

    def count(self) -> int:
        return int(self.queue.size())

    def sample(self, most: int) -> tuple[str, ...]:
        """Some of the paths, from all over: all of them as Python's would cost more memory than the JVM has."""
        count = self.count()
        places = range(0, count, max(1, count // most))[:most]
        return tuple(str(self.queue.stream().skip(place).findFirst().get()) for place in places)


@dataclass(frozen=True, slots=True)
class Partition:
    """A partition of one spec; `values` is Iceberg's StructLike. It holds no files, so that it may be kept."""

    spec_id: int
    values: Any


class _Kept:
    """A Java package or class whose names are looked up once: py4j asks the JVM for each part of each name anew."""

    def __init__(self, found: Any) -> None:
        self._found = found

    def __getattr__(self, name: str) -> Any:
        found = getattr(self._found, name)
        kept = _Kept(found) if isinstance(found, JavaPackage | JavaClass) else found
        setattr(self, name, kept)
        return kept

    def __call__(self, *arguments: Any) -> Any:
        return self._found(*arguments)


class IcebergJvm:
    """A thin hand into the JVM. Java objects are Any: py4j makes their methods up as they are called."""

    def __init__(self, spark: SparkSession) -> None:
        self.spark = spark
        jvm: Any = spark._jvm
        self._session: Any = spark._jsparkSession
        self._iceberg: Any = _Kept(jvm.org.apache.iceberg)
        self._java: Any = _Kept(jvm.java)
        self._int: Any = jvm.int
        self._lang: Any = self._java.lang
        self._classes: dict[str, Any] = {}
        self._functions: dict[tuple[str, str], Any] = {}
        self._by_partition: Any = None

    def open_catalog(self, name: str) -> None:
        """Raises what is wrong with a catalog. Iceberg's own lookup takes one that won't open for a namespace."""
        self._session.sessionState().catalogManager().catalog(name)

    def load(self, name: str) -> Any:
        """The Iceberg table behind a quoted Spark name, read anew from the catalog."""
        return self._iceberg.spark.Spark3Util.loadIcebergTable(self._session, name)

    def current_id(self, table: Any) -> int | None:
        """The id of the table's current snapshot; None where it has none."""
        current = table.currentSnapshot()
        return None if current is None else int(current.snapshotId())

    def total_data_files(self, table: Any) -> int | None:
        """How many data files the current snapshot's summary tells of; None where it tells of none."""
        current = table.currentSnapshot()
        told = None if current is None else current.summary().get("total-data-files")
        return None if told is None else int(told)

    def knows_column(self, table: Any, snapshot_id: int | None, column: str) -> bool:
        """Whether a snapshot has a column of this name, as Spark reads it."""
        schema = self._iceberg.util.SnapshotUtil.schemaFor(table, snapshot_id)
        return schema.caseInsensitiveFindField(column) is not None

    def actions(self) -> Any:
        return self._iceberg.spark.actions.SparkActions.get(self._session)

    def sort_orders(self, table: Any) -> Any:
        """A builder of sort orders over the table's columns."""
        return self._iceberg.SortOrder.builderFor(table.schema())

    def bucket(self, column: str, buckets: int) -> Any:
        """The transform that puts a column's values into so many buckets."""
        return self._iceberg.expressions.Expressions.bucket(column, buckets)

    def refresh(self, table: Any) -> bool:
        """Asks the catalog for a younger version, and reads it if there is one. False: it has to be loaded anew.

        A Hadoop catalog numbers its metadata files: those of a table made anew have the names of the old ones.
        """
        if self._class("org.apache.iceberg.hadoop.HadoopTableOperations").isInstance(table.operations()):
            return False
        try:
            table.refresh()
        except Py4JJavaError as exc:
            if "Table UUID does not match" not in str(exc.java_exception.getMessage()):
                raise
            return False
        return True

    def version(self, table: Any) -> str:
        """What tells a version of the table's metadata from any other: the name of its file, where no two are alike."""
        metadata = table.operations().current()
        location = str(metadata.metadataFileLocation())
        return location if _UUID.search(location) else f"{location} {metadata.uuid()} {metadata.lastUpdatedMillis()}"

    def metadata_json(self, table: Any) -> str:
        """The table's whole metadata at once: asking snapshot by snapshot costs a round trip for every field.

        By a file in the session's scratch directory: py4j sends an answer of more than 8 KiB in pieces, of which the
        second waits 40 ms for the first to be acknowledged (Nagle's algorithm).
        """
        path = Path(self._lang.System.getProperty("java.io.tmpdir"), f"{threading.get_ident()}.metadata.json")
        shown = self._iceberg.Files.localOutput(str(path))
        self._iceberg.TableMetadataParser.overwrite(table.operations().current(), shown)
        try:
            return path.read_text(encoding="utf-8")
        finally:
            path.unlink()

    def file_sizes(self, table: Any, snapshot: Any) -> tuple[tuple[tuple[int, ...], ...], int]:
        """The sizes of a snapshot's data files in bytes, by partition, and the number of its manifests.

        One answer for all: thousands of files would be thousands of round trips.
        """
        files = table.newScan().useSnapshot(snapshot.snapshotId()).planFiles()
        try:
            # Not by `files.spliterator()`: py4j does not find what an interface has by default.
            rows = self._java.util.Spliterators.spliteratorUnknownSize(files.iterator(), 0)
            told = str(self._java.util.stream.StreamSupport.stream(rows, False).collect(self._sizes_by_partition()))
        finally:
            files.close()
        partitions = tuple(tuple(map(int, part.split())) for part in told.strip("[]").split(",") if part)
        return partitions, snapshot.allManifests(table.io()).size()

    def _sizes_by_partition(self) -> Any:
        """A Java Collector of files to be scanned: the sizes of each partition's, as in `[12 7, 34]`."""
        if self._by_partition is None:
            invoke, collectors = self._lang.invoke, self._java.util.stream.Collectors
            collection_type, string_type = self._class("java.util.Collection"), self._class("java.lang.String")
            size = self._long_as_string("org.apache.iceberg.ContentScanTask", "length")
            sizes = collectors.mapping(size, collectors.joining(" "))
            values = self._lookup().findVirtual(
                self._class("java.util.Map"), "values", invoke.MethodType.methodType(collection_type)
            )
            to_string = self._lookup().findVirtual(
                self._class("java.lang.Object"), "toString", invoke.MethodType.methodType(string_type)
            )
            to_string = to_string.asType(invoke.MethodType.methodType(string_type, collection_type))
            # In Java to the end: a map that comes back is Python's, each value of which is a round trip.
            told = self._function_of(invoke.MethodHandles.filterReturnValue(values, to_string))
            by_partition = collectors.groupingBy(self._partition_path(), sizes)
            self._by_partition = collectors.collectingAndThen(by_partition, told)
        return self._by_partition

    def _partition_path(self) -> Any:
        """A Java Function: the path of the partition that a file to be scanned lies in. Equal ones have equal paths."""
        invoke, handles = self._lang.invoke, self._lang.invoke.MethodHandles
        method_type, lookup = invoke.MethodType.methodType, self._lookup()
        task_type, string_type = self._class("org.apache.iceberg.PartitionScanTask"), self._class("java.lang.String")
        spec_type, struct_type = (self._class(f"org.apache.iceberg.{name}") for name in ("PartitionSpec", "StructLike"))
        path = lookup.findVirtual(spec_type, "partitionToPath", method_type(string_type, struct_type))
        spec = lookup.findVirtual(task_type, "spec", method_type(spec_type))
        partition = lookup.findVirtual(task_type, "partition", method_type(struct_type))
        path = handles.filterArguments(path, 0, self.array(invoke.MethodHandle, (spec, partition)))
        path = handles.permuteArguments(path, method_type(string_type, task_type), self.array(self._int, (0, 0)))
        return self._function_of(path)

    def plan_groups(self, table: Any, options: dict[str, str]) -> list[tuple[FileGroup, Partition]]:
        """What Iceberg's own planner would rewrite: each group, and the partition that it lies in."""
        planner = self._iceberg.actions.BinPackRewriteFilePlanner(table)
        planner.init(options)
        groups = planner.plan().groups().iterator()
        planned = []
        evolved = table.specs().size() > 1
        while groups.hasNext():
            group = groups.next()
            outputs = self._output_files(table, group)
            gains = outputs < group.inputFileNum() or self._gains(group, options)
            spec = table.specs().get(group.outputSpecId())
            partition = group.info().partition()
            found = FileGroup(
                partition=self._path(spec, partition),
                files=group.inputFileNum(),
                bytes=group.inputFilesSizeInBytes(),
                output_files=outputs,
                # The planner puts files of older specs into the group whose every field is null.
                older_spec=evolved and all(value is None for value in self._values(spec, partition)),
                gains=gains,
            )
            planned.append((found, Partition(group.outputSpecId(), partition)))
        return planned

    def _output_files(self, table: Any, group: Any) -> int:
        """How many files a rewrite makes: each Spark task writes one at least, and gets whole row groups only.

        The planner divides sizes: of five files of 0.7 of the target it expects four, and every night makes five.
        """
        lookback = int(table.properties().get("read.split.planning-lookback") or 10)  # TableProperties.SPLIT_LOOKBACK
        scan = self._iceberg.util.TableScanUtil
        tasks = scan.planTaskGroups(group.fileScanTasks(), group.inputSplitSize(), lookback, 0).size()
        return max(int(tasks), int(group.expectedOutputFiles()))

    def _gains(self, group: Any, options: dict[str, str]) -> bool:
        """Whether a rewrite that leaves as many files is good for something, and so won't be asked for for ever."""
        large = large_file_limit(int(options["target-file-size-bytes"]))
        is_file_scoped = self._iceberg.util.ContentFileUtil.isFileScoped
        for task in group.fileScanTasks():
            if task.file().specId() != group.outputSpecId() or task.file().fileSizeInBytes() > large:
                return True
            # Position deletes of a whole partition may stay attached to what they no longer apply to.
            if any(str(d.content()) == "EQUALITY_DELETES" or is_file_scoped(d) for d in task.deletes()):
                return True
        return False

    def _path(self, spec: Any, partition: Any) -> str:
        """The partition's path, as people know it; one that no other partition has."""
        path = str(spec.partitionToPath(partition))
        # Iceberg writes a null like the word.
        return f"{path} (the word)" if "null" in self._values(spec, partition) else path

    def partition_filter(self, table: Any, partition: Partition) -> Any:
        """Selects exactly this partition: every field's transform of its source column equals its value."""
        expressions = self._iceberg.expressions.Expressions
        spec = table.specs().get(partition.spec_id)
        selected = expressions.alwaysTrue()
        whole = {field.sourceId() for field in spec.fields() if field.transform().isIdentity()}
        for field, value in zip(spec.fields(), self._values(spec, partition.values), strict=True):
            if field.transform().isVoid():  # dropped in format version 1: null for every row, its column perhaps gone
                continue
            if field.sourceId() in whole and not field.transform().isIdentity():
                continue  # it follows from the column's own value, with which Iceberg's projection would confuse it
            column = table.schema().findColumnName(field.sourceId())
            term = expressions.transform(column, field.transform())
            if value is None:
                equals = expressions.isNull(term)
            elif isinstance(value, float) and math.isnan(value):
                equals = expressions.isNaN(term)
            elif field.transform().isIdentity() and str(table.schema().findType(column).typeId()) == "TIMESTAMP":
                # py4j makes an Integer of an instant near the epoch, which Iceberg won't take for one.
                equals = expressions.predicate(self._equal(), column, expressions.micros(value))
            else:
                equals = expressions.equal(term, value)
            selected = getattr(expressions, "and")(selected, equals)
        return selected

    def _equal(self) -> Any:
        return getattr(self._iceberg.expressions, "Expression$Operation").EQ

    def _values(self, spec: Any, partition: Any) -> list[Any]:
        any_type = self._class("java.lang.Object")
        return [partition.get(position, any_type) for position in range(spec.fields().size())]

    def any_of(self, filters: list[Any]) -> Any:
        """A filter that selects what any of the given ones does."""
        if len(filters) == 1:
            return filters[0]
        # Halved again and again: a chain of a thousand partitions would be as deep for whoever walks through it.
        middle = len(filters) // 2
        either = getattr(self._iceberg.expressions.Expressions, "or")
        return either(self.any_of(filters[:middle]), self.any_of(filters[middle:]))

    def path_collector(self) -> PathCollector:
        """Keeps the paths that an expiry wants deleted, so that they are known, counted and deleted in bulk."""
        queue = self._java.util.concurrent.ConcurrentLinkedQueue()
        object_type = self._class("java.lang.Object")
        invoke = self._lang.invoke
        signature = invoke.MethodType.methodType(self._lang.Boolean.TYPE, object_type)
        add = self._lookup().findVirtual(self._class("java.util.Collection"), "add", signature).bindTo(queue)
        accept = add.asType(invoke.MethodType.methodType(self._lang.Void.TYPE, object_type))
        consumer = invoke.MethodHandleProxies.asInterfaceInstance(self._class("java.util.function.Consumer"), accept)
        return PathCollector(consumer, queue)

    def expire_ids(self, expiry: Any, snapshot_ids: Iterable[int]) -> None:
        """Names snapshots to an expiry, an `ExpireSnapshots` of the driver, in one call: each id would be two more."""
        invoke, expiry_type = self._lang.invoke, self._class("org.apache.iceberg.ExpireSnapshots")
        signature = invoke.MethodType.methodType(expiry_type, self._lang.Long.TYPE)
        name = self._lookup().findVirtual(expiry_type, "expireSnapshotId", signature).bindTo(expiry)
        parse = self._lookup().findStatic(
            self._class("java.lang.Long"),
            "parseLong",
            invoke.MethodType.methodType(self._lang.Long.TYPE, self._class("java.lang.String")),
        )
        accept = invoke.MethodHandles.filterReturnValue(parse, name).asType(
            invoke.MethodType.methodType(self._lang.Void.TYPE, self._class("java.lang.Object"))
        )
        consumer = invoke.MethodHandleProxies.asInterfaceInstance(self._class("java.util.function.Consumer"), accept)
        ids = ",".join(str(snapshot_id) for snapshot_id in snapshot_ids)
        if ids:
            self._java.util.regex.Pattern.compile(",").splitAsStream(ids).forEach(consumer)

    def snapshot_ids(self, snapshots: Any) -> frozenset[int]:
        """The ids of a Java list of snapshots, in one answer."""
        to_string = self._long_as_string("org.apache.iceberg.Snapshot", "snapshotId")
        joined = str(snapshots.stream().map(to_string).collect(self._java.util.stream.Collectors.joining(",")))
        return frozenset(int(snapshot_id) for snapshot_id in joined.split(",") if joined)

    def delete_files(self, table: Any, paths: Any) -> int:
        """Deletes a Java collection of paths, in bulk where the store can; the number that failed, where it is told.

        Bounded either way: FileIOs of this kind have pools of their own, for the others Iceberg takes its worker pool.
        """
        io = table.io()
        if not self._class("org.apache.iceberg.io.SupportsBulkOperations").isInstance(io):
            self._iceberg.CatalogUtil.deleteFiles(io, paths, "expired", True)
            return 0
        try:
            io.deleteFiles(paths)
        except Py4JJavaError as exc:
            if "BulkDeletionFailureException" not in exc.java_exception.getClass().getName():
                raise
            return int(exc.java_exception.numberFailedObjects())
        return 0

    def exists(self, table: Any, path: str) -> bool:
        return bool(table.io().newInputFile(path).exists())

    def _long_as_string(self, of: str, method: str) -> Any:
        """A Java Function: a method of an interface. Made of method handles: no JVM code of our own, no callback."""
        if (of, method) not in self._functions:
            self._functions[of, method] = self._made_function(of, method)
        return self._functions[of, method]

    def _made_function(self, of: str, method: str) -> Any:
        invoke, long_type = self._lang.invoke, self._lang.Long.TYPE
        string_type = self._class("java.lang.String")
        lookup = self._lookup()
        get = lookup.findVirtual(self._class(of), method, invoke.MethodType.methodType(long_type))
        to_string = lookup.findStatic(string_type, "valueOf", invoke.MethodType.methodType(string_type, long_type))
        return self._function_of(invoke.MethodHandles.filterReturnValue(get, to_string))

    def _function_of(self, handle: Any) -> Any:
        """A Java Function that calls a method handle."""
        function_type = self._class("java.util.function.Function")
        return self._lang.invoke.MethodHandleProxies.asInterfaceInstance(function_type, handle)

    def array(self, of: Any, values: Sequence[Any]) -> Any:
        """A Java array of a class."""
        gateway: Any = self.spark.sparkContext._gateway
        made = gateway.new_array(of._found if isinstance(of, _Kept) else of, len(values))
        for place, value in enumerate(values):
            made[place] = value
        return made

    def _lookup(self) -> Any:
        return self._lang.invoke.MethodHandles.publicLookup()

    def _class(self, name: str) -> Any:
        if name not in self._classes:
            # Iceberg's classes come by spark.jars: only the session's class loader knows them.
            loader = self._lang.Thread.currentThread().getContextClassLoader()
            self._classes[name] = self._lang.Class.forName(name, True, loader)
        return self._classes[name]
