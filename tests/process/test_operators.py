"""The operator's hand from the command line: pause, unpause, ack, certified. No night runs here."""

from __future__ import annotations

import json
import os
from dataclasses import replace
from datetime import UTC, datetime, timedelta
from pathlib import Path
from typing import Any
from uuid import UUID, uuid4

import pytest
import yaml

from icekeeper.adapters.ledger.store import PostgresLedger
from icekeeper.adapters.postgres.pool import Postgres
from icekeeper.core.enums import AuditStatus, Trigger
from icekeeper.sandbox import Sandbox, World, WorldSpec
from icekeeper.scheduling import pause
from tests.conftest import COINBASE, GOLD, SLOT, write_settings
from tests.integration.installations import sole
from tests.process.program import document, icekeeper
from tests.unit.reports import AUDIT, REPORT
from tests.unit.test_certificates import COUNTED

THE_17TH = datetime(2026, 2, 17, tzinfo=UTC)
DAY = timedelta(days=1)


@pytest.fixture(scope="module")
def world(box: Sandbox) -> World:
    return box.world(WorldSpec(now=SLOT, days=0.1, tables=(COINBASE, GOLD), commits_per_day=24, rows_per_file=2))


@pytest.fixture
def config(world: World, tmp_path: Path) -> Path:
    (tmp_path / "state").mkdir()  # as the daemon's start leaves it

    def change(document: dict[str, Any]) -> None:
        document["installation"] = "sole"

    return write_settings(world, tmp_path / "icekeeper.yaml", tmp_path / "state", change)


async def find(world: World, table: str, *days: datetime) -> UUID:
    """A run that found rows missing on these days."""
    run_id, postgres = uuid4(), Postgres(world.postgres.dsn(world.postgres_database), world.postgres.password)
    for day in days:
        run_id = uuid4()
        row = replace(
            AUDIT,
            run_id=run_id,
            trigger=Trigger.MANUAL,
            iceberg_table=table,
            window_start=day,
            window_end=day + DAY,
            run_timestamp=day + DAY,
            status=AuditStatus.MISSING_DATA,
            delta=-1234,
        )
        night = replace(REPORT, run_id=run_id, trigger=Trigger.MANUAL, tasks=(), audits=(row,))
        await PostgresLedger(postgres, sole(postgres)).close_run(night)
    await postgres.close()
    return run_id


def disable(config: Path, table: str) -> None:
    settings = yaml.safe_load(config.read_text())
    settings["tables"] = [{**one, "enabled": one["name"] != table} for one in settings["tables"]]
    config.write_text(yaml.safe_dump(settings))


# --- pause and unpause


def test_a_pause_says_what_it_does_and_is_ended_by_unpause(config: Path, tmp_path: Path) -> None:
    state_dir = tmp_path / "state"
    done = icekeeper("pause", "--until", "2d", "--note", "moving the warehouse", config=config)
    assert done.returncode == 0, done.stderr
    assert "the nights are paused until" in done.stdout
    assert "moving the warehouse" in done.stdout
    assert "the next slot" in done.stdout
    assert "schedule.catch_up (12h)" in done.stdout  # two days are too long for tonight's
    now = datetime.now(UTC)
    held = pause.in_force(state_dir, now)
    assert held is not None
    assert held.until is not None
    assert abs(held.until - now - 2 * DAY) < timedelta(minutes=1)

    again = icekeeper("pause", "--json", config=config)
    message = document(again)
    assert (message["paused"], message["until"], message["note"]) == (True, None, "")
    assert message["by"]
    assert message["next_slot"].endswith("T02:00:00Z")
    assert "before" in icekeeper("pause", "--until", "1h", config=config).stdout

    ended = icekeeper("unpause", config=config)
    assert ended.returncode == 0
    assert "the nights go on" in ended.stdout
    assert pause.read(state_dir) is None
    once_more = icekeeper("unpause", "--json", config=config)  # which is no error
    assert (once_more.returncode, document(once_more)["was"]) == (0, None)


@pytest.mark.parametrize(
    ("until", "message"),
    [("2020-01-01", "lies in the past"), ("soon", "8h or 2d from now"), ("0h", "at least 1s")],
)
def test_an_end_that_cannot_be_exits_2_and_pauses_nothing(
    config: Path, tmp_path: Path, until: str, message: str
) -> None:
    done = icekeeper("pause", "--until", until, config=config)
    assert (done.returncode, done.stdout) == (2, "")
    assert message in done.stderr
    assert pause.read(tmp_path / "state") is None


def test_a_pause_makes_no_state_directory_that_the_daemon_could_not_write_to(config: Path, tmp_path: Path) -> None:
    (tmp_path / "state").rmdir()
    done = icekeeper("pause", config=config)
    assert (done.returncode, done.stdout) == (2, "")
    assert "state_dir" in done.stderr
    assert "is missing" in done.stderr
    assert not (tmp_path / "state").exists()


