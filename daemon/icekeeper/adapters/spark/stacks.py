"""What the JVM's threads are blocked on, read from their stacks: a service that hangs raises no error that names it."""

from __future__ import annotations

import re
from collections.abc import Iterable
from datetime import timedelta
from typing import Any

from icekeeper.core.errors import DeadlineExceeded
from icekeeper.core.reasons import Reason

# The frame nearest to a stack's top that matches one of these shows what its thread waits for. The catalogs of AWS come
# first, because the store is called by the same client.
_FRAMES: tuple[tuple[re.Pattern[str], Reason], ...] = tuple(
    (re.compile(pattern), reason)
    for pattern, reason in (
        (r"(?:awssdk\.services|iceberg\.aws)\.(?:glue|dynamodb)\.", Reason.CATALOG_DOWN),
        (r"awssdk\.services\.s3\.|iceberg\.aws\.s3\.|hadoop\.fs\.", Reason.STORAGE_DOWN),
        (r"cloud\.storage\.|azure\.storage\.|iceberg\.(?:gcp|azure)\.", Reason.STORAGE_DOWN),
        # A catalog that has found a table reads its metadata from the store, and retries while that does not answer.
        (r"refreshFromMetadataLocation", Reason.STORAGE_DOWN),
        (r"iceberg\.(?:jdbc|rest|hive|nessie|snowflake)\.|apache\.thrift\.", Reason.CATALOG_DOWN),
    )
)
_WAITING_FOR = {
    Reason.CATALOG_DOWN: ", waiting for the catalog",
    Reason.STORAGE_DOWN: ", waiting for the object store",
    Reason.ENGINE_DOWN: ", waiting for an answer of Spark's JVM",
}


class CallTimedOut(DeadlineExceeded):
    """`blocked_on`: what the work was waiting for at its deadline, as the reason that its failure would have."""

    def __init__(self, timeout: timedelta, blocked_on: Reason | None, where: str | None) -> None:
        waiting = _WAITING_FOR[blocked_on] if blocked_on is not None else ""
        super().__init__(f"stopped after {timeout.total_seconds():.0f} s{waiting}", where=where)
        self.blocked_on = blocked_on


def stacks(spark: Any) -> str:
    """The stacks of all threads of a session's JVM, as Java writes a `StackTraceElement[][]`."""
    jvm = spark._jvm
    # py4j turns the map's values into a Python view, and that back into a list of Java.
    every = jvm.java.util.ArrayList(jvm.java.lang.Thread.getAllStackTraces().values())
    return str(jvm.java.util.Arrays.deepToString(every.toArray()))


def blocked_on(text: str) -> Reason | None:
    """What threads in Iceberg's code wait for, as the reason that its failure would have; None if it does not show."""
    for stack in text.split("], ["):
        if "org.apache.iceberg." not in stack:
            continue
        if (found := system_of(stack.split(", "))) is not None:
            return found
    return None


def system_of(frames: Iterable[str]) -> Reason | None:
    """Which system is called in these methods, innermost first, as the reason of its failures."""
    found = (reason for frame in frames for pattern, reason in _FRAMES if pattern.search(frame))
    return next(found, None)
