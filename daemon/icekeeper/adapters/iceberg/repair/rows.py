"""Rows of a file that a table lacks, by key, and the data files that Spark writes of them. Commits nothing."""

from __future__ import annotations

import json
import math
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any
from uuid import uuid4

from pyspark.sql import DataFrame
from pyspark.sql import functions as F
from pyspark.sql.types import StructType

from icekeeper.adapters.iceberg.catalog import quoted
from icekeeper.adapters.iceberg.jvm import IcebergJvm
from icekeeper.adapters.iceberg.rows.counting import rows_of, within
from icekeeper.adapters.iceberg.rows.keys import text_of
from icekeeper.adapters.iceberg.tables import Tables
from icekeeper.core.audit.repair import NotRepairable, Refusal, RepairJob
from icekeeper.core.formats import counted as number_of

# Names that no column of a table has.
_KEY, _VALUES, _NUMBER = "icekeeper's key", "icekeeper's values", "icekeeper's number"
_ROWS, _DIFFERENT = "icekeeper's rows", "icekeeper's different rows"
_HELD, _ELSEWHERE = "icekeeper's held rows", "icekeeper's rows elsewhere"
_OURS = (_KEY, _VALUES, _NUMBER, _ROWS, _DIFFERENT, _HELD, _ELSEWHERE)
# A text of a row that no two different rows have: by default it would have neither NULL nor microseconds.
_EVERY_VALUE = {
    "ignoreNullFields": "false",
    "timestampFormat": "yyyy-MM-dd'T'HH:mm:ss.SSSSSSXXX",
    "timestampNTZFormat": "yyyy-MM-dd'T'HH:mm:ss.SSSSSS",
}
# So many rows a file at most, unless the table's target size is less.
_ROWS_A_FILE = 1_000_000
# The partitions of a day are few, and each of the few tasks keeps a file of each open.
_OPTIONS = {
    "fanout-enabled": "true",
    "use-table-distribution-and-ordering": "false",
    # ClickHouse was asked whether a required column holds NULL anywhere.
    "check-nullability": "false",
}


@contextmanager
def missing_rows(
    jvm: IcebergJvm, tables: Tables, table: str, handle: Any, job: RepairJob, base: int | None
) -> Iterator[DataFrame]:
    """The rows of the file that the table lacks at the snapshot `base` (None: it has none yet), as the table has them.

    Of a key that the file has more often than the table so many rows more where each row counts, else one where it has
    none. NotRepairable where the key can't tell which rows these are. Raises like `rows_of` when the context ends.
    """
    rows, text = _typed(jvm, handle, job), text_of(job.key.columns)
    keyed = with_key(rows, text)
    if base is None:
        held = jvm.spark.sql(f"SELECT '' AS {quoted(_KEY)}, 0L AS {quoted(_HELD)}, 0L AS {quoted(_ELSEWHERE)} LIMIT 0")
        yield lacking(keyed, held, table, by_rows=job.by_rows)
        return
    with rows_of(jvm, tables, table, job.timestamp, job.audited, base, job.key.iceberg_columns) as ours:
        inside = within(job.timestamp, job.window)
        held = jvm.spark.sql(
            f"SELECT {text} AS {quoted(_KEY)}, count_if({inside}) AS {quoted(_HELD)}, "
            f"count_if(NOT ({inside})) AS {quoted(_ELSEWHERE)} FROM {ours} GROUP BY 1"
        )
        yield lacking(keyed, held, table, by_rows=job.by_rows)


def with_key(rows: DataFrame, text: str) -> DataFrame:
    """The rows with their keys' text and a text of all their values."""
    values = F.to_json(F.struct(*(F.col(quoted(name)) for name in rows.columns)), _EVERY_VALUE)
    return rows.withColumn(_KEY, F.expr(text)).withColumn(_VALUES, values)


def lacking(keyed: DataFrame, held: DataFrame, table: str, *, by_rows: bool) -> DataFrame:
    """The rows of keys that have too few: those beyond the number that is held, of keys that can be told apart.

    `held`: of each key of the table's its text, and its rows in the time that is repaired and elsewhere.
    """
    held = held.toDF(_KEY, _HELD, _ELSEWHERE)
    if not by_rows:
        keyed = keyed.dropDuplicates([_KEY, _VALUES])
    counted = keyed.groupBy(_KEY).agg(F.count("*").alias(_ROWS), F.countDistinct(_VALUES).alias(_DIFFERENT))
    counted = counted.join(held, _KEY, "left").fillna(0, [_HELD, _ELSEWHERE])
    rows, differ, inside, elsewhere = (F.col(name) for name in (_ROWS, _DIFFERENT, _HELD, _ELSEWHERE))
    short = counted.where(rows > inside if by_rows else inside == 0)
    # Rows that are held at another time may be these; of rows that differ any may be the one that is held.
    shared = (differ > 1) & (inside > 0) if by_rows else differ > 1
    if doubtful := short.where(shared | (elsewhere > 0)).count():
        text = f"{number_of(doubtful, 'key')} of that time with rows that differ, or that lie elsewhere in the day"
        raise NotRepairable(Refusal.KEY_SHARED, text, where=table)
    number = F.expr(f"row_number() OVER (PARTITION BY {quoted(_KEY)} ORDER BY {quoted(_VALUES)})")
    numbered = keyed.withColumn(_NUMBER, number).join(short, _KEY)
    return numbered.where(F.col(_NUMBER) > inside).drop(*_OURS)


def _typed(jvm: IcebergJvm, handle: Any, job: RepairJob) -> DataFrame:
    """The file's rows with the table's names and types; columns that it lacks are NULL."""
    schema = jvm.iceberg.spark.SparkSchemaUtil.convert(handle.schema())
    fields = StructType.fromJson(json.loads(str(schema.json()))).fields
    place = {column.name: number for number, column in enumerate(job.columns)}
    rows = jvm.spark.read.parquet(Path(job.path).as_uri())
    return rows.select(
        [
            (F.col(f"c{place[field.name]}") if field.name in place else F.lit(None))
            .cast(field.dataType)
            .alias(field.name)
            for field in fields
        ]
    )


def written(jvm: IcebergJvm, handle: Any, rows: DataFrame, at_most: int) -> list[Any]:
    """Has Spark write the rows' data files, which nothing refers to yet; Iceberg's DataFiles. `at_most`: so many rows.

    As Iceberg's own action has files rewritten: Spark's writer looks the table up by a name that is known to this
    session only, and keeps the files for a caller that asks for them by that name.
    """
    name = str(uuid4())
    cache = jvm.iceberg.spark.SparkTableCache.get()
    coordinator = jvm.iceberg.spark.FileRewriteCoordinator.get()
    cache.add(name, handle)
    try:
        tasks = max(1, math.ceil(at_most / _ROWS_A_FILE))
        rows.repartition(tasks).write.format("iceberg").mode("append").options(**_OPTIONS).save(name)
        files = coordinator.fetchNewFiles(handle, name).iterator()
        found = []
        while files.hasNext():
            found.append(files.next())
        return found
    finally:
        cache.remove(name)
        coordinator.clearRewrite(handle, name)
