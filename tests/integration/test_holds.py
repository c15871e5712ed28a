"""Holds of operators on a real PostgreSQL: given, ended and remembered, also while it is away; and on real tables."""

from __future__ import annotations

import asyncio
import errno
import json
from collections.abc import AsyncIterator
from dataclasses import dataclass, field
from datetime import datetime, timedelta
from itertools import count
from pathlib import Path
from typing import Any

import pytest
from structlog.testing import capture_logs

from icekeeper.adapters.ledger.holds import PostgresHolds
from icekeeper.adapters.ledger.identity import Identity
from icekeeper.adapters.ledger.installation import Installation
from icekeeper.adapters.ledger.kept_holds import FILE, HoldsNotKept, KeptHolds
from icekeeper.adapters.ledger.move import move
from icekeeper.adapters.ledger.sql.grants import grants
from icekeeper.adapters.ledger.sql.migrations import migrate
from icekeeper.adapters.postgres.pool import Postgres
from icekeeper.core.enums import NIGHT, Stage, TaskOutcome, Trigger
from icekeeper.core.errors import ConfigError, IcekeeperError, PermanentError, TransientError
from icekeeper.core.reasons import Reason
from icekeeper.core.tables.holds import OperatorHold
from icekeeper.execution import holding
from icekeeper.execution.execute import make_order
from icekeeper.execution.plans import make_plans
from icekeeper.sandbox import Sandbox
from tests.conftest import COINBASE, GOLD, SLOT, MakeNight

A, B = "cold.silver_trades", "cold.gold_ohlcv"
HOUR = timedelta(hours=1)


@dataclass
class Ledger:
    """A database of its own, two installations in it, and a clock that is set by hand."""

    box: Sandbox
    name: str
    postgres: Postgres
    place: Path
    now: datetime = SLOT
    _others: list[Postgres] = field(default_factory=list)

    def holds(self, name: str = "one", postgres: Postgres | None = None) -> PostgresHolds:
        state_dir = self.place / name
        state_dir.mkdir(exist_ok=True)
        postgres = postgres or self.postgres
        return PostgresHolds(postgres, Installation(postgres, Identity(name), state_dir), state_dir, lambda: self.now)

    def kept(self, name: str = "one") -> list[str] | None:
        found = KeptHolds(self.place / name).read()
        return None if found is None else stages(found)

    def away(self) -> Postgres:
        """The same, where no server answers."""
        gone = Postgres("postgresql://icekeeper@127.0.0.1:1/k2", None)
        self._others.append(gone)
        return gone

    def sql(self, text: str, *args: object) -> list[tuple[Any, ...]]:
        return self.box.postgres.execute(self.name, text, *args)

    async def close(self) -> None:
        for each in (self.postgres, *self._others):
            await each.close()


_numbers = count(1)


@pytest.fixture
async def ledger(box: Sandbox, tmp_path: Path) -> AsyncIterator[Ledger]:
    name = f"holds{next(_numbers)}"
    box.postgres.create_database(name)
    await migrate(box.postgres.dsn(name), box.postgres.password)
    made = Ledger(box, name, Postgres(box.postgres.dsn(name), box.postgres.password), tmp_path)
    yield made
    await made.close()


def stages(holds: tuple[OperatorHold, ...]) -> list[str]:
    return sorted(hold.stage.value for hold in holds)


