"""Choosing log lines says the same of a file (LogFilter.takes) and of the ledger (log_page.sql)."""

from __future__ import annotations

import json
from collections.abc import AsyncIterator
from datetime import UTC, datetime
from typing import Any
from uuid import UUID, uuid4

import pytest

from icekeeper.adapters.ledger.history import LogFilter, PostgresHistory, levels_from
from icekeeper.adapters.ledger.sql.migrations import migrate
from icekeeper.adapters.postgres.pool import Postgres
from icekeeper.sandbox import Sandbox
from tests.integration.installations import MAKE_SOLE, sole

RUN_ID = UUID(int=7)
LINES: list[dict[str, Any]] = [
    {"level": "info", "event": "run_started", "tables": 10},
    {"level": "info", "event": "task_done", "table": "cold.Silver_Trades", "duration_s": 1.5},
    {"level": "warning", "event": "task_held", "note": 'a "quoted" word, a \\ and a /'},
    {"level": "error", "event": "task_failed", "error": "line one\nline two\ttab \x07 \x7f"},
    {"level": "critical", "event": "a", "z": {"nested": [1, None, True]}},
    {"level": "debug", "event": "Umlaute ÄÖÜ äöü ß İ 🧊 \u2028", "n": 10**20},
    {"event": "without a level"},
    {"level": "splendid", "event": "100 %_done"},
    {"level": "info", "event": "run_ended", "outcome": "failed", "nothing": None, "empty": ""},
]
TEXTS = [
    None, "SILVER_trades", "silver", '"level": "info"', "\\n", "\n", "\\\\", '\\"quoted\\"', "%", "_", "%_D", "ä", "Ä",
    "🧊", "ı", "i̇", "1.5", "null", "true", '"nested": [1,', "\\u0007", "\x7f", "\u2028", "100000000000000000000",
    "'; --",
]  # fmt: skip


@pytest.fixture
async def history(box: Sandbox) -> AsyncIterator[PostgresHistory]:
    name = f"lines{uuid4().hex[:8]}"
    box.postgres.create_database(name)
    await migrate(box.postgres.dsn(name), box.postgres.password)
    box.postgres.execute(name, MAKE_SOLE)
    at = datetime(2026, 2, 18, 2, tzinfo=UTC)
    columns = "run_id, slot, trigger, started_at, settings_hash"
    statement = f"INSERT INTO maintenance_runs ({columns}) VALUES ($1, $2, 'manual', $2, '')"
    box.postgres.execute(name, statement, str(RUN_ID), at)
    for number, line in enumerate(LINES, start=1):
        statement = "INSERT INTO maintenance_logs VALUES ($1, $2, $3)"
        box.postgres.execute(name, statement, str(RUN_ID), number, json.dumps(line))
    postgres = Postgres(box.postgres.dsn(name), box.postgres.password)
    yield PostgresHistory(postgres, sole(postgres))
    await postgres.close()


async def test_a_line_is_chosen_alike_wherever_it_lies(history: PostgresHistory) -> None:
    for level in (None, "debug", "info", "warning", "error"):
        for text in TEXTS:
            wanted = LogFilter(None if level is None else levels_from(level), text)
            there = [row["line_no"] for row in await history.logs(RUN_ID, wanted, 0, 100)]
            here = [number for number, line in enumerate(LINES, start=1) if wanted.takes(line)]
            assert there == here, (level, text)
    assert LogFilter(None, "SILVER").takes(LINES[1])
    assert not LogFilter(None, "Ä").takes({"event": "ä"})
    assert [row["line_no"] for row in await history.logs(RUN_ID, LogFilter(), 3, 2)] == [4, 5]
