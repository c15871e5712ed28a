"""Tables as they were read: handles, states and plans, each kept for as long as it is valid. Changes nothing."""

from __future__ import annotations

import time
from collections.abc import Mapping
from dataclasses import dataclass, replace
from typing import Any

from pyspark.sql import SparkSession

from icekeeper.adapters.iceberg.catalog import quoted_name
from icekeeper.adapters.iceberg.jvm import IcebergJvm
from icekeeper.adapters.iceberg.manifests import file_sizes
from icekeeper.adapters.iceberg.metadata import parse_history, parse_metadata
from icekeeper.adapters.iceberg.planner import Partition, partition_filter, plan_groups, planner_options
from icekeeper.adapters.iceberg.proof.footers import Footers
from icekeeper.adapters.iceberg.proof.schema_fit import listed_twice, unfit_files
from icekeeper.adapters.iceberg.rows.readable import unreadable_column
from icekeeper.core.errors import TransientError
from icekeeper.core.formats import listed
from icekeeper.core.policy import CompactPolicy
from icekeeper.core.reasons import Reason
from icekeeper.core.tables.plan import Slice
from icekeeper.core.tables.state import RUN_ID_PROPERTY, FileGroup, Snapshot, TableState

# How long a loaded table is used again: after that, credentials that the catalog lent it may have expired.
LOADED_S = 60.0


@dataclass(frozen=True, slots=True)
class _LoadedTable:
    """A table as it was loaded: its Java object, and the session in whose JVM that lives."""

    spark: SparkSession
    handle: Any
    at: float


@dataclass(frozen=True, slots=True)
class _SnapshotFiles:
    """The data files of a snapshot, from its manifests; a snapshot never changes, so they are read once.

    `twice`: the paths of those that the manifests list more than once.
    """

    snapshot_id: int
    partitions: tuple[tuple[int, ...], ...]
    manifests: int
    twice: tuple[str, ...] = ()


@dataclass(frozen=True, slots=True)
class _VersionState:
    """The state in a version of a table's metadata; a version never changes, so it is read once."""

    version: str
    target_file_size: int
    state: TableState


@dataclass(frozen=True, slots=True)
class _VersionPlan:
    """What the planner would rewrite of a version of a table; the partitions live in the JVM of a session.

    `fit`: what finds the files that do not fit the schema; None once `groups` has them.
    """

    version: str
    policy: CompactPolicy
    groups: tuple[FileGroup, ...]
    spark: SparkSession
    partitions: Mapping[str, Partition]
    fit: Any | None


