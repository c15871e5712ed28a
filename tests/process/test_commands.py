"""The command line as scripts see it: exit codes, JSON on stdout, logs on stderr, signals."""

from __future__ import annotations

import re
import signal
import subprocess
import sys
from dataclasses import dataclass
from datetime import UTC, datetime, timedelta
from pathlib import Path

import pytest
import yaml

from icekeeper.execution.lock import run_lock
from icekeeper.sandbox import Sandbox, World, WorldSpec
from tests.conftest import COINBASE, GOLD, write_settings
from tests.process.program import children, document, icekeeper, running, wait_for


@dataclass(frozen=True)
class Place:
    """A world of the present, and the settings for it."""

    world: World
    config: Path
    state_dir: Path


@pytest.fixture(scope="module")
def place(box: Sandbox, tmp_path_factory: pytest.TempPathFactory) -> Place:
    directory = tmp_path_factory.mktemp("commands")
    now = datetime.now(UTC) - timedelta(minutes=1)
    spec = WorldSpec(now=now, days=2.25, tables=(COINBASE, GOLD), commits_per_day=24, rows_per_file=10, symbols=6)
    world = box.world(spec)
    config = write_settings(world, directory / "icekeeper.yaml", directory / "state")
    assert icekeeper("migrate", config=config).returncode == 0
    return Place(world, config, directory / "state")


def changed(place: Place, tmp_path: Path, **blocks: object) -> Path:
    """The settings with whole blocks replaced."""
    path = tmp_path / "changed.yaml"
    path.write_text(yaml.safe_dump({**yaml.safe_load(place.config.read_text()), **blocks}))
    return path


def test_a_night_that_succeeds_exits_0_and_prints_its_report(place: Place) -> None:
    done = icekeeper("run", "--json", config=place.config, fresh=True)

    assert done.returncode == 0, done.stderr
    report = document(done)
    assert report["outcome"] == "success"
    assert [(task["stage"], task["table"]) for task in report["tasks"]] == [
        (stage, table) for stage in ("compact", "expire", "audit") for table in (COINBASE, GOLD)
    ]
    first = report["tasks"][0]
    assert first["after"]["data_files"] < first["before"]["data_files"]
    assert place.world.postgres.password not in done.stdout + done.stderr

    shown = document(icekeeper("history", report["run_id"][:8], "--json", config=place.config))
    assert (shown["run_id"], shown["outcome"], len(shown["tasks"])) == (report["run_id"], "success", 6)
    listed = icekeeper("history", config=place.config)
    assert report["run_id"][:8] in listed.stdout
    assert place.world.postgres.password not in (place.state_dir / "spark.log").read_text()


def test_audits_of_another_job_are_compared_without_a_daemon(place: Place) -> None:
    done = icekeeper("compare", config=place.config)
    assert (done.returncode, done.stdout) == (0, "no other job has audited these tables in the last 7 days\n"), (
        done.stderr
    )
    end = datetime.now(UTC).replace(minute=0, second=0, microsecond=0) - timedelta(hours=1)
    place.world.postgres.execute(
        place.world.postgres_database,
        """
        INSERT INTO maintenance_audit_log (run_timestamp, iceberg_table, ch_source, layer, audit_window_hours,
          window_start, window_end, ch_row_count, iceberg_row_count, delta, delta_pct, status)
        VALUES ($2, $1, 'source', 'layer', 24, $3, $2, 0, 0, 0, 0, 'error')
        """,
        COINBASE, end, end - timedelta(days=1),
    )  # fmt: skip
    done = icekeeper("compare", "--json", config=place.config)
    assert done.returncode == 0, done.stderr
    (only,) = document(done)["comparisons"]
    assert [each["cause"] for each in only["explanations"]] == ["flow_failed"]
    assert only["same"]["status"] == "ok"
    assert only["same"]["ch_row_count"] == only["same"]["iceberg_row_count"] > 0


def test_a_failed_compaction_with_a_clean_audit_exits_3_and_says_what_to_do(place: Place, tmp_path: Path) -> None:
    tables = yaml.safe_load(place.config.read_text())["tables"]
    config = changed(place, tmp_path, tables=[*tables[1:], {"name": "cold.no_such_table"}])

    done = icekeeper("run", config=config)

    assert done.returncode == 3, done.stderr
    assert "table_not_found" in done.stdout
    assert "compare tables[].name" in done.stdout


def test_ctrl_c_exits_130_records_the_run_as_cancelled_and_leaves_no_jvm(place: Place, tmp_path: Path) -> None:
    log = tmp_path / "stderr"
    with running("run", "--json", config=place.config, log=log, fresh=True) as process:
        wait_for("the run to begin", lambda: "run_started" in log.read_text())
        wait_for("a JVM", lambda: "engine_started" in log.read_text())
        jvm = children(process.pid)
        process.send_signal(signal.SIGINT)
        assert process.wait(60) == 130
        assert jvm
        assert not [member for member in jvm if member.is_running() and member.status() != "zombie"]
    newest = document(icekeeper("history", "--limit", "1", "--json", config=place.config))[0]
    assert newest["outcome"] == "cancelled"


def test_a_run_beside_another_one_exits_4_and_names_it(place: Place) -> None:
    with run_lock(place.state_dir):
        done = icekeeper("run", config=place.config)
    assert done.returncode == 4
    assert "another run is under way" in done.stderr


