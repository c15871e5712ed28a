"""Iceberg's Java API as a session's JVM offers it, in few and large calls. No rule of the night lives here."""

from __future__ import annotations

import math
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from typing import Any

from py4j.protocol import Py4JJavaError
from pyspark.sql import SparkSession

from daemon.core.errors import PermanentError
from daemon.core.model import FileGroup, Rewrite, Slice
from daemon.core.planning import large_file_limit
from daemon.core.reasons import Reason

_SPLIT_SIZE = "spark.sql.iceberg.read.split-size"
# TableProperties.SPLIT_OPEN_FILE_COST_DEFAULT of Iceberg: the least that a file weighs.
_OPEN_COST = 4 * 1024**2
# Two tasks a thread even out files that are slow to come; a task has a cost of its own, so that it reads several files.
_TASKS_A_THREAD = 2
_FILES_A_TASK = 8
# The types that Iceberg's transform bucket knows (table spec, 'Partition Transforms').
_BUCKETED = frozenset(
    {"INTEGER", "LONG", "DECIMAL", "DATE", "TIME", "TIMESTAMP", "TIMESTAMP_NANO", "STRING", "UUID", "FIXED", "BINARY"}
)


@dataclass(frozen=True, slots=True)
class PathCollector:
    """A Java Consumer<String> and the queue behind it."""

    consumer: Any
    queue: Any
    _join: Any

    def paths(self) -> tuple[str, ...]:
        joined = self._join("\n", self.queue)
        return tuple(joined.split("\n")) if joined else ()


@dataclass(frozen=True, slots=True)
class Partition:
    """A partition of one spec; `values` is Iceberg's StructLike. It holds no files, so that it may be kept."""

    spec_id: int
    values: Any


