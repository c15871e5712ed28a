"""`icekeeper demo`: a whole night on an embedded lakehouse, then a loss in the offload that the audit finds."""

from __future__ import annotations

import asyncio
import shutil
import signal
import tempfile
import time
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from datetime import UTC, datetime, timedelta
from pathlib import Path

from rich.console import Console
from rich.rule import Rule

from icekeeper.adapters.ledger.sql.migrations import migrate
from icekeeper.adapters.spark.engine import SparkEngine
from icekeeper.adapters.spark.jars import in_ivy_cache
from icekeeper.cli.output import console
from icekeeper.core.audit.records import AuditResult
from icekeeper.core.calendar import window_of
from icekeeper.core.enums import NIGHT, AuditStatus, RunOutcome, Stage, Trigger
from icekeeper.core.formats import iso_minute
from icekeeper.core.runs import RunReport
from icekeeper.execution import logging as logs
from icekeeper.execution.execute import make_order
from icekeeper.execution.plans import make_plans
from icekeeper.execution.standalone import run_standalone
from icekeeper.execution.wiring import Services, build, spark_options
from icekeeper.sandbox import Sandbox, World, WorldSpec
from icekeeper.settings import Settings, load

# What the offload loses, in hours of the audited day, and of which table.
LOSING_TABLE = "cold.bronze_trades_coinbase"
LOST_HOURS = (13, 14)
COMMITS_PER_DAY = 96
FILES_PER_COMMIT = 3


@dataclass(frozen=True, slots=True)
class _Demo:
    """What the steps of the demo work with."""

    screen: Console
    root: Path
    slot: datetime
    box: Sandbox
    world: World
    config: Path
    services: Services


def run_demo(*, keep: bool, root: Path | None) -> int:
    """Runs the demo; 0 if the night was a success and the loss was found to the hour, 1 otherwise."""
    screen = console.stdout()
    directory = root or Path(tempfile.mkdtemp(prefix="icekeeper-demo-"))
    try:
        return _in_directory(screen, directory, keep)
    finally:
        if keep or root is not None:
            screen.print(f"its files stay in {directory}", soft_wrap=True)
        else:
            shutil.rmtree(directory, ignore_errors=True)
            screen.print("everything is stopped and removed")


def _in_directory(screen: Console, root: Path, keep: bool) -> int:
    began = time.monotonic()
    root.mkdir(parents=True, exist_ok=True)
    screen.print(f"[bold]icekeeper demo[/]: everything it makes is in {root}", soft_wrap=True)
    try:
        return asyncio.run(_play(screen, root, keep, began))
    except (KeyboardInterrupt, asyncio.CancelledError):
        screen.print("stopped")
        return 130


async def _play(screen: Console, root: Path, keep: bool, began: float) -> int:
    slot = _last_slot(datetime.now(UTC))
    with _step(screen, "start S3, PostgreSQL and ClickHouse's engine"):
        box = await asyncio.to_thread(Sandbox.start, root / "lakehouse")
    try:
        spec = WorldSpec(
            name="k2", now=slot, days=1.25, commits_per_day=COMMITS_PER_DAY, files_per_commit=FILES_PER_COMMIT
        )
        content = f"ten tables, {COMMITS_PER_DAY} commits a day of {FILES_PER_COMMIT} files, and older snapshots"
        with _step(screen, f"let the offload fill {content}"):
            world = await asyncio.to_thread(box.world, spec)
        config = world.write_config(root / "icekeeper.yaml", root / "state")
        settings = load(config)
        logs.configure("info", "auto", settings.state_dir, console_level="error")
        options = spark_options(settings)
        engine = SparkEngine(options)
        try:
            if not in_ivy_cache(options.packages, options.conf):
                screen.print("  Spark downloads its Iceberg jars (120 MB, once): this usually takes up to 2 minutes")
            with _step(screen, "start the warm Spark session"):
                await engine.start()
            with _step(screen, "create icekeeper's tables in PostgreSQL"):
                assert settings.postgres is not None  # a world's settings name its server
                await migrate(settings.postgres.dsn, settings.postgres.secret())
            services = build(settings, engine)
            try:
                demo = _Demo(screen, root, slot, box, world, config, services)
                code = await _nights(demo, settings)
            finally:
                await services.close()
        finally:
            await engine.stop()
        verdict = "[bold green]as promised[/]" if code == 0 else "[bold red]not as promised[/]"
        screen.print(f"\n{verdict}, in {time.monotonic() - began:.0f} s")
        if keep:
            await _stay(demo)
    finally:
        await asyncio.to_thread(box.stop, remove=not keep)
    return code


