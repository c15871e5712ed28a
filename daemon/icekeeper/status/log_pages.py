"""Log lines of a run, page by page: of its file where this host has it, else of the ledger. Writing: execution/."""

from __future__ import annotations

import asyncio
import json
import os
from collections import deque
from collections.abc import Iterator, Mapping
from itertools import islice
from pathlib import Path
from typing import Any
from uuid import UUID

from icekeeper.adapters.ledger.history import LogFilter, PostgresHistory
from icekeeper.execution.log_files import run_log_path
from icekeeper.status import run_schemas


async def page(
    state_dir: Path, history: PostgresHistory, run_id: UUID, wanted: LogFilter, after: int, limit: int
) -> run_schemas.LogPage:
    """Lines behind the line `after`. IcekeeperError where only the ledger has them, and PostgreSQL doesn't answer."""
    lines = await asyncio.to_thread(_of_file, run_log_path(state_dir, run_id), wanted, after, limit)
    if lines is None:
        lines = [_line(row["line_no"], row["line"]) for row in await history.logs(run_id, wanted, after, limit)]
    return run_schemas.LogPage(items=tuple(lines), next=lines[-1].line_no if len(lines) == limit else None)


async def tail(state_dir: Path, run_id: UUID, wanted: LogFilter, limit: int) -> run_schemas.LogPage:
    """The last lines of a run's file; none where there is none."""
    path = run_log_path(state_dir, run_id)
    lines = await asyncio.to_thread(lambda: deque(_lines(path, wanted, 0), maxlen=limit))
    return run_schemas.LogPage(items=tuple(lines), next=None)


def _of_file(path: Path, wanted: LogFilter, after: int, limit: int) -> list[run_schemas.LogLine] | None:
    """Lines of a run's file, None where there is none that can be read."""
    return list(islice(_lines(path, wanted, after), limit)) if os.access(path, os.R_OK) else None


def _lines(path: Path, wanted: LogFilter, after: int) -> Iterator[run_schemas.LogLine]:
    try:
        with path.open(encoding="utf-8", errors="replace") as file:
            for number, text in enumerate(file, start=1):
                if number <= after:
                    continue
                try:
                    line = json.loads(text)
                except ValueError:  # half a line, of a full disk or of one that is being written
                    continue
                if isinstance(line, dict) and wanted.takes(line):
                    yield _line(number, line)
    except OSError:
        return


def _line(number: int, line: Mapping[str, Any]) -> run_schemas.LogLine:
    known = ("timestamp", "level", "event", "run_id", "slot")
    return run_schemas.LogLine(
        line_no=number,
        timestamp=str(line.get("timestamp", "")),
        level=str(line.get("level", "")),
        event=str(line.get("event", "")),
        fields={key: value for key, value in line.items() if key not in known and value is not None},
    )
