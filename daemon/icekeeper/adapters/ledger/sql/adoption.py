"""Adapts an existing `maintenance_audit_log` so that it takes our rows and keeps its own. Creates no table.

Programs that wrote to it before can go on: columns are added nullable, and never renamed, dropped or narrowed.
"""

from __future__ import annotations

import re
from dataclasses import dataclass
from typing import Any

from icekeeper.core.enums import AuditStatus
from icekeeper.core.errors import PermanentError

AUDIT_LOG = "maintenance_audit_log"

# The columns that icekeeper adds, with their comments in the database.
_NEW_COLUMNS = {
    "run_id": ("uuid", "the run that counted; NULL in rows from before icekeeper"),
    "slot": ("timestamp with time zone", "the scheduled instant the run answered for"),
    "trigger": ("text", "schedule, catch_up, resume or manual"),
    "reason": ("text", "why it is an error, or what makes the verdict doubtful"),
    "snapshot_id": ("bigint", "the Iceberg snapshot that was counted"),
    "ch_query": ("text", "the query that counted in ClickHouse"),
    "iceberg_query": ("text", "the query that counted in Iceberg"),
    "ch_final": ("boolean", "whether ClickHouse was counted with FINAL"),
    "watermark": ("timestamp with time zone", "how far the offload said it was"),
    "missing_hours": ("jsonb", "the hours that lack rows: start, clickhouse, iceberg"),
    "proof": ("text", "what the count in Iceberg rests on: manifests, lengths, files or rows"),
    "bad_files": ("jsonb", "files that are not what their manifests say, the first hundred of them"),
    "key_comparison": ("jsonb", "with audit.key: what was compared of the keys, how they differ, some that do"),
    "findings": ("jsonb", "the parts of the window in which both sides differ, and how: maintenance_findings"),
    "bad_file_rows": ("bigint", "rows of all such data files, by their manifests; NULL where there is no such file"),
    "ch_merges": ("boolean", "whether a table of the source may merge rows"),
    "source_ttl_s": ("bigint", "how long the source keeps its rows at least, in seconds; NULL where it is not known"),
    "watermark_read": ("boolean", "whether the offload's watermark is known, or there is no offload"),
    "clock_right": ("boolean", "whether the clock of the host agreed with a server's, as far as any could be asked"),
    "files_digest": ("text", "of the data and delete files that the scan of the window planned at snapshot_id"),
    "installation_id": ("uuid", "whose audit it is: maintenance_installations; NULL in rows of another job"),
    "worse": ("boolean", "of an older day that was audited again: whether its verdict is worse than the one before"),
    "began_at": ("timestamp with time zone", "when ClickHouse began to be counted; run_timestamp is the audit's end"),
}
_OLD_COLUMNS = {
    "run_timestamp": "timestamp with time zone",
    "iceberg_table": "text",
    "ch_source": "text",
    "layer": "text",
    "audit_window_hours": "integer",
    "window_start": "timestamp with time zone",
    "window_end": "timestamp with time zone",
    "ch_row_count": "bigint",
    "iceberg_row_count": "bigint",
    "delta": "bigint",
    "delta_pct": "numeric(20,4)",
    "status": "text",
    "notes": "text",
}
_NULLABLE = ("ch_row_count", "iceberg_row_count", "delta", "delta_pct", "notes")
_COUNTS = ("ch_row_count", "iceberg_row_count", "delta")
# How many characters a column must take; a note has no limit, as it quotes errors.
_LENGTHS = {"status": max(map(len, AuditStatus)), "layer": 16, "iceberg_table": 128, "ch_source": 128, "notes": None}
_STATUSES = [status.value for status in AuditStatus]

