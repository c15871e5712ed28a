"""Every reason provoked for real: those that a plan or a verdict gives, and that no reason was left out.

Parts that are down: test_reasons_parts.py; commits: test_reasons_commits.py; the session: test_reasons_session.py.
"""

from __future__ import annotations

from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from dataclasses import replace
from datetime import timedelta
from pathlib import Path
from typing import Any

import pytest

from icekeeper.adapters.host import wall_clock
from icekeeper.adapters.iceberg.lakehouse import IcebergLakehouse
from icekeeper.adapters.spark.engine import SparkEngine
from icekeeper.core.enums import AuditStatus, Decision, Stage, Trigger
from icekeeper.core.reasons import Reason
from icekeeper.core.tables.state import TableState
from icekeeper.execution.execute import make_order
from icekeeper.execution.plans import make_plans
from icekeeper.night.ports import Clock
from icekeeper.sandbox import Sandbox
from tests.conftest import COINBASE, SLOT, Night
from tests.integration import test_reasons_commits, test_reasons_parts, test_reasons_session
from tests.integration.evidence import DONE, FAILED, HELD, SKIPPED, Scenario, collected_in, play
from tests.integration.lab import LATER, Change, Lab, laboratory, later

COMPACT, EXPIRE, AUDIT = Stage.COMPACT, Stage.EXPIRE, Stage.AUDIT
OWN = "cold.own"
SCENARIOS: list[Scenario] = []
ON_HADOOP: list[Scenario] = []
scenario, on_hadoop = collected_in(SCENARIOS), collected_in(ON_HADOOP)


@pytest.fixture(scope="module")
async def lab(box: Sandbox, engine: SparkEngine, tmp_path_factory: pytest.TempPathFactory) -> AsyncIterator[Lab]:
    async with laboratory(box, engine, tmp_path_factory.mktemp("plans")) as made:
        await made.refill()
        yield made


def setting(block: str, **keys: Any) -> Change:
    """Sets keys of a block of the settings."""

    def change(document: dict[str, Any]) -> None:
        document[block] = {**document.get(block, {}), **keys}

    return change


def of_table(**keys: Any) -> Change:
    """Sets keys of the one table."""

    def change(document: dict[str, Any]) -> None:
        document["tables"][0] |= keys

    return change


@asynccontextmanager
async def own_table(
    lab: Lab, appends: int = 0, properties: str = "", clock: Clock | None = None
) -> AsyncIterator[Night]:
    """A night over `cold.own` alone, made anew with as many small files as it has appends."""

    def only_that(document: dict[str, Any]) -> None:
        document["tables"] = [{"name": OWN}]

    async with lab.night(only_that, clock=clock) as night:
        await night.sql(f"CREATE OR REPLACE TABLE {{c}}.{OWN} (id INT) USING iceberg {properties}")
        for number in range(appends):
            await night.sql(f"INSERT INTO {{c}}.{OWN} VALUES ({number})")
        yield night
        await night.sql(f"DROP TABLE {{c}}.{OWN}")


# --- nothing to do


@scenario(Reason.NOTHING_SMALL, COMPACT, SKIPPED, "no data files", table=OWN)
async def a_table_without_files_has_none_that_is_small(lab: Lab) -> AsyncIterator[Night]:
    async with own_table(lab) as night:
        yield night


@scenario(Reason.TOO_FEW_FILES, COMPACT, SKIPPED, "2 small of 2 files", table=OWN)
async def a_table_with_two_files_is_left_alone(lab: Lab) -> AsyncIterator[Night]:
    async with own_table(lab, appends=2) as night:
        yield night


@scenario(Reason.NOTHING_EXPIRED, EXPIRE, SKIPPED, "none of 2 snapshots can go", table=OWN)
async def a_table_with_young_snapshots_keeps_them(lab: Lab) -> AsyncIterator[Night]:
    async with own_table(lab, appends=2) as night:
        yield night


# --- something to do, and now is not the time


@scenario(
    Reason.GC_DISABLED, EXPIRE, HELD, "2 snapshots are due, but gc.enabled is false",
    table=OWN, options={"slot": LATER},
)  # fmt: skip
async def a_table_forbids_expiry(lab: Lab) -> AsyncIterator[Night]:
    async with own_table(lab, appends=5, properties="TBLPROPERTIES ('gc.enabled' = 'false')", clock=later) as night:
        yield night


@scenario(Reason.OBSERVING, COMPACT, HELD, "mode is observe; it would rewrite")
async def a_night_only_observes(lab: Lab) -> AsyncIterator[Night]:
    async with lab.night(lambda document: document.update(mode="observe")) as night:
        yield night


@scenario(Reason.OPERATOR_HOLD, COMPACT, HELD, "on hold by ann since 20")
async def an_operator_has_put_a_table_on_hold(lab: Lab) -> AsyncIterator[Night]:
    async with lab.night() as night:
        await night.services.holds.hold(COINBASE, [COMPACT], None, "wait for ann", "ann", "host1")
        yield night
        await night.services.holds.release(COINBASE, [COMPACT], "ann", "host1")