async def test_a_hold_is_in_force_until_it_is_released_and_who_did_both_stays(ledger: Ledger) -> None:
    holds = ledger.holds()
    assert await holds.of(A) == ()
    given = await holds.hold(A, NIGHT, None, "a 'note' with \0 and \ud800", "ann", "host1")
    assert stages(given) == ["audit", "compact", "expire"]
    assert {(hold.note, hold.by, hold.host, hold.at, hold.until) for hold in given} == {
        ("a 'note' with \N{REPLACEMENT CHARACTER} and ?", "ann", "host1", SLOT, None)
    }
    assert set(await holds.of(A)) == set(given)
    assert await holds.of(B) == ()
    ledger.now += HOUR
    (released,) = await holds.release(A, [Stage.EXPIRE], "bob", "host2")
    assert (released.stage, released.released_by, released.released_host, released.released_at) == (
        Stage.EXPIRE, "bob", "host2", SLOT + HOUR,
    )  # fmt: skip
    assert stages(await holds.of(A)) == ["audit", "compact"]
    assert await holds.release(A, [Stage.EXPIRE], "bob", "host2") == ()
    assert stages(await holds.release(A, NIGHT, "bob", "host2")) == ["audit", "compact"]
    assert await holds.of(A) == ()
    assert {hold.released_by for hold in await holds.newest([A, B], 10)} == {"bob"}
    assert len(await holds.newest([A], 2)) == 2
    assert await holds.newest([B], 10) == ()


async def test_a_hold_ends_by_itself_and_several_add_up(ledger: Ledger) -> None:
    holds = ledger.holds()
    await holds.hold(A, [Stage.EXPIRE], SLOT + HOUR, "short", "ann", "h")
    ledger.now += timedelta(seconds=1)
    await holds.hold(A, [Stage.EXPIRE], SLOT + 3 * HOUR, "long", "bob", "h")
    for hours, notes in ((0, ["short", "long"]), (1, ["long"]), (2, ["long"]), (3, [])):
        ledger.now = SLOT + hours * HOUR
        assert [hold.note for hold in await holds.of(A)] == notes
    # What is over is not released.
    assert await holds.release(A, NIGHT, "eve", "h") == ()
    assert {hold.released_at for hold in await holds.newest([A], 10)} == {None}


async def test_the_holds_of_another_installation_are_neither_seen_nor_released(ledger: Ledger) -> None:
    one, two = ledger.holds("one"), ledger.holds("two")
    await one.hold(A, [Stage.EXPIRE], None, "mine", "ann", "h")
    assert await two.of(A) == ()
    assert await two.release(A, NIGHT, "eve", "h") == ()
    assert await two.newest([A], 10) == ()
    assert stages(await one.of(A)) == ["expire"]


@pytest.mark.parametrize(
    ("before", "known"),
    [
        (lambda path: None, ["compact", "expire"]),
        (lambda path: path.write_text('{"holds": []}'), []),
        (lambda path: path.unlink(), None),
        (lambda path: path.write_text('{"holds": [{"table"'), None),
        (lambda path: path.write_text('{"holds": [{"table": "cold.a"}]}'), None),
        (lambda path: path.write_text("[]"), None),
        (lambda path: path.write_bytes(b"\xff\xfe"), None),
        (lambda path: (path.unlink(), path.mkdir()), None),
    ],
    ids=["as it was", "none in force", "no file", "cut off", "lacks fields", "a list", "no text", "a directory"],
)
async def test_while_postgresql_is_away_those_on_disk_are_in_force(
    ledger: Ledger, before: Any, known: list[str] | None
) -> None:
    await ledger.holds().hold(A, [Stage.COMPACT, Stage.EXPIRE], SLOT + HOUR, "n", "ann", "h")
    before(ledger.place / "one" / FILE)
    away = ledger.holds("one", ledger.away())
    if known is None:
        with pytest.raises(TransientError) as caught:
            await away.of(A)
        assert caught.value.reason is Reason.LEDGER_DOWN
    else:
        assert stages(await away.of(A)) == known
        assert await away.of(B) == ()
    for order in (away.hold(A, NIGHT, None, "n", "ann", "h"), away.release(A, NIGHT, "ann", "h")):
        with pytest.raises(TransientError):
            await order