_FIND = "SELECT oid, oid::regclass::text AS name, relkind::text FROM pg_class WHERE oid = to_regclass($1)"
_COLUMNS = """
    SELECT attname::text AS name, attnum, attnotnull AS not_null, typtype = 'e' AS is_enum,
           format_type(atttypid, atttypmod) AS type
    FROM pg_attribute JOIN pg_type ON pg_type.oid = atttypid
    WHERE attrelid = $1 AND attnum > 0 AND NOT attisdropped
"""
# A view of before has our columns: of a ledger that went back to 0.1 and comes again.
_OTHER_THAN_VIEW = """
    SELECT oid::regclass::text FROM pg_class AS other WHERE oid = to_regclass($1) AND NOT (
      relkind = 'v' AND EXISTS (SELECT FROM pg_attribute WHERE attrelid = other.oid AND attname = $2))
"""
_READERS = """
    SELECT DISTINCT view.oid::regclass::text AS name
    FROM pg_depend
    JOIN pg_rewrite ON pg_rewrite.oid = objid
    JOIN pg_class AS view ON view.oid = ev_class
    JOIN pg_attribute ON attrelid = refobjid AND attnum = refobjsubid
    WHERE classid = 'pg_rewrite'::regclass AND refclassid = 'pg_class'::regclass
      AND refobjid = $1 AND attname = ANY($2) AND view.oid <> $1
    ORDER BY 1
"""
_CHECKS = """
    SELECT quote_ident(conname) AS name, pg_get_expr(conbin, conrelid) AS condition, convalidated AS validated
    FROM pg_constraint
    WHERE conrelid = $1 AND contype = 'c' AND conkey = ARRAY[$2::smallint]
"""


@dataclass(frozen=True, slots=True)
class _Table:
    oid: int
    name: str  # as SQL, with its schema where the search_path needs it
    columns: dict[str, Any]


async def adopt(connection: Any) -> None:
    """Adds, widens and relaxes what needs it, on an asyncpg connection within a transaction.

    PermanentError, which says what to do, where a view or a column of another type prevents it.
    """
    table = await add_new_columns(connection)
    retyped = _retyped(table)
    await _refuse_views(connection, table, retyped)
    actions = [f"ADD COLUMN {column} {kind}" for column, kind in _OLD_COLUMNS.items() if column not in table.columns]
    actions += [f"ALTER COLUMN {column} TYPE {kind}" for column, kind in retyped.items()]
    actions += [
        f"ALTER COLUMN {column} DROP NOT NULL"
        for column in _NULLABLE
        if column in table.columns and table.columns[column]["not_null"]
    ]
    if actions:
        await connection.execute(f"ALTER TABLE {table.name} {', '.join(actions)}")
    await _allow_statuses(connection, table)
    await connection.execute(
        f"""
        CREATE UNIQUE INDEX maintenance_audit_log_run ON {table.name} (run_id, iceberg_table) WHERE run_id IS NOT NULL;
        CREATE UNIQUE INDEX maintenance_audit_log_slot ON {table.name} (slot, iceberg_table)
          WHERE trigger IN ('schedule', 'catch_up', 'resume');
        """
    )


async def add_new_columns(connection: Any) -> _Table:
    """Adds those of our columns that the table lacks; the table as it was before. Raises like `adopt`."""
    table = await _find_table(connection)
    _retyped(table)  # refuses an old column of that name
    for column, (kind, meaning) in _NEW_COLUMNS.items():
        if column not in table.columns:
            comment = meaning.replace("'", "''")
            await connection.execute(
                f"ALTER TABLE {table.name} ADD COLUMN {column} {kind}; "
                f"COMMENT ON COLUMN {table.name}.{column} IS '{comment}'"
            )
    return table


async def require_name_of_view(connection: Any, view: str, column: str) -> None:
    """PermanentError where another relation has that name than a view with that column."""
    name = await connection.fetchval(_OTHER_THAN_VIEW, view, column)
    if name is not None:
        text = (
            f"{name} is there, and icekeeper keeps a view of that name: rename it, then run `icekeeper migrate` again"
        )
        raise PermanentError(text)


