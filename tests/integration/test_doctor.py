"""The doctor on real systems: a healthy lakehouse passes, and each fault has its check and its advice."""

from __future__ import annotations

import re
from collections.abc import Callable
from dataclasses import replace
from datetime import UTC, datetime, timedelta
from pathlib import Path
from typing import Any
from uuid import uuid4

import yaml

from icekeeper.adapters.host import Host, wall_clock
from icekeeper.doctor import Check, Level, Subject, examine
from icekeeper.doctor.ledger import examine_ledger
from icekeeper.execution.wiring import build
from icekeeper.sandbox import Sandbox, WorldSpec
from icekeeper.settings import load
from tests.conftest import BINANCE, COINBASE, SILVER, SLOT, MakeNight, Night, write_settings
from tests.process.program import document, icekeeper

SMALL: dict[str, Any] = {"days": 0.25, "commits_per_day": 48, "files_per_commit": 1, "old_snapshots": 0}
WARNED = (Subject.POSTGRES, Level.WARNING)
TIDY = "SET TBLPROPERTIES ('write.metadata.delete-after-commit.enabled'='true')"


async def ask(night: Night, *tables: str) -> list[Check]:
    policies = night.settings.policies()
    checks = await examine(night.services, tuple(p for p in policies if not tables or p.name in tables))
    assert all(check.advice for check in checks if check.level is not Level.OK)
    return checks


def about(checks: list[Check], part: Subject, level: Level | None = None) -> list[Check]:
    return [each for each in checks if each.subject is part and level in (None, each.level)]


def only(checks: list[Check], part: Subject, level: Level) -> Check:
    (found,) = about(checks, part, level)
    return found


def compare_clocks(night: Night, ahead: timedelta = timedelta(0)) -> None:
    """Compares the servers' clocks with this host's, which is `ahead`."""
    services = night.services
    servers = {"PostgreSQL": services.postgres.now, "ClickHouse": services.source.now}
    host = Host(lambda: wall_clock() + ahead, servers, (night.settings.state_dir,))
    night.services = replace(services, ports=replace(services.ports, surroundings=host))


def setting(path: str, value: Any) -> Callable[[dict[str, Any]], None]:
    """A change of the settings document: `block.key`."""

    def change(document: dict[str, Any]) -> None:
        *blocks, key = path.split(".", 2) if path.startswith("catalog.properties") else path.split(".")
        for block in blocks:
            document = document[block]
        document[key] = value

    return change


def rebuilt(night: Night, change: Callable[[dict[str, Any]], None]) -> Night:
    """The same world and session with other settings; nothing about the catalog may differ."""
    path = night.config.with_suffix(f".{uuid4().hex[:6]}.yaml")
    document = yaml.safe_load(night.config.read_text())
    change(document)
    path.write_text(yaml.safe_dump(document))
    settings, parts = load(path), night.services.ports
    services = build(
        settings, night.services.engine, clock=parts.clock, sleep=parts.sleep, surroundings=parts.surroundings
    )
    return replace(night, config=path, settings=settings, services=services)


async def test_a_healthy_lakehouse_is_all_fine_and_nothing_is_left_behind(make_night: MakeNight) -> None:
    night = await make_night(BINANCE, COINBASE, **SMALL)
    for table in (BINANCE, COINBASE):
        await night.sql(f"ALTER TABLE {{c}}.{table} {TIDY}")
    compare_clocks(night)
    stored, rows = night.store(), night.ledger("SELECT count(*) FROM maintenance_runs")

    checks = await ask(night)

    assert [check for check in checks if check.level is not Level.OK] == []
    assert {check.subject for check in checks} == set(Subject)
    assert night.store() == stored
    assert night.ledger("SELECT count(*) FROM maintenance_runs") == rows


async def test_before_the_ledger_is_migrated_the_doctor_says_so(make_night: MakeNight) -> None:
    night = await make_night(COINBASE, migrated=False, **SMALL)
    assert "icekeeper migrate" in only(await ask(night), Subject.POSTGRES, Level.ERROR).advice


