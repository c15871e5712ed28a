"""Several icekeepers share one ledger, each with a state_dir and a catalog of its own: none touches another's rows.

Their tables have the same names, as those of a lake and its rehearsal have.
"""

from __future__ import annotations

import asyncio
import json
import shutil
from collections.abc import AsyncIterator, Awaitable, Callable
from contextlib import AsyncExitStack
from dataclasses import dataclass, replace
from datetime import datetime, timedelta
from functools import partial
from pathlib import Path
from types import SimpleNamespace
from typing import Any, cast
from uuid import UUID, uuid4

import pytest
from structlog.testing import capture_logs

from icekeeper.adapters.ledger.history import ALL, RunFilter
from icekeeper.adapters.ledger.identity import COPIED_ADVICE, FILE
from icekeeper.adapters.ledger.move import move
from icekeeper.adapters.ledger.recent import PostgresRecent
from icekeeper.adapters.ledger.sql.grants import grants, missing_grants
from icekeeper.adapters.spark.engine import SparkEngine
from icekeeper.adapters.spool.shipper import Shipper
from icekeeper.adapters.spool.spool import Spool
from icekeeper.core.audit.records import Finding, FindingKind
from icekeeper.core.audit.repair import Way
from icekeeper.core.calendar import Window
from icekeeper.core.enums import AuditStatus, RunOutcome, Stage
from icekeeper.core.errors import ConfigError, IcekeeperError
from icekeeper.core.history import ConfigLoad
from icekeeper.core.runs import RunOpening, RunReport
from icekeeper.doctor.installations import examine_installations
from icekeeper.execution.standalone import lease_of
from icekeeper.execution.wiring import Services, build, spark_options
from icekeeper.scheduling.recovery import Recovery
from icekeeper.scheduling.reload import Configuration
from icekeeper.scheduling.slots import Slots
from icekeeper.settings import Settings
from tests.integration import test_postgres
from tests.integration.test_postgres import PASSWORD, Database
from tests.unit.reports import AUDIT, REPORT, SLOT, TABLE
from tests.unit.test_certificates import COUNTED
from tests.unit.test_worker import settings_of

server, empty, database = test_postgres.server, test_postgres.empty, test_postgres.database
HOUR, DAY = timedelta(hours=1), timedelta(days=1)
LONG_AGO, SOON_AFTER = SLOT - 30 * DAY, SLOT + HOUR
LOST = Finding(FindingKind.MISSING, AUDIT.window_start, AUDIT.window_start + HOUR, 100, id="a" * 16)
# Of the 16th, which nothing lacks; the 17th lacks rows.
CERTIFYING = replace(COUNTED, window_start=AUDIT.window_start - DAY, window_end=AUDIT.window_start)
CERTIFIED = CERTIFYING.window_start.date()


@dataclass
class Keeper:
    """An icekeeper: its settings, and what it was built of."""

    settings: Settings
    services: Services
    spool: Spool

    async def night(self, slot: datetime = SLOT, run_id: UUID | None = None, **changes: Any) -> RunReport:
        """A night that is in the ledger: it lacks rows of its day, and certifies the day before."""
        run_id = run_id or uuid4()
        audits = tuple(
            replace(one, run_id=run_id, slot=slot, window_start=one.window_start + by, window_end=one.window_end + by)
            for one in (replace(AUDIT, findings=(LOST,)), CERTIFYING)
            for by in (slot - SLOT,)
        )
        plain = replace(REPORT, run_id=run_id, slot=slot, started_at=slot, finished_at=slot + HOUR, audits=audits)
        report = replace(plain, **{"settings_hash": self.settings.digest(), **changes})
        await self.services.ledger.close_run(report, self.opening(report))
        await self.services.ledger.store_lines(run_id, 1, [{"event": "run_started"}])
        return report

    def opening(self, of: RunReport) -> RunOpening:
        tables = tuple(policy.name for policy in self.settings.policies())
        stages = (Stage.COMPACT, Stage.EXPIRE, Stage.AUDIT)
        return RunOpening(of.run_id, of.slot, of.trigger, of.started_at, of.settings_hash, stages, tables, "ice1")

    async def ship(self) -> None:
        done = await Shipper(self.spool, lambda: self.services.ledger, lambda run_id: ()).ship()
        assert (done.error, done.quarantined) == (None, 0)

    async def recover(self, now: datetime) -> Slots:
        """What it does when it starts: the slots that it will work off."""

        async def sleep(seconds: float) -> None:
            await asyncio.Event().wait()

        configuration = cast(Configuration, SimpleNamespace(settings=self.settings, services=self.services))
        slots = Slots(self.spool, sleep)
        await Recovery(configuration, self.spool, slots, lambda: now, started_at=now).run()
        await self.ship()
        return slots