class Tables:
    """Reads the tables of a catalog. Tables are named `namespace.table`; several threads may read different ones."""

    def __init__(self, catalog: str) -> None:
        self._catalog = catalog
        self._loaded: dict[str, _LoadedTable] = {}
        self._states: dict[str, _VersionState] = {}
        self._files: dict[str, _SnapshotFiles] = {}
        self._former: dict[str, _SnapshotFiles] = {}
        self._plans: dict[str, _VersionPlan] = {}

    def name(self, table: str) -> str:
        """The table's name in Spark SQL."""
        return quoted_name(self._catalog, table)

    def load(self, jvm: IcebergJvm, table: str) -> Any:
        """A handle of the caller's own; `keep` shares it."""
        return jvm.load(self.name(table))

    def keep(self, jvm: IcebergJvm, table: str, handle: Any, loaded_at: float) -> None:
        """`handle` gives this handle from now on; `loaded_at` as of time.monotonic()."""
        self._loaded[table] = _LoadedTable(jvm.spark, handle, loaded_at)

    def handle(self, jvm: IcebergJvm, table: str) -> Any:
        """The table as the catalog has it now. One that was loaded recently is only refreshed."""
        now = time.monotonic()
        self._loaded = {name: loaded for name, loaded in list(self._loaded.items()) if now - loaded.at < LOADED_S}
        loaded = self._loaded.pop(table, None)
        if loaded is None or loaded.spark is not jvm.spark or not jvm.refresh(loaded.handle):
            loaded = _LoadedTable(jvm.spark, self.load(jvm, table), now)
        self._loaded[table] = loaded
        return loaded.handle

    def last(self, jvm: IcebergJvm, table: str) -> Any | None:
        """The table as it was loaded last, if that is not long ago."""
        loaded = self._loaded.get(table)
        return loaded.handle if loaded is not None and loaded.spark is jvm.spark else None

    def state(self, jvm: IcebergJvm, table: str, handle: Any, target_file_size: int) -> TableState:
        version, known = jvm.version(handle), self._states.get(table)
        if known is None or (known.version, known.target_file_size) != (version, target_file_size):
            known = _VersionState(version, target_file_size, self._read(jvm, table, handle, target_file_size))
            self._states[table] = known
        return known.state

    def _read(self, jvm: IcebergJvm, table: str, handle: Any, target_file_size: int) -> TableState:
        files = self._current_files(jvm, table, handle)
        text = jvm.metadata_json(handle)
        state = parse_metadata(table, text, files.partitions, files.manifests, target_file_size)
        return replace(state, unsupported=unreadable_column(jvm, handle))

    def _current_files(self, jvm: IcebergJvm, table: str, handle: Any) -> _SnapshotFiles:
        current = handle.currentSnapshot()
        return _SnapshotFiles(-1, (), 0) if current is None else _files_of(jvm, table, handle, current, self._files)

    def listed_twice(self, jvm: IcebergJvm, table: str, handle: Any, snapshot: Any | None = None) -> tuple[str, ...]:
        """The paths of the data files that a snapshot's manifests list more than once; by default the current one's."""
        if snapshot is None:
            return self._current_files(jvm, table, handle).twice
        is_current = snapshot.snapshotId() == jvm.current_id(handle)
        return _files_of(jvm, table, handle, snapshot, self._files if is_current else self._former).twice

    def history(self, jvm: IcebergJvm, table: str, handle: Any) -> tuple[Snapshot, ...]:
        known = self._states.get(table)
        if known is not None and known.version == jvm.version(handle):
            return known.state.history
        return parse_history(jvm.metadata_json(handle))

    def groups(self, jvm: IcebergJvm, table: str, handle: Any, policy: CompactPolicy) -> tuple[FileGroup, ...]:
        """What the planner would rewrite."""
        return self._planned(jvm, table, handle, policy).groups

    def fitting(
        self, jvm: IcebergJvm, footers: Footers, table: str, handle: Any, policy: CompactPolicy
    ) -> tuple[FileGroup, ...]:
        """The same, with the files that do not fit the table's schema, or are listed twice."""
        plan = self._planned(jvm, table, handle, policy)
        if plan.fit is not None and plan.spark is not jvm.spark:
            plan = self._plan(jvm, table, handle, policy)
        if plan.fit is None:
            return plan.groups
        unfit = unfit_files(jvm, footers, handle, plan.fit)
        twice = listed_twice(plan.fit, self.listed_twice(jvm, table, handle))
        groups = tuple(
            replace(group, unfit=unfit.get(group.partition, ()), twice=twice.get(group.partition, ()))
            for group in plan.groups
        )
        self._plans[table] = replace(plan, groups=groups, fit=None)
        return groups

    def require_fitting(
        self, jvm: IcebergJvm, footers: Footers, table: str, handle: Any, policy: CompactPolicy, part: Slice
    ) -> None:
        """TransientError `conflict` where the slice has files by now, of whatever age, that a rewrite would change.

        A commit since the plan may let the planner take old files of which it had not enough.
        """
        if _has_same_files(handle, part):
            return
        taken = [
            group
            for group in self.fitting(jvm, footers, table, handle, policy)
            if not part.partitions or group.partition in part.partitions
        ]
        found = {file for group in taken for file in (*group.unfit, *group.twice)}
        if found:
            text = f"it has files that a rewrite would change, since it was planned: {listed(sorted(found), most=3)}"
            raise TransientError(text, reason=Reason.CONFLICT, where=table)

    def selected(self, jvm: IcebergJvm, table: str, handle: Any, policy: CompactPolicy, part: Slice) -> Any | None:
        """The filter of a slice's partitions, None where none of them has anything left to rewrite."""
        plan = self._plans.get(table)
        # Objects of a session that is gone are gone, too.
        if plan is None or plan.spark is not jvm.spark or not plan.partitions.keys() >= set(part.partitions):
            plan = self._plan(jvm, table, handle, policy)
        chosen = [plan.partitions[name] for name in part.partitions if name in plan.partitions]
        return partition_filter(jvm, handle, chosen) if chosen else None

    def _planned(self, jvm: IcebergJvm, table: str, handle: Any, policy: CompactPolicy) -> _VersionPlan:
        """The plan of this version of the table. Read it once: another thread may replace it."""
        plan = self._plans.get(table)
        if plan is None or (plan.version, plan.policy) != (jvm.version(handle), policy):
            plan = self._plan(jvm, table, handle, policy)
        return plan

    def _plan(self, jvm: IcebergJvm, table: str, handle: Any, policy: CompactPolicy) -> _VersionPlan:
        """Asks the planner and keeps its answer: planning every slice again would read all manifests each time."""
        planned, fit = plan_groups(jvm, handle, planner_options(policy))
        groups = tuple(group for group, _ in planned)
        partitions = {group.partition: partition for group, partition in planned}
        plan = self._plans[table] = _VersionPlan(jvm.version(handle), policy, groups, jvm.spark, partitions, fit)
        return plan


def _files_of(
    jvm: IcebergJvm, table: str, handle: Any, snapshot: Any, kept: dict[str, _SnapshotFiles]
) -> _SnapshotFiles:
    files = kept.get(table)
    if files is None or files.snapshot_id != snapshot.snapshotId():
        files = kept[table] = _SnapshotFiles(snapshot.snapshotId(), *file_sizes(jvm, handle, snapshot))
    return files


def require_same_spec(table: str, handle: Any, part: Slice) -> None:
    """TransientError `conflict` where the table has another partition spec than the slice was planned for.

    Its partitions can't be selected by what they were, and a rewrite moves their files to others.
    """
    if part.spec_id is not None and handle.spec().specId() != part.spec_id:
        text = "its partition spec was changed since it was planned"
        raise TransientError(text, reason=Reason.CONFLICT, where=table)


def _has_same_files(handle: Any, part: Slice) -> bool:
    """Whether a rewrite of the slice takes no other files than those of its plan: there was nothing but rewrites since.

    A rewrite of files of an older spec adds files to any partition, so that the planner may take old ones there, too.
    """
    snapshot = handle.currentSnapshot()
    if not part.partitions and handle.specs().size() > 1:
        return snapshot is None or snapshot.snapshotId() == part.planned_at
    while snapshot is not None and snapshot.snapshotId() != part.planned_at:
        if snapshot.operation() != "replace" or not snapshot.summary().containsKey(RUN_ID_PROPERTY):
            return False
        parent = snapshot.parentId()
        snapshot = None if parent is None else handle.snapshot(parent)
    return snapshot is not None or handle.currentSnapshot() is None
