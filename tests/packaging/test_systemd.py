"""The unit under a real systemd, installed as docs/install.md says: it starts, reloads, is watched, dies, and stops."""

from __future__ import annotations

import json
import re
import shutil
import time
from collections.abc import Iterator
from dataclasses import dataclass
from datetime import UTC, datetime, timedelta
from pathlib import Path
from typing import Any

import pytest
import yaml

from icekeeper.core.enums import NIGHT
from icekeeper.sandbox import Sandbox, World, WorldSpec
from tests.conftest import COINBASE, GOLD, SHORT_LIVED
from tests.packaging.installed import blocks, commands, machine
from tests.packaging.machine import Machine
from tests.process.program import fetch, metrics, wait_for

pytestmark = [pytest.mark.packaging, pytest.mark.timeout(1200)]

CONFIG = "/etc/icekeeper/icekeeper.yaml"
DROP_IN = "/etc/systemd/system/icekeeper.service.d/test.conf"
# Which secrets of a world's settings stand in which files, as systemd/icekeeper-.service.d/secrets.conf names them.
SECRETS = {
    "postgres-password": ("postgres", "password"),
    "clickhouse-password": ("clickhouse", "password"),
    "iceberg-catalog-password": ("catalog", "properties", "jdbc.password"),
    "s3-access-key": ("catalog", "properties", "s3.access-key-id"),
    "s3-secret-key": ("catalog", "properties", "s3.secret-access-key"),
}
# No night comes while it is looked at.
NEVER = {"cron": "0 0 1 1 *", "catch_up": "1s"}
# Where it doesn't matter what Spark does, none comes up.
NO_SPARK = {"home": "/nowhere"}


@dataclass
class Installed:
    """icekeeper on a machine, configured for a world of the sandbox."""

    machine: Machine
    world: World
    document: dict[str, Any]

    @property
    def base(self) -> str:
        return f"http://{self.document['http']['listen']}"

    def configure(self, **blocks: Any) -> None:
        """The world's settings with some of their blocks replaced."""
        self.machine.write(CONFIG, yaml.safe_dump({**self.document, **blocks}))

    def drop_in(self, *lines: str) -> None:
        self.machine.write(DROP_IN, "\n".join(["[Service]", *lines, ""]))
        self.machine.run("systemctl", "daemon-reload")

    def start(self) -> None:
        self.machine.run("systemctl", "start", "icekeeper")

    def systemctl(self, verb: str) -> int:
        return self.machine.run("systemctl", verb, "icekeeper", check=False, timeout=200).returncode

    def state(self) -> tuple[str, str]:
        """Like ("active", "running")."""
        return self.machine.property("ActiveState"), self.machine.property("SubState")

    @property
    def pid(self) -> int:
        """The main process, by its number on the machine; 0 where there is none."""
        return int(self.machine.property("MainPID"))

    def processes(self) -> list[str]:
        """The command lines of the user's processes."""
        return self.machine.processes_of("icekeeper")

    def log_lines(self, since: str) -> list[dict[str, Any]]:
        """What the daemon itself has written to the journal: every line is a JSON object."""
        entries = [json.loads(line) for line in self._journal("json", since, "_SYSTEMD_UNIT=icekeeper.service")]
        # Beside it the check of a reload, and the shell that sends its signal, speak for the same unit.
        ours = [entry for entry in entries if " serve " in entry["_CMDLINE"]]
        return [json.loads(entry["MESSAGE"]) for entry in ours]

    def of_systemd(self, since: str) -> str:
        """What systemd wrote to the journal about the service."""
        return "\n".join(self._journal("cat", since, "_PID=1", "UNIT=icekeeper.service"))

    def of_all(self, since: str) -> str:
        """The unit's journal as an operator reads it."""
        return "\n".join(self._journal("cat", since, "--unit=icekeeper"))

    def jvm(self, since: str) -> int:
        """The process of the newest session, once there is one."""

        def started() -> int | None:
            found = [line["jvm_pid"] for line in self.log_lines(since) if line["event"] == "engine_started"]
            return int(found[-1]) if found else None

        return wait_for("Spark's session", started)

    def cursor(self) -> str:
        """Where the journal ends now."""
        self.machine.run("journalctl", "--sync")
        shown = self.machine.run("journalctl", "-n1", "--show-cursor", "--quiet").stdout
        return shown.rpartition("-- cursor: ")[2].strip()

    def _journal(self, output: str, since: str, *matches: str) -> list[str]:
        self.machine.run("journalctl", "--sync")
        options = (f"--output={output}", "--quiet", "--all", f"--after-cursor={since}")
        return self.machine.run("journalctl", *options, *matches).stdout.splitlines()


