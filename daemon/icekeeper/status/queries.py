"""Read-only queries for the API and the page: the daemon's present state, and the ledger's past.

Methods that read the ledger raise IcekeeperError where PostgreSQL doesn't answer.
"""

from __future__ import annotations

import asyncio
import socket
from collections.abc import Callable, Iterable, Mapping
from dataclasses import asdict
from datetime import UTC, date, datetime, timedelta
from typing import Any
from uuid import UUID

from icekeeper import __version__
from icekeeper.adapters.ledger.history import LogFilter, RunFilter
from icekeeper.adapters.ledger.rows import marked_run
from icekeeper.core.audit.certificates import CertifiedBy, CertifiedDay, CertifiedTable
from icekeeper.core.audit.evidence import with_skipped
from icekeeper.core.errors import IcekeeperError
from icekeeper.core.events import Event, RunStarted
from icekeeper.core.plain import report_document, to_plain
from icekeeper.core.policy import TablePolicy
from icekeeper.core.reasons import Reason
from icekeeper.core.run_history import PastNight
from icekeeper.core.tables.restraints import commits_wait
from icekeeper.night.ports import Clock
from icekeeper.scheduling.reload import Configuration
from icekeeper.settings.export import redacted
from icekeeper.status import audit_schemas, log_pages, run_schemas, schemas
from icekeeper.status.gauges import DaemonState
from icekeeper.status.live import Live, RunThatEnded, Typical
from icekeeper.status.metrics import Metrics
from icekeeper.status.problems import Facts, open_days, overall, problems
from icekeeper.status.progress import progress_of

# The span of runs that typical durations are taken from.
_TYPICAL = timedelta(days=30)
# Charts of a table span years with so many points; its single tasks are of interest for the last weeks only.
_MOST_POINTS = 366
_MOST_TASKS = 100
# The timeout of queries whose answers the caller can do without.
_OPTIONAL_S = 3.0
_ADVICE = {reason.value: reason.advice for reason in Reason}

Cursor = tuple[datetime, UUID]


class NotFoundError(Exception):
    """There is no such run or table."""


