"""Copies what can still be read of a corrupt spool into a new one. What becomes of the file: opening.py."""

from __future__ import annotations

import sqlite3
from pathlib import Path

_Row = tuple[object, ...]
_TABLES = (
    "runs", "tasks", "older_days", "slots", "accounted", "config_loads", "outbox", "told", "notices", "unshipped_logs",
)  # fmt: skip
# What a lost row of the outbox was about is shipped once more; PostgreSQL has it once all the same.
_QUEUE_AGAIN = """
    INSERT OR IGNORE INTO outbox (kind, id, changed_at)
    SELECT 'run', run_id, coalesce(ended_at, started_at) FROM runs
    UNION ALL
    SELECT 'config_load', load_id, strftime('%Y-%m-%dT%H:%M:%S.000000+00:00', json_extract(load, '$.at'))
    FROM config_loads
"""
# A slot that was run must not come up again because its row was lost.
_KNOW_SLOTS = "INSERT OR IGNORE INTO slots (slot, trigger) SELECT slot, trigger FROM runs WHERE trigger <> 'manual'"
_CLOSE_SLOTS = """
    UPDATE slots SET outcome = (
      SELECT runs.outcome FROM runs
      WHERE runs.slot = slots.slot AND runs.trigger <> 'manual' AND runs.outcome <> 'interrupted'
      ORDER BY runs.ended_at LIMIT 1
    )
    WHERE outcome IS NULL
"""


def copy_readable_rows(broken: Path, db: sqlite3.Connection) -> dict[str, int]:
    """Copies the rows that can be read and that the checks of the schema accept; how many, by table.

    All or nothing, and once more after a crash. sqlite3.Error is about `db`, never about `broken`.
    """
    taken = {}
    db.execute("BEGIN IMMEDIATE")
    try:
        for table in _TABLES:
            columns = [row[1] for row in db.execute(f"PRAGMA table_info({table})")]
            rows = _readable(broken, table, columns)
            marks = ", ".join("?" * len(columns))
            insert = f"INSERT OR IGNORE INTO {table} ({', '.join(columns)}) VALUES ({marks})"
            taken[table] = sum(max(db.execute(insert, row).rowcount, 0) for row in rows)
        for repair in (_QUEUE_AGAIN, _KNOW_SLOTS, _CLOSE_SLOTS):
            db.execute(repair)
        db.execute("COMMIT")
    except BaseException:
        if db.in_transaction:
            db.execute("ROLLBACK")
        raise
    return taken


def _readable(broken: Path, table: str, columns: list[str]) -> list[_Row]:
    """The rows from both ends of the table, each until the damage, in their order."""
    # By the table itself: a damaged index is kept out of it.
    query = f"SELECT {', '.join(columns)} FROM {table} NOT INDEXED ORDER BY rowid"
    head, whole = _until_damage(broken, query)
    if whole:
        return head
    tail, _ = _until_damage(broken, f"{query} DESC")
    return list(dict.fromkeys([*head, *reversed(tail)]))


def _until_damage(broken: Path, query: str) -> tuple[list[_Row], bool]:
    """The rows, and whether they are all. An older file lacks tables: there are none."""
    rows: list[_Row] = []
    db = sqlite3.connect(f"{broken.absolute().as_uri()}?mode=ro", uri=True)
    db.text_factory = lambda text: text.decode("utf-8", "replace")
    try:
        rows.extend(db.execute(query))
    except sqlite3.Error:
        return rows, False
    finally:
        db.close()
    return rows, True