@scenario(Reason.BUDGET, EXPIRE, HELD, "max_duration is used up", attempts=0)
async def a_runs_time_is_used_up(lab: Lab) -> AsyncIterator[Night]:
    moments = iter([SLOT, SLOT])
    # An hour passes after its holds are known and the run has begun.
    async with lab.night(
        setting("run", max_duration="1h"), clock=lambda: next(moments, SLOT + timedelta(hours=1))
    ) as night:
        yield night


@scenario(Reason.DISK_LOW, COMPACT, HELD, "MiB free, run.min_free_disk is")
async def a_disk_has_too_little_free(lab: Lab) -> AsyncIterator[Night]:
    async with lab.night(setting("run", min_free_disk="1024TiB")) as night:
        yield night


@scenario(Reason.CLOCK_SKEW, COMPACT, HELD, "s ahead of PostgreSQL; it would rewrite")
async def a_clock_is_ten_minutes_fast_and_there_is_something_to_compact(lab: Lab) -> AsyncIterator[Night]:
    async with ahead(lab, timedelta(minutes=10)) as night:
        yield night


@scenario(Reason.CLOCK_SKEW, EXPIRE, HELD, "s behind PostgreSQL; it would expire")
async def a_clock_is_ten_minutes_slow_and_there_is_something_to_expire(lab: Lab) -> AsyncIterator[Night]:
    async with ahead(lab, timedelta(minutes=-10)) as night:
        yield night


A_DAY_FAST = timedelta(hours=25)


@scenario(
    Reason.CLOCK_SKEW, AUDIT, FAILED, "is not over yet: this host's clock is 9000",
    options={"slot": wall_clock() + A_DAY_FAST},
)  # fmt: skip
async def a_clock_says_that_today_is_over(lab: Lab) -> AsyncIterator[Night]:
    async with ahead(lab, A_DAY_FAST) as night:
        yield night


@asynccontextmanager
async def ahead(lab: Lab, by: timedelta) -> AsyncIterator[Night]:
    """A night on a host whose clock is ahead of the real clocks of ClickHouse and PostgreSQL."""
    limit = setting("run", max_clock_skew="5m")
    async with lab.night(limit, clock=lambda: wall_clock() + by, compares_clocks=True) as night:
        yield night


@scenario(
    Reason.AUDIT_HOLD, EXPIRE, HELD, "open: 2026-02-15 (missing_data); held until 2026-02-25T02:00Z at the latest"
)
async def rows_are_missing_and_an_expiry_waits_for_their_repair(lab: Lab) -> AsyncIterator[Night]:
    held_on = setting("expire", hold_on=["missing_data"])
    async with lab.night(held_on, clock=lambda: SLOT) as night:
        lab.world.late_rows(COINBASE, SLOT - timedelta(days=3, hours=-1), rows=50)
        (audit,) = (await night.run(AUDIT, slot=SLOT - timedelta(days=2))).audits
        assert audit.status is AuditStatus.MISSING_DATA
        yield night
        night.travel(SLOT + timedelta(days=7, seconds=1))
        order = make_order(night.settings, SLOT, Trigger.MANUAL, stages=(EXPIRE,))
        ((plan,), _) = await make_plans(order, night.services.ports)
        assert plan.decision is Decision.ACT, "after hold_max it goes on"


@on_hadoop(Reason.OFFLOAD_RUNNING, COMPACT, HELD, "waited 30 min for the offload's cycle, running for")
async def an_offload_writes_into_a_catalog_that_takes_one_writer(lab: Lab) -> AsyncIterator[Night]:
    async with lab.night() as night:
        night.ledger("UPDATE offload_watermarks SET status = 'running', updated_at = $1", night.services.ports.clock())
        yield night


# --- what is not there


@scenario(Reason.TABLE_NOT_FOUND, COMPACT, FAILED, "cold.typo", table="cold.typo")
async def a_table_is_not_in_the_catalog(lab: Lab) -> AsyncIterator[Night]:
    async with lab.night(of_table(name="cold.typo")) as night:
        yield night


@scenario(Reason.TABLE_NOT_FOUND, AUDIT, FAILED, "tepid.t", table="tepid.t")
async def a_namespace_is_not_in_the_catalog(lab: Lab) -> AsyncIterator[Night]:
    async with lab.night(of_table(name="tepid.t")) as night:
        yield night


@scenario(Reason.SOURCE_TABLE_NOT_FOUND, AUDIT, FAILED, "there is no table")
async def a_source_is_not_in_its_database(lab: Lab) -> AsyncIterator[Night]:
    async with lab.night(of_table(source="typo")) as night:
        yield night


@scenario(Reason.SOURCE_TABLE_NOT_FOUND, AUDIT, FAILED, "UNKNOWN_IDENTIFIER")
async def a_source_has_no_such_column(lab: Lab) -> AsyncIterator[Night]:
    async with lab.night(of_table(timestamp="typo")) as night:
        yield night


