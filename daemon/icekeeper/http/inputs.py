"""What requests to the API may hold: their parameters and bodies, validated. What is done with them: api.py."""

from __future__ import annotations

import re
from datetime import UTC, date, datetime, timedelta
from typing import Annotated, Literal
from uuid import UUID

from pydantic import (
    AfterValidator,
    AwareDatetime,
    BeforeValidator,
    ConfigDict,
    Field,
    StringConstraints,
    model_validator,
)

from icekeeper.adapters.ledger.history import LogFilter, levels_from
from icekeeper.core.audit.certificates import CertifiedBy
from icekeeper.core.calendar import Window
from icekeeper.core.enums import NIGHT, RunOutcome, Stage, Trigger
from icekeeper.http.routes import Input
from icekeeper.scheduling.orders import RunRequest
from icekeeper.status.queries import parse_cursor

# Text that PostgreSQL takes: it refuses NUL.
_NO_NUL = r"^[^\x00]*$"
_DAY = re.compile(r"\d{4}-\d{2}-\d{2}", re.ASCII)
# No table has rows of before; and it keeps clear of what datetime can't express.
_FIRST_YEAR, _LAST_YEAR = 1970, 9999
# How many days of certificates are answered at most, and where nothing says how many.
_MOST_DAYS, _SOME_DAYS = timedelta(days=400), timedelta(days=60)


def _valid_cursor(text: str) -> str:
    parse_cursor(text)
    return text


def _valid_instant(instant: datetime) -> datetime:
    try:
        instant = instant.astimezone(UTC)
    except OverflowError as exc:
        raise ValueError("there is no such instant in UTC") from exc
    if instant.year < _FIRST_YEAR:
        raise ValueError(f"it lies before {_FIRST_YEAR}")
    return instant


def _written_as_day(text: str) -> str:
    """By itself pydantic takes a number of seconds for a day, too."""
    if not _DAY.fullmatch(text):
        raise ValueError("it is no day such as 2026-02-18")
    return text


def _valid_day(day: date) -> date:
    if not _FIRST_YEAR <= day.year < _LAST_YEAR:
        raise ValueError(f"it lies before {_FIRST_YEAR}, or after {_LAST_YEAR}")
    return day


Instant = Annotated[AwareDatetime, AfterValidator(_valid_instant)]
Day = Annotated[date, BeforeValidator(_written_as_day), AfterValidator(_valid_day)]


class RunsInput(Input):
    limit: Annotated[int, Field(ge=1, le=200, description="How many at most.")] = 50
    after: Annotated[
        str | None, AfterValidator(_valid_cursor), Field(description="`next` of the page before.", max_length=100)
    ] = None
    outcome: Annotated[
        Literal["running"] | RunOutcome | None, Field(description="Only runs that ended so, or are under way.")
    ] = None
    trigger: Annotated[Trigger | None, Field(description="Only runs that were begun so.")] = None
    table: Annotated[
        str | None, Field(description="Only runs that were asked to work on it.", max_length=300, pattern=_NO_NUL)
    ] = None
    installation: Annotated[
        str | None,
        Field(
            description="Runs of the installation of that name, or of `all`; else its own.",
            max_length=63,
            pattern=_NO_NUL,
        ),
    ] = None


class RunInput(Input):
    run_id: UUID


class CancelInput(RunInput):
    outcome: Annotated[
        Literal[RunOutcome.CANCELLED, RunOutcome.INTERRUPTED],
        Field(description="How the run ends; a slot's run that ends as interrupted is resumed."),
    ] = RunOutcome.CANCELLED


class BeginInput(Input):
    events: Annotated[
        bool,
        Field(
            description="Answers by the run's events, none left out (200, text/event-stream). The last one is "
            "`run_settled`: whether the run is recorded and in PostgreSQL; or `error`, a problem document."
        ),
    ] = False


class LogsInput(Input):
    run_id: UUID
    after: Annotated[int, Field(ge=0, le=2**31 - 1, description="Only lines behind this one.")] = 0
    limit: Annotated[int, Field(ge=1, le=1000, description="How many at most.")] = 500
    level: Annotated[
        Literal["debug", "info", "warning", "error"] | None, Field(description="Only lines at least as important.")
    ] = None
    text: Annotated[
        str | None, Field(description="Only lines that hold this, in any case.", max_length=200, pattern=_NO_NUL)
    ] = None

    def filter(self) -> LogFilter:
        return LogFilter(None if self.level is None else levels_from(self.level), self.text or None)


class NightsInput(Input):
    days: Annotated[int, Field(ge=1, le=400, description="How far back.")] = 60


class DaysInput(NightsInput):
    table: Annotated[str | None, Field(description="Only those of this table.", max_length=300, pattern=_NO_NUL)] = None


class FindingsInput(Input):
    table: Annotated[str | None, Field(description="Only those of this table.", max_length=300, pattern=_NO_NUL)] = None
    days: Annotated[int, Field(ge=1, le=2000, description="How far back the windows may end.")] = 60
    limit: Annotated[int, Field(ge=1, le=1000, description="Of how many audits at most, the newest windows first.")] = (
        200
    )
    open: Annotated[bool, Field(description="Only what is neither repaired nor acknowledged.")] = False