async def test_a_ledger_that_could_not_be_asked_is_asked_again_after_a_minute(ledger: Ledger) -> None:
    holds = ledger.holds()
    await holds.hold(A, [Stage.EXPIRE], None, "n", "ann", "h")
    ledger.sql("UPDATE maintenance_holds SET released_at = now()")
    ledger.sql("ALTER TABLE maintenance_holds RENAME TO hidden")
    assert stages(await holds.of(A)) == ["expire"]
    ledger.sql("ALTER TABLE hidden RENAME TO maintenance_holds")
    for seconds, known in ((0, ["expire"]), (59, ["expire"]), (60, [])):
        ledger.now = SLOT + timedelta(seconds=seconds)
        assert stages(await holds.of(A)) == known
    ledger.sql("ALTER TABLE maintenance_holds RENAME TO hidden")
    (ledger.place / "one" / FILE).unlink()
    for _ in range(2):
        with pytest.raises(IcekeeperError) as caught:
            await holds.of(A)
        assert caught.value.reason is Reason.LEDGER_DOWN


async def test_what_is_on_disk_follows_the_ledger_and_reading_writes_nothing(ledger: Ledger) -> None:
    holds = ledger.holds()
    assert (await holds.of(A), ledger.kept()) == ((), None)
    await holds.keep()
    assert ledger.kept() == []
    await holds.hold(A, [Stage.EXPIRE], None, "n", "ann", "h")
    assert ledger.kept() == ["expire"]
    path = ledger.place / "one" / FILE
    written = path.stat().st_mtime_ns
    await holds.keep()
    assert path.stat().st_mtime_ns == written
    # Another host releases it: known with the next look.
    ledger.sql("UPDATE maintenance_holds SET released_at = now(), released_by = 'bob', released_host = 'host2'")
    assert (await holds.of(A), ledger.kept()) == ((), ["expire"])
    await holds.keep()
    assert ledger.kept() == []
    # Of a stage that a newer icekeeper has: no business of this version's.
    await holds.hold(A, [Stage.AUDIT], None, "n", "ann", "h")
    ledger.sql("UPDATE maintenance_holds SET stage = 'polish' WHERE stage = 'audit'")
    assert await holds.of(A) == ()


@pytest.mark.parametrize("lost", ["restored from before", "another server"])
async def test_a_ledger_that_never_had_a_hold_does_not_end_it_and_is_given_it_again(ledger: Ledger, lost: str) -> None:
    first = ledger.holds()
    await first.hold(A, [Stage.EXPIRE, Stage.AUDIT], None, "keep it", "ann", "h")
    await first.hold(B, [Stage.EXPIRE], SLOT + HOUR, "n", "ann", "h")
    await first.release(A, [Stage.AUDIT], "ann", "h")
    ledger.sql("TRUNCATE maintenance_holds" + (", maintenance_installations" if lost == "another server" else ""))
    ledger.now += HOUR  # what has ended meanwhile is not revived
    again = ledger.holds()
    await Installation(ledger.postgres, Identity("one"), ledger.place / "one").settled()
    assert [hold.note for hold in await again.of(A)] == ["keep it"]  # a dry run, which writes nothing
    assert ledger.sql("SELECT count(*) FROM maintenance_holds") == [(0,)]
    with capture_logs() as logs:
        await again.keep()
        await again.keep()
    assert [line["event"] for line in logs if line["event"] == "holds_put_back"] == ["holds_put_back"]
    assert (ledger.kept(), stages(await again.in_force())) == (["expire"], ["expire"])
    assert ledger.sql("SELECT iceberg_table, stage, note, held_by, held_at FROM maintenance_holds") == [
        (A, "expire", "keep it", "ann", SLOT)
    ]
    # A release takes back also what was not put back before.
    ledger.sql("TRUNCATE maintenance_holds")
    assert stages(await ledger.holds().release(A, NIGHT, "bob", "h")) == ["expire"]
    assert (await again.of(A), ledger.kept()) == ((), [])