@scenario(Reason.SOURCE_TABLE_NOT_FOUND, AUDIT, FAILED, "UNKNOWN_DATABASE")
async def a_source_has_no_such_database(lab: Lab) -> AsyncIterator[Night]:
    async with lab.night(setting("clickhouse", database="typo")) as night:
        yield night


# --- what an audit says beside its numbers


@scenario(
    Reason.SOURCE_EXPIRED, AUDIT, FAILED, "what the source's TTL keeps",
    counted=True, options={"slot": SLOT - timedelta(days=9)},
)  # fmt: skip
async def a_window_is_older_than_its_source_keeps_rows(lab: Lab) -> AsyncIterator[Night]:
    async with lab.night() as night:
        yield night


@scenario(
    Reason.SOURCE_EMPTY, AUDIT, DONE, "clickhouse holds no row of the window",
    counted=True, status=AuditStatus.OK, options={"slot": SLOT - timedelta(days=3)},
)  # fmt: skip
async def a_day_has_no_rows(lab: Lab) -> AsyncIterator[Night]:
    async with lab.night() as night:
        yield night


@scenario(
    Reason.OFFLOAD_BEHIND, AUDIT, DONE, "watermark 2026-02-17T12:00:00Z lies before the window's newest row",
    counted=True, status=AuditStatus.OK,
)  # fmt: skip
async def an_offload_is_behind(lab: Lab) -> AsyncIterator[Night]:
    async with lab.night() as night:
        ((before,),) = night.ledger("SELECT last_offload_timestamp FROM offload_watermarks")
        night.ledger("UPDATE offload_watermarks SET last_offload_timestamp = $1", SLOT - timedelta(hours=14))
        yield night
        night.ledger("UPDATE offload_watermarks SET last_offload_timestamp = $1", before)


# --- unexpected errors


@scenario(Reason.UNEXPECTED, COMPACT, FAILED, "ValueError: a bug of cold.bronze_trades_coinbase")
async def an_adapter_has_a_bug(lab: Lab) -> AsyncIterator[Night]:
    class Buggy(IcebergLakehouse):
        async def inspect(self, table: str, target_file_size: int) -> TableState:
            raise ValueError(f"a bug of {table}")

    async with lab.night() as night:
        ports = replace(night.services.ports, lakehouse=Buggy(lab.engine, night.catalog))
        night.services = replace(night.services, ports=ports)
        yield night


# --- all of them


@pytest.mark.parametrize("scenario", SCENARIOS, ids=str)
async def test_what_a_plan_or_a_verdict_says_is_in_every_output(lab: Lab, scenario: Scenario) -> None:
    await play(lab, scenario)


@pytest.mark.parametrize("scenario", ON_HADOOP, ids=str)
async def test_what_holds_a_night_on_a_hadoop_catalog_is_found_alike(
    box: Sandbox, engine: SparkEngine, tmp_path: Path, scenario: Scenario
) -> None:
    async with laboratory(box, engine, tmp_path, "hadoop") as hadoop:
        await play(hadoop, scenario)


def test_no_reason_was_left_out() -> None:
    others = (test_reasons_parts, test_reasons_commits, test_reasons_session)
    provoked = {scenario.reason for scenario in (*SCENARIOS, *ON_HADOOP)}
    provoked |= {each.reason for module in others for each in (*module.SCENARIOS, *module.ON_REST)}
    # The one that takes the whole process: tests/process/test_restart.py.
    elsewhere = {Reason.PROCESS_DIED}
    # Broken warehouses: test_misplaced.py. What stands against a whole count: test_whole_counts.py.
    elsewhere |= {Reason.METADATA_CORRUPT, Reason.WAREHOUSE_MOVED}
    elsewhere |= {Reason.SOURCE_TYPE, Reason.SOURCE_FILTERED, Reason.SOURCE_LIMITED}
    # Files that are not what their manifests say: test_proof.py.
    elsewhere |= {Reason.FILE_CORRUPT, Reason.COUNT_MISMATCH}
    # Files that do not fit their table: test_schema_mismatch.py. Tables that do not fit Spark: test_unsupported.py.
    elsewhere |= {Reason.SCHEMA_MISMATCH, Reason.TABLE_UNSUPPORTED}
    # Keys that differ, or can't be compared: test_keys.py and test_keys_text.py.
    elsewhere |= {Reason.CONTENT_MISMATCH, Reason.KEY_TYPE}
    # A past that is gone: test_recount.py. What can't be repaired, and needs no repair: test_repair.py.
    elsewhere |= {Reason.SNAPSHOT_EXPIRED, Reason.NOT_REPAIRABLE, Reason.NOTHING_MISSING}
    # Rewrites that changed something: test_rewrite_proof.py.
    elsewhere |= {Reason.REWRITE_MISMATCH}
    # Snapshots that writers need: test_writer_state.py. Stores that do not delete: test_undeleted.py.
    elsewhere |= {Reason.WRITER_STATE, Reason.DELETE_DISABLED}
    assert set(Reason) - elsewhere == provoked
