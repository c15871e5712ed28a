"""The steps of docs/migration.md on real parts: beside the old flow and in its place; to JDBC; and back."""

from __future__ import annotations

import shutil
from dataclasses import replace
from datetime import timedelta
from pathlib import Path
from typing import Any

import pytest
import yaml

from icekeeper.adapters.host import Host, wall_clock
from icekeeper.adapters.ledger.sql.migrations import migrate
from icekeeper.core.audit.compare import Cause
from icekeeper.core.enums import AuditStatus, RunOutcome, Stage, TaskOutcome, Trigger
from icekeeper.core.reasons import Reason
from icekeeper.doctor import Check, Level, Subject, examine
from icekeeper.execution.wiring import build
from icekeeper.sandbox import Offload, Sandbox
from icekeeper.settings import load
from tests.conftest import BINANCE, GOLD, SLOT, MakeNight, Night, no_waiting, outcomes, tell_session, world_clock
from tests.integration.test_compare import DAY, HOUR, Row, compared, counts, flow_writes
from tests.integration.test_permissions import PASSWORD, postgres_role

pytestmark = pytest.mark.long

# The audit table as the workflow server's flow made it, and a row as it writes them.
FLOW_TABLE = """
    CREATE TABLE maintenance_audit_log (
      id serial PRIMARY KEY, run_timestamp timestamptz NOT NULL DEFAULT now(), iceberg_table varchar(100) NOT NULL,
      ch_source varchar(100) NOT NULL, layer varchar(20) NOT NULL, audit_window_hours int NOT NULL,
      window_start timestamptz NOT NULL, window_end timestamptz NOT NULL, ch_row_count bigint NOT NULL,
      iceberg_row_count bigint NOT NULL, delta bigint NOT NULL, delta_pct numeric(8,4), status varchar(20) NOT NULL,
      notes text)
"""


def observing(document: dict[str, Any]) -> None:
    document["mode"] = "observe"


async def test_beside_the_flow_in_its_place_and_back(make_night: MakeNight) -> None:
    # In the morning: the flow has counted its day, 02:00 to 02:00.
    night = await make_night(BINANCE, GOLD, migrated=False, change=observing, now=SLOT + 2 * HOUR, commits_per_day=24)
    rows = [Row(BINANCE, 0, 0, -5, "ok", (Cause.LATER_ROWS,)), Row(GOLD, 0, 0, 0, "missing_data", (Cause.UNMERGED,))]
    night.ledger(FLOW_TABLE)
    for row in rows:
        raw, there = await counts(night, row)
        flow_writes(night, row, raw + row.clickhouse, there + row.iceberg)
    await migrate(night.world.postgres.dsn(night.world.postgres_database), night.world.postgres.password)
    files, before = night.store(), {table: await night.state(table) for table in (BINANCE, GOLD)}

    watched = await night.run(trigger=Trigger.SCHEDULE)

    assert watched.outcome is RunOutcome.SUCCESS
    changing = [task for task in watched.tasks if task.stage is not Stage.AUDIT]
    assert {(task.outcome, task.reason) for task in changing} == {(TaskOutcome.HELD, Reason.OBSERVING)}
    assert all("it would rewrite" in task.note for task in changing if task.stage is Stage.COMPACT)
    assert {table: await night.state(table) for table in before} == before
    assert night.store() == files
    found = (await compared(night, SLOT - 7 * DAY)).comparisons
    assert [(each.flow.iceberg_table, tuple(why.cause for why in each.explanations)) for each in found] == [
        (row.table, row.causes) for row in rows
    ]
    for each in found:
        assert each.same is not None
        assert each.night is not None
        assert each.same.status is AuditStatus.OK
        assert (each.night.status, each.night.window.end) == (AuditStatus.OK, SLOT.replace(hour=0))

    # The switch: the same file with another mode.
    document = yaml.safe_load(night.config.read_text())
    document["mode"] = "maintain"
    night.config.write_text(yaml.safe_dump(document))
    night.settings = load(night.config)
    night.services = replace(night.services, settings=night.settings)
    switched = await night.run(trigger=Trigger.RESUME)
    assert set(outcomes(switched, Stage.COMPACT).values()) == {TaskOutcome.DONE}

    # And back: the flow's statement is taken as it always was.
    flow_writes(night, replace(rows[0], hours=-1), 100, 94)
    assert night.ledger("SELECT count(*) FROM maintenance_audit_log WHERE run_id IS NULL") == [(3,)]