Make = Callable[..., Awaitable[Keeper]]


@pytest.fixture
async def keeper(database: Database, tmp_path: Path) -> AsyncIterator[Make]:
    """Makes an icekeeper with a directory of its own, or of the same `place` once more."""
    async with AsyncExitStack() as stack:

        async def make(place: str, *tables: str, state: str | None = None, **blocks: Any) -> Keeper:
            home = tmp_path / place
            home.mkdir(exist_ok=True)
            postgres = {"dsn": database.dsn, "password": PASSWORD}
            state_dir = home / (state or "state")
            blocks = {"postgres": postgres, "state_dir": str(state_dir), **blocks}
            settings = settings_of(home, *(tables or (TABLE,)), **blocks)
            spool = await Spool.open(state_dir)
            stack.push_async_callback(spool.close)
            services = build(settings, SparkEngine(spark_options(settings)))
            stack.push_async_callback(services.close)
            return Keeper(settings, services, spool)

        yield make


@pytest.fixture
async def two(keeper: Make) -> tuple[Keeper, Keeper]:
    return await keeper("a"), await keeper("b")


# --- the night of one is not the other's


async def test_a_night_that_another_one_has_done_is_still_to_be_done(two: tuple[Keeper, Keeper]) -> None:
    """Down at 02:00, started at 02:30: in between the other one has succeeded."""
    a, b = two
    await b.spool.account(SLOT - HOUR)
    await a.night(outcome=RunOutcome.SUCCESS)
    slots = await b.recover(SLOT + HOUR / 2)
    assert SLOT in slots.open
    assert [run["run_id"] for run in await b.services.history.runs(9)] == []


async def test_who_starts_during_another_ones_run_does_not_end_it(two: tuple[Keeper, Keeper]) -> None:
    a, b = two
    await b.spool.account(SLOT - HOUR)
    under_way = a.opening(replace(REPORT, run_id=uuid4()))
    await a.services.ledger.open_run(under_way)
    slots = await b.recover(SLOT + HOUR / 2)
    assert SLOT in slots.open
    (row,) = await a.services.history.runs(9)
    assert (row["run_id"], row["outcome"]) == (under_way.run_id, None)
    # What the same daemon finds of its own after a crash is ended all the same.
    await a.recover(SLOT + HOUR / 2)
    (row,) = await a.services.history.runs(9)
    assert row["outcome"] == "interrupted"


async def _past(one: Keeper) -> Any:
    past = await PostgresRecent(one.services.postgres, one.services.installation).past([TABLE])
    return past.nights or past.tasks or past.healths or past.days or past.not_held


async def _certified(one: Keeper) -> Any:
    known = await one.services.certificates.of_tables([TABLE], SOON_AFTER, [CERTIFIED])
    return [state for state in known.values() if state.until or state.expires]


