"""What the doctor reads through a session's JVM: versions, a table's facts, the rights on its store. Judges nothing.

Only `probe_store` writes: one object of a few bytes beside a table's data, which it deletes again.
"""

from __future__ import annotations

import json
import time
from collections.abc import Callable, Mapping
from contextlib import closing
from dataclasses import dataclass, replace
from typing import Any
from uuid import uuid4

from py4j.protocol import Py4JJavaError
from pyspark.sql import SparkSession

from icekeeper.adapters.iceberg.catalog import quoted_name
from icekeeper.adapters.iceberg.deleting.files import delete_files, path_collector
from icekeeper.adapters.iceberg.jvm import IcebergJvm
from icekeeper.adapters.iceberg.metadata import parse_metadata
from icekeeper.adapters.iceberg.misplaced import explained, misplacement
from icekeeper.adapters.iceberg.rows.readable import unreadable_column
from icekeeper.adapters.spark.errors import translate
from icekeeper.core.errors import IcekeeperError
from icekeeper.core.reasons import Reason
from icekeeper.core.tables.state import TableState

# The name of a probe's object, from which an operator knows where it comes from.
PROBE_NAME = "icekeeper-doctor-probe"
_PLANNER = "org.apache.iceberg.actions.BinPackRewriteFilePlanner"
_CATALOG_CLASS = "org.apache.iceberg.spark.SparkCatalog"
# How long executors of a cluster may take to register.
_EXECUTORS_S = 10.0


@dataclass(frozen=True, slots=True)
class SessionFacts:
    """A running session. `heap` in bytes; `executors` None on a local master; `jar` the URL of Iceberg's runtime."""

    spark: str
    java: int
    heap: int
    master: str
    executors: int | None
    iceberg: str | None
    jar: str | None
    has_planner: bool


@dataclass(frozen=True, slots=True)
class TableFacts:
    """What the doctor needs of a table's metadata. `columns` are those of the top level, with Iceberg's types."""

    table: str
    format_version: int
    location: str
    properties: Mapping[str, str]
    columns: Mapping[str, str]
    metadata_log: int
    state: TableState


@dataclass(frozen=True, slots=True)
class StoreProbe:
    """What the table's own FileIO could do beside its data; the error of each step that failed.

    Steps: `read` (a file of the table's own, if it has one), `write`, `check` (does an object exist), `list`,
    `bulk_delete` (as expiry does it), `delete` (tried where that failed). `left` is the probe's path where it could
    not be removed, `kept` that the store reported a deletion that it had not done.
    """

    table: str
    io: str
    path: str
    errors: Mapping[str, IcekeeperError]
    left: bool = False
    kept: bool = False


def session_facts(spark: SparkSession) -> SessionFacts:
    """Versions, memory and executors; a session without Iceberg's jar has neither `iceberg` nor `jar`."""
    jvm, context, master = IcebergJvm(spark), spark.sparkContext, str(spark.sparkContext.master)
    iceberg = jar = None
    if _exists(jvm, _CATALOG_CLASS):
        iceberg = str(jvm.iceberg.IcebergBuild.version())
        source = jvm.java_class(_CATALOG_CLASS).getProtectionDomain().getCodeSource()
        jar = None if source is None else str(source.getLocation())
    return SessionFacts(
        spark=str(spark.version),
        java=int(jvm.lang.Runtime.version().feature()),
        heap=int(jvm.lang.Runtime.getRuntime().maxMemory()),
        master=master,
        executors=None if master.startswith("local") else _executors(context),
        iceberg=iceberg,
        jar=jar,
        has_planner=_exists(jvm, _PLANNER),
    )


def _executors(context: Any) -> int:
    """Executors that have registered, the driver not counted; waits a little for the first."""
    tracker = context._jsc.sc().statusTracker()
    deadline = time.monotonic() + _EXECUTORS_S
    while (found := len(list(tracker.getExecutorInfos())) - 1) < 1 and time.monotonic() < deadline:
        time.sleep(0.5)
    return max(found, 0)


def table_facts(jvm: IcebergJvm, catalog: str, table: str, target_file_size: int) -> TableFacts:
    """Reads the table's metadata. Raises the JVM's error where the table can't be loaded."""
    with explained(jvm, catalog, table):
        handle = jvm.load(quoted_name(catalog, table))
        text = jvm.metadata_json(handle)
    facts = parse_facts(table, text, target_file_size)
    return replace(facts, state=replace(facts.state, unsupported=unreadable_column(jvm, handle)))