@pytest.mark.skipif(os.geteuid() == 0, reason="root may write anywhere")
def test_a_pause_in_another_users_state_directory_is_refused(config: Path, tmp_path: Path) -> None:
    (tmp_path / "state").chmod(0o500)
    done = icekeeper("pause", config=config)
    assert (done.returncode, done.stdout) == (2, "")
    assert "is not ours to write: pause as its owner" in " ".join(done.stderr.split())


def test_a_pause_needs_no_postgresql_and_one_that_is_damaged_can_be_ended(
    world: World, config: Path, tmp_path: Path
) -> None:
    config.write_text(config.read_text().replace(f":{world.postgres.port}/", ":1/"))
    assert icekeeper("pause", config=config).returncode == 0
    (tmp_path / "state" / "pause.json").write_text("{half")
    done = icekeeper("unpause", config=config)
    assert done.returncode == 0
    assert "can't be read" in done.stdout
    assert icekeeper("ack", config=config).returncode == 4


# --- ack


async def test_a_day_is_acknowledged_and_who_when_and_why_are_kept(world: World, config: Path) -> None:
    assert icekeeper("migrate", config=config).returncode == 0
    assert "nothing is open" in icekeeper("ack", config=config).stdout
    run_id = await find(world, COINBASE, THE_17TH - DAY, THE_17TH)

    listed = document(icekeeper("ack", "--json", config=config))
    assert [(one["table"], one["day"], one["status"], one["delta"]) for one in listed["open"]] == [
        (COINBASE, "2026-02-16", "missing_data", -1234),
        (COINBASE, "2026-02-17", "missing_data", -1234),
    ]
    assert listed["acknowledged"] == []

    done = icekeeper("ack", COINBASE, "2026-02-17", "--note", "the exchange was down", "--by", "ann", config=config)
    assert done.returncode == 0, done.stderr
    assert f"closed: {COINBASE}, 2026-02-17, missing_data, 1 234 rows" in done.stdout
    assert "still open: 2026-02-16" in done.stdout

    shown = icekeeper("ack", "--list", config=config).stdout
    assert "the exchange was down" in shown
    assert "2026-02-16" in shown
    assert "ann on " in shown
    history = icekeeper("history", str(run_id), config=config).stdout
    assert "by ann: the exchange was down" in " ".join(history.split())
    audit = document(icekeeper("history", str(run_id), "--json", config=config))["audits"][0]
    assert (audit["ack"]["by"], audit["ack"]["rows_missing"]) == ("ann", 1234)

    twice = icekeeper("ack", COINBASE, "2026-02-17", "--note", "again", config=config)
    assert (twice.returncode, twice.stdout) == (2, "")
    assert "ann acknowledged it: the exchange was down" in " ".join(twice.stderr.split())
    assert "2026-02-16" in twice.stderr

    rest = icekeeper("ack", COINBASE, "2026-02-16", "--note", "that one, too", "--json", config=config)
    assert [one["day"] for one in document(rest)["closed"]] == ["2026-02-16"]
    assert document(rest)["open"] == []
    assert document(rest)["by"] not in ("", "ann")
    none = icekeeper("ack", GOLD, "2026-02-16", "--note", "x", config=config)
    assert none.returncode == 2
    assert "It has no open day" in none.stderr


@pytest.mark.parametrize(
    "words",
    [
        ("--rewrite",),
        (COINBASE, "--rewrite"),
        (COINBASE, "--rewrite", "--note", " "),
        (COINBASE, "2026-02-17", "--rewrite", "--note", "x"),
        (COINBASE, "--list", "--rewrite"),
    ],
)
def test_a_rewrite_is_accepted_with_a_table_and_a_note_and_no_day(config: Path, words: tuple[str, ...]) -> None:
    done = icekeeper("ack", *words, config=config)
    assert (done.returncode, done.stdout) == (2, "")
    assert "to accept a rewrite: icekeeper ack TABLE --rewrite --note TEXT" in " ".join(done.stderr.split())


async def test_a_disabled_table_is_left_alone_and_its_findings_can_be_closed_all_the_same(
    world: World, config: Path
) -> None:
    disable(config, GOLD)
    done = icekeeper("run", "--table", GOLD, config=config)
    assert (done.returncode, done.stdout) == (2, "")
    assert "no enabled table has that name" in done.stderr
    assert icekeeper("migrate", config=config).returncode == 0
    await find(world, GOLD, THE_17TH)
    assert icekeeper("ack", GOLD, "2026-02-17", "--note", "was never used", config=config).returncode == 0


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        (("cold.typo", "2026-02-17", "--note", "x"), COINBASE),
        ((COINBASE, "yesterday", "--note", "x"), "a day like 2026-02-17"),
        ((COINBASE, "2026-02-17"), "a note that says why"),
        ((COINBASE, "2026-02-17", "--note", " "), "a note that says why"),
        ((COINBASE, "--note", "x"), "a DAY"),
        ((COINBASE,), f"icekeeper ack --list {COINBASE}"),
        (("--note", "x"), "icekeeper ack TABLE DAY --note TEXT"),
        (("--list", "--limit", "0"), "1<=x<=1000"),
    ],
)
def test_bad_usage_exits_2_and_says_what_is_needed(config: Path, arguments: tuple[str, ...], message: str) -> None:
    done = icekeeper("ack", *arguments, config=config)
    assert (done.returncode, done.stdout) == (2, "")
    assert message in done.stderr