_TABLE_OF: dict[str, Callable[[Keeper], Awaitable[Any]]] = {
    "resume": lambda one: one.services.ledger.past_runs(LONG_AGO),
    "last_slot": lambda one: one.services.ledger.last_slot(),
    "metrics_seed": _past,
    "fold_nights": lambda one: one.services.history.nights(LONG_AGO, [TABLE]),
    "last_night": lambda one: one.services.history.last_night(LONG_AGO, [TABLE]),
    "runs": lambda one: one.services.history.runs(9),
    "runs_by_prefix": lambda one: one.services.history.find_runs("00000000"),
    "tasks": lambda one: one.services.history.tasks_of(TABLE, LONG_AGO, 9),
    "healths": lambda one: one.services.history.healths_of(TABLE, LONG_AGO, 9),
    "audits": lambda one: one.services.history.audits_of(TABLE, LONG_AGO, 9),
    "audits_to_compare": lambda one: one.services.history.audits_since(LONG_AGO),
    "days": lambda one: one.services.history.days([TABLE], LONG_AGO),
    "typical_durations": lambda one: one.services.history.typical_durations([TABLE], LONG_AGO),
    "open_findings": lambda one: one.services.findings.all_open((TABLE,)),
    "open_days": lambda one: one.services.findings.open_days([TABLE]),
    "open_rows": lambda one: one.services.findings.open_rows([TABLE]),
    "findings": lambda one: one.services.findings.found([TABLE], LONG_AGO, 9),
    "look_back": lambda one: one.services.findings.last_audits(TABLE, Window(LONG_AGO, SOON_AFTER), SLOT + DAY),
    "acks": lambda one: one.services.findings.acks([TABLE], 9),
    "certificates": lambda one: one.services.certificates.days([TABLE], LONG_AGO.date(), SLOT.date()),
    "certified_tables": _certified,
    "repairable": lambda one: one.services.repairs.findings(TABLE, Window(AUDIT.window_end, AUDIT.window_end + DAY)),
    "repair_claim": lambda one: one.services.repairs.refusal(TABLE, replace(LOST, id="b" * 16)),
}


@pytest.mark.parametrize("read", _TABLE_OF.values(), ids=_TABLE_OF)
async def test_what_one_has_is_not_the_others(
    two: tuple[Keeper, Keeper], read: Callable[[Keeper], Awaitable[Any]]
) -> None:
    a, b = two
    night = await a.night(run_id=UUID("00000000-0000-4000-8000-000000000001"))
    await a.services.findings.acknowledge(TABLE, AUDIT.window_start.date(), "known", "ann", "ice1")
    await a.night(SLOT + DAY)
    assert await a.services.repairs.claim(TABLE, LOST, None, Way.OFFLOAD) is None
    assert await read(a), "it is there to be read"
    assert not await read(b)
    # Also once it has rows of its own.
    await b.services.ledger.record_load(ConfigLoad(uuid4(), SLOT, "ice2", "boot", "x"))
    assert not await read(b)
    assert (await b.services.history.run(night.run_id) or {})["installation"] == "k2"


# --- what one does leaves the other's rows


async def _prune(a: Keeper, b: Keeper) -> None:
    assert await b.services.ledger.delete_lines(SLOT + 9 * DAY, 99) == 0


async def _close_its_finding(a: Keeper, b: Keeper) -> None:
    assert await b.services.findings.acknowledge(TABLE, AUDIT.window_start.date(), "known", "bob", "ice2") == ()
    await b.night()
    assert len(await b.services.findings.acknowledge(TABLE, AUDIT.window_start.date(), "known", "bob", "ice2")) == 1


async def _prove_its_day(a: Keeper, b: Keeper) -> None:
    fine = replace(AUDIT, run_timestamp=SOON_AFTER, delta=0, iceberg_row_count=1000, status=AuditStatus.OK)
    await b.night(audits=(replace(fine, run_id=(run_id := uuid4())),), run_id=run_id)


async def _revoke_its_certificate(a: Keeper, b: Keeper) -> None:
    lost: dict[str, Any] = {"iceberg_row_count": 0, "delta": -1000, "status": AuditStatus.MISSING_DATA}
    worse = replace(CERTIFYING, run_timestamp=SOON_AFTER, run_id=(run_id := uuid4()), **lost)
    await b.night(audits=(worse,), run_id=run_id)


