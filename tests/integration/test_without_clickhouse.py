"""Tables without a source: they are compacted and expired, and no ClickHouse is asked or missed."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import replace
from typing import Any

import pytest

from icekeeper.core.enums import RunOutcome, Stage, TaskOutcome
from icekeeper.core.reasons import Reason
from icekeeper.doctor import Level, Subject
from icekeeper.doctor.source import examine_source
from icekeeper.execution.wiring import build
from tests.conftest import COINBASE, MakeNight, outcomes
from tests.integration.test_doctor import about, ask

Change = Callable[[dict[str, Any]], None]


def none_configured(document: dict[str, Any]) -> None:
    del document["clickhouse"], document["tables"][0]["source"]


def one_that_is_away(document: dict[str, Any]) -> None:
    document["clickhouse"]["url"] = "http://127.0.0.1:2"
    document["tables"][0]["audit"] = "off"


@pytest.mark.parametrize("change", [none_configured, one_that_is_away])
async def test_a_night_compacts_and_expires_and_no_system_is_broken(make_night: MakeNight, change: Change) -> None:
    night = await make_night(COINBASE, change=change, old_snapshots=5)
    before = night.store()

    report = await night.run()

    assert report.outcome is RunOutcome.SUCCESS
    assert outcomes(report, Stage.COMPACT) == {COINBASE: TaskOutcome.DONE}
    assert outcomes(report, Stage.EXPIRE) == {COINBASE: TaskOutcome.DONE}
    assert report.audits == ()
    assert before - night.store()
    # The servers' clocks are those of now: this host's is compared with those that are asked.
    ours = build(night.settings, night.services.engine, before=night.services)
    assert set(await ours.ports.surroundings.clock_ahead()) == {"PostgreSQL"}
    night.services = replace(night.services, ports=replace(night.services.ports, surroundings=ours.ports.surroundings))
    checks = await ask(night)
    assert [check for check in checks if check.level is Level.ERROR] == []
    (clickhouse,) = about(checks, Subject.CLICKHOUSE)
    assert (clickhouse.level, clickhouse.text) == (Level.OK, "not asked, because no table is audited against a source")


async def test_sources_that_were_forgotten_are_a_warning(make_night: MakeNight) -> None:
    def change(document: dict[str, Any]) -> None:
        document["clickhouse"]["url"] = "http://127.0.0.1:2"
        del document["tables"][0]["source"]

    night = await make_night(COINBASE, change=change, days=0.25, commits_per_day=48, files_per_commit=1)
    (check,) = await examine_source(night.services, night.settings.policies())
    assert check.level is Level.WARNING
    assert "no table has a source" in check.text


@pytest.mark.parametrize("database", ["", "k2.", "elsewhere."])
async def test_an_offload_that_writes_is_waited_for_in_whatever_database_it_names(
    make_night: MakeNight, database: str
) -> None:
    def change(document: dict[str, Any]) -> None:
        del document["clickhouse"]
        document["tables"][0]["audit"] = "off"
        document["offload"] |= {"wait": "1m"}

    night = await make_night(COINBASE, catalog="hadoop", change=change, old_snapshots=0)
    night.ledger(
        "UPDATE offload_watermarks SET status = 'running', updated_at = $1, table_name = $2 || table_name",
        night.world.spec.now,
        database,
    )
    report = await night.run(Stage.COMPACT)
    (task,) = report.tasks
    assert (task.outcome, task.reason) == (TaskOutcome.HELD, Reason.OFFLOAD_RUNNING)