class IcebergJvm:
    """A thin hand into the JVM. Java objects are Any: py4j makes their methods up as they are called."""

    def __init__(self, spark: SparkSession) -> None:
        self.spark = spark
        jvm: Any = spark._jvm
        self._jvm = jvm
        self._session: Any = spark._jsparkSession
        self._iceberg: Any = jvm.org.apache.iceberg
        self._lang: Any = jvm.java.lang

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

    def knows_column(self, table: Any, snapshot_id: int | None, column: str) -> bool:
        """Whether a snapshot has a column of this name, as Spark reads it."""
        schema = self._iceberg.util.SnapshotUtil.schemaFor(table, snapshot_id)
        return schema.caseInsensitiveFindField(column) is not None

    def actions(self) -> Any:
        return self._iceberg.spark.actions.SparkActions.get(self._session)

    @contextmanager
    def rewriting(self, table: Any, part: Slice, sort_by: str) -> Iterator[Any]:
        """Iceberg's action that rewrites in the slice's way; what it needs of the session holds while it is used."""
        order = None
        if part.how is Rewrite.SORT:
            order = self._order(table, sort_by)
        elif part.how is Rewrite.SPREAD:
            order = self._order_that_changes_nothing(table)
        if order is not None:
            # The action takes a copy of the session with it, when it is made.
            self.spark.conf.set(_SPLIT_SIZE, str(self._split_size(table, part)))
        try:
            action = self.actions().rewriteDataFiles(table)
            yield action.binPack() if order is None else action.sort(order)
        finally:
            self.spark.conf.unset(_SPLIT_SIZE)

    def _order(self, table: Any, column: str) -> Any:
        """The table's own sort order, or by a column where it has none."""
        own = table.sortOrder()
        if own.isSorted():
            return own
        if table.schema().caseInsensitiveFindField(column) is None:
            text = (
                f"compact.strategy is sort, and the table has no sort order of its own and no column {column!r}: give "
                "it one by ALTER TABLE ... WRITE ORDERED BY, name the column in tables[].timestamp, or take binpack"
            )
            raise PermanentError(text, reason=Reason.UNEXPECTED, where=str(table.name()))
        return self._iceberg.SortOrder.builderFor(table.schema()).caseSensitive(False).asc(column).build()

    def _order_that_changes_nothing(self, table: Any) -> Any | None:
        """A sort order in which all rows are alike: by the only bucket of a column. None where no column has buckets.

        Iceberg's sort is its way to rewrite a group in one output file with more than one task: many read, one
        writes. Rows stay in the order of their files, as binpack has them, and encode as well.
        """
        for field in table.schema().columns():
            if str(field.type().typeId()) in _BUCKETED:
                term = self._iceberg.expressions.Expressions.bucket(field.name(), 1)
                return self._iceberg.SortOrder.builderFor(table.schema()).asc(term).build()
        return None

    def _split_size(self, table: Any, part: Slice) -> int:
        """How much a task reads, in bytes as Iceberg weighs files, so that each of the session's threads gets some."""
        open_cost = int(table.properties().get("read.split.open-file-cost") or _OPEN_COST)
        weight = max(part.bytes, part.files * open_cost)
        tasks = _TASKS_A_THREAD * int(self.spark.sparkContext.defaultParallelism)
        return max(weight // tasks, _FILES_A_TASK * open_cost)

    def metadata_json(self, table: Any) -> str:
        """The table's whole metadata in one call: asking snapshot by snapshot costs a round trip for every field."""
        return str(self._iceberg.TableMetadataParser.toJson(table.operations().current()))

    def file_sizes(self, table: Any, snapshot: Any) -> tuple[tuple[int, ...], int]:
        """The sizes of a snapshot's data files in bytes, and the number of its manifests."""
        manifests = snapshot.allManifests(table.io()).size()
        tasks = table.newScan().useSnapshot(snapshot.snapshotId()).planFiles()
        try:
            # The JVM turns the sizes into one string: thousands of files would be thousands of round trips.
            lengths = self._iceberg.io.CloseableIterable.transform(tasks, self._length_as_string())
            joined = self._lang.String.join(",", lengths)
        finally:
            tasks.close()
        return (tuple(int(size) for size in joined.split(",")) if joined else ()), manifests

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
        queue = self._jvm.java.util.concurrent.ConcurrentLinkedQueue()
        object_type = self._class("java.lang.Object")
        invoke = self._lang.invoke
        signature = invoke.MethodType.methodType(self._lang.Boolean.TYPE, object_type)
        add = self._lookup().findVirtual(self._class("java.util.Collection"), "add", signature).bindTo(queue)
        accept = add.asType(invoke.MethodType.methodType(self._lang.Void.TYPE, object_type))
        consumer = invoke.MethodHandleProxies.asInterfaceInstance(self._class("java.util.function.Consumer"), accept)
        return PathCollector(consumer, queue, self._lang.String.join)

    def delete_files(self, table: Any, paths: Any) -> int:
        """Deletes a Java collection of paths, in bulk where the store can; the number that failed, where it is told."""
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

    def _length_as_string(self) -> Any:
        """A Java Function: FileScanTask -> its length. Made of method handles: no JVM code of our own, no callback."""
        invoke, long_type = self._lang.invoke, self._lang.Long.TYPE
        string_type = self._class("java.lang.String")
        lookup = self._lookup()
        task_type = self._class("org.apache.iceberg.ContentScanTask")
        length = lookup.findVirtual(task_type, "length", invoke.MethodType.methodType(long_type))
        to_string = lookup.findStatic(string_type, "valueOf", invoke.MethodType.methodType(string_type, long_type))
        return invoke.MethodHandleProxies.asInterfaceInstance(
            self._class("java.util.function.Function"), invoke.MethodHandles.filterReturnValue(length, to_string)
        )

    def _lookup(self) -> Any:
        return self._lang.invoke.MethodHandles.publicLookup()

    def _class(self, name: str) -> Any:
        # Iceberg's classes come by spark.jars: only the session's class loader knows them.
        return self._lang.Class.forName(name, True, self._lang.Thread.currentThread().getContextClassLoader())