async def _claim_its_repair(a: Keeper, b: Keeper) -> None:
    assert await a.services.repairs.claim(TABLE, LOST, None, Way.OFFLOAD) is None
    assert await b.services.repairs.claim(TABLE, replace(LOST, id="b" * 16), uuid4()) is None


async def _audit_the_same_slot(a: Keeper, b: Keeper) -> None:
    await b.night()
    await b.night(SLOT + DAY, outcome=RunOutcome.SUCCESS)


async def _begin_anew(a: Keeper, b: Keeper) -> None:
    await b.recover(SOON_AFTER)


_DEEDS = (
    _prune,
    _close_its_finding,
    _prove_its_day,
    _revoke_its_certificate,
    _claim_its_repair,
    _audit_the_same_slot,
    _begin_anew,
)


@pytest.mark.parametrize("deed", _DEEDS, ids=lambda deed: deed.__name__.strip("_"))
async def test_what_one_does_leaves_the_others_rows_as_they_are(
    two: tuple[Keeper, Keeper], deed: Callable[[Keeper, Keeper], Awaitable[None]]
) -> None:
    a, b = two
    night = await a.night()

    async def known() -> dict[str, Any]:
        reads = {name: await read(a) for name, read in _TABLE_OF.items() if name != "repair_claim"}
        return {**reads, "run": await a.services.history.run(night.run_id, lines=True)}

    before = await known()
    assert before["certificates"]
    assert before["open_findings"]
    await deed(a, b)
    assert await known() == before


# --- which is which


async def test_it_is_the_same_after_a_move_of_the_warehouse_and_of_the_state_dir(keeper: Make) -> None:
    tables = ("cold.a", "cold.b", "cold.c")
    first = await (await keeper("a", *tables)).services.installation.settled()
    replica = await keeper("a", *tables[:2], state="elsewhere")
    assert await replica.services.installation.settled() == first
    moved = await keeper("a", *tables, catalog={"name": "k2", "type": "hadoop", "warehouse": "/moved"})
    assert await moved.services.installation.settled() == first
    kept = json.loads((moved.settings.state_dir / FILE).read_text())
    assert kept == {"id": str(first), "name": "k2"}
    # A new replica knows it by where the catalog is by now.
    late = await keeper("a", *tables, state="late", catalog={"name": "k2", "type": "hadoop", "warehouse": "/moved"})
    assert await late.services.installation.settled() == first
    assert await late.services.installation.names() == ("k2",)


async def test_others_of_the_same_catalog_are_others(keeper: Make) -> None:
    one = await keeper("a", "cold.a", "cold.b", "cold.c")
    other = await keeper("a", "cold.c", "cold.d", state="other")
    ids = [await each.services.installation.settled() for each in (one, other)]
    assert len({*ids}) == 2
    assert await one.services.installation.names() == ("k2", "k2-2")
    (check,) = await examine_installations(other.services)
    assert check.level == "warning"
    assert "'k2' keeps its runs in this ledger, too: 3 tables, last run never" in check.text
    assert "maintains cold.c of the same catalog" in check.text


async def test_two_that_start_at_once_are_one_or_two(keeper: Make) -> None:
    """Replicas of one configuration are one, whatever the order; of two catalogs they are two."""
    replicas = [await keeper("a", "cold.a", state=f"state{n}", replicas=True) for n in range(3)]
    others = [await keeper(place, "cold.b") for place in ("b", "c")]
    ids = await asyncio.gather(*(one.services.installation.settled() for one in (*replicas, *others)))
    assert len({*ids[:3]}) == 1
    assert len({*ids}) == 3


async def test_to_read_makes_no_installation(keeper: Make) -> None:
    one = await keeper("a")
    assert await one.services.history.runs(9) == ()
    assert await one.services.findings.all_open([TABLE]) == ()
    assert await one.services.installation.names() == ()
    assert not (one.settings.state_dir / FILE).exists()


