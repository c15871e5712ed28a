"""Rewriting a slice of a table with Iceberg's own action: binpack, sort or spread. Which of them, the core decides."""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager
from typing import Any

from icekeeper.adapters.iceberg.jvm import IcebergJvm
from icekeeper.core.errors import PermanentError
from icekeeper.core.reasons import Reason
from icekeeper.core.tables.plan import Rewrite, Slice

_SPLIT_SIZE = "spark.sql.iceberg.read.split-size"
# TableProperties.SPLIT_OPEN_FILE_COST_DEFAULT of Iceberg: the least that a file counts for.
_OPEN_COST = 4 * 1024**2
# Two tasks a thread even out files that are slow to read; a task has a cost of its own, so it reads several files.
_TASKS_A_THREAD = 2
_FILES_A_TASK = 8
# The types that Iceberg's transform bucket knows (table spec, 'Partition Transforms').
_BUCKETED = frozenset(
    {"INTEGER", "LONG", "DECIMAL", "DATE", "TIME", "TIMESTAMP", "TIMESTAMP_NANO", "STRING", "UUID", "FIXED", "BINARY"}
)


@contextmanager
def rewriting(jvm: IcebergJvm, table: Any, part: Slice, sort_by: str) -> Iterator[Any]:
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
        jvm.spark.conf.set(_SPLIT_SIZE, str(_split_size(jvm, table, part)))
    try:
        action = jvm.actions().rewriteDataFiles(table)
        yield action.binPack() if order is None else action.sort(order)
    finally:
        jvm.spark.conf.unset(_SPLIT_SIZE)


def _order(jvm: IcebergJvm, table: Any, column: str) -> Any:
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
    return jvm.sort_orders(table).caseSensitive(False).asc(column).build()


def _order_that_changes_nothing(jvm: IcebergJvm, table: Any) -> Any | None:
    """A sort order in which all rows are equal: by the only bucket of a column. None where no column can be bucketed.

    Only Iceberg's sort rewrites a group into one file with more than one task: many read, one writes. Rows stay in the
    order of their files, as with binpack, and encode as well.
    """
    for field in table.schema().columns():
        if str(field.type().typeId()) in _BUCKETED:
            return jvm.sort_orders(table).asc(jvm.bucket(field.name(), 1)).build()
    return None


def _split_size(jvm: IcebergJvm, table: Any, part: Slice) -> int:
    """How much a task reads, in bytes as Iceberg counts them, so that each of the session's threads gets some."""
    open_cost = int(table.properties().get("read.split.open-file-cost") or _OPEN_COST)
    weight = max(part.bytes, part.files * open_cost)
    tasks = _TASKS_A_THREAD * int(jvm.spark.sparkContext.defaultParallelism)
    return max(weight // tasks, _FILES_A_TASK * open_cost)
