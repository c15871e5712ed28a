"""A check: one line of the doctor, and how to make one. What is checked lives in the modules beside this one."""

from __future__ import annotations

import asyncio
from collections.abc import Awaitable, Callable, Iterable
from dataclasses import dataclass
from enum import StrEnum

import structlog

from icekeeper.core.errors import IcekeeperError
from icekeeper.core.formats import counted
from icekeeper.core.reasons import Reason

log = structlog.get_logger(__name__)

# What has not answered by then hangs.
LIMIT_S = 20.0
_HANGS = "It hangs: look at the service behind it, and at the network between."
PERMISSIONS = "docs/permissions.md"


class Level(StrEnum):
    """How bad it is: an error makes the next run fail or end as partial; a warning may make a later one fail."""

    OK = "ok"
    WARNING = "warning"
    ERROR = "error"


class Subject(StrEnum):
    """What a check is about, in the order in which checks are shown; its methods make the checks."""

    PYTHON = "python"
    STATE_DIR = "state_dir"
    SETTINGS = "settings"
    MEMORY = "memory"
    JAVA = "java"
    SPARK = "spark"
    ENGINE = "engine"
    CATALOG = "catalog"
    TABLES = "tables"
    STORAGE = "storage"
    CLICKHOUSE = "clickhouse"
    POSTGRES = "postgres"
    OFFLOAD = "offload"
    CLOCK = "clock"
    OTHERS = "others"

    def passed(self, text: str) -> Check:
        return Check(self, Level.OK, text)

    def warning(self, text: str, advice: str) -> Check:
        return Check(self, Level.WARNING, text, advice)

    def failure(self, text: str, advice: str) -> Check:
        return Check(self, Level.ERROR, text, advice)

    def skipped(self, because: str) -> Check:
        """It can't be checked: whether it works is not known."""
        return self.warning(f"skipped, because {because}", "Put that right first, then check again.")

    def failure_of(self, error: IcekeeperError, advice: str = "") -> Check:
        """An error of ours, with its reason's advice unless there is a better one."""
        if error.reason is Reason.UNEXPECTED:
            return self.failure(str(error), advice or "Look for the cause in what the message names.")
        own = _HANGS if error.reason is Reason.DEADLINE else error.reason.advice
        return self.failure(f"{error} ({error.reason})", advice or own)


@dataclass(frozen=True, slots=True)
class Check:
    """What works or doesn't, and what to do about it; `advice` is empty only where it works."""

    subject: Subject
    level: Level
    text: str
    advice: str = ""


def to_run(whose: str, *statements: str) -> str:
    """Advice to have statements run by those who may: `whose` is "its owner", "an administrator"."""
    return "\n".join((f"Let {whose} run ({PERMISSIONS}):", *statements))


def no_better(subject: Subject, tables: int) -> list[Check]:
    """The tables that are not checked because they would fail in the same way."""
    return [subject.skipped(f"{counted(tables, 'more table')} would fare no better")] if tables else []


async def guarded(
    subject: Subject, check: Callable[[], Awaitable[list[Check]]], limit_s: float = LIMIT_S
) -> list[Check]:
    """The result of a check; one that is refused, hangs or breaks becomes a check with an error."""
    try:
        async with asyncio.timeout(limit_s):
            return await check()
    except IcekeeperError as exc:
        return [subject.failure_of(exc)]
    except TimeoutError:
        return [subject.failure(f"no answer within {limit_s:g} s", _HANGS)]
    except Exception as exc:  # it must not cost the other checks
        log.debug("check_broke", subject=subject, exc_info=True)
        text = f"the check broke: {type(exc).__name__}: {exc}"
        return [subject.failure(text, "Report it: that is a bug of icekeeper.")]


def no_errors(checks: Iterable[Check]) -> bool:
    """Whether none is an error."""
    return all(check.level is not Level.ERROR for check in checks)