async def test_a_hadoop_catalogs_tables_move_to_jdbc_and_back_and_lose_no_row(
    make_night: MakeNight, box: Sandbox
) -> None:
    """With the roles of the pages: the database's owner moves the tables, icekeeper's role works on them."""
    hadoop = await make_night(BINANCE, GOLD, catalog="hadoop", old_snapshots=0)
    rows = {table: hadoop.world.rows_iceberg(table) for table in (BINANCE, GOLD)}
    warehouse = hadoop.settings.catalog.warehouse
    assert warehouse is not None
    database, owner, keeper, offload = (
        f"{what}_{hadoop.world.name}" for what in ("iceberg", "owner", "keeper", "offload")
    )
    box.postgres.create_database(database)
    box.postgres.execute(database, f"REVOKE ALL ON DATABASE {database} FROM PUBLIC")
    box.postgres.execute(database, f"CREATE ROLE {owner} LOGIN PASSWORD '{PASSWORD}'")
    box.postgres.execute(database, f"ALTER DATABASE {database} OWNER TO {owner}")
    moving = as_jdbc(hadoop, database, owner, **{"jdbc.init-catalog-tables": "true"})  # a shell's default
    await tell_session(moving.services.engine, moving.settings)
    await moving.sql("CREATE NAMESPACE IF NOT EXISTS {c}.cold")
    for table in rows:
        newest = f"SELECT file FROM {hadoop.world.catalog_name}.{table}.metadata_log_entries ORDER BY timestamp DESC"
        ((file,), *_) = await hadoop.sql(newest)
        await moving.sql(f"CALL {{c}}.system.register_table('{table}', '{file}')")
    await moving.services.close()
    postgres_role(box, database, "PostgreSQL: a JDBC catalog", "icekeeper_catalog", keeper)
    postgres_role(box, database, "PostgreSQL: a JDBC catalog", "offload", offload)

    await moving.services.engine.recycle()  # its session holds the catalog as the owner
    jdbc = as_jdbc(hadoop, database, keeper)
    await tell_session(jdbc.services.engine, jdbc.settings)
    try:
        assert [check for check in await examine(jdbc.services, jdbc.settings.policies()) if refused(check)] == []
        report = await jdbc.run()
    finally:
        await jdbc.services.close()

    assert report.outcome is RunOutcome.SUCCESS, [task.error for task in report.tasks if task.error]
    assert set(outcomes(report, Stage.COMPACT).values()) == {TaskOutcome.DONE}
    for table, count in rows.items():
        state = await jdbc.state(table)
        assert state.health.records == count
        query = "SELECT metadata_location FROM iceberg_tables WHERE table_name = $1"
        ((location,),) = box.postgres.execute(database, query, table.partition(".")[2])
        take_back(Path(location.removeprefix("file:")))
        back = await hadoop.state(table)
        assert (back.health, back.history) == (state.health, state.history)
    # The offload makes a table with its own rights.
    await hadoop.services.engine.recycle()
    writing = as_jdbc(hadoop, database, offload)
    await tell_session(writing.services.engine, writing.settings)
    await writing.sql("CREATE TABLE {c}.cold.another (id bigint) USING iceberg")
    await writing.sql("INSERT INTO {c}.cold.another VALUES (1)")
    await writing.services.close()
    # The old writers go on where icekeeper left off.
    Offload(hadoop.world).advance(SLOT + timedelta(hours=6))
    again = await hadoop.run(Stage.COMPACT)
    assert again.outcome is RunOutcome.SUCCESS, [task.error for task in again.tasks if task.error]


def refused(check: Check) -> bool:
    return check.subject in (Subject.CATALOG, Subject.TABLES) and check.level is Level.ERROR


def as_jdbc(night: Night, database: str, user: str, **properties: str) -> Night:
    """The same tables' files under a JDBC catalog, as a role of PostgreSQL opens it."""
    world = night.world
    document = yaml.safe_load(night.config.read_text())
    document["catalog"] = {
        "name": f"{world.name}_jdbc",
        "type": "jdbc",
        "uri": f"jdbc:postgresql://{world.postgres.dsn(database).partition('@')[2]}",
        "warehouse": night.settings.catalog.warehouse,
        "properties": {
            "jdbc.user": user,
            "jdbc.password": PASSWORD,
            "jdbc.schema-version": "V1",
            **properties,
        },
    }
    path = night.config.with_name(f"{user}.yaml")
    path.write_text(yaml.safe_dump(document))
    settings = load(path)
    engine = night.services.engine
    host = Host(wall_clock, {}, (settings.state_dir,))
    services = build(settings, engine, clock=world_clock(world.spec.now), sleep=no_waiting, surroundings=host)
    return replace(night, config=path, settings=settings, services=services, catalog=settings.catalog.name)


def take_back(metadata: Path) -> None:
    """What the page says of the way back: the newest metadata as the next version of the hadoop catalog."""
    versions = [int(path.name[1:].partition(".")[0]) for path in metadata.parent.glob("v*.metadata.json")]
    following = max(versions) + 1
    shutil.copy(metadata, metadata.parent / f"v{following}.metadata.json")
    (metadata.parent / "version-hint.text").write_text(str(following))
