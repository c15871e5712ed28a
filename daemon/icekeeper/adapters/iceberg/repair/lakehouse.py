"""The port `RepairLakehouse`: rows are added in one commit that carries the finding's id, or not at all."""

from __future__ import annotations

import json
from contextlib import suppress
from datetime import timedelta
from pathlib import Path
from typing import Any

import structlog

from icekeeper.adapters.iceberg.deleting.files import PathCollector, delete_files, path_collector
from icekeeper.adapters.iceberg.jvm import IcebergJvm
from icekeeper.adapters.iceberg.lakehouse import IcebergLakehouse
from icekeeper.adapters.iceberg.proof.files import event_time, within
from icekeeper.adapters.iceberg.repair.rows import missing_rows, written
from icekeeper.adapters.spark.errors import translate
from icekeeper.core.audit.repair import (
    FINDING_ID_PROPERTY,
    NotRepairable,
    Refusal,
    Repaired,
    RepairJob,
    TableColumn,
)
from icekeeper.core.reasons import Reason
from icekeeper.core.tables.state import RUN_ID_PROPERTY
from icekeeper.night.lakehouse import BeforeCommit

log = structlog.get_logger(__name__)


class RepairingLakehouse(IcebergLakehouse):
    """The ports `Lakehouse` and `RepairLakehouse`."""

    async def table_columns(self, table: str) -> tuple[TableColumn, ...]:
        def work(jvm: IcebergJvm) -> tuple[TableColumn, ...]:
            master = str(jvm.spark.sparkContext.master)
            if not master.startswith("local"):
                raise NotRepairable(Refusal.REMOTE_ENGINE, f"spark.master is {master}", where=table)
            handle = self._tables.handle(jvm, table)
            used = _used(handle)
            return tuple(
                TableColumn(
                    str(field.name()),
                    str(field.type().toString()),
                    bool(field.isRequired()),
                    int(field.fieldId()) in used or field.writeDefault() is not None,
                )
                for field in handle.schema().columns()
            )

        return await self._calls.read(work, table)

    async def repair(
        self, table: str, job: RepairJob, timeout: timedelta, before_commit: BeforeCommit | None = None
    ) -> Repaired:
        def work(jvm: IcebergJvm, handle: Any) -> Repaired:
            done = _repaired_before(jvm, handle, job.finding_id)
            if done is not None:
                return done
            base, files, committing = jvm.current_id(handle), list[Any](), False
            unreferenced = path_collector(jvm)
            try:
                with missing_rows(jvm, self._tables, table, handle, job, base) as rows:
                    files = written(jvm, handle, rows, jvm.spark.read.parquet(Path(job.path).as_uri()).count())
                added = sum(int(file.recordCount()) for file in files)
                if not added:
                    return Repaired(0)
                committing = True
                _commit(jvm, handle, job, base, files, unreferenced)
            except Exception as exc:
                # Where it is not known whether the commit landed, the table may refer to them.
                if not committing:
                    _delete(handle, files)
                elif translate(exc).reason is Reason.CONFLICT:
                    # A commit that is sent again, as its answer was lost, conflicts with itself.
                    handle.refresh()
                    if (done := _repaired_before(jvm, handle, job.finding_id)) is not None:
                        return done
                    _delete(handle, files)
                    delete_files(jvm, handle, unreferenced.queue)
                raise
            delete_files(jvm, handle, unreferenced.queue)
            log.info("rows_added", finding_id=job.finding_id, rows=added, files=len(files))
            # Not the current snapshot: another writer's may have come after it.
            return _repaired_before(jvm, handle, job.finding_id) or Repaired(added)

        return await self._calls.commit(work, timeout, table, before_commit)


def _used(handle: Any) -> set[int]:
    """The ids of columns by which the table's rows are placed, ordered or known."""
    used = {int(field) for field in handle.schema().identifierFieldIds()}
    return used | {int(field.sourceId()) for each in (handle.spec(), handle.sortOrder()) for field in each.fields()}


def _repaired_before(jvm: IcebergJvm, handle: Any, finding_id: str) -> Repaired | None:
    """What an earlier commit of this finding added; None where no snapshot of the main branch has its id."""
    metadata = json.loads(jvm.metadata_json(handle))
    by_id = {snapshot["snapshot-id"]: snapshot for snapshot in metadata.get("snapshots", ())}
    snapshot = by_id.get(metadata.get("current-snapshot-id"))
    while snapshot is not None:
        summary = snapshot.get("summary", {})
        if summary.get(FINDING_ID_PROPERTY) == finding_id:
            return Repaired(int(summary.get("added-records", 0)), int(snapshot["snapshot-id"]))
        snapshot = by_id.get(snapshot.get("parent-snapshot-id"))
    return None


def _commit(
    jvm: IcebergJvm, handle: Any, job: RepairJob, base: int | None, files: list[Any], unreferenced: PathCollector
) -> None:
    """Adds the files; refused where a data file with rows of the window was added since `base`.

    An overwrite that only adds is the one operation of Iceberg's API that appends and checks for such files; rewrites
    of others are none. By the files' bounds: one without them is taken to have such rows.

    `unreferenced` gets the manifests that Iceberg takes for those of failed attempts. It is wrong about them where an
    attempt landed, its answer was lost, and the next one met its files: deleting them would make the table unreadable.
    """
    overwrite = handle.newOverwrite()
    if base is not None:
        overwrite.validateFromSnapshot(base)
    for file in files:
        overwrite.addFile(file)
    window = within(jvm, handle, event_time(jvm, handle, job.timestamp), job.window)
    if window is None:
        window = jvm.iceberg.expressions.Expressions.alwaysTrue()
    overwrite.conflictDetectionFilter(window).validateNoConflictingData()
    overwrite.set(FINDING_ID_PROPERTY, job.finding_id)
    overwrite.set(RUN_ID_PROPERTY, str(job.run_id))
    overwrite.deleteWith(unreferenced.consumer)
    overwrite.commit()


def _delete(handle: Any, files: list[Any]) -> None:
    """Deletes files that no snapshot refers to."""
    for file in files:
        with suppress(Exception):  # it stays behind, as those of a process that died do
            handle.io().deleteFile(str(file.location()))
