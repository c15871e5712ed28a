"""Streaming writers for the tests: what each leaves in the snapshots that it commits, and how it finds that again.

The walks are ports of Iceberg 1.12: `lastCommittedOffsets` of Kafka Connect's Coordinator,
`getMaxCommittedCheckpointId` of Flink's SinkUtil, `findLastCommittedEpochId` of Spark's SparkWrite (which reads main,
whatever branch it writes to).
"""

from __future__ import annotations

import json
from collections.abc import Callable, Iterator, Mapping
from dataclasses import dataclass

from icekeeper.core.tables.state import Snapshot, TableState

# What a writer finds on a branch of a table; None: it begins anew.
Walk = Callable[[TableState, str], object]


@dataclass(frozen=True)
class Writer:
    """`commit` is what the summary of its nth commit holds besides Iceberg's own keys."""

    name: str
    commit: Callable[[int], Mapping[str, str]]
    walk: Walk

    def __str__(self) -> str:
        return self.name


def _line(table: TableState, branch: str) -> Iterator[Snapshot]:
    """As `table.snapshot(parentId)` of Iceberg: it ends at the first that has expired."""
    by_id = {snapshot.id: snapshot for snapshot in table.history}
    at = next((ref.snapshot_id for ref in table.refs if ref.name == branch and ref.kind == "branch"), None)
    while at is not None and at in by_id:
        yield by_id[at]
        at = by_id[at].parent_id


def kafka_connect(group: str, topic: str = "control-iceberg") -> Writer:
    key = f"kafka.connect.offsets.{topic}.{group}"

    def walk(table: TableState, branch: str) -> object:
        return next((json.loads(one.summary[key]) for one in _line(table, branch) if key in one.summary), None)

    def commit(number: int) -> dict[str, str]:
        return {key: json.dumps({"0": 100 * number, "1": 7}), "kafka.connect.commit-id": f"commit-{number}"}

    return Writer(f"kafka connect {group}", commit, walk)


def flink(job: str, operator: str | None) -> Writer:
    """`operator` None: an old Flink that wrote none, which every operator takes for its own."""

    def walk(table: TableState, branch: str) -> object:
        for one in _line(table, branch):
            its_operator = one.summary.get("flink.operator-id")
            if one.summary.get("flink.job-id") == job and its_operator in (None, operator):
                value = one.summary.get("flink.max-committed-checkpoint-id")
                if value is not None:
                    return int(value)
        return None

    def commit(number: int) -> dict[str, str]:
        own = {} if operator is None else {"flink.operator-id": operator}
        return {"flink.job-id": job, "flink.max-committed-checkpoint-id": str(number), **own}

    return Writer(f"flink {job}/{operator}", commit, walk)


def spark_stream(query: str) -> Writer:
    def walk(table: TableState, branch: str) -> object:
        for one in _line(table, "main"):
            if one.summary.get("spark.sql.streaming.queryId") == query:
                return int(one.summary["spark.sql.streaming.epochId"])
        return None

    def commit(number: int) -> dict[str, str]:
        return {"spark.sql.streaming.queryId": query, "spark.sql.streaming.epochId": str(number)}

    return Writer(f"spark {query}", commit, walk)