def parse_facts(table: str, text: str, target_file_size: int) -> TableFacts:
    """The facts out of a metadata.json (Iceberg spec, 'Table Metadata')."""
    metadata = json.loads(text)
    schemas = metadata.get("schemas") or [metadata.get("schema", {})]
    current = next((s for s in schemas if s.get("schema-id") == metadata.get("current-schema-id")), schemas[-1])
    return TableFacts(
        table=table,
        format_version=metadata["format-version"],
        location=metadata["location"],
        properties=metadata.get("properties", {}),
        columns={field["name"]: _type(field["type"]) for field in current.get("fields", ())},
        metadata_log=len(metadata.get("metadata-log", ())),
        state=parse_metadata(table, text, (), 0, target_file_size),
    )


def _type(declared: Any) -> str:
    return declared if isinstance(declared, str) else str(declared.get("type", "?"))


def neighbours(jvm: IcebergJvm, catalog: str, namespace: str) -> list[str]:
    """The tables of a namespace, or all namespaces where it does not exist; may be empty."""
    iceberg = jvm.open_catalog(catalog).icebergCatalog()
    parts = jvm.iceberg.catalog.Namespace.of(jvm.array(jvm.lang.String, namespace.split(".")))
    try:
        return sorted(f"{namespace}.{found.name()}" for found in iceberg.listTables(parts))
    except Py4JJavaError:
        return sorted(f"{found}.*" for found in iceberg.listNamespaces())


def refused_read(jvm: IcebergJvm, io: str, properties: Mapping[str, str], path: str) -> IcekeeperError | None:
    """Why the store refuses a read, None where it allows it or there is nothing at the path.

    Through a FileIO of our own: loading a table repeats such a read twenty times, for a minute and a half.
    """
    reader = jvm.file_io(io, properties)
    try:
        read_byte(reader, path)
    except Py4JJavaError as exc:
        error = _refusal(exc)
        return None if error.reason is Reason.FILE_MISSING else error
    finally:
        reader.close()
    return None


def probe_store(jvm: IcebergJvm, catalog: str, table: str) -> StoreProbe:
    """Tries every right that a night needs, with the table's own FileIO, where its next data file would be written."""
    handle = jvm.load(quoted_name(catalog, table))
    io = handle.io()
    path = str(handle.locationProvider().newDataLocation(f"{PROBE_NAME}-{uuid4()}"))
    errors: dict[str, IcekeeperError] = {}

    def attempt(step: str, act: Callable[[], Any]) -> Any:
        try:
            return act()
        except Py4JJavaError as exc:
            errors.setdefault(step, misplacement(jvm, catalog, table, exc) or _refusal(exc))
            return None

    snapshot = handle.currentSnapshot()
    if snapshot is not None:
        attempt("read", lambda: read_byte(io, str(snapshot.manifestListLocation())))
        if any(error.reason is Reason.WAREHOUSE_MOVED for error in errors.values()):
            return StoreProbe(table, str(io.getClass().getSimpleName()), path, errors)  # or it would write elsewhere
    attempt("write", lambda: _write(io, path))
    written = "write" not in errors
    if written:
        attempt("check", lambda: io.newInputFile(path).exists())
        attempt("read", lambda: read_byte(io, path))
    if jvm.java_class("org.apache.iceberg.io.SupportsPrefixOperations").isInstance(io):
        attempt("list", lambda: io.listPrefix(path).iterator().hasNext())
    paths = path_collector(jvm)
    paths.queue.add(path)
    if attempt("bulk_delete", lambda: delete_files(jvm, handle, paths.queue)) not in (0, None):
        errors["bulk_delete"] = IcekeeperError("the bulk deletion failed; the store's own message is in spark.log")
    if "bulk_delete" in errors:
        attempt("delete", lambda: io.deleteFile(path))
    # Without the right to list, S3 answers `forbidden` for an object that is missing.
    exists = attempt("check", lambda: io.newInputFile(path).exists())
    deleted = "bulk_delete" not in errors or "delete" not in errors
    # Where that can't be checked, the answer of the deletion counts.
    left = written and (bool(exists) if exists is not None else not deleted)
    return StoreProbe(table, str(io.getClass().getSimpleName()), path, errors, left, kept=left and deleted)


def _refusal(error: Py4JJavaError) -> IcekeeperError:
    """The store's refusal; an interrupt at our own deadline is none, and is raised to the engine."""
    refusal = translate(error)
    if "interrupted" in str(refusal).lower():
        raise error
    return refusal


def _write(io: Any, path: str) -> None:
    with closing(io.newOutputFile(path).create()) as stream:
        stream.write(0)


def read_byte(io: Any, path: str) -> None:
    """Asks the store for a file; raises the JVM's error where it refuses, or has none."""
    with closing(io.newInputFile(path).newStream()) as stream:
        stream.read()


def _exists(jvm: IcebergJvm, name: str) -> bool:
    try:
        jvm.java_class(name)
    except Py4JJavaError:
        return False
    return True
