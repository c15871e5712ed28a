"""What the doctor says of one thing. Who asks, and who judges the answers, lives in the modules beside this one."""

from __future__ import annotations

import asyncio
from collections.abc import Awaitable, Callable, Iterable
from dataclasses import dataclass
from enum import StrEnum

import structlog

from icekeeper.core.errors import IcekeeperError
from icekeeper.core.reasons import Reason

log = structlog.get_logger(__name__)

# Whoever doesn't answer within this hangs.
LIMIT_S = 20.0
_HANGS = "It hangs: look at the service behind it, and at the way to it."
PERMISSIONS = "docs/permissions.md"


class Level(StrEnum):
    """How bad it is: an error stands against the night or a part of it, a warning will, or might."""

    OK = "ok"
    WARNING = "warning"
    ERROR = "error"


class Part(StrEnum):
    """What was asked, in the order in which it is shown."""

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


@dataclass(frozen=True, slots=True)
class Check:
    """One line of the doctor: what works or doesn't, and (never empty where it doesn't) what to do about it."""

    part: Part
    level: Level
    text: str
    advice: str = ""


def fine(part: Part, text: str) -> Check:
    return Check(part, Level.OK, text)


def warning(part: Part, text: str, advice: str) -> Check:
    return Check(part, Level.WARNING, text, advice)


def wrong(part: Part, text: str, advice: str) -> Check:
    return Check(part, Level.ERROR, text, advice)


def skipped(part: Part, because: str) -> Check:
    """A part that can't be asked: whether it works is not known."""
    return warning(part, f"skipped, because {because}", "Put that right first, then ask again.")


def failed(part: Part, error: IcekeeperError, advice: str = "") -> Check:
    """What an error of ours says, with its reason's advice unless there is better."""
    if error.reason is Reason.UNEXPECTED:
        return wrong(part, str(error), advice or "Look for the cause in what the message names.")
    own = _HANGS if error.reason is Reason.DEADLINE else error.reason.advice
    return wrong(part, f"{error} ({error.reason})", advice or own)


async def guarded(part: Part, ask: Callable[[], Awaitable[list[Check]]], limit_s: float = LIMIT_S) -> list[Check]:
    """What a question comes to; that it is refused, hangs or breaks is a check with an error."""
    try:
        async with asyncio.timeout(limit_s):
            return await ask()
    except IcekeeperError as exc:
        return [failed(part, exc)]
    except TimeoutError:
        return [wrong(part, f"no answer within {limit_s:g} s", _HANGS)]
    except Exception as exc:  # a question that breaks must not cost the others
        log.debug("check_broke", part=part, exc_info=True)
        return [wrong(part, f"the check broke: {type(exc).__name__}: {exc}", "Report it: that is a bug of icekeeper.")]


def sound(checks: Iterable[Check]) -> bool:
    """Whether nothing is an error."""
    return all(check.level is not Level.ERROR for check in checks)


def listed(names: Iterable[str], most: int = 4) -> str:
    """Names in a sentence, not more than `most` of them."""
    names = tuple(names)
    more = f" and {len(names) - most} more" if len(names) > most else ""
    return ", ".join(names[:most]) + more


def counted(number: int, thing: str) -> str:
    """`1 table`, `2 tables`."""
    return f"{number} {thing}{'' if number == 1 else 's'}"
