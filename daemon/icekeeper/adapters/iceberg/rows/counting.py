"""Counting rows with Spark SQL at a snapshot: a window, its minutes, all rows. Runs in the session's thread."""

from __future__ import annotations

import re
from collections.abc import Iterable, Iterator
from contextlib import contextmanager
from datetime import UTC, datetime

from icekeeper.adapters.iceberg.catalog import quoted
from icekeeper.adapters.iceberg.jvm import IcebergJvm
from icekeeper.adapters.iceberg.rows.readable import reading, require_readable
from icekeeper.adapters.iceberg.tables import Tables
from icekeeper.core.audit.proof import FILE_REASONS
from icekeeper.core.audit.records import LakehouseCount
from icekeeper.core.calendar import Window
from icekeeper.core.errors import IcekeeperError, PermanentError, TransientError, UnreadableFiles
from icekeeper.core.formats import listed
from icekeeper.core.reasons import Reason
from icekeeper.core.secrets import hide_in_text

# Iceberg's BaseReader, before it raises what the reader of the format did; below it the exception and its causes.
_NOT_READ = re.compile(r"Error reading file\(s\): (.+)((?:\n(?:\s.*|Caused by: .*|[\w.$]+(?:Exception|Error)\b.*))*)")
# Where a reader fails, Spark stops the others: that says nothing of their files.
_STOPPED = re.compile(r"^(?:Caused by: )?[\w.$]*(?:Interrupt|Abort|Cancellation|TaskKilled)", re.MULTILINE)
_OUT_OF_BOUNDS = re.compile(r"\w*(?:OutOfBounds|BufferUnderflow|NegativeArraySize|EOF)Exception\b")
_UNHASHED = re.compile(r"\b(?:map<|variant\b)")


def count_window(
    jvm: IcebergJvm, tables: Tables, table: str, timestamp: str, window: Window, snapshot_id: int, *, every_value: bool
) -> LakehouseCount:
    """`every_value`: every column of every row is read and decoded; else Spark may count by metadata alone."""
    with rows_of(jvm, tables, table, timestamp, window, snapshot_id) as rows:
        selected = f"count(*), {_hash_of_all(jvm, rows)}" if every_value else "count(*)"
        query = f"SELECT {selected} FROM {rows}"
        return LakehouseCount(int(jvm.spark.sql(query).collect()[0][0]), query, snapshot_id)


def naming_files(error: IcekeeperError, spark_log: str) -> IcekeeperError:
    """The error of reading rows, with the files that Spark's readers failed at by its log.

    Readers that run out of their bounds were misled by damaged bytes.
    """
    failed = (names for names, trace in _NOT_READ.findall(spark_log) if not _STOPPED.search(trace))
    files = sorted({name for names in failed for name in names.split(", ")})
    misled = error.reason is Reason.UNEXPECTED and _OUT_OF_BOUNDS.match(str(error.args[0])) is not None
    reason = Reason.FILE_CORRUPT if misled else error.reason
    if not files or reason not in FILE_REASONS | {Reason.UNEXPECTED}:
        return error
    text = hide_in_text(f"{error.args[0]}; it could not read {listed(files)}")
    return UnreadableFiles(text, tuple(map(hide_in_text, files)), reason=reason, where=error.where)


def count_of_nothing(tables: Tables, table: str, timestamp: str, window: Window) -> LakehouseCount:
    """The count of a table without a snapshot: it was never written to, and Spark has nothing to read."""
    return LakehouseCount(0, f"SELECT count(*) FROM {tables.name(table)} WHERE {within(timestamp, window)}", None)


def count_all(jvm: IcebergJvm, tables: Tables, table: str, snapshot_id: int) -> int:
    query = f"SELECT count(*) FROM {tables.name(table)} VERSION AS OF {snapshot_id}"
    with reading(jvm, tables.handle(jvm, table)):
        return int(jvm.spark.sql(query).collect()[0][0])


def count_minutes(
    jvm: IcebergJvm, tables: Tables, table: str, timestamp: str, window: Window, snapshot_id: int, *, dates: bool
) -> dict[datetime, int]:
    """`dates`: the rows of a date are those of its first minute; else PermanentError where the event time is one."""
    if not dates and jvm.column_type(tables.handle(jvm, table), timestamp) == "date":
        text = f"the event time {timestamp} is a date in Iceberg, which knows no minutes"
        raise PermanentError(text, reason=Reason.SOURCE_TYPE, where=table)
    # Seconds, not timestamps: PySpark would turn those into naive datetimes of this host's zone.
    minute = f"unix_seconds(date_trunc('MINUTE', CAST({quoted(timestamp)} AS TIMESTAMP)))"
    with rows_of(jvm, tables, table, timestamp, window, snapshot_id) as rows:
        counted = jvm.spark.sql(f"SELECT {minute} AS minute, count(*) FROM {rows} GROUP BY 1").collect()
    return {datetime.fromtimestamp(row[0], UTC): int(row[1]) for row in counted}


def _hash_of_all(jvm: IcebergJvm, rows: str) -> str:
    """An aggregate that needs every value of every column, so that Spark leaves none out."""
    fields = jvm.spark.sql(f"SELECT * FROM {rows} LIMIT 0").schema.fields
    columns = ((quoted(field.name), field.dataType.simpleString()) for field in fields)
    # Spark hashes no maps and no variants; a text of them needs their values, too.
    hashed = (f"CAST({name} AS STRING)" if _UNHASHED.search(kind) else name for name, kind in columns)
    return f"bit_xor(xxhash64({', '.join(hashed)}))"


@contextmanager
def rows_of(
    jvm: IcebergJvm,
    tables: Tables,
    table: str,
    timestamp: str,
    window: Window,
    snapshot_id: int,
    columns: Iterable[str] = (),
) -> Iterator[str]:
    """The table, a snapshot and the window's condition, as a query names them after FROM. `columns`: read besides.

    Spark reads a snapshot with its schema of then, and Iceberg binds the filter with today's: once a column is
    renamed, and until something is committed, a pinned query can use neither name. So the current snapshot is not
    pinned if it has one of the columns under another name. TransientError where a younger one may have been read then.
    """
    handle = tables.handle(jvm, table)
    require_readable(jvm, table, handle)
    known = all(jvm.knows_column(handle, snapshot_id, column) for column in (timestamp, *columns))
    pinned = known or snapshot_id != jvm.current_id(handle)
    version = f" VERSION AS OF {snapshot_id}" if pinned else ""
    with reading(jvm, handle):
        yield f"{tables.name(table)}{version} WHERE {within(timestamp, window)}"
    if not pinned and jvm.current_id(tables.handle(jvm, table)) != snapshot_id:
        raise TransientError("it was written to while it was counted", reason=Reason.CONFLICT, where=table)


def within(column: str, window: Window) -> str:
    """A half-open range by literals: on whole days it lines up with days(ts), and metadata alone answers a count."""
    low, high = (f"TIMESTAMP '{instant.isoformat(' ')}'" for instant in (window.start, window.end))
    return f"{quoted(column)} >= {low} AND {quoted(column)} < {high}"
