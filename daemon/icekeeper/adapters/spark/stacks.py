"""What the JVM's threads wait for, read off their stacks: a part that hangs raises no error that would name it."""

from __future__ import annotations

import re
from datetime import timedelta
from typing import Any

from icekeeper.core.errors import DeadlineExceeded
from icekeeper.core.reasons import Reason

# The frame nearest to a stack's top that one of these matches says whom its thread waits for. The catalogs of AWS come
# first, for the store is asked by the same client.
_WAITS: tuple[tuple[re.Pattern[str], Reason], ...] = tuple(
    (re.compile(pattern), reason)
    for pattern, reason in (
        (r"(?:awssdk\.services|iceberg\.aws)\.(?:glue|dynamodb)\.", Reason.CATALOG_DOWN),
        (r"awssdk\.services\.s3\.|iceberg\.aws\.s3\.|hadoop\.fs\.", Reason.STORAGE_DOWN),
        (r"cloud\.storage\.|azure\.storage\.|iceberg\.(?:gcp|azure)\.", Reason.STORAGE_DOWN),
        # Here a catalog that has found a table reads its metadata, again and again while the store does not answer.
        (r"refreshFromMetadataLocation", Reason.STORAGE_DOWN),
        (r"iceberg\.(?:jdbc|rest|hive|nessie|snowflake)\.|apache\.thrift\.", Reason.CATALOG_DOWN),
    )
)
_PARTS = {
    Reason.CATALOG_DOWN: ", waiting for the catalog",
    Reason.STORAGE_DOWN: ", waiting for the object store",
    Reason.ENGINE_DOWN: ", waiting for an answer of Spark's JVM",
}


class Overdue(DeadlineExceeded):
    """`waited_for`: whom the work was waiting for when its time was up, as the reason that this would be."""

    def __init__(self, timeout: timedelta, waited_for: Reason | None, where: str | None) -> None:
        waiting = _PARTS[waited_for] if waited_for is not None else ""
        super().__init__(f"stopped after {timeout.total_seconds():.0f} s{waiting}", where=where)
        self.waited_for = waited_for


def stacks(spark: Any) -> str:
    """The stacks of all threads of a session's JVM, as Java writes a `StackTraceElement[][]`."""
    jvm = spark._jvm
    # py4j makes a Python view of the map's values, and a list of Java again of that.
    every = jvm.java.util.ArrayList(jvm.java.lang.Thread.getAllStackTraces().values())
    return str(jvm.java.util.Arrays.deepToString(every.toArray()))


def waited_for(text: str) -> Reason | None:
    """The part that threads in Iceberg's code wait for, as the reason that it would be; None where nothing tells."""
    for stack in text.split("], ["):
        if "org.apache.iceberg." not in stack:
            continue
        for frame in stack.split(", "):
            for pattern, reason in _WAITS:
                if pattern.search(frame):
                    return reason
    return None
