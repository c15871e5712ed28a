"""Sets up logging: structlog to stderr, and the lines of runs to their files. How these are written: log_files.py."""

from __future__ import annotations

import logging
import sys
from contextlib import suppress
from pathlib import Path
from typing import Any, Literal

import structlog
from structlog.typing import EventDict, Processor

from icekeeper.execution.log_files import RunFiles

Level = Literal["debug", "info", "warning", "error"]
Format = Literal["auto", "json", "console"]


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
        processors.append(RunFiles(state_dir))
    structlog.configure(
        processors=[*processors, _Threshold(shown), renderer],
        wrapper_class=structlog.make_filtering_bound_logger(least),
        logger_factory=lambda *_: _Printer(sys.stderr),
        # Cached loggers would keep the level that they were made with, and a reload could not change it.
        cache_logger_on_first_use=False,
    )


def _adopt_libraries(shared: list[Processor], renderer: Processor, shown: int) -> None:
    """Routes what libraries log through Python's logging to the same place, in the same form."""
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
    """Not py4j's tracebacks of a broken connection: the engine translates that error and logs it itself."""
    return not (record.name.startswith("py4j") or "Exception while sending command" in record.getMessage())


class _Printer(structlog.PrintLogger):
    """Prints lines. One that can't be written is lost: a full disk must not end a run."""

    def msg(self, message: str) -> None:
        with suppress(OSError):
            super().msg(message)

    log = debug = info = warn = warning = error = err = critical = fatal = failure = exception = msg


class _Threshold:
    """Drops lines below a level; the processors before it have seen them."""

    def __init__(self, level: int) -> None:
        self._level = level

    def __call__(self, logger: Any, name: str, event: EventDict) -> EventDict:
        if logging.getLevelNamesMapping().get(name.upper(), logging.INFO) < self._level:
            raise structlog.DropEvent
        return event
