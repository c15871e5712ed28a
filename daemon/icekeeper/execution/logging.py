"""Logging: structlog to stderr, and every line of a run to a file of that run. Who reads the files lives elsewhere."""

from __future__ import annotations

import json
import logging
import sys
from contextlib import suppress
from pathlib import Path
from typing import Any, Literal
from uuid import UUID

import structlog
from structlog.typing import EventDict, Processor

from icekeeper.adapters.state_dir import give_to_its_owner

Level = Literal["debug", "info", "warning", "error"]
Format = Literal["auto", "json", "console"]


# Bound while a run is a dry one: it changes nothing, so it has no file.
_DRY = "dry_run"
UNRECORDED = {_DRY: True}


def run_log_path(state_dir: Path, run_id: UUID | str) -> Path:
    """Where the log lines of a run are kept, one JSON object each."""
    return state_dir / "runs" / f"{run_id}.jsonl"


def configure(level: Level, output: Format, state_dir: Path | None, *, console_level: Level | None = None) -> None:
    """Sets structlog up for the process; again after a reload.

    `console_level` quiets the terminal only: the files of runs keep `level`.
    """
    least = logging.getLevelNamesMapping()[level.upper()]
    shown = logging.getLevelNamesMapping()[(console_level or level).upper()]
    tty = sys.stderr.isatty()
    as_json = output == "json" or (output == "auto" and not tty)
    renderer: Processor = (
        structlog.processors.JSONRenderer(default=str)
        if as_json
        else structlog.dev.ConsoleRenderer(
            colors=tty,
            # The default shows local variables, and there may be a password among them.
            exception_formatter=structlog.dev.plain_traceback,
        )
    )
    processors: list[Processor] = [
        structlog.contextvars.merge_contextvars,
        structlog.processors.add_log_level,
        structlog.processors.TimeStamper(fmt="iso", utc=True),
    ]
    _adopt_libraries(list(processors), renderer, shown)
    processors.append(structlog.processors.format_exc_info)
    if state_dir is not None:
        processors.append(_RunFiles(state_dir))
    structlog.configure(
        processors=[*processors, _Threshold(shown), renderer],
        wrapper_class=structlog.make_filtering_bound_logger(least),
        logger_factory=lambda *_: _Printer(sys.stderr),
        # Cached loggers would keep the level that they were made with, and a reload could not change it.
        cache_logger_on_first_use=False,
    )


def _adopt_libraries(shared: list[Processor], renderer: Processor, shown: int) -> None:
    """Routes what libraries log by Python's own logging to the same place, in the same form."""
    handler = logging.StreamHandler(sys.stderr)
    handler.setFormatter(
        structlog.stdlib.ProcessorFormatter(
            foreign_pre_chain=shared,
            processors=[structlog.stdlib.ProcessorFormatter.remove_processors_meta, renderer],
        )
    )
    handler.addFilter(_is_worth_a_line)
    logging.basicConfig(handlers=[handler], level=max(shown, logging.WARNING), force=True)


def _is_worth_a_line(record: logging.LogRecord) -> bool:
    """py4j tells with a traceback that a connection broke; the engine translates that very error and says it itself."""
    return not (record.name.startswith("py4j") or "Exception while sending command" in record.getMessage())


class _Printer(structlog.PrintLogger):
    """Prints lines. One that can't be written is lost: a full disk must not end what wanted to say something."""

    def msg(self, message: str) -> None:
        with suppress(OSError):
            super().msg(message)

    log = debug = info = warn = warning = error = err = critical = fatal = failure = exception = msg


class _Threshold:
    """Drops what is below a level from here on in the chain."""

    def __init__(self, level: int) -> None:
        self._level = level

    def __call__(self, logger: Any, name: str, event: EventDict) -> EventDict:
        if logging.getLevelNamesMapping().get(name.upper(), logging.INFO) < self._level:
            raise structlog.DropEvent
        return event


class _RunFiles:
    """Writes every line that carries a run_id to that run's file."""

    def __init__(self, state_dir: Path) -> None:
        self._state_dir = state_dir

    def __call__(self, logger: Any, name: str, event: EventDict) -> EventDict:
        run_id = event.get("run_id")
        dry = event.pop(_DRY, False)
        if run_id is not None and not dry:
            path = run_log_path(self._state_dir, run_id)
            # A full disk must not end the night that wants to say something: the line is on stderr all the same.
            with suppress(OSError):
                if not path.parent.exists():
                    path.parent.mkdir(parents=True)
                    give_to_its_owner(path.parent)
                # Opened for each line: a night writes a few hundred, and a file held open would outlive a crash badly.
                with path.open("a", encoding="utf-8") as file:
                    file.write(json.dumps(dict(event), default=str) + "\n")
                give_to_its_owner(path)
        return event
