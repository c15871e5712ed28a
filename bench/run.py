"""One run of one rival: what is timed, and what is done with its tables before and after. Times nothing itself."""

from __future__ import annotations

import asyncio

import pyarrow.parquet as pq
from pyiceberg.table import Table

from bench.bases import Tables
from bench.record import BARE, BINPACK, COPY, DEFAULTS, Case, Output, Scans, Store
from bench.rivals import Job, Rival, RivalFailed
from bench.scans import Scanner
from bench.store import StoreProxy, Traffic
from icekeeper.core.enums import NIGHT, Stage
from icekeeper.core.tables.state import COPIED, ROW_GROUPS_PROPERTY

# How many tables a night with nothing to do has.
_IDLE_TABLES = 10
_STAGES = {
    "compact": (Stage.COMPACT,),
    "files": (Stage.COMPACT,),
    "expire": (Stage.EXPIRE,),
    "snapshots": (Stage.EXPIRE,),
    "first": (Stage.COMPACT,),
    "session": (),
}
WITHOUT_AUDIT = "without audit"
# Whose output is read again by Spark and pyarrow, and where: what it costs to decode, and to wait for a store.
_SCANNED = frozenset({DEFAULTS, BINPACK})
_SCANNED_ON: frozenset[Store] = frozenset({"local", "s3+10ms"})


def job_of(case: Case, tables: Tables, most_tables: int | None, x: float) -> Job:
    """Fresh copies of a case's tables, and what is to be done with them."""
    stages = _STAGES.get(case.part, NIGHT)
    if case.shape.endswith(WITHOUT_AUDIT):
        stages = (Stage.COMPACT, Stage.EXPIRE)
    bases = tables.bases
    if case.part == "idle":
        bases *= _IDLE_TABLES
    elif case.part == "tables":
        bases *= max(1, round(x))
    bases = bases[:most_tables]
    return Job(
        warehouse=tables.warehouse,
        tables=tuple(tables.warehouse.copy(base) for base in bases),
        bases=bases,
        stages=stages,
        source=tables.source,
        recorded=Stage.AUDIT in stages,
        input_files=tables.input_files,
    )


class Run:
    """Use it as: `act` (timed), `traffic`, `output`, `scans`, and always `close`."""

    def __init__(self, case: Case, rival: Rival, job: Job, proxy: StoreProxy, scanner: Scanner) -> None:
        self.input_files = job.input_files * len(job.tables)
        self.tables = len(job.tables)
        self.sides = None
        self.note = rival.note if case.part in ("night", "idle") or rival.name in (COPY, BARE) else ""
        self._case = case
        self._rival = rival
        self._job = job
        self._proxy = proxy
        self._scanner = scanner
        self._written: Output | None = None

    async def act(self) -> None:
        """Does the work; whatever it raises is why this run failed."""
        self._written = await self._rival.do(self._job)

    async def traffic(self) -> Traffic:
        """What went to the store and back since the run was prepared."""
        return await asyncio.to_thread(self._proxy.read)

    def deleted(self) -> frozenset[str]:
        """The objects of its tables' bases that are gone."""
        return frozenset().union(*(self._job.warehouse.gone_of(base) for base in self._job.bases))

    async def output(self) -> Output | None:
        """What became of the table; None where there are several. RivalFailed where that is not what was to be done."""
        return await asyncio.to_thread(self._looked_at)

    async def scans(self) -> Scans | None:
        """How fast the table is read now; None where that is not of interest. RivalFailed where rows are missing."""
        case, job = self._case, self._job
        if case.part != "compact" or case.store not in _SCANNED_ON or self._rival.name not in _SCANNED:
            return None
        ((table,), (base,)) = job.tables, job.bases
        return await self._scanner.scans(job.warehouse, table, base.rows)

    async def close(self) -> None:
        """Puts the store back and forgets the tables."""
        self._proxy.reset()
        await asyncio.to_thread(self._put_back)

    def _looked_at(self) -> Output | None:
        job = self._job
        found = []
        for name, base in zip(job.tables, job.bases, strict=True):
            if self._written is not None:
                continue
            table = job.warehouse.table(name)
            output = output_of(table)
            found.append(output)
            if output.rows != base.rows:
                raise RivalFailed(f"{name} has {output.rows} rows, it had {base.rows}")
            if Stage.COMPACT in job.stages and job.input_files and output.files >= len(base.live):
                raise RivalFailed(f"{name} has {output.files} files, it had {len(base.live)}")
            if Stage.EXPIRE in job.stages and (left := job.warehouse.left_of(base)):
                text = f"{len(left)} of {len(base.freed)} replaced files are still there"
                if not self._rival.frees_late:
                    raise RivalFailed(f"{name}: {text}")
                self.note = "; ".join(filter(None, (self._rival.note, text)))
        if self._written is not None:
            return self._written
        return found[0] if len(found) == 1 else None

    def _put_back(self) -> None:
        for name in self._job.tables:
            self._job.warehouse.drop(name)
        for base in dict.fromkeys(self._job.bases):
            self._job.warehouse.restore(base)


def output_of(table: Table) -> Output:
    """How good a table's files are, by its manifests and by the footers of the files."""
    files = [task.file for task in table.scan().plan_files()]
    groups = 0
    for file in files:
        with table.io.new_input(file.file_path).open() as stream:
            groups += pq.read_metadata(stream).num_row_groups
    return Output(
        files=len(files),
        bytes=sum(file.file_size_in_bytes for file in files),
        rows=sum(file.record_count for file in files),
        row_groups=groups,
        columns_with_bounds=min((len(file.lower_bounds or {}) for file in files), default=0),
        copied=_copied(table),
    )


def _copied(table: Table) -> bool:
    """Whether the last rewrite copied row groups."""
    snapshot = table.current_snapshot()
    summary = snapshot.summary if snapshot is not None else None
    return summary is not None and summary.additional_properties.get(ROW_GROUPS_PROPERTY) == COPIED