async def test_a_new_name_keeps_the_rows_and_must_be_free(keeper: Make, two: tuple[Keeper, Keeper]) -> None:
    a, b = two
    night = await a.night()
    assert await b.services.installation.settled()
    with pytest.raises(ConfigError, match="k2 is the name of another installation"):
        await b.services.installation.rename("k2")
    assert await a.services.installation.rename("lake") == "k2"
    again = await keeper("a")
    (row,) = await again.services.history.runs(9)
    assert (row["run_id"], row["installation"]) == (night.run_id, "lake")
    named = await keeper("a", installation="lake")
    assert len(await named.services.history.runs(9)) == 1
    other = await keeper("a", installation="another")
    with pytest.raises(IcekeeperError, match=r"of the installation 'lake'.*'another'.*ledger rename another"):
        await other.services.history.runs(9)
    with pytest.raises(ConfigError, match="write `installation: x` there first"):
        await other.services.installation.rename("x")
    assert await other.services.installation.rename("another") == "lake"
    assert len(await other.services.history.runs(9)) == 1


async def test_the_name_in_the_settings_makes_them_one(keeper: Make) -> None:
    a, b = await keeper("a", installation="prod"), await keeper("b", "cold.other", installation="prod")
    assert await a.services.installation.settled() == await b.services.installation.settled()


async def test_history_shows_its_own_another_ones_or_all(two: tuple[Keeper, Keeper]) -> None:
    a, b = two
    ours, theirs = await a.night(), await b.night()

    async def shown(installation: str | None) -> set[tuple[UUID, str]]:
        rows = await a.services.history.runs(9, RunFilter(installation=installation))
        return {(row["run_id"], row["installation"]) for row in rows}

    assert await shown(None) == await shown("k2") == {(ours.run_id, "k2")}
    assert await shown("k2-2") == {(theirs.run_id, "k2-2")}
    assert await shown(ALL) == {(ours.run_id, "k2"), (theirs.run_id, "k2-2")}
    with pytest.raises(ConfigError, match="no installation has the name k3; in the ledger: k2, k2-2"):
        await shown("k3")
    (check,) = await examine_installations(a.services)
    assert (check.level, "1 table, last run 2026-02-18T02:00:00Z" in check.text) == ("ok", True)


async def test_each_has_a_lease_of_its_own(keeper: Make) -> None:
    a, b = await keeper("a", replicas=True), await keeper("b", replicas=True, installation="b")
    standby = await keeper("a", state="second", replicas=True)
    leases = [lease for one in (a, b, standby) if (lease := lease_of(one.services)) is not None]
    try:
        assert [await lease.try_acquire() for lease in leases] == [True, True, False]
    finally:
        for lease in leases:
            await lease.release()


async def test_a_ledger_moves_to_where_its_installation_is_at_work_by_now(database: Database, keeper: Make) -> None:
    before = await keeper("a")
    night = await before.night()
    database.server.execute(test_postgres.DATABASE, "CREATE SCHEMA moved")
    target = Database(database.server, "moved")
    await target.migrate()
    after = await keeper("a", postgres={"dsn": target.dsn, "password": PASSWORD})
    await after.services.installation.settled()
    await move(before.services.postgres, after.services.postgres)
    (row,) = await after.services.history.runs(9)
    assert (row["run_id"], row["installation"]) == (night.run_id, "k2")
    await target.postgres.close()


