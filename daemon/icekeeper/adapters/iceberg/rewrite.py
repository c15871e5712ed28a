"""Rewriting a slice of a table with Iceberg's own action: binpack, sort or spread. Which of them, the core decides."""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from typing import Any

import structlog

from icekeeper.adapters.iceberg.jvm import IcebergJvm
from icekeeper.adapters.iceberg.rows.readable import reading
from icekeeper.core.errors import PermanentError
from icekeeper.core.reasons import Reason
from icekeeper.core.tables.plan import Rewrite, Slice

log = structlog.get_logger(__name__)

_SPLIT_SIZE = "spark.sql.iceberg.read.split-size"
# What was shuffled would lie in the scratch directory until the JVM collects its last reference. For the whole session
# it would be wrong: what an expiry streams is read after the query has ended.
_CLEANUP = "spark.sql.classic.shuffleDependency.fileCleanup.enabled"
# TableProperties.SPLIT_OPEN_FILE_COST_DEFAULT of Iceberg: the least that a file counts for.
_OPEN_COST = 4 * 1024**2
# Two tasks a thread even out files that are slow to read; a task has a cost of its own, so it reads several files.
_TASKS_A_THREAD = 2
_FILES_A_TASK = 8
# The types that Iceberg's transform bucket knows (table spec, 'Partition Transforms').
_BUCKETED = frozenset(
    {"INTEGER", "LONG", "DECIMAL", "DATE", "TIME", "TIMESTAMP", "TIMESTAMP_NANO", "STRING", "UUID", "FIXED", "BINARY"}
)


def rewrite(
    jvm: IcebergJvm,
    table: Any,
    part: Slice,
    sort_by: str,
    options: Mapping[str, str],
    selected: Any | None,
    properties: Mapping[str, str],
) -> int:
    """Rewrites the slice, and returns how many files went. `selected`: an expression of partitions, None for all;
    `properties`: of the snapshots. Errors as of `_action`, and those of the action.
    """
    with _action(jvm, table, part, sort_by) as action:
        action.options(dict(options))
        if part.at_once is not None:
            action.option("max-concurrent-file-group-rewrites", str(part.at_once))
        if selected is not None:
            action.filter(selected)
        for key, value in properties.items():
            action.snapshotProperty(key, value)
        result = action.execute()
    log.info(
        "files_rewritten",
        how=part.how,
        rewritten=result.rewrittenDataFilesCount(),
        added=result.addedDataFilesCount(),
        failed=result.failedDataFilesCount(),
        bytes=result.rewrittenBytesCount(),
    )
    return int(result.rewrittenDataFilesCount())


@contextmanager
def _action(jvm: IcebergJvm, table: Any, part: Slice, sort_by: str) -> Iterator[Any]:
    """Iceberg's action (RewriteDataFiles) for the slice; the session's settings for it hold inside the context.

    PermanentError where it has to sort and there is no order.
    """
    order = None
    if part.how is Rewrite.SORT:
        order = _order(jvm, table, sort_by)
    elif part.how is Rewrite.SPREAD:
        order = _order_that_changes_nothing(jvm, table)
    if order is not None:
        # The action copies the session, with its settings, when it is made.
        jvm.spark.conf.set(_SPLIT_SIZE, str(split_size(jvm, table, part.files, part.bytes)))
        jvm.spark.conf.set(_CLEANUP, "true")
    try:
        with reading(jvm, table):
            action = jvm.actions().rewriteDataFiles(table)
            yield action.binPack() if order is None else action.sort(order)
    finally:
        jvm.spark.conf.unset(_SPLIT_SIZE)
        jvm.spark.conf.unset(_CLEANUP)


def _order(jvm: IcebergJvm, table: Any, column: str) -> Any:
    """The table's own sort order, or by a column where it has none."""
    own = table.sortOrder()
    if own.isSorted():
        return own
    field = jvm.find_field(table.schema(), column)
    if field is None:
        text = (
            f"compact.strategy is sort, and the table has no sort order of its own and no column {column!r}: give "
            "it one by ALTER TABLE ... WRITE ORDERED BY, name the column in tables[].timestamp, or take binpack"
        )
        raise PermanentError(text, reason=Reason.UNEXPECTED, where=str(table.name()))
    return jvm.sort_orders(table).asc(table.schema().findColumnName(field.fieldId())).build()


def _order_that_changes_nothing(jvm: IcebergJvm, table: Any) -> Any | None:
    """A sort order in which all rows are equal: by the only bucket of a column. None where no column can be bucketed.

    Only Iceberg's sort rewrites a group into one file with more than one task: many read, one writes. Rows
    mostly stay in the order of their files, as with binpack, and encode as well.
    """
    for field in table.schema().columns():
        if str(field.type().typeId()) in _BUCKETED:
            return jvm.sort_orders(table).asc(jvm.bucket(field.name(), 1)).build()
    return None


def split_size(jvm: IcebergJvm, table: Any, files: int, size: int) -> int:
    """How much a task reads, in bytes as Iceberg counts them, so that each of the session's threads gets some.

    `size`: of all the files, in bytes.
    """
    open_cost = int(table.properties().get("read.split.open-file-cost") or _OPEN_COST)
    weight = max(size, files * open_cost)
    tasks = _TASKS_A_THREAD * int(jvm.spark.sparkContext.defaultParallelism)
    return max(weight // tasks, _FILES_A_TASK * open_cost)