def test_the_one_behind_sudo_is_the_one_who_did_it(
    config: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("SUDO_USER", "ben")
    icekeeper("pause", config=config)
    assert json.loads((tmp_path / "state" / "pause.json").read_text())["by"] == "ben"


# --- migrate --grants


def test_the_grants_for_a_role_are_printed_as_statements_that_its_owner_can_run(box: Sandbox, tmp_path: Path) -> None:
    world = box.world(WorldSpec(now=SLOT, days=0.1, tables=(COINBASE,), commits_per_day=24, rows_per_file=2))
    config = write_settings(world, tmp_path / "icekeeper.yaml", tmp_path / "state")
    early = icekeeper("migrate", "--grants", "keeper", config=config)
    assert (early.returncode, early.stdout) == (4, "")
    assert "run `icekeeper migrate` first" in early.stderr
    assert icekeeper("migrate", config=config).returncode == 0
    name, password = f"keeper-{world.name}", "p"
    database = world.postgres_database
    world.postgres.execute(database, f"CREATE ROLE \"{name}\" LOGIN PASSWORD '{password}'")
    as_keeper = tmp_path / "keeper.yaml"
    settings = yaml.safe_load(config.read_text())
    dsn = settings["postgres"]["dsn"]
    account = dsn.partition("//")[2].partition("@")[0]
    settings["postgres"] = {"dsn": dsn.replace(f"//{account}@", f"//{name}@"), "password": password}
    as_keeper.write_text(yaml.safe_dump(settings))
    refused = icekeeper("history", config=as_keeper)
    assert refused.returncode == 4
    assert "permission denied" in refused.stderr

    done = icekeeper("migrate", "--grants", name, config=config)
    assert (done.returncode, done.stderr) == (0, "")
    assert document(icekeeper("migrate", "--grants", name, "--json", config=config)) == [
        line.removesuffix(";") for line in done.stdout.splitlines()
    ]
    assert icekeeper("history", config=as_keeper).returncode == 4  # nothing was changed so far
    for statement in done.stdout.splitlines():
        world.postgres.execute(database, statement)
    assert icekeeper("history", config=as_keeper).returncode == 0
    assert icekeeper("migrate", "--grants", " ", config=config).returncode == 2


# --- certified


async def test_days_are_certified_or_not_by_the_exit_code_and_listed(world: World, config: Path) -> None:
    assert icekeeper("migrate", config=config).returncode == 0
    day, run_id = THE_17TH - 40 * DAY, uuid4()
    postgres = Postgres(world.postgres.dsn(world.postgres_database), world.postgres.password)
    row = replace(
        COUNTED, run_id=run_id, trigger=Trigger.MANUAL, iceberg_table=COINBASE, run_timestamp=day + DAY,
        window_start=day, window_end=day + DAY, watermark=day + DAY,
    )  # fmt: skip
    night = replace(REPORT, run_id=run_id, trigger=Trigger.MANUAL, tasks=(), audits=(row,))
    await PostgresLedger(postgres, sole(postgres)).close_run(night)
    await postgres.close()

    one = icekeeper("certified", COINBASE, f"{day:%F}", config=config)
    assert (one.returncode, one.stdout.count("\n")) == (0, 1), one.stderr
    assert f"{COINBASE} {day:%F}: certified by counts since" in one.stdout
    for options, why in ((("--by", "keys"), "counts_only"), (("--run", str(uuid4())), "not_confirmed")):
        done = icekeeper("certified", COINBASE, f"{day:%F}", *options, config=config)
        assert (done.returncode, f"not certified, {why}: " in done.stdout) == (1, True), done
    none = document(icekeeper("certified", GOLD, f"{day:%F}", "--json", config=config))
    assert (none["certified"], none["uncertified"], none["certificate"]) == (False, "not_audited", None)
    listed = document(icekeeper("certified", COINBASE, "--days", "400", "--json", config=config))["items"]
    found = next(item for item in listed if item["day"] == f"{day:%F}")
    assert (found["certified"], found["audited_by"], found["confirmed"]) == (True, str(run_id), "counts")
    assert "by counts" in icekeeper("certified", "--days", "400", config=config).stdout
    assert icekeeper("certified", "cold.nowhere", config=config).returncode == 2
    assert icekeeper("certified", COINBASE, "--run", str(run_id), config=config).returncode == 2
