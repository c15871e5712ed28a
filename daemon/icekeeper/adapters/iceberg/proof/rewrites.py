"""Reads what a rewrite replaced and what it wrote: metrics by its manifests, and fingerprints of its rows.

What they mean: core/tables/rewrites.py.
"""

from __future__ import annotations

import json
from collections.abc import Iterable, Iterator
from contextlib import contextmanager
from typing import Any
from uuid import uuid4

from pyspark.sql import DataFrame

from icekeeper.adapters.iceberg.jvm import IcebergJvm
from icekeeper.adapters.iceberg.proof.compiled import REWRITE_READER, new_instance
from icekeeper.adapters.iceberg.proof.files import require_snapshot
from icekeeper.adapters.iceberg.rewrite import split_size
from icekeeper.adapters.iceberg.rows.content import column_fingerprints, row_fingerprints
from icekeeper.adapters.iceberg.rows.readable import reading
from icekeeper.adapters.iceberg.tables import Tables
from icekeeper.core.audit.records import Fingerprint
from icekeeper.core.errors import TransientError
from icekeeper.core.reasons import Reason
from icekeeper.core.tables.content import Content
from icekeeper.core.tables.rewrites import ColumnChange, ColumnSums, PartitionChange, Rewritten

# The sides of a rewrite, as RewriteReader numbers them.
_WENT, _CAME = 0, 1
# The format version from which on rows have ids.
_WITH_IDS = 3


def read_rewrite(jvm: IcebergJvm, tables: Tables, table: str, snapshot_id: int) -> Rewritten:
    """What the manifests of a rewrite's snapshot say, in one answer; no Spark job."""
    reader, handle = _reader(jvm, tables, table, snapshot_id)
    parent, files, records, formats, with_deletes, columns, partitions = json.loads(jvm.written_by(reader.describe))
    return Rewritten(
        snapshot_id=snapshot_id,
        parent_id=parent,
        rows_went=records[_WENT],
        rows_came=records[_CAME],
        files_went=files[_WENT],
        files_came=files[_CAME],
        formats=tuple(sorted(formats)),
        with_deletes=with_deletes,
        columns=tuple(_column(*column) for column in columns),
        partitions=tuple(PartitionChange(name, *numbers) for name, numbers in partitions),
        with_ids=int(jvm.iceberg.TableUtil.formatVersion(handle)) >= _WITH_IDS,
    )


def _column(
    name: str,
    kind: Any,
    nested: bool,
    floating: bool,
    default: bool,
    mode: str,
    went: Iterable[Any],
    came: Iterable[Any],
    lower: int | None,
    upper: int | None,
) -> ColumnChange:
    return ColumnChange(name, kind, nested, floating, default, mode, _sums(*went), _sums(*came), lower, upper)


def _sums(
    values: int,
    nulls: int,
    nans: int | None,
    older: int,
    uncounted: int,
    unbounded: int,
    lower: str | None,
    upper: str | None,
) -> ColumnSums:
    bounds = (None if bound is None else bytes.fromhex(bound) for bound in (lower, upper))
    return ColumnSums(values, nulls, nans, older, uncounted, unbounded, *bounds)


def read_content(
    jvm: IcebergJvm, tables: Tables, table: str, snapshot_id: int, partitions: Iterable[str], *, by_column: bool
) -> Content:
    """The fingerprints of a rewrite's rows in these partitions (none: in all), before it and after it.

    The very files that went are read at the snapshot before, and those that came at its own, with the deletes that
    apply to them.
    """
    reader, handle = _reader(jvm, tables, table, snapshot_id)
    names = "\n".join(partitions)
    rows: list[tuple[Fingerprint, Fingerprint]] = []
    columns: list[dict[str, Fingerprint]] = []
    for side in (_WENT, _CAME):
        with _staged(jvm, reader, handle, side, names) as data:
            rows.append((Fingerprint(), Fingerprint()) if data is None else row_fingerprints(data))
            columns.append({} if data is None or not by_column else column_fingerprints(data))
    (went, ids_went), (came, ids_came) = rows[_WENT], rows[_CAME]
    return Content(went, came, columns[_WENT], columns[_CAME], ids_went, ids_came)


@contextmanager
def _staged(jvm: IcebergJvm, reader: Any, handle: Any, side: int, partitions: str) -> Iterator[DataFrame | None]:
    """The rows of one side's files as Spark reads them for a rewrite; None where there is no such file."""
    name = f"icekeeper-{uuid4().hex}"
    missing = int(reader.stage(name, side, partitions))
    try:
        if missing > 0:
            text = f"{missing} files of the rewrite are not where its manifests say"
            raise TransientError(text, reason=Reason.CONFLICT, where=str(handle.name()))
        if missing < 0:
            yield None
        else:
            split = split_size(jvm, handle, int(reader.stagedFiles()), int(reader.stagedBytes()))
            with reading(jvm, handle):
                yield jvm.spark.read.format("iceberg").option("split-size", split).load(name)
    finally:
        reader.unstage(name)


def _reader(jvm: IcebergJvm, tables: Tables, table: str, snapshot_id: int) -> tuple[Any, Any]:
    """A RewriteReader of the snapshot, and the table."""
    require_snapshot(jvm, tables, table, snapshot_id)
    handle = tables.handle(jvm, table)
    return new_instance(jvm, REWRITE_READER, handle, snapshot_id), handle
