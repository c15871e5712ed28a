"""iceberg-zamboni: compaction and expiry by DuckDB and Arrow in this process, with the settings of its defaults."""

from __future__ import annotations

import asyncio
import importlib.util
from datetime import timedelta
from typing import Any

from bench.record import STORES, Output
from bench.rivals import Job
from bench.worlds import RETAIN_LAST, SLOT
from icekeeper.core.enums import Stage
from icekeeper.sandbox.table_shapes import NAMESPACE

_MAX_AGE_MS = timedelta(days=7) // timedelta(milliseconds=1)


class Zamboni:
    """A session on pyiceberg's catalog, made once for each warehouse as a program that maintains many tables does."""

    name = "zamboni"
    parts = frozenset({"compact", "expire", "idle", "night", "files", "snapshots"})
    frees_late = True
    most_tables = dict.fromkeys(STORES, 1)
    note = "it has no audit; of a night one table, the ratio is per table"

    def __init__(self) -> None:
        self._sessions: dict[str, Any] = {}

    @staticmethod
    def installed() -> bool:
        return importlib.util.find_spec("zamboni") is not None

    async def do(self, job: Job) -> Output | None:
        await asyncio.to_thread(self._do, job)
        return None

    def _do(self, job: Job) -> None:
        session = self._session(job)
        for stage in job.stages:
            for table in job.tables:
                if stage is Stage.COMPACT:
                    _compact(session, f"{NAMESPACE}.{table}")
                elif stage is Stage.EXPIRE:
                    _expire(session, f"{NAMESPACE}.{table}")

    def _session(self, job: Job) -> Any:
        from zamboni import CatalogSession

        name = job.warehouse.name
        if name not in self._sessions:
            self._sessions[name] = CatalogSession.from_catalog(job.warehouse.client_catalog())
        return self._sessions[name]

    def close(self) -> None:
        """Lets go of its connections."""
        for session in self._sessions.values():
            session.close()
            session.catalog.engine.dispose()
        self._sessions.clear()


def _compact(session: Any, table: str) -> None:
    from zamboni import CompactionConfig, TableCompactor

    TableCompactor(session, table, CompactionConfig(min_input_files=5)).execute()


def _expire(session: Any, table: str) -> None:
    from zamboni import RetentionPolicy, SnapshotExpirer

    policy = RetentionPolicy(max_snapshot_age_ms=_MAX_AGE_MS, min_snapshots_to_keep=RETAIN_LAST)
    SnapshotExpirer(policy).run(session.table(table, reclaiming=True), now=SLOT)