class StatusQueries:
    """Answers from this process's memory where it can, else from the ledger and the runs' log files."""

    def __init__(
        self,
        configuration: Configuration,
        metrics: Metrics,
        live: Live,
        state: Callable[[], DaemonState],
        components: Callable[[], Mapping[str, str]],
        has_leader: Callable[[], bool],
        clock: Clock,
    ) -> None:
        """`has_leader`: whether this daemon or another one runs the nights, as far as is known."""
        self._configuration = configuration
        self._metrics = metrics
        self._live = live
        self._state = state
        self._components = components
        self._has_leader = has_leader
        self._clock = clock
        self._typical: Typical = {}
        self._reads: set[asyncio.Task[None]] = set()

    def observe(self, event: Event) -> None:
        """Takes an event of a run: when one begins, reads the typical durations of its tasks from the ledger."""
        if isinstance(event, RunStarted):
            self._reads.add(read := asyncio.create_task(self._read_typical(event.opening.tables)))
            read.add_done_callback(self._reads.discard)

    async def _read_typical(self, tables: Iterable[str]) -> None:
        try:
            async with asyncio.timeout(_OPTIONAL_S):
                since = self._clock() - _TYPICAL
                self._typical = await self._configuration.services.history.typical_durations(tables, since)
        except (IcekeeperError, TimeoutError):
            return  # the progress bars go without an estimate

    # --- now

    def status(self) -> schemas.Status:
        """The daemon's state and its problems, from this process's memory alone."""
        daemon, components, now = self._state(), dict(self._components()), self._clock()
        history, running = self._metrics.history, self._live.run is not None
        troubles = problems(Facts(daemon, history, components, running, self._has_leader()), now)
        settings = self._configuration.settings
        return schemas.Status(
            state=overall(troubles),
            troubles=troubles,
            version=__version__,
            host=socket.gethostname(),
            leading=daemon.leading,
            mode=settings.mode,
            settings_hash=settings.digest(),
            now=now,
            next_slot=daemon.next_slot,
            pause=schemas.Pause.model_validate(daemon.pause) if daemon.pause is not None else None,
            run=progress_of(self._live.run, self._typical, now) if self._live.run is not None else None,
            last_run=_last_night(history.runs.last) if history.runs.last is not None else None,
            parts=components,
            open_findings={name: open_days(history, name) for name in self.names()}
            if self._metrics.ledger_read
            else {},
            holds=schemas.Holds.of(daemon.operator_holds).items,
            spool_records=daemon.spool.records,
        )

    def tables(self) -> schemas.Tables:
        """The configured tables as the last runs left them."""
        return schemas.Tables(items=tuple(map(self._summary, self._configuration.settings.policies())))

    def config(self) -> schemas.Config:
        """The configuration in force."""
        settings = self._configuration.settings
        return schemas.Config(settings_hash=settings.digest(), settings=redacted(settings))

    def names(self) -> list[str]:
        """The enabled tables, in their order."""
        return [policy.name for policy in self._configuration.settings.policies()]

    def commits_wait(self) -> str:
        """What the commits of a run wait for, for people; empty where they do not wait."""
        settings = self._configuration.settings
        return commits_wait(settings.policies(), settings.run_policy())

    def _summary(self, policy: TablePolicy) -> schemas.TableSummary:
        name = policy.name
        history = self._metrics.history
        health, audit = history.runs.healths.get(name), history.runs.audits.get(name)
        return schemas.TableSummary(
            name=name,
            source=None if policy.source is None else str(policy.source),
            layer=policy.layer,
            health=run_schemas.Health.model_validate(health.health) if health is not None else None,
            audit=schemas.LastAudit.of(audit) if audit is not None else None,
            open_findings=open_days(history, name) if self._metrics.ledger_read else None,
            holds=schemas.Holds.of(hold for hold in self._state().operator_holds if hold.table == name).items,
            newest_certified_day=history.certified.get(name, CertifiedTable()).newest_day,
        )

    # --- the past

    async def runs(self, only: RunFilter, after: Cursor | None, limit: int) -> run_schemas.RunPage:
        """Runs, newest first."""
        rows = await self._configuration.services.history.runs(limit + 1, only, after)
        items = tuple(run_schemas.RunSummary.model_validate(row) for row in rows[:limit])
        more = len(rows) > limit
        return run_schemas.RunPage(items=items, next=cursor(items[-1]) if more else None)

    async def installations(self) -> tuple[str, ...]:
        """The names of all that keep runs in the ledger."""
        return await self._configuration.services.history.installations()

    async def run(self, run_id: UUID) -> run_schemas.Run:
        """A run with its tasks and audits: from memory while it is under way in this process, else from the ledger."""
        if (under_way := self._run_under_way(run_id)) is not None:
            return under_way
        services, last = self._configuration.services, self._live.last
        in_memory = _of_last(last) if last is not None and last.report.run_id == run_id else None
        if in_memory is not None and self._components().get("ledger") == "down":
            return in_memory
        try:
            row = await services.history.run(run_id)
            acks = await services.findings.acks_of_run(run_id) if row is not None else {}
            certified = await services.certificates.of_run(run_id) if row is not None else {}
        except IcekeeperError:
            if in_memory is not None:
                return in_memory
            raise
        # Its end may not have reached the ledger yet. Once it has, the ledger knows more (acknowledgements).
        if in_memory is not None and (row is None or row["outcome"] is None):
            return in_memory
        if row is None:
            raise NotFoundError(f"no run has the id {run_id}")
        return _run(marked_run(row, acks, certified))

    def _run_under_way(self, run_id: UUID) -> run_schemas.Run | None:
        run = self._live.run
        if run is not None and run.opening.run_id == run_id:
            head = {**to_plain(run.opening), "outcome": None, "finished_at": None, "duration_s": None}
            return _run({**head, "tasks": to_plain(run.tasks), "audits": to_plain(run.audits)})
        return None

    async def logs(self, run_id: UUID, only: LogFilter, after: int, limit: int) -> run_schemas.LogPage:
        """Log lines of a run: from its file if this host has it, else from the ledger."""
        services = self._configuration.services
        return await log_pages.page(services.settings.state_dir, services.history, run_id, only, after, limit)

    async def newest_logs(self, run_id: UUID, only: LogFilter, limit: int) -> run_schemas.LogPage:
        """The last log lines of a run that this host has the file of."""
        return await log_pages.tail(self._configuration.settings.state_dir, run_id, only, limit)

    async def nights(self, days: int) -> run_schemas.Nights:
        """How the slots of the last days were answered, newest first. TimeoutError where that takes too long."""
        since = self._clock() - timedelta(days=days)
        async with asyncio.timeout(_OPTIONAL_S):
            rows = await self._configuration.services.history.nights(since, self.names())
        return run_schemas.Nights(items=tuple(run_schemas.Night.model_validate(row) for row in rows))

    async def days(self, days: int, table: str | None = None) -> audit_schemas.AuditedDays:
        """The last UTC days of the tables. TimeoutError where that takes too long."""
        since = self._clock() - timedelta(days=days)
        async with asyncio.timeout(_OPTIONAL_S):
            tables = self.names() if table is None else [table]
            rows = await self._configuration.services.history.days(tables, since)
        return audit_schemas.AuditedDays(items=tuple(audit_schemas.AuditedDay.model_validate(row) for row in rows))

    async def findings(self, days: int, table: str | None, limit: int, *, open_only: bool) -> audit_schemas.Findings:
        """What the newest audits of the last days' windows found; of so many audits at most."""
        tables = self.names() if table is None else [table]
        since = self._clock() - timedelta(days=days)
        found = await self._configuration.services.findings.found(tables, since, limit)
        return audit_schemas.Findings(
            items=tuple(
                audit_schemas.AuditedFinding(
                    **asdict(finding),
                    table=audit.table,
                    open=audit.open,
                    run_id=audit.run_id,
                    audited_at=audit.audited_at,
                    status=audit.status,
                    window_start=audit.window.start,
                    window_end=audit.window.end,
                )
                for audit in found
                for finding in audit.findings
                if audit.open or not open_only
            )
        )

    async def holds(self, table: str | None, limit: int, *, in_force: bool) -> schemas.Holds:
        """What operators have put on hold, the newest first."""
        holds = self._configuration.services.holds
        if in_force:
            found = [hold for hold in await holds.in_force() if table in (None, hold.table)]
            return schemas.Holds.of(sorted(found, key=lambda hold: hold.at, reverse=True)[:limit])
        return schemas.Holds.of(await holds.newest(None if table is None else [table], limit))

    async def certificates(
        self, table: str | None, first: date, last: date, by: CertifiedBy
    ) -> audit_schemas.Certificates:
        """These days, both included, from a table's first audited one on; a single one also where it was not."""
        certificates = self._configuration.services.certificates
        if table is not None and first == last:
            day = await certificates.day(table, first)
            if day.certificate is None and day.audited_by is None and table not in self.names():
                raise NotFoundError(f"no enabled table has the name {table}")
            found: tuple[CertifiedDay, ...] = (day,)
        else:
            known = await certificates.days(self.names() if table is None else [table], first, last)
            found = with_skipped(known, min(last, (self._clock() - timedelta(days=1)).date()))
        items = (day.required(by) for day in found)
        return audit_schemas.Certificates(items=tuple(map(audit_schemas.CertifiedDay.model_validate, items)))

    async def table(self, name: str, days: int) -> schemas.Table:
        """A table with its health, audits and tasks of the last days."""
        policy = next((one for one in self._configuration.settings.policies() if one.name == name), None)
        if policy is None:
            raise NotFoundError(f"no enabled table has the name {name}")
        summary, since = self._summary(policy), self._clock() - timedelta(days=days)
        history = self._configuration.services.history
        healths = await history.healths_of(name, since, _MOST_POINTS)
        audits = await history.audits_of(name, since, _MOST_POINTS)
        tasks = await history.tasks_of(name, since, _MOST_TASKS)
        return schemas.Table(
            **summary.model_dump(),
            healths=tuple(
                schemas.HealthPoint.model_validate({**health, "health": health["after"]}) for health in healths
            ),
            audits=tuple(schemas.AuditPoint.model_validate(audit) for audit in audits),
            tasks=tuple(schemas.TableTask.model_validate(task) for task in tasks),
        )