@pytest.mark.parametrize("other", ["k2", "mine"])
async def test_a_ledger_moves_under_another_name_to_where_another_installation_has_its_name(
    database: Database, keeper: Make, other: str
) -> None:
    before = await keeper("a")
    night = await before.night()
    database.server.execute(test_postgres.DATABASE, f"CREATE SCHEMA moved_{other}")
    target = Database(database.server, f"moved_{other}")
    await target.migrate()
    there = await keeper("b", postgres={"dsn": target.dsn, "password": PASSWORD}, installation=other)
    theirs = await there.night()
    renamed = await before.services.installation.id_by_any_name(), "mine"

    moving = partial(move, before.services.postgres, there.services.postgres)
    refused, taken = (None, renamed) if other == "k2" else (renamed, None)
    with pytest.raises(IcekeeperError, match=rf"installation of that name.*\({other}\).*with --as NAME"):
        await moving(renamed=refused)
    await moving(renamed=taken)
    await moving()  # once more: what is there keeps its name
    expected = "mine" if other == "k2" else "k2"
    settings = {"postgres": {"dsn": target.dsn, "password": PASSWORD}}
    after = await keeper("a", **settings)
    (row,) = await after.services.history.runs(9)
    assert (row["run_id"], row["installation"]) == (night.run_id, expected)
    assert await after.services.installation.settled() == renamed[0]
    assert json.loads((after.settings.state_dir / FILE).read_text())["name"] == expected
    (row,) = await there.services.history.runs(9)
    assert (row["run_id"], row["installation"]) == (theirs.run_id, other)
    await target.postgres.close()


@pytest.mark.parametrize("named", [False, True])
async def test_a_state_dir_that_was_copied_to_another_catalog_is_told_of_and_refused_nothing(
    keeper: Make, tmp_path: Path, named: bool
) -> None:
    settings = {"installation": "k2"} if named else {}
    a = await keeper("a", **settings)
    mine = await a.services.installation.settled()
    shutil.copytree(tmp_path / "a" / "state", tmp_path / "b" / "state")

    async def warned(one: Keeper) -> tuple[str, ...]:
        return tuple(check.advice for check in await examine_installations(one.services) if check.level == "warning")

    # Whoever starts is told once; the doctor of the other one tells it while the rows are another catalog's.
    for place, other in (("b", "a"), ("a", "b"), ("b", "a")):
        one, there = await keeper(place, **settings), await keeper(other, **settings)
        assert await warned(one) == (COPIED_ADVICE,)
        assert await warned(there) == ()
        with capture_logs() as logs:
            assert await one.services.installation.settled() == mine
            assert await one.services.installation.settled() == mine
        (line,) = [line for line in logs if line["event"] == "installation_catalog_changed"]
        assert (line["log_level"], line["installation"], line["advice"]) == ("warning", "k2", COPIED_ADVICE)
        assert await warned(one) == ()
        assert await warned(there) == (COPIED_ADVICE,)
    if named:
        return

    # What it is told to do makes it one of its own.
    await (await keeper("a")).services.installation.settled()
    (tmp_path / "b" / "state" / FILE).unlink()
    theirs = await (await keeper("b")).night()
    (row,) = await (await keeper("b")).services.history.runs(9)
    assert (row["run_id"], row["installation"]) == (theirs.run_id, "k2-2")


async def test_an_installation_that_the_ledger_does_not_have_gets_no_other_name(keeper: Make) -> None:
    with pytest.raises(ConfigError, match="has no row of this installation"):
        await (await keeper("a")).services.installation.id_by_any_name()


# --- rows of before


def forget(database: Database, *keepers: Keeper) -> None:
    """Makes the rows those of an icekeeper that knew no installations, and the directories as new."""
    for table in ("runs", "audit_log", "acks", "evidence", "repairs", "config_loads"):
        database.sql(f"UPDATE maintenance_{table} SET installation_id = NULL")
    database.sql("DELETE FROM maintenance_installations")
    for keeper in keepers:
        (keeper.settings.state_dir / FILE).unlink()