def test_a_ledger_that_is_away_costs_nothing_but_time_the_next_command_brings_it_the_run_and_exits_1_on_missing_data(
    place: Place, tmp_path: Path
) -> None:
    config = changed(place, tmp_path, postgres={"dsn": "postgresql://icekeeper@127.0.0.1:1/nowhere"})
    away = icekeeper("compact", "--json", config=config)
    assert away.returncode == 0, away.stderr
    assert "The run goes on; its records wait in" in away.stderr
    assert f"the run is kept in {place.state_dir} until PostgreSQL takes it" in away.stderr
    run_id = document(away)["run_id"]
    assert icekeeper("history", run_id, config=place.config).returncode == 2

    shown = icekeeper("spool", config=config)
    assert "1 record waits for PostgreSQL" in shown.stdout

    yesterday = datetime.now(UTC) - timedelta(days=1)
    for hour in (3, 4, 5):
        place.world.lose_hour(COINBASE, yesterday, hour)
    done = icekeeper("audit", "--table", COINBASE, "--json", config=place.config)
    assert done.returncode == 1, done.stderr
    (audit,) = document(done)["audits"]
    assert audit["status"] == "missing_data"
    assert [datetime.fromisoformat(hour["start"]).hour for hour in audit["missing_hours"]] == [3, 4, 5]
    assert document(icekeeper("history", run_id, "--json", config=place.config))["outcome"] == "success"
    assert "nothing waits" in icekeeper("spool", config=config).stdout


def test_a_ledger_that_was_not_migrated_exits_4_and_names_the_command(place: Place, tmp_path: Path) -> None:
    place.world.postgres.create_database("unmigrated")
    postgres = {"dsn": place.world.postgres.dsn("unmigrated"), "password": place.world.postgres.password}
    done = icekeeper("run", config=changed(place, tmp_path, postgres=postgres))
    assert done.returncode == 4
    assert "icekeeper migrate" in done.stderr


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        (("run", "--slot", "2999-01-01"), "lies in the future"),
        (("run", "--slot", "yesterday"), "a day like 2026-02-18"),
        (("run", "--table", "cold.typo"), COINBASE),
        (("run", "--stage", "clean"), "compact"),
        (("audit", "--window-hours", "0"), "0"),
        (("history", "ffffffff"), "no run has an id that begins with ffffffff"),
    ],
)
def test_bad_usage_exits_2_and_says_what_is_allowed(place: Place, arguments: tuple[str, ...], message: str) -> None:
    done = icekeeper(*arguments, config=place.config)
    assert (done.returncode, done.stdout) == (2, "")
    assert message in done.stderr


def test_a_bad_configuration_exits_2_with_every_mistake(place: Place, tmp_path: Path) -> None:
    config = changed(place, tmp_path, compact={"timeout": "5"}, expire={"older_then": "7d"})
    done = icekeeper("config", "check", config=config)
    assert done.returncode == 2
    assert "compact.timeout: '5' is not allowed: a duration is written like" in done.stderr
    assert "expire.older_then is no key that icekeeper knows; did you mean older_than?" in done.stderr
    assert all(line.startswith("icekeeper: ") for line in done.stderr.splitlines())


def test_a_doubtful_configuration_is_good_and_warns_also_where_its_secrets_are_not(tmp_path: Path) -> None:
    config = tmp_path / "icekeeper.yaml"
    shipped = (Path(__file__).parents[2] / "config" / "icekeeper.yaml").read_text()
    config.write_text(shipped.replace('cron: "0 2 * * *"', 'cron: "5 0 * * *"'))
    assert "/run/secrets" in icekeeper("config", "check", config=config).stderr

    done = icekeeper("config", "check", "--no-secrets", config=config)
    assert (done.returncode, done.stdout.count("\n")) == (0, 1)
    assert "warning: schedule.cron ('5 0 * * *' in UTC) begins a night less than 30 minutes after" in done.stderr

    answer = document(icekeeper("config", "check", "--no-secrets", "--json", config=config))
    assert (answer["ok"], answer["tables"], answer["settings_hash"]) == (True, 10, None)
    assert answer["warnings"][0].startswith("schedule.cron")


def test_a_heap_is_judged_by_the_memory_of_this_machine_unless_it_is_another_that_will_run(
    place: Place, tmp_path: Path
) -> None:
    config = changed(place, tmp_path, spark={"driver_memory": "9999g"})
    assert "warning: spark.driver_memory (9999g) does not fit" in icekeeper("config", "check", config=config).stderr
    said = icekeeper("config", "check", "--no-secrets", config=config).stderr
    assert [
        line for line in said.splitlines() if not line.startswith("note: an audit of every table is ok while")
    ] == []


def test_a_good_configuration_is_shown_without_its_secrets(place: Place) -> None:
    checked = icekeeper("config", "check", config=place.config)
    assert checked.returncode == 0
    assert re.search(r"is good: 2 tables, next night \d{4}-\d\d-\d\dT02:00Z \(0 2 \* \* \* in UTC\)$", checked.stdout)
    shown = icekeeper("config", "show", config=place.config)
    assert shown.returncode == 0
    assert place.world.postgres.password not in shown.stdout
    assert yaml.safe_load(shown.stdout)["compact"]["target_file_size"] == "128MiB"


def test_the_help_of_no_command_is_cut() -> None:
    done = subprocess.run([sys.executable, "-m", "icekeeper", "--help"], capture_output=True, text=True, check=True)
    assert "..." not in done.stdout.partition("Commands:")[2]
    assert all(len(line) <= 80 for line in done.stdout.splitlines())