async def test_a_hold_that_is_not_kept_is_an_error_and_the_file_of_before_is_not_believed(
    ledger: Ledger, monkeypatch: pytest.MonkeyPatch
) -> None:
    holds = ledger.holds()
    await holds.keep()

    def full(_: int) -> None:
        raise OSError(errno.ENOSPC, "No space left on device")

    with monkeypatch.context() as patched:
        patched.setattr("os.fsync", full)
        with pytest.raises(PermanentError, match=r"is on hold in the ledger; but .*No space left"):
            await holds.hold(A, [Stage.EXPIRE], None, "n", "ann", "h")
        with pytest.raises(HoldsNotKept):
            await holds.keep()
        assert len(await holds.release(A, NIGHT, "ann", "h")) == 1
    assert sorted(path.name for path in (ledger.place / "one").glob("*holds*")) == [f"{FILE}.lock"]
    with pytest.raises(TransientError):
        await ledger.holds("one", ledger.away()).of(A)
    await holds.keep()
    assert ledger.kept() == []


async def test_where_postgresql_goes_away_after_an_order_it_is_kept_all_the_same(
    ledger: Ledger, monkeypatch: pytest.MonkeyPatch
) -> None:
    holds = ledger.holds()
    await holds.hold(A, [Stage.AUDIT], None, "n", "ann", "h")
    ask = holds._asked

    async def away() -> Any:
        raise TransientError("away", reason=Reason.LEDGER_DOWN)

    monkeypatch.setattr(holds, "_asked", away)
    assert stages(await holds.hold(A, [Stage.EXPIRE], None, "n", "ann", "h")) == ["expire"]
    assert ledger.kept() == ["audit", "expire"]
    calls = iter((ask, away))  # before the release, and after it
    monkeypatch.setattr(holds, "_asked", lambda: next(calls)())
    await holds.release(A, [Stage.AUDIT], "ann", "h")
    assert ledger.kept() == ["expire"]


async def test_what_a_night_has_read_since_counts_as_well_as_the_file(ledger: Ledger) -> None:
    holds, other = (
        ledger.holds(),
        PostgresHolds(
            ledger.postgres,
            Installation(ledger.postgres, Identity("one"), ledger.place / "one"),
            ledger.place / "elsewhere",
            lambda: ledger.now,
        ),
    )
    await holds.keep()
    await other.hold(A, [Stage.EXPIRE], None, "from another host", "ann", "h2")
    assert stages(await holds.of(A)) == ["expire"]
    ledger.sql("ALTER TABLE maintenance_holds RENAME TO hidden")
    assert (stages(await holds.of(A)), ledger.kept()) == (["expire"], [])
    # An expiry asks again at once, without the minute of grace.
    ledger.sql("UPDATE hidden SET released_at = now()")
    ledger.sql("ALTER TABLE hidden RENAME TO maintenance_holds")
    assert stages(await holds.of(A)) == ["expire"]
    assert await holds.of(A, anew=True) == ()


async def test_an_answer_in_between_takes_no_error_away_from_who_waits_for_the_disk(
    ledger: Ledger, monkeypatch: pytest.MonkeyPatch
) -> None:
    holds = ledger.holds()
    await holds.of(A)
    ledger.sql("ALTER TABLE maintenance_holds RENAME TO hidden")

    def read(_: KeptHolds) -> None:
        holds._away = None  # the poller has had an answer

    monkeypatch.setattr(KeptHolds, "read", read)
    with pytest.raises(IcekeeperError):
        await holds.of(A)


async def test_many_writers_leave_the_file_as_the_ledger_is(ledger: Ledger) -> None:
    writers = [ledger.holds() for _ in range(5)]
    orders = [each.hold(A, [stage], None, "n", "ann", "h") for each in writers for stage in NIGHT]
    await asyncio.gather(*orders, *(each.keep() for each in writers))
    assert ledger.kept() == sorted(5 * [stage.value for stage in NIGHT])
    assert not list((ledger.place / "one").glob(".holds*"))


async def test_holds_of_a_table_that_left_the_configuration_are_listed_and_released(ledger: Ledger) -> None:
    holds = ledger.holds()
    await holds.hold("cold.gone", [Stage.EXPIRE], None, "n", "ann", "h")
    assert [hold.table for hold in await holds.newest(None, 5)] == ["cold.gone"]


