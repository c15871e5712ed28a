"""Log lines of a run, page by page: of its file where this host has it, else of the ledger. Who writes it: logs.py."""

from __future__ import annotations

import asyncio
import json
from collections.abc import Mapping
from pathlib import Path
from typing import Any
from uuid import UUID

from daemon.adapters.history import LogFilter, PostgresHistory
from daemon.service import documents
from daemon.service.logs import run_log_path


async def page(
    state_dir: Path, history: PostgresHistory, run_id: UUID, wanted: LogFilter, after: int, limit: int
) -> documents.LogPage:
    """Lines behind the line `after`. IcekeeperError where only the ledger has them, and PostgreSQL doesn't answer."""
    lines = await asyncio.to_thread(_of_file, run_log_path(state_dir, run_id), wanted, after, limit)
    if lines is None:
        lines = [_line(row["line_no"], row["line"]) for row in await history.logs(run_id, wanted, after, limit)]
    return documents.LogPage(items=tuple(lines), next=lines[-1].line_no if len(lines) == limit else None)


def _of_file(path: Path, wanted: LogFilter, after: int, limit: int) -> list[documents.LogLine] | None:
    """Lines of a run's file, None where there is none that can be read."""
    found: list[documents.LogLine] = []
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
                    found.append(_line(number, line))
                    if len(found) == limit:
                        break
    except OSError:
        return None
    return found


def _line(number: int, line: Mapping[str, Any]) -> documents.LogLine:
    known = ("timestamp", "level", "event", "run_id", "slot")
    return documents.LogLine(
        line_no=number,
        timestamp=str(line.get("timestamp", "")),
        level=str(line.get("level", "")),
        event=str(line.get("event", "")),
        fields={key: value for key, value in line.items() if key not in known and value is not None},
    )