async def test_each_refused_password_names_the_setting_that_has_it(make_night: MakeNight) -> None:
    def change(document: dict[str, Any]) -> None:
        document["postgres"]["password"] = "wrong"
        document["clickhouse"]["password"] = "wrong"
        document["catalog"]["properties"]["s3.secret-access-key"] = "wrong"

    night = await make_night(COINBASE, SILVER, migrated=False, change=change, **SMALL)
    checks = await ask(night)

    assert "s3.secret-access-key" in only(checks, Subject.STORAGE, Level.ERROR).advice
    assert "clickhouse.user (icekeeper)" in only(checks, Subject.CLICKHOUSE, Level.ERROR).advice
    assert "postgres.password_file" in only(checks, Subject.POSTGRES, Level.ERROR).advice
    assert all("skipped" in check.text for check in about(checks, Subject.TABLES))
    assert "wrong" not in " ".join(check.text for check in checks)


async def test_servers_that_are_down_have_a_check_each(make_night: MakeNight) -> None:
    night = await make_night(COINBASE, **SMALL)

    def away(document: dict[str, Any]) -> None:
        document["postgres"]["dsn"] = "postgresql://icekeeper@127.0.0.1:1/nowhere"
        document["clickhouse"]["url"] = "http://127.0.0.1:2"
        document["catalog"]["properties"]["s3.endpoint"] = "http://127.0.0.1:3"
        document["catalog"]["uri"] = "jdbc:postgresql://127.0.0.1:4/nowhere"

    gone = rebuilt(night, away)
    checks = await ask(gone)
    await gone.services.close()

    assert [check.subject for check in checks if check.level is Level.ERROR] == [
        Subject.CATALOG, Subject.STORAGE, Subject.CLICKHOUSE, Subject.POSTGRES,
    ]  # fmt: skip
    assert "127.0.0.1:3 (catalog.properties.s3.endpoint)" in only(checks, Subject.STORAGE, Level.ERROR).text
    assert "127.0.0.1:4 (catalog.uri)" in only(checks, Subject.CATALOG, Level.ERROR).text
    assert about(checks, Subject.ENGINE, Level.OK)


async def test_a_database_without_a_catalog_is_an_error_and_no_catalog_is_created(make_night: MakeNight) -> None:
    night = await make_night(COINBASE, **SMALL)
    empty = f"{night.world.name}_empty"
    night.box.postgres.create_database(empty)
    uri = night.settings.catalog.uri or ""
    elsewhere = rebuilt(night, setting("catalog.uri", uri.replace(night.world.postgres_database, empty)))
    checks = await ask(elsewhere)
    await elsewhere.services.close()
    assert f"{empty} has no table iceberg_tables" in only(checks, Subject.CATALOG, Level.ERROR).text
    assert night.box.postgres.execute(empty, "SELECT 1 FROM pg_tables WHERE schemaname = 'public'") == []


async def test_a_catalog_that_refuses_its_password_names_the_setting_that_has_it(make_night: MakeNight) -> None:
    night = await make_night(COINBASE, change=setting("catalog.properties.jdbc.password", "wrong"), **SMALL)
    assert "jdbc.password" in only(await ask(night), Subject.CATALOG, Level.ERROR).advice