@pytest.fixture(scope="module")
def installation(box: Sandbox) -> Iterator[Installed]:
    spec = WorldSpec(
        now=datetime.now(UTC), days=2, tables=(COINBASE, GOLD), commits_per_day=24, rows_per_file=10, symbols=6
    )
    world = box.world(spec)
    with machine() as running:
        made = Installed(running, world, _with_secrets_in_files(running, world))
        made.configure()
        for block in commands("4. First steps")[:1]:
            running.sh(block)
        yield made


def _with_secrets_in_files(running: Machine, world: World) -> dict[str, Any]:
    """The world's settings without its secrets, which are put where the unit takes them from."""
    document = world.settings(Path("/var/lib/icekeeper"))
    for name, (*steps, key) in SECRETS.items():
        block = document
        for step in steps:
            block = block[step]
        running.write(f"/etc/icekeeper/secrets/{name}", block.pop(key) + "\n", mode=0o600)
    document["schedule"] = dict(NEVER)
    # Nothing names the jars: those of the installation are taken.
    document["spark"] |= {"driver_memory": "1g", "conf": dict(SHORT_LIVED)}
    return document


@pytest.fixture
def service(installation: Installed) -> Iterator[Installed]:
    """The service as it is after the installation: configured, stopped, with no drop-in, nothing counted."""
    running = installation.machine
    installation.configure()
    for block in ("daemon-reload", "reset-failed"):
        running.run("systemctl", block)
    yield installation
    running.run("systemctl", "stop", "icekeeper", check=False, timeout=200)
    if running.path(DROP_IN).exists():
        running.path(DROP_IN).unlink()


def test_the_user_the_directories_and_their_modes_are_made(installation: Installed) -> None:
    running = installation.machine
    entry = running.run("getent", "passwd", "icekeeper").stdout.strip().split(":")
    assert entry[5:] == ["/var/lib/icekeeper", "/usr/sbin/nologin"]
    paths = ["/var/lib/icekeeper", "/etc/icekeeper", CONFIG, "/etc/icekeeper/secrets"]
    installation.configure()
    running.run("systemd-tmpfiles", "--create")
    shown = running.run("stat", "--format=%a %U:%G", *paths, "/etc/icekeeper/secrets/s3-secret-key").stdout
    assert shown.splitlines() == [
        "700 icekeeper:icekeeper",
        "755 root:root",
        "640 root:icekeeper",
        "700 root:root",
        "600 root:root",
    ]


def test_the_unit_is_sound_and_leaves_little_open(installation: Installed) -> None:
    running = installation.machine
    verified = running.run("systemd-analyze", "verify", "icekeeper.service")
    assert verified.stdout + verified.stderr == ""
    unit = "/etc/systemd/system/icekeeper.service"
    judged = running.run("systemd-analyze", "security", "--offline=true", "--threshold=25", "--no-pager", unit)
    assert "Overall exposure level" in judged.stdout


def test_the_first_steps_of_the_page_lead_to_a_service_that_runs(service: Installed) -> None:
    for block in commands("4. First steps"):
        service.machine.sh(block)
    assert service.state() == ("active", "running")
    assert service.machine.property("UnitFileState") == "enabled"
    # What the commands left behind is the daemon's to change.
    assert service.machine.run("find", "/var/lib/icekeeper", "!", "-user", "icekeeper").stdout == ""


def test_commands_have_the_services_secrets_and_their_own_exit_codes(service: Installed) -> None:
    running = service.machine
    assert "is good: 2 tables" in running.run("icekeeper", "config", "check").stdout
    assert json.loads(running.run("icekeeper", "history", "--json").stdout) == []
    assert running.run("icekeeper", "rnu", check=False).returncode == 2
    # Anybody may ask systemd for this: it says where the secrets are, and none of them.
    shown = running.run("systemctl", "show", "icekeeper").stdout
    assert "PASSWORD_FILE=/run/credentials/icekeeper.service/postgres-password" in shown
    assert service.world.postgres.password not in shown


