"""Other jobs that maintain the tables: `replace` snapshots and audit rows that no run of ours made."""

from __future__ import annotations

from collections.abc import Iterable, Mapping
from datetime import datetime, timedelta
from typing import Any

import asyncpg

from icekeeper.adapters.iceberg.probe import TableFacts
from icekeeper.adapters.postgres.pool import Postgres
from icekeeper.core.formats import counted, listed
from icekeeper.core.tables.state import RUN_ID_PROPERTY
from icekeeper.doctor.check import Check, Subject

# A nightly job that has moved by an hour or two is still found.
RECENT = timedelta(hours=26)
_ADVICE = (
    "Switch it off before icekeeper runs with mode: maintain (docs/migration.md): two would undo and block each other."
)
_FOREIGN = """
    SELECT iceberg_table::text AS name, count(*) AS rows, max(run_timestamp::timestamptz) AS at
    FROM maintenance_audit_log WHERE run_timestamp::timestamptz >= $1 AND {foreign} GROUP BY 1 ORDER BY 1
"""


def foreign_snapshots(tables: Iterable[TableFacts], now: datetime) -> list[Check]:
    """Tables that another job has compacted: recent `replace` snapshots without a run's id, by engine."""
    found: dict[str, list[str]] = {}
    newest: dict[str, datetime] = {}
    for facts in tables:
        for snapshot in facts.state.history:
            if snapshot.operation != "replace" or RUN_ID_PROPERTY in snapshot.summary:
                continue
            if snapshot.committed_at >= now - RECENT:
                by = _engine(snapshot.summary)
                if facts.table not in (names := found.setdefault(by, [])):
                    names.append(facts.table)
                newest[by] = max(newest.get(by, snapshot.committed_at), snapshot.committed_at)
    return [
        Subject.OTHERS.warning(f"{by} has rewritten {listed(names)}, last at {newest[by]:%Y-%m-%dT%H:%M:%SZ}", _ADVICE)
        for by, names in found.items()
    ]


def _engine(summary: Mapping[str, str]) -> str:
    """What engines write into their commits (Iceberg's EnvironmentContext, Spark's SnapshotUpdates)."""
    engine = " ".join(summary[key] for key in ("engine-name", "engine-version") if key in summary)
    application = summary.get("spark.app.id") or summary.get("app-id") or summary.get("trino_query_id")
    signed = ", ".join(each for each in (engine, f"application {application}" if application else "") if each)
    return f"another job ({signed or 'unsigned'})"


async def foreign_rows(postgres: Postgres, now: datetime) -> list[Check]:
    """Recent rows of the audit log that no run of ours wrote; none where there is no such table."""
    async with postgres.connection() as connection:
        rows = await _rows(connection, now - RECENT)
    if not rows:
        return []
    last = max(row["at"] for row in rows)
    number = sum(row["rows"] for row in rows)
    names = listed(row["name"] for row in rows)
    written = f"{counted(number, 'row')} to maintenance_audit_log, last at {last:%Y-%m-%dT%H:%M:%SZ}"
    return [Subject.OTHERS.warning(f"another job has written {written}, about {names}", _ADVICE)]


async def _rows(connection: Any, since: datetime) -> list[Any]:
    try:
        return list(await connection.fetch(_FOREIGN.format(foreign="run_id IS NULL"), since))
    except asyncpg.UndefinedColumnError:  # not adopted yet: every row is foreign
        return list(await connection.fetch(_FOREIGN.format(foreign="true"), since))
    except asyncpg.UndefinedTableError:
        return []
