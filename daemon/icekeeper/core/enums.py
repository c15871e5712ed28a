"""The enumerations that the core's records share. Their values are stored and served."""

from __future__ import annotations

from enum import StrEnum
from typing import Self


class Advised(StrEnum):
    """An enumeration whose members have `advice`, one sentence on what to do."""

    advice: str

    def __new__(cls, code: str, advice: str) -> Self:
        member = str.__new__(cls, code)
        member._value_ = code
        member.advice = advice
        return member


class Stage(StrEnum):
    """The stages of a run, in their order. `repair` is no part of a night: it is ordered."""

    COMPACT = "compact"
    EXPIRE = "expire"
    REPAIR = "repair"
    AUDIT = "audit"


NIGHT = (Stage.COMPACT, Stage.EXPIRE, Stage.AUDIT)


class Trigger(StrEnum):
    """What started a run."""

    SCHEDULE = "schedule"
    CATCH_UP = "catch_up"
    RESUME = "resume"
    MANUAL = "manual"


class TaskOutcome(StrEnum):
    """How a task ended: `skipped` had nothing to do, `held` had, but was not allowed to do it now."""

    DONE = "done"
    SKIPPED = "skipped"
    HELD = "held"
    FAILED = "failed"


class RunOutcome(StrEnum):
    """How a run ended; docs/operations.md says what each means. Any but `interrupted` closes the slot."""

    SUCCESS = "success"
    PARTIAL = "partial"
    FAILED = "failed"
    INTERRUPTED = "interrupted"
    CANCELLED = "cancelled"
    MISSED = "missed"


class AuditStatus(StrEnum):
    """The verdict of an audit."""

    OK = "ok"
    WARNING = "warning"
    MISSING_DATA = "missing_data"
    ERROR = "error"


class Proof(StrEnum):
    """What an audit's count of Iceberg rests on, from the weakest to the strongest; docs/audit.md.

    `lengths` is no setting: it is what is proven of a window in which the rows of some file can't be counted.
    """

    MANIFESTS = "manifests"
    LENGTHS = "lengths"
    FILES = "files"
    ROWS = "rows"


class Decision(StrEnum):
    """Whether a plan's task acts."""

    ACT = "act"
    SKIP = "skip"
    HOLD = "hold"