def test_one_command_can_be_given_another_role_than_the_service(service: Installed) -> None:
    running = service.machine
    (drop_in,) = blocks("4. First steps", "ini")
    directory = "/etc/systemd/system/icekeeper-migrate-.service.d"
    running.write("/etc/icekeeper/secrets/postgres-owner-password", "the owner's", mode=0o600)
    running.write(f"{directory}/with-owner.conf", drop_in)
    asked = 'cat $CREDENTIALS_DIRECTORY/postgres-password; echo " $ICEKEEPER_POSTGRES__DSN"'
    as_a_command = ("systemd-run", "--quiet", "--collect", "--wait", "--pipe")
    try:
        given = {
            name: running.run(*as_a_command, f"--unit=icekeeper-{name}-1", "sh", "-c", asked).stdout.strip()
            for name in ("migrate", "doctor")
        }
    finally:
        shutil.rmtree(running.path(directory))
    assert given["migrate"].startswith("the owner's postgresql://icekeeper_owner@")
    assert given["doctor"].split() == [service.world.postgres.password]


def test_it_is_ready_says_so_and_takes_a_changed_configuration_over(service: Installed) -> None:
    service.configure(spark=NO_SPARK)
    service.machine.run("systemd-analyze", "log-level", "debug")  # systemd tells what it is told
    since = service.cursor()
    try:
        service.start()
        assert service.state() == ("active", "running")
        assert fetch(f"{service.base}/livez") == "ok\n"  # ready is when it answers
        assert service.machine.property("StatusText")
        assert re.search(r"Got notification message from PID \d+ \(READY=1", service.of_systemd(since))

        began, since = service.pid, service.cursor()
        due = metrics(service.base)["icekeeper_next_run_timestamp_seconds"]
        service.configure(spark=NO_SPARK, schedule={**NEVER, "cron": "30 3 1 1 *"})
        assert service.systemctl("reload") == 0
        # At once: the command has waited for the reload. The journal is written beside it.
        assert metrics(service.base)["icekeeper_next_run_timestamp_seconds"] != due
        wait_for("the journal", lambda: [line for line in service.log_lines(since) if line["event"] == "reloaded"])
        (line,) = [line for line in service.log_lines(since) if line["event"] == "reloaded"]
        assert "schedule" in str(line["changes"])
        given = re.findall(r"Got notification message from PID \d+ \((RELOADING|READY)=1", service.of_systemd(since))
        assert given == ["RELOADING", "READY"]
        assert re.search(r"\(RELOADING=1, MONOTONIC_USEC=\d+\)", service.of_systemd(since))
        assert (service.state(), service.pid) == (("active", "running"), began)
    finally:
        service.machine.run("systemd-analyze", "log-level", "info")


def test_a_bad_configuration_fails_the_reload_and_leaves_the_service_as_it_was(service: Installed) -> None:
    service.configure(spark=NO_SPARK)
    service.start()
    began, since = service.pid, service.cursor()
    service.configure(spark=NO_SPARK, schedule={"cron": "0 25 * * *"})
    assert service.systemctl("reload") == 1
    assert (service.state(), service.pid) == (("active", "running"), began)
    assert metrics(service.base)["icekeeper_config_last_reload_successful"] == 0
    wait_for("the mistake in the journal", lambda: "schedule.cron" in service.of_all(since))

    service.configure(spark=NO_SPARK)
    assert service.systemctl("reload") == 0
    assert metrics(service.base)["icekeeper_config_last_reload_successful"] == 1


def test_a_bad_configuration_at_the_start_is_reported_and_not_tried_again(service: Installed) -> None:
    service.configure(tables=[])
    service.drop_in("RestartSec=100ms")
    since = service.cursor()
    assert service.systemctl("start") == 1
    time.sleep(1)  # it would have been tried again by now
    assert service.state() == ("failed", "failed")
    assert service.machine.property("ExecMainStatus") == "2"
    assert service.machine.property("NRestarts") == "0"
    assert "tables" in service.of_all(since)


def test_a_part_that_is_missing_at_the_start_is_waited_for(service: Installed) -> None:
    taken = service.world.clickhouse.url.removeprefix("http://")
    service.configure(spark=NO_SPARK, http={"listen": taken})
    service.drop_in("RestartSec=100ms")
    since = service.cursor()
    assert service.systemctl("start") == 1
    wait_for("another try", lambda: int(service.machine.property("NRestarts")) >= 2)
    assert "status=4" in service.of_systemd(since)
    service.configure(spark=NO_SPARK)
    wait_for("the service", lambda: service.state() == ("active", "running"))