async def test_rows_of_before_go_to_those_whose_tables_they_are_of(database: Database, keeper: Make) -> None:
    before = [await keeper("a", TABLE, "cold.a"), await keeper("b", "cold.b")]
    nights = []
    for one, table in zip(before, (TABLE, "cold.b"), strict=True):
        run_id = uuid4()
        audit = replace(AUDIT, run_id=run_id, iceberg_table=table)
        nights.append(await one.night(run_id=run_id, audits=(audit,)))
        await one.services.findings.acknowledge(table, AUDIT.window_start.date(), "known", "ann", "ice1")
        # A slot that was missed has no tables.
        missed = replace(REPORT, run_id=uuid4(), slot=SLOT - DAY, outcome=RunOutcome.MISSED, tasks=(), audits=())
        await one.services.ledger.close_run(replace(missed, settings_hash=one.settings.digest()))
    forget(database, *before)

    after = [await keeper("b", "cold.b"), await keeper("a", TABLE, "cold.a")]
    assert [await one.services.history.runs(9) for one in after] == [(), ()]
    await asyncio.gather(*(one.services.installation.settled() for one in after))
    b, a = after
    for one, night, table in zip((a, b), nights, (TABLE, "cold.b"), strict=True):
        runs = await one.services.history.runs(9)
        assert {row["slot"] for row in runs} == {SLOT, SLOT - DAY}
        assert runs[0]["run_id"] == night.run_id or runs[1]["run_id"] == night.run_id
        assert await one.services.findings.all_open([table]) == ()
        assert len(await one.services.findings.acks([table], 9)) == 1
        assert len(await one.services.findings.found([table], LONG_AGO, 9)) == 0
    unclaimed = "SELECT count(*) FROM maintenance_{} WHERE installation_id IS NULL AND run_id IS NOT NULL"
    for rows in ("runs", "audit_log", "acks", "evidence"):
        assert database.sql(unclaimed.format(rows)) == [(0,)]
    # A second start takes nothing from the other.
    again = await keeper("a", TABLE, "cold.a", "cold.b")
    await again.services.installation.settled()
    assert len(await again.services.history.runs(9)) == 2


async def test_runs_of_an_icekeeper_that_is_still_of_a_version_before_are_not_taken(
    database: Database, keeper: Make
) -> None:
    others = await keeper("b", TABLE, "cold.b", "cold.c")
    await others.night(run_id=uuid4(), audits=())
    forget(database, others)
    a = await keeper("a")
    await a.services.installation.settled()
    assert await a.services.history.runs(9) == (), "one table of three is no night of ours"

    late = await a.night(run_id=uuid4(), audits=())
    database.sql(
        "UPDATE maintenance_runs SET installation_id = NULL, started_at = now() WHERE installation_id IS NOT NULL"
    )
    again = await keeper("a")
    await again.services.installation.settled()
    assert late.run_id not in {row["run_id"] for row in await again.services.history.runs(9)}


async def test_what_waits_in_the_spool_of_before_becomes_its_own(two: tuple[Keeper, Keeper]) -> None:
    for one in two:
        report = replace(REPORT, run_id=uuid4(), audits=())
        await one.spool.open_run(one.opening(report))
        await one.spool.close_run(report)
        await one.ship()
    for one in two:
        assert len(await one.services.history.runs(9)) == 1


async def test_a_role_with_the_printed_grants_takes_the_rows_of_before(database: Database, keeper: Make) -> None:
    await (await keeper("a")).night()
    role = f"keeper_{database.schema}"
    database.sql(f"CREATE ROLE {role} LOGIN PASSWORD 'p'")
    owner = await keeper("a")
    for grant in await grants(owner.services.postgres, role):
        database.sql(grant)
    await owner.services.findings.acknowledge(TABLE, AUDIT.window_start.date(), "known", "ann", "ice1")
    forget(database, owner)
    dsn = f"{database.server.dsn('ledger').replace('icekeeper@', f'{role}@')}?search_path={database.schema}"
    own = await keeper("a", postgres={"dsn": dsn, "password": "p"})
    assert await missing_grants(own.services.postgres) == []
    await own.services.installation.settled()
    assert len(await own.services.findings.acks([TABLE], 9)) == 1
    assert (await own.services.certificates.day(TABLE, CERTIFIED)).certified
    database.sql(f"REVOKE UPDATE (installation_id) ON maintenance_acks FROM {role}")
    (lacking,) = await missing_grants(own.services.postgres)
    assert lacking == f"GRANT UPDATE (installation_id) ON {database.schema}.maintenance_acks TO {role}"
