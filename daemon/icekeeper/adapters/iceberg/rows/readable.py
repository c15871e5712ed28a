"""Whether Spark can read a table by its schema, and the settings that it takes. What it means that it can't: core/."""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager
from typing import Any

from py4j.protocol import Py4JJavaError
from pyspark.errors.exceptions.captured import CapturedException

from icekeeper.adapters.iceberg.jvm import IcebergJvm
from icekeeper.core.errors import PermanentError
from icekeeper.core.reasons import Reason

_CASE_SENSITIVE = "spark.sql.caseSensitive"


def unreadable_column(jvm: IcebergJvm, handle: Any) -> str:
    """Why Spark can't read the table, with the column; empty where it can."""
    schema, of_spark = handle.schema(), jvm.iceberg.spark.SparkSchemaUtil
    try:
        of_spark.validateMetadataColumnReferences(schema, schema)
        of_spark.convert(schema)
    except (Py4JJavaError, CapturedException):
        for field in schema.columns():
            if jvm.iceberg.MetadataColumns.isMetadataColumn(field.name()):
                return f"the column {field.name()} has a name that Iceberg reserves for its metadata columns"
            try:
                of_spark.convert(field.type())
            except (Py4JJavaError, CapturedException):
                return f"the column {field.name()} is of type {field.type().toString()}, which Spark can't read"
        raise
    return ""


def require_readable(jvm: IcebergJvm, table: str, handle: Any) -> None:
    """PermanentError `table_unsupported` where Spark can't read the table."""
    if why := unreadable_column(jvm, handle):
        raise PermanentError(why, reason=Reason.TABLE_UNSUPPORTED, where=table)


@contextmanager
def reading(jvm: IcebergJvm, handle: Any) -> Iterator[None]:
    """Queries of the table: Spark minds the case of names in them where that of columns alone tells them apart."""
    if not jvm.differ_by_case(handle.schema()):
        yield
        return
    before = jvm.spark.conf.get(_CASE_SENSITIVE)
    jvm.spark.conf.set(_CASE_SENSITIVE, "true")
    try:
        yield
    finally:
        jvm.spark.conf.set(_CASE_SENSITIVE, str(before))