def test_a_secret_that_is_listed_and_not_there_is_named(service: Installed) -> None:
    secret = service.machine.path("/etc/icekeeper/secrets/clickhouse-password")
    kept = secret.read_text()
    secret.unlink()
    try:
        assert service.systemctl("start") == 1
        assert service.machine.property("ExecMainStatus") == "243"
        assert "status=243/CREDENTIALS" in service.machine.run("systemctl", "status", "icekeeper", check=False).stdout
    finally:
        service.machine.write("/etc/icekeeper/secrets/clickhouse-password", kept, mode=0o600)


def test_one_that_hangs_is_ended_by_the_watchdog_and_started_again(service: Installed) -> None:
    service.configure(spark=NO_SPARK)
    service.drop_in("WatchdogSec=3", "RestartSec=1")
    since = service.cursor()
    service.start()
    hung = service.pid
    time.sleep(5)  # longer than the watchdog waits: one that turns is left alone
    assert service.pid == hung
    service.machine.kill("STOP", hung)
    _started_again(service, hung)
    assert "Watchdog timeout" in service.of_systemd(since)


def test_one_that_is_killed_is_started_again_and_its_jvm_is_gone(service: Installed) -> None:
    service.drop_in("RestartSec=1")
    since = service.cursor()
    service.start()
    killed, jvm = service.pid, service.jvm(since)
    service.machine.kill("KILL", killed)
    _started_again(service, killed)
    assert not service.machine.kill("0", jvm)


def test_a_jvm_that_is_killed_takes_no_other_process_with_it(service: Installed) -> None:
    since = service.cursor()
    service.start()
    began, jvm = service.pid, service.jvm(since)
    service.machine.kill("KILL", jvm)
    wait_for("another session", lambda: service.jvm(since) != jvm)
    assert metrics(service.base)['icekeeper_engine_restarts_total{why="died"}'] == 1
    assert (service.state(), service.pid) == (("active", "running"), began)


def test_stopped_it_ends_in_time_and_leaves_no_process(service: Installed) -> None:
    since = service.cursor()
    service.start()
    service.jvm(since)
    began = time.monotonic()
    assert service.systemctl("stop") == 0
    assert time.monotonic() - began < 60
    assert service.state() == ("inactive", "dead")
    assert (service.machine.property("Result"), service.machine.property("ExecMainStatus")) == ("success", "0")
    assert service.processes() == []
    log_lines = service.log_lines(since)  # each line is JSON
    assert log_lines[-1]["event"] == "service_stopped"
    # systemd had to kill nothing, and nobody told the JVM to end but the daemon.
    assert "Killing" not in service.of_systemd(since)


def test_a_night_is_worked_within_the_sandbox(service: Installed) -> None:
    since = service.cursor()
    service.start()
    service.jvm(since)
    night = datetime.now(UTC).replace(second=0, microsecond=0) + timedelta(minutes=1)
    if night - datetime.now(UTC) < timedelta(seconds=15):
        night += timedelta(minutes=1)
    service.configure(schedule={"cron": f"{night.minute} {night.hour} * * *"})
    assert service.systemctl("reload") == 0
    seen: set[str] = set()

    def ended() -> bool:
        seen.add(service.machine.property("StatusText"))
        return bool(_runs(service.world))

    wait_for("the night's record", ended, 300)
    assert _runs(service.world) == [("success", "schedule", night)]
    assert _tasks(service.world) == {(stage, table, "done") for stage in NIGHT for table in (COINBASE, GOLD)}
    assert len(seen) > 1  # systemctl status has told how far it was
    assert service.machine.property("NRestarts") == "0"
    assert service.systemctl("stop") == 0
    assert service.processes() == []


def _started_again(service: Installed, before: int) -> None:
    wait_for("another start", lambda: service.machine.property("NRestarts") == "1")
    wait_for("it to be up", lambda: service.state() == ("active", "running"))
    assert service.pid not in (0, before)


def _runs(world: World) -> list[tuple[Any, ...]]:
    query = "SELECT outcome, trigger, slot FROM maintenance_runs WHERE outcome IS NOT NULL"
    return world.postgres.execute(world.postgres_database, query)


def _tasks(world: World) -> set[tuple[Any, ...]]:
    query = "SELECT stage, iceberg_table, outcome FROM maintenance_tasks"
    return set(world.postgres.execute(world.postgres_database, query))