async def test_a_role_that_keeps_the_ledger_gives_and_releases_holds_and_deletes_none(ledger: Ledger) -> None:
    role = f"keeper_{ledger.name}"
    ledger.sql(f"CREATE ROLE {role} LOGIN PASSWORD 'p'")
    for statement in await grants(ledger.postgres, role):
        ledger.sql(statement)
    target = ledger.box.postgres.dsn(ledger.name).replace("icekeeper@", f"{role}@")
    keeper = Postgres(target, "p")
    holds = ledger.holds("one", keeper)
    await holds.hold(A, [Stage.EXPIRE], None, "n", "ann", "h")
    assert len(await holds.release(A, NIGHT, "ann", "h")) == 1
    with pytest.raises(PermanentError):
        async with keeper.connection() as connection:
            await connection.execute("DELETE FROM maintenance_holds")
    await keeper.close()


async def test_a_move_to_another_ledger_takes_holds_along_and_revives_none_that_was_released_there(
    ledger: Ledger,
) -> None:
    server = f"{ledger.name}_server"
    ledger.box.postgres.create_database(server)
    await migrate(ledger.box.postgres.dsn(server), ledger.box.postgres.password)
    target = Postgres(ledger.box.postgres.dsn(server), ledger.box.postgres.password)
    await ledger.holds().hold(A, [Stage.EXPIRE, Stage.AUDIT], None, "n", "ann", "h")
    await move(ledger.postgres, target)
    there = ledger.holds("one", target)
    assert stages(await there.of(A)) == ["audit", "expire"]
    await there.release(A, [Stage.EXPIRE], "bob", "h")
    moved = {each.table: each.moved for each in await move(ledger.postgres, target)}
    assert moved["maintenance_holds"] == 0
    assert stages(await there.of(A)) == ["audit"]
    await target.close()


async def test_a_table_on_hold_stays_as_it_is_until_it_is_released(make_night: MakeNight) -> None:
    night = await make_night(tables=(COINBASE, GOLD))
    for wrong in (
        holding.hold(night.services, "cold.nowhere", (), None, "n", "ann"),
        holding.hold(night.services, GOLD, (Stage.REPAIR,), None, "n", "ann"),
        holding.hold(night.services, GOLD, (), night.services.ports.clock(), "n", "ann"),
    ):
        with pytest.raises(ConfigError):
            await wrong
    await holding.hold(night.services, COINBASE, (), None, "keep it", "ann")
    before, objects = (await night.state(COINBASE)).health, night.store()
    plans, _ = await make_plans(make_order(night.settings, SLOT, Trigger.MANUAL), night.services.ports)
    held = {(plan.reason, plan.note.partition(";")[0]) for plan in plans if plan.table == COINBASE}
    assert {reason for reason, _ in held} <= {Reason.OPERATOR_HOLD, Reason.NOTHING_EXPIRED}

    report = await night.run(tables=(COINBASE,))
    tasks = {task.stage: task for task in report.tasks}
    for stage in (Stage.COMPACT, Stage.AUDIT):
        assert (tasks[stage].outcome, tasks[stage].reason) == (TaskOutcome.HELD, Reason.OPERATOR_HOLD)
        assert "keep it" in tasks[stage].note
    assert (report.audits, (await night.state(COINBASE)).health, night.store()) == ((), before, objects)
    kept = json.loads((night.settings.state_dir / FILE).read_text())
    assert {one["table"] for one in kept["holds"]} == {COINBASE}

    assert len(await holding.release(night.services, COINBASE, (), "bob")) == 3
    report = await night.run(Stage.COMPACT, tables=(COINBASE,))
    assert [task.outcome for task in report.tasks] == [TaskOutcome.DONE]
    query = "SELECT stage, note, held_by, released_by FROM maintenance_holds ORDER BY stage"
    assert night.ledger(query) == [(stage, "keep it", "ann", "bob") for stage in ("audit", "compact", "expire")]
