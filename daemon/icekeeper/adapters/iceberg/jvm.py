"""Access to Iceberg's Java API in a session's JVM: classes, loading a table, its version and metadata.

Scanning manifests, planning, rewriting and expiring are in the modules beside this one.
"""

from __future__ import annotations

import re
import threading
from collections.abc import Callable, Mapping, Sequence
from pathlib import Path
from typing import Any
from weakref import WeakKeyDictionary

from py4j.java_gateway import JavaClass, JavaPackage
from py4j.protocol import Py4JJavaError
from pyspark.errors.exceptions.captured import CapturedException
from pyspark.sql import SparkSession

# How a table of a Hadoop catalog is read and committed to.
HADOOP_OPERATIONS = "org.apache.iceberg.hadoop.HadoopTableOperations"
# Every catalog but Hadoop's, which numbers them, puts a UUID into the names of metadata files.
_UUID = re.compile(r"[0-9a-f]{8}(-[0-9a-f]{4}){3}-[0-9a-f]{12}[^/]*$")

# What `once` has made in the JVM of each session, for all who use that session.
_made: WeakKeyDictionary[SparkSession, dict[str, Any]] = WeakKeyDictionary()


class _CachedNames:
    """A Java package or class that resolves each name once: py4j asks the JVM for each part of a name every time."""

    def __init__(self, wrapped: Any) -> None:
        self.wrapped = wrapped

    def __getattr__(self, name: str) -> Any:
        member = getattr(self.wrapped, name)
        cached = _CachedNames(member) if isinstance(member, JavaPackage | JavaClass) else member
        setattr(self, name, cached)
        return cached

    def __call__(self, *arguments: Any) -> Any:
        return self.wrapped(*arguments)