async def _find_table(connection: Any) -> _Table:
    found = await connection.fetchrow(_FIND, AUDIT_LOG)
    if found["relkind"] not in ("r", "p"):
        raise PermanentError(f"{found['name']} is no table, so icekeeper can't write its audits there: rename it")
    rows = await connection.fetch(_COLUMNS, found["oid"])
    return _Table(found["oid"], found["name"], {row["name"]: row for row in rows})


def _retyped(table: _Table) -> dict[str, str]:
    retyped = {}
    for name, column in table.columns.items():
        expected = _NEW_COLUMNS.get(name, (None, ""))[0]
        if expected is not None and column["type"] != expected:
            raise PermanentError(
                f"{table.name}.{name} is {column['type']}, and icekeeper keeps {expected} in a column of that name: "
                "rename the old one, then run `icekeeper migrate` again"
            )
        if (kind := wider(name, column["type"])) is not None:
            retyped[name] = kind
    return retyped


def wider(column: str, kind: str) -> str | None:
    """The type that a column of the audit log needs to hold what we write; None where its own is wide enough.

    >>> wider("delta_pct", "numeric(8,4)")
    'numeric(20,4)'
    """
    if column in _COUNTS:
        return "bigint" if kind in ("smallint", "integer") else None
    if column == "delta_pct" and (numeric := re.fullmatch(r"numeric\((\d+),(-?\d+)\)", kind)):
        digits, scale = int(numeric[1]), int(numeric[2])
        # 16 digits before the point: a single row in ClickHouse against 10^14 in Iceberg.
        return None if digits - scale >= 16 and scale >= 4 else f"numeric({16 + max(scale, 4)},{max(scale, 4)})"
    if column in _LENGTHS and (limited := re.fullmatch(r"character(?: varying)?\((\d+)\)", kind)):
        needed = _LENGTHS[column]
        return "text" if needed is None or int(limited[1]) < needed else None
    return None


async def _refuse_views(connection: Any, table: _Table, retyped: dict[str, str]) -> None:
    """PostgreSQL alters no type under a view, and we could recreate the view, but not its owner, grants and readers."""
    readers = [row["name"] for row in await connection.fetch(_READERS, table.oid, list(retyped))]
    if readers:
        changes = ", ".join(f"{column} {kind}" for column, kind in retyped.items())
        definitions = "; ".join(f"SELECT pg_get_viewdef('{reader}')" for reader in readers)
        raise PermanentError(
            f"{table.name} must get wider columns ({changes}), and PostgreSQL can't do that while a view reads them: "
            f"{', '.join(readers)}. Keep the definition ({definitions}), drop the view, run `icekeeper migrate`, and "
            "create the view again. Nothing was changed"
        )


async def _allow_statuses(connection: Any, table: _Table) -> None:
    """Allows our statuses where an enum type or a check constraint does not."""
    columns = {row["name"]: row for row in await connection.fetch(_COLUMNS, table.oid)}
    status = columns["status"]
    if status["is_enum"]:
        for value in _STATUSES:
            await connection.execute(f"ALTER TYPE {status['type']} ADD VALUE IF NOT EXISTS '{value}'")
        return  # new values can't be used before they are committed
    for check in await connection.fetch(_CHECKS, table.oid, status["attnum"]):
        # Cast to the column's own type, because the condition was compiled for it.
        values = f"SELECT unnest($1::text[])::{status['type']} AS status"
        query = f"SELECT bool_and(coalesce({check['condition']}, true)) FROM ({values}) AS ours"
        if not await connection.fetchval(query, _STATUSES):
            ours = ", ".join(f"'{value}'" for value in _STATUSES)
            await connection.execute(
                f"ALTER TABLE {table.name} DROP CONSTRAINT {check['name']}, ADD CONSTRAINT {check['name']} "
                f"CHECK (({check['condition']}) OR status IN ({ours})){'' if check['validated'] else ' NOT VALID'}"
            )