async def test_oddities_of_tables_and_sources_come_with_the_statement_that_helps(
    make_night: MakeNight,
) -> None:
    night = await make_night(BINANCE, COINBASE, **SMALL)
    name = f"{night.world.catalog_name}.{COINBASE}"
    await night.sql(f"ALTER TABLE {{c}}.{COINBASE} SET TBLPROPERTIES ('gc.enabled'='false')")
    night.world.clickhouse.execute(
        "ALTER TABLE bronze_trades_coinbase MODIFY TTL toDateTime(exchange_timestamp) + INTERVAL 3 DAY",
        database=night.world.clickhouse_database,
    )
    night.ledger("UPDATE offload_watermarks SET status = 'failed' WHERE table_name = 'bronze_trades_binance'")
    night.ledger("UPDATE offload_watermarks SET last_successful_run = '2026-02-17 12:00Z' WHERE table_name ~ 'coin'")

    def change(document: dict[str, Any]) -> None:
        document["tables"] += [
            {"name": "cold.bronze_trade_coinbase", "source": "no_such_table", "timestamp": "exchange_timestamp"},
            {"name": "warm.elsewhere"},
        ]
        document["tables"][0] |= {"timestamp": "event_tim"}
        document["tables"][1] |= {"source_ttl": "7d", "audit": {"key": ["sequence_no"], "compare": ["price"]}}

    odd = rebuilt(night, change)
    checks = await ask(odd)
    await odd.services.close()

    tables = {check.text: check.advice for check in about(checks, Subject.TABLES)}
    assert f"Did you mean {COINBASE}" in tables["there is no table cold.bronze_trade_coinbase"]
    assert "There is cold.*" in tables["there is no table warm.elsewhere"]
    assert f"ALTER TABLE {name} SET TBLPROPERTIES ('gc.enabled'='true')" in advice_for(tables, "gc.enabled is false")
    assert "there is event_time" in advice_for(tables, "the column event_tim is not there")
    endless = advice_for(tables, "metadata files of 2 tables are kept for ever")
    assert f"ALTER TABLE {name} {TIDY};" in endless
    sources = {check.text: check.advice for check in about(checks, Subject.CLICKHOUSE)}
    assert "Set source_ttl: 3d" in advice_for(sources, "drops rows after 3 days, and source_ttl says 7 days")
    assert "compare tables[].source" in advice_for(sources, "no_such_table")
    assert advice_for(sources, "event_tim")
    assert "audit.key" in advice_for(sources, "ClickHouse has no column sequence_no")
    offload = {check.text: check.advice for check in about(checks, Subject.OFFLOAD)}
    assert advice_for(offload, "no watermark of no_such_table")
    assert advice_for(offload, "the offload of bronze_trades_binance has failed")
    assert advice_for(
        offload, "no row of bronze_trades_coinbase since 2026-02-17T12:00Z; usually rows come every 30 min"
    )


def advice_for(lines: dict[str, str], words: str) -> str:
    """The advice of the one line that has these words."""
    (advice,) = [advice for text, advice in lines.items() if words in text]
    return advice


async def test_another_job_that_maintains_the_tables_is_named(make_night: MakeNight) -> None:
    night = await make_night(COINBASE, **SMALL)
    await night.sql(f"CALL {{c}}.system.rewrite_manifests('{{c}}.{COINBASE}')")
    for hours in (20, 30):
        night.ledger(
            "INSERT INTO maintenance_audit_log (run_timestamp, iceberg_table, ch_source, layer, audit_window_hours, "
            "window_start, window_end, status) VALUES ($1, $2, 'x', 'bronze', 24, $1, $1, 'ok')",
            SLOT - timedelta(hours=hours),
            COINBASE,
        )

    checks = about(await ask(night), Subject.OTHERS)

    assert [check.level for check in checks] == [Level.WARNING] * 2
    assert checks[0].text.startswith("another job (spark 4.1.4, application local-")
    assert COINBASE in checks[0].text
    assert "1 row to maintenance_audit_log, last at 2026-02-17T06:00:00Z" in checks[1].text
    assert "docs/migration.md" in checks[0].advice


async def test_a_clock_that_is_ten_minutes_off_is_an_error_for_each_server(make_night: MakeNight) -> None:
    night = await make_night(COINBASE, change=setting("run.max_clock_skew", "5m"), **SMALL)
    compare_clocks(night, ahead=timedelta(minutes=10))
    checks = about(await ask(night), Subject.CLOCK)
    assert [check.level for check in checks] == [Level.ERROR] * 2
    assert re.search(r"(599|600)\.\d s ahead of ClickHouse's: compactions and expiries would be held", checks[0].text)
    assert "NTP" in checks[0].advice


async def test_a_full_disk_is_an_error_and_hides_no_other(make_night: MakeNight) -> None:
    night = await make_night(COINBASE, change=setting("run.min_free_disk", "1000TiB"), **SMALL)
    checks = await ask(night)
    assert "run.min_free_disk" in only(checks, Subject.STATE_DIR, Level.ERROR).text
    assert about(checks, Subject.STORAGE, Level.OK)