class IcebergJvm:
    """Iceberg in one session's JVM. Java objects are Any: py4j finds their methods when they are called."""

    def __init__(self, spark: SparkSession) -> None:
        self.spark = spark
        jvm: Any = spark._jvm
        self._session: Any = spark._jsparkSession
        # The packages org.apache.iceberg, java and java.lang, and the type int.
        self.iceberg: Any = _CachedNames(jvm.org.apache.iceberg)
        self.java: Any = _CachedNames(jvm.java)
        self.lang: Any = self.java.lang
        self.int_type: Any = jvm.int
        self._classes: dict[str, Any] = {}
        self._objects = _made.setdefault(spark, {})

    def open_catalog(self, name: str) -> Any:
        """Spark's catalog; raises why it can't be opened: Iceberg's own lookup would take its name for a namespace."""
        return self._session.sessionState().catalogManager().catalog(name)

    def hadoop_conf(self) -> Any:
        """Hadoop's configuration, with the session's settings in it."""
        return self._session.sessionState().newHadoopConf()

    def file_io(self, io_class: str, properties: Mapping[str, str]) -> Any:
        """A FileIO of our own, of this class and with a catalog's properties. The caller closes it."""
        return self.iceberg.CatalogUtil.loadFileIO(io_class, dict(properties), self.hadoop_conf())

    def load(self, name: str) -> Any:
        """The Iceberg table of a quoted Spark name, read from the catalog."""
        return self.iceberg.spark.Spark3Util.loadIcebergTable(self._session, name)

    def current_id(self, table: Any) -> int | None:
        """The id of the table's current snapshot; None where it has none."""
        current = table.currentSnapshot()
        return None if current is None else int(current.snapshotId())

    def total_data_files(self, table: Any) -> int | None:
        """How many data files the current snapshot has by its summary; None where that does not say."""
        current = table.currentSnapshot()
        total = None if current is None else current.summary().get("total-data-files")
        return None if total is None else int(total)

    def knows_column(self, table: Any, snapshot_id: int | None, column: str) -> bool:
        """Whether a snapshot has a column of this name, as Spark reads it."""
        schema = self.iceberg.util.SnapshotUtil.schemaFor(table, snapshot_id)
        return self.find_field(schema, column) is not None

    def find_field(self, schema: Any, column: str) -> Any | None:
        """The field of this name; in whatever case, unless the case alone tells fields apart."""
        found = schema.findField(column)
        return found if found is not None or self.differ_by_case(schema) else schema.caseInsensitiveFindField(column)

    def differ_by_case(self, schema: Any) -> bool:
        """Whether the case alone tells some of the schema's fields apart."""
        try:
            schema.caseInsensitiveFindField("any")
        except (Py4JJavaError, CapturedException):
            return True
        return False

    def column_type(self, table: Any, column: str) -> str | None:
        """The type of one of the table's columns in Iceberg's words; None where it has no such column."""
        schema = table.schema()
        field = schema.asStruct().field(column)
        if field is None and not self.differ_by_case(schema):
            field = schema.asStruct().caseInsensitiveField(column)
        return None if field is None else str(field.type().toString())

    def actions(self) -> Any:
        return self.iceberg.spark.actions.SparkActions.get(self._session)

    def sort_orders(self, table: Any) -> Any:
        """A builder of sort orders over the table's columns."""
        return self.iceberg.SortOrder.builderFor(table.schema())

    def bucket(self, column: str, buckets: int) -> Any:
        """The transform that puts a column's values into so many buckets."""
        return self.iceberg.expressions.Expressions.bucket(column, buckets)

    def refresh(self, table: Any) -> bool:
        """Reads the table's newest version if the catalog has one. False: it has to be loaded instead.

        A Hadoop catalog numbers its metadata files: those of a table created again have the names of the old ones.
        """
        if self.java_class(HADOOP_OPERATIONS).isInstance(table.operations()):
            return False
        try:
            table.refresh()
        except Py4JJavaError as exc:
            if "Table UUID does not match" not in str(exc.java_exception.getMessage()):
                raise
            return False
        return True

    def version(self, table: Any) -> str:
        """A string that identifies a version of the table's metadata: the name of its file, where that is unique."""
        metadata = table.operations().current()
        location = str(metadata.metadataFileLocation())
        return location if _UUID.search(location) else f"{location} {metadata.uuid()} {metadata.lastUpdatedMillis()}"

    def metadata_json(self, table: Any) -> str:
        """The table's whole metadata at once: reading it snapshot by snapshot costs a round trip for every field."""

        def write(path: str) -> None:
            output = self.iceberg.Files.localOutput(path)
            self.iceberg.TableMetadataParser.overwrite(table.operations().current(), output)

        return self.written_by(write)

    def written_by(self, write: Callable[[str], object]) -> str:
        """What the JVM writes to the file, in the session's scratch directory, that `write` is called with.

        For long answers: py4j sends one of more than 8 KiB in pieces, of which the second waits 40 ms for the first to
        be acknowledged (Nagle's algorithm).
        """
        # Iceberg writes its metadata to files of such names only.
        path = Path(self.lang.System.getProperty("java.io.tmpdir"), f"{threading.get_ident()}.metadata.json")
        try:
            write(str(path))
            return path.read_text(encoding="utf-8")
        finally:
            path.unlink(missing_ok=True)

    # --- Java itself

    def java_class(self, name: str) -> Any:
        """The class of this name, as an object of Java."""
        if name not in self._classes:
            # Iceberg's classes come by spark.jars: only the session's class loader knows them.
            loader = self.lang.Thread.currentThread().getContextClassLoader()
            self._classes[name] = self.lang.Class.forName(name, True, loader)
        return self._classes[name]

    def lookup(self) -> Any:
        return self.lang.invoke.MethodHandles.publicLookup()

    def array(self, of: Any, values: Sequence[Any]) -> Any:
        """A Java array of a class."""
        gateway: Any = self.spark.sparkContext._gateway
        array = gateway.new_array(of.wrapped if isinstance(of, _CachedNames) else of, len(values))
        for place, value in enumerate(values):
            array[place] = value
        return array

    def once(self, key: str, make: Callable[[], Any]) -> Any:
        """A Java object that is made once for this JVM."""
        if key not in self._objects:
            self._objects[key] = make()
        return self._objects[key]


# --- Java functions and consumers made of method handles: no JVM code of our own, no callbacks into Python


def function_of(jvm: IcebergJvm, handle: Any) -> Any:
    """A Java Function that calls a method handle."""
    function_type = jvm.java_class("java.util.function.Function")
    return jvm.lang.invoke.MethodHandleProxies.asInterfaceInstance(function_type, handle)


def consumer_of(jvm: IcebergJvm, handle: Any) -> Any:
    """A Java Consumer that calls a method handle, and ignores what that returns."""
    signature = jvm.lang.invoke.MethodType.methodType(jvm.lang.Void.TYPE, jvm.java_class("java.lang.Object"))
    consumer_type = jvm.java_class("java.util.function.Consumer")
    return jvm.lang.invoke.MethodHandleProxies.asInterfaceInstance(consumer_type, handle.asType(signature))


def long_as_string(jvm: IcebergJvm, of: str, method: str) -> Any:
    """A Java Function: a method of an interface that returns a long, as a string."""

    def make() -> Any:
        invoke, long_type = jvm.lang.invoke, jvm.lang.Long.TYPE
        string_type = jvm.java_class("java.lang.String")
        get = jvm.lookup().findVirtual(jvm.java_class(of), method, invoke.MethodType.methodType(long_type))
        signature = invoke.MethodType.methodType(string_type, long_type)
        to_string = jvm.lookup().findStatic(string_type, "valueOf", signature)
        return function_of(jvm, invoke.MethodHandles.filterReturnValue(get, to_string))

    return jvm.once(f"{of}.{method}", make)