async def _nights(demo: _Demo, settings: Settings) -> int:
    screen = demo.screen
    screen.print(Rule("the plan: from metadata alone, no Spark job", align="left"))
    order = make_order(settings, demo.slot, Trigger.MANUAL)
    plans, errors = await make_plans(order, demo.services.ports)
    console.show_plans(screen, demo.slot, plans, errors)

    screen.print(Rule("the night: compact, expire, audit", align="left"))
    night = await _night(demo, settings, NIGHT)
    screen.print(Rule("the night again: nothing is left to do", align="left"))
    again = await _night(demo, settings, (Stage.COMPACT, Stage.EXPIRE))

    day = window_of(demo.slot).start
    lost = tuple(day + timedelta(hours=hour) for hour in LOST_HOURS)
    screen.print(Rule(f"the offload loses two hours of {LOSING_TABLE}", align="left"))
    for hour in lost:
        rows = demo.world.lose_hour(LOSING_TABLE, hour, hour.hour)
        screen.print(f"  {hour:%Y-%m-%d %H}:00: {rows} rows arrive in ClickHouse behind the watermark")
    audit = await _night(demo, settings, (Stage.AUDIT,))

    checks = {
        "the night succeeded": night.outcome is RunOutcome.SUCCESS,
        "it left nothing to do": again.outcome is RunOutcome.SUCCESS
        and not any(t.outcome == "done" for t in again.tasks),
        "the loss is found, and no other": _found(audit) == {LOSING_TABLE: lost},
    }
    screen.print()
    for what, holds in checks.items():
        screen.print(f"  {'[green]yes[/]' if holds else '[bold red]no [/]'}  {what}")
    return 0 if all(checks.values()) else 1


async def _night(demo: _Demo, settings: Settings, stages: tuple[Stage, ...]) -> RunReport:
    order = make_order(settings, demo.slot, Trigger.MANUAL, stages=stages)
    with console.ProgressBar(demo.screen) as bar:
        done = await run_standalone(demo.services, order, bar.observe)
    console.show_report(demo.screen, done.report)
    if (error := done.not_recorded or done.not_shipped) is not None:
        raise error
    return done.report


def _found(report: RunReport) -> dict[str, tuple[datetime, ...]]:
    """The tables whose audit found missing data, with the hours."""

    def hours(audit: AuditResult) -> tuple[datetime, ...]:
        return tuple(hour.start for hour in audit.missing_hours)

    return {audit.iceberg_table: hours(audit) for audit in report.audits if audit.status is AuditStatus.MISSING_DATA}


async def _stay(demo: _Demo) -> None:
    """Keeps the lakehouse up until Ctrl-C, and says how to explore it."""
    box, world, config = demo.box, demo.world, demo.config
    screen = demo.screen
    screen.print(Rule("it stays until Ctrl-C; explore it from another terminal", align="left"))
    for line in (
        f"icekeeper plan --config {config}",
        f"icekeeper history --config {config}",
        f"icekeeper audit --slot {iso_minute(demo.slot)} --config {config}",
        f"icekeeper serve --config {config}",
        f"psql '{box.postgres.dsn(world.postgres_database)}'    (passwords are in {config})",
        f"S3 {box.s3.endpoint}   ClickHouse {box.clickhouse.url}",
    ):
        screen.print(f"  {line}", soft_wrap=True, markup=False)
    stop = asyncio.Event()
    loop = asyncio.get_running_loop()
    for signum in (signal.SIGINT, signal.SIGTERM):
        loop.add_signal_handler(signum, stop.set)
    await stop.wait()


@contextmanager
def _step(screen: Console, what: str) -> Iterator[None]:
    began = time.monotonic()
    with screen.status(what):
        yield
    screen.print(f"  [green]✓[/] {what} [dim]({time.monotonic() - began:.1f} s)[/]")


def _last_slot(now: datetime) -> datetime:
    """The last 02:00 UTC: the night that the demo answers for."""
    slot = now.replace(hour=2, minute=0, second=0, microsecond=0)
    return slot if slot <= now else slot - timedelta(days=1)