async def test_a_hadoop_catalog_on_a_local_disk_is_a_warning_and_its_store_can_be_written(
    make_night: MakeNight,
) -> None:
    night = await make_night(COINBASE, catalog="hadoop", **SMALL)
    there = files(night)
    checks = await ask(night)
    assert "commits of two processes at once are silently lost" in only(checks, Subject.CATALOG, Level.WARNING).text
    assert "HadoopFileIO reads, writes, deletes" in only(checks, Subject.STORAGE, Level.OK).text
    assert files(night) == there


def files(night: Night) -> set[str]:
    """Everything below a hadoop catalog's warehouse."""
    warehouse = Path(str(night.settings.catalog.warehouse).removeprefix("file://"))
    found = {str(path) for path in warehouse.rglob("*")}
    assert found
    return found


async def test_a_store_that_reports_deletions_and_does_none_is_found_out(make_night: MakeNight) -> None:
    keeping = setting("catalog.properties.s3.delete-enabled", "false")
    night = await make_night(COINBASE, change=keeping, **SMALL)
    checks = await ask(night)
    left = only(checks, Subject.STORAGE, Level.ERROR)
    assert "the doctor's own probe is still in the store" in left.text
    assert "s3.delete-enabled" in left.advice
    (key,) = [key for key in night.store() if "icekeeper-doctor-probe" in key]
    assert key in left.advice
    assert f"/{COINBASE.rpartition('.')[2]}/data/" in key


async def test_a_pgbouncer_in_the_way_is_found_whatever_it_pools_by(
    make_night: MakeNight, bouncer: Callable[..., int]
) -> None:
    night = await make_night(COINBASE, **SMALL)
    direct = str(night.box.postgres.port)
    ignoring = "ignore_startup_parameters = statement_timeout"
    seen: dict[str, list[Check]] = {}
    for name, port in {
        "by transaction": bouncer("transaction", ignoring),
        "by session": bouncer("session", ignoring),
        "refusing": bouncer("transaction"),
        "one backend": bouncer("transaction", ignoring, "default_pool_size = 1"),
    }.items():
        behind = rebuilt(night, setting("postgres.dsn", night.services.postgres.dsn.replace(direct, str(port))))
        seen[name] = await examine_ledger(behind.services)
        await behind.services.close()
    seen["directly"] = await examine_ledger(night.services)

    assert "PgBouncer is in the way and hands out backends" in only(seen["by transaction"], *WARNED).text
    assert "PgBouncer is in the way and hands out backends" in only(seen["one backend"], *WARNED).text
    assert "throws icekeeper's statement_timeout away" in only(seen["by session"], *WARNED).text
    assert "That is a PgBouncer" in only(seen["refusing"], Subject.POSTGRES, Level.ERROR).advice
    assert not about(seen["directly"], *WARNED)


def test_the_command_exits_0_where_nothing_is_wrong_and_1_with_one_document_where_something_is(
    box: Sandbox, tmp_path: Path
) -> None:
    now = datetime.now(UTC) - timedelta(minutes=1)
    world = box.world(WorldSpec(now=now, tables=(COINBASE,), name=f"cli{uuid4().hex[:8]}", **SMALL))
    config = write_settings(world, tmp_path / "icekeeper.yaml", tmp_path / "state")
    broken = write_settings(world, tmp_path / "broken.yaml", tmp_path / "icekeeper.yaml" / "state")
    assert icekeeper("migrate", config=config).returncode == 0

    done = icekeeper("doctor", config=config)
    refused = icekeeper("doctor", "--json", "--table", COINBASE, config=broken)
    unknown = icekeeper("doctor", "--table", "cold.typo", config=config)

    assert done.returncode == 0, done.stdout + done.stderr
    lines = done.stdout.splitlines()
    assert lines[0].startswith("OK    python      Python 3.")
    assert re.fullmatch(r"\d+ fine, \d warnings?, 0 errors", lines[-1])
    assert {path.name for path in (tmp_path / "state").iterdir()} <= {"spark", "spark.log", "java"}
    assert (refused.returncode, document(refused)["ok"]) == (1, False), refused.stderr
    errors = [check for check in document(refused)["checks"] if check["level"] == "error"]
    assert [(check["part"], sorted(check)) for check in errors] == [("state_dir", ["advice", "level", "part", "text"])]
    assert world.postgres.password not in done.stdout + done.stderr + refused.stdout + refused.stderr
    assert unknown.returncode == 2