def cursor(run: run_schemas.RunHead) -> str:
    """The position behind a run, as `after` takes it."""
    # With Z, because the plus of +00:00 means a space in a query string.
    began = run.started_at.astimezone(UTC).isoformat(timespec="microseconds").replace("+00:00", "Z")
    return f"{began}_{run.run_id}"


def parse_cursor(text: str) -> Cursor:
    """ValueError for text that is no cursor."""
    instant, _, run_id = text.partition("_")
    began = datetime.fromisoformat(instant)
    if began.tzinfo is None:
        raise ValueError("a cursor has a time zone")
    try:
        return began.astimezone(UTC), UUID(run_id)
    except OverflowError as exc:
        raise ValueError("there is no such instant in UTC") from exc


def _of_last(last: RunThatEnded) -> run_schemas.Run:
    return _run({**to_plain(last.opening), **report_document(last.report)})


def _run(row: Mapping[str, Any]) -> run_schemas.Run:
    tasks = [{**task, "advice": _ADVICE.get(task["reason"] or "")} for task in row["tasks"]]
    audits = [{**audit, "advice": _ADVICE.get(audit["reason"] or "")} for audit in row["audits"]]
    return run_schemas.Run.model_validate({**row, "tasks": tasks, "audits": audits})


def _last_night(night: PastNight) -> run_schemas.LastNight:
    took = (night.finished_at - night.started_at).total_seconds()
    return run_schemas.LastNight.model_validate({**to_plain(night), "duration_s": took})
