"""Past runs and configuration loads as records. Deciding what becomes of a slot: resuming.py."""

from __future__ import annotations

from dataclasses import dataclass, field
from datetime import datetime
from uuid import UUID

from icekeeper.core.audit.records import AuditResult
from icekeeper.core.enums import RunOutcome, Stage, Trigger
from icekeeper.core.runs import StageResult


@dataclass(frozen=True, slots=True)
class PastRun:
    """A run that began at some time, as the spool or the ledger knows it.

    `outcome` None: it never ended; it is under way, or its process died. `in_flight` is the task such a run was at.
    """

    run_id: UUID
    slot: datetime
    trigger: Trigger
    started_at: datetime
    outcome: RunOutcome | None
    host: str = ""
    settings_hash: str = ""
    stages: tuple[Stage, ...] = ()
    tables: tuple[str, ...] = ()
    tasks: tuple[StageResult, ...] = ()
    audits: tuple[AuditResult, ...] = ()
    in_flight: tuple[Stage, str] | None = None


@dataclass(frozen=True, slots=True)
class ConfigLoad:
    """One reading of the configuration, and what it changed, or why it was refused.

    `by`: `boot`, `sighup`, `http` or `rotation` (of a secret's file). `actor`: who ordered it.
    """

    load_id: UUID
    at: datetime
    host: str
    by: str
    settings_hash: str
    changes: tuple[str, ...] = ()
    problems: tuple[str, ...] = field(default=())
    actor: str | None = None