class CertificatesInput(Input):
    table: Annotated[str | None, Field(description="Only days of this table.", max_length=300, pattern=_NO_NUL)] = None
    day: Annotated[
        Day | None, Field(description="Only this UTC day; of one table it is answered also where it was not audited.")
    ] = None
    first: Annotated[
        Day | None,
        Field(alias="from", description="Only days from this one on, with `to`; default: 60 days before that."),
    ] = None
    last: Annotated[Day | None, Field(alias="to", description="Only days to this one; default: today.")] = None
    by: Annotated[
        CertifiedBy, Field(description="keys: a day that is certified by counts only is answered as not certified.")
    ] = CertifiedBy.COUNTS

    @model_validator(mode="after")
    def _is_one_range(self) -> CertificatesInput:
        if self.day is not None and (self.first is not None or self.last is not None):
            raise ValueError("day is for itself, without from and to")
        if self.first is not None and self.last is None:
            raise ValueError("from needs to")
        if self.first is not None and self.last is not None and not timedelta(0) <= self.last - self.first < _MOST_DAYS:
            raise ValueError(f"from lies after to, or more than {_MOST_DAYS.days} days before it")
        return self

    def days(self, today: date) -> tuple[date, date]:
        """The first and the last day that are asked for."""
        if self.day is not None:
            return self.day, self.day
        last = self.last or today
        return self.first or last - _SOME_DAYS, last


class TableInput(Input):
    name: Annotated[str, Field(max_length=300, pattern=_NO_NUL)]
    days: Annotated[int, Field(ge=1, le=2000, description="How far back.")] = 60


class WindowAsked(Input):
    start: Instant
    end: Instant

    @model_validator(mode="after")
    def _is_not_empty(self) -> WindowAsked:
        if self.start >= self.end:
            raise ValueError("it ends before it has begun")
        return self


class AcceptInput(Input):
    name: Annotated[str, Field(max_length=300, pattern=_NO_NUL)]


class AcceptBody(Input):
    """Why a rewrite that was found wrong may stay, and who says so."""

    model_config = ConfigDict(title="RewriteAccepted")

    note: Annotated[str, Field(min_length=1, max_length=2000, description="Why; the daemon's log keeps it.")]
    by: Annotated[str, Field(min_length=1, max_length=200, description="Who says so.")] = "the API"


class HoldsInput(Input):
    table: Annotated[str | None, Field(description="Only those of this table.", max_length=300, pattern=_NO_NUL)] = None
    in_force: Annotated[bool, Field(description="false: those that are over or released, too.")] = True
    limit: Annotated[int, Field(ge=1, le=1000, description="How many at most, the newest.")] = 200


class HeldTable(Input):
    name: Annotated[str, Field(max_length=300, pattern=_NO_NUL)]


_HeldStages = Annotated[
    tuple[Literal[Stage.COMPACT, Stage.EXPIRE, Stage.AUDIT], ...],
    Field(description="Only these; default: all of a night.", max_length=3),
]


class ReleaseBody(Input):
    """What is no longer on hold, and who says so."""

    model_config = ConfigDict(title="HoldReleased")

    stages: _HeldStages = ()
    by: Annotated[str, Field(min_length=1, max_length=200, description="Who says so.")] = "the API"


class HoldBody(ReleaseBody):
    """What is to be left alone, how long, why, and who says so."""

    model_config = ConfigDict(title="HoldAsked")

    note: Annotated[
        str,
        StringConstraints(strip_whitespace=True),
        Field(min_length=1, max_length=2000, description="Why; the ledger keeps it."),
    ]
    until: Annotated[Instant | None, Field(description="When it ends by itself; default: not before a release.")] = None


class RunBody(Input):
    """A run to begin: by default all stages on all tables, for now."""

    # The name in the OpenAPI document, from which clients are generated.
    model_config = ConfigDict(title="RunAsked")

    slot: Annotated[Instant | None, Field(description="The slot to answer for; default: now, to the minute.")] = None
    stages: Annotated[tuple[Stage, ...], Field(description="Only these; default: all.", max_length=4)] = ()
    tables: Annotated[tuple[str, ...], Field(description="Only these; default: all.", max_length=1000)] = ()
    window_hours: Annotated[
        int | None,
        Field(ge=1, le=8784, description="Audits so many hours; default: the day before, and those of audit.lookback."),
    ] = None
    window: Annotated[
        WindowAsked | None,
        Field(
            description="Counts, or repairs, exactly this half-open window, to the microsecond; only with "
            "`record: false` or the stage repair."
        ),
    ] = None
    snapshots: dict[str, int] = Field(
        default_factory=dict,
        description="Counts these tables at these snapshots; only with `record: false`.",
        max_length=1000,
    )
    findings: Annotated[
        tuple[Annotated[str, Field(pattern="^[0-9a-f]{16}$")], ...],
        Field(description="Repairs these of the window; default: all. Only with the stage repair.", max_length=1000),
    ] = ()
    dry_run: Annotated[bool, Field(description="Answers what it would do, and changes nothing.")] = False
    record: Annotated[bool, Field(description="false: counts and records nothing; only for `stages: [audit]`.")] = True

    @model_validator(mode="after")
    def _records_what_it_changes(self) -> RunBody:
        if not self.record and self.stages != (Stage.AUDIT,):
            raise ValueError("record: false is for stages: [audit] only")
        repairs = Stage.REPAIR in self.stages
        if self.window is not None and ((self.record and not repairs) or self.window_hours is not None):
            raise ValueError("window is for record: false or the stage repair only, without window_hours")
        if self.snapshots and self.record:
            raise ValueError("snapshots are for record: false only")
        if self.findings and not repairs:
            raise ValueError("findings is for the stage repair only")
        return self

    def request(self, now: datetime, actor: str | None = None) -> RunRequest:
        return RunRequest(
            slot=self.slot if self.slot is not None else now.replace(second=0, microsecond=0),
            stages=self.stages or NIGHT,
            tables=self.tables,
            window_hours=self.window_hours,
            window=None if self.window is None else Window(self.window.start, self.window.end),
            snapshots=self.snapshots,
            record=self.record,
            findings=self.findings,
            actor=actor,
        )
