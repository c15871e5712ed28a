"""The real program without a PostgreSQL server: its ledger is embedded, and brought to a server later."""

from __future__ import annotations

import asyncio
import json
import tempfile
from collections.abc import Iterator
from concurrent.futures import ThreadPoolExecutor
from functools import partial
from pathlib import Path
from typing import Any
from uuid import uuid4

import asyncpg
import pytest
import yaml

from icekeeper.sandbox import Sandbox
from icekeeper.sandbox.servers.process import free_ports
from tests.conftest import SLOT
from tests.integration.test_embedded import servers
from tests.process import preloaded
from tests.process.program import PATIENCE_S, document, environment, fetch, icekeeper, running, wait_for
from tests.years import fill

TABLE = "shop.orders"


class Place:
    """A configuration without a server, below a short path. No catalog answers, and no JVM comes up."""

    def __init__(self, root: Path) -> None:
        (port, unused) = free_ports(2)
        self.state_dir, self.config, self.base = root / "state", root / "icekeeper.yaml", f"http://127.0.0.1:{port}"
        self.settings: dict[str, Any] = {
            "spark": {"home": "/nowhere"},
            "catalog": {"name": "lake", "type": "rest", "uri": f"http://127.0.0.1:{unused}"},
            "tables": [{"name": TABLE}],
            "compact": {"retries": 0},
            "expire": {"retries": 0},
            "http": {"listen": f"127.0.0.1:{port}"},
            "state_dir": str(self.state_dir),
        }
        self.write()

    def write(self, **blocks: Any) -> None:
        self.config.write_text(yaml.safe_dump({**self.settings, **blocks}))

    def runs(self, *options: str) -> list[dict[str, Any]]:
        done = icekeeper("history", "--json", *options, config=self.config)
        assert done.returncode == 0, done.stderr
        found: list[dict[str, Any]] = document(done)
        return found

    def tool(self, *command: str) -> None:
        """Runs a program of PostgreSQL on the ledger."""
        done = preloaded.run(
            "ledger", "exec", "--config", str(self.config), *command, timeout=PATIENCE_S, env=environment()
        )
        assert done.returncode == 0, done.stderr

    def execute(self, statement: str, *values: object) -> Any:
        """The rows of a statement, on the socket of a ledger that runs."""

        async def ask() -> Any:
            host = str(self.state_dir / "ledger")
            connection = await asyncpg.connect(host=host, user="icekeeper", database="icekeeper")
            try:
                return await connection.fetch(statement, *values)
            finally:
                await connection.close()

        return asyncio.run(ask())


@pytest.fixture
def place() -> Iterator[Place]:
    with tempfile.TemporaryDirectory(prefix="ik") as name:
        made = Place(Path(name))
        yield made
        for process in servers(made.state_dir):  # of a test that failed
            process.kill()


def test_a_daemon_and_commands_share_it_and_outlive_its_death_and_their_own(place: Place, tmp_path: Path) -> None:
    log = tmp_path / "stderr"

    def up() -> bool:
        return "icekeeper_ledger_up 1.0" in (fetch(f"{place.base}/metrics") or "")

    with running("serve", config=place.config, log=log) as daemon:
        wait_for("the daemon's ledger", up)
        assert icekeeper("compact", config=place.config).returncode == 1  # there is no Spark
        assert [run["outcome"] for run in place.runs()] == ["failed"]
        assert json.loads(fetch(f"{place.base}/api/v1/runs") or "")["items"][0]["outcome"] == "failed"
        (server,) = servers(place.state_dir)
        server.kill()
        wait_for("its end", lambda: not servers(place.state_dir))
        with ThreadPoolExecutor(2) as two:
            assert [len(runs) for runs in two.map(lambda _: place.runs(), range(2))] == [1, 1]
        wait_for("the daemon's ledger", up)
        (server,) = servers(place.state_dir)
        daemon.kill()
        daemon.wait()
    assert server.is_running()
    assert len(place.runs()) == 1
    assert servers(place.state_dir) == []

    with running("serve", config=place.config, log=log) as daemon:
        wait_for("the daemon's ledger", up)
        wait_for("both starts", lambda: place.execute("SELECT count(*) FROM maintenance_config_loads")[0][0] == 2)
        assert TABLE in (fetch(f"{place.base}/tables") or "")
        daemon.terminate()
        assert daemon.wait(60) == 0
        assert servers(place.state_dir) == []


def test_two_commands_make_it_at_once(place: Place) -> None:
    with ThreadPoolExecutor(2) as two:
        assert list(two.map(lambda _: place.runs(), range(2))) == [[], []]
    assert servers(place.state_dir) == []
    assert document(icekeeper("migrate", "--json", config=place.config)) == {"applied": []}
    place.state_dir.rename(place.state_dir.with_name("old"))
    assert document(icekeeper("migrate", "--json", config=place.config))["applied"][:2] == ["0001_ledger", "0002_acks"]


def test_what_can_not_be_is_said_with_the_way_out(place: Place) -> None:
    def complaint(*arguments: str) -> tuple[int, str]:
        done = icekeeper(*arguments, config=place.config)
        return done.returncode, done.stderr

    place.write(replicas=True)
    code, text = complaint("config", "check")
    assert (code, "held in a PostgreSQL server that the hosts share" in text) == (2, True)
    place.write(state_dir=f"/tmp/{'x' * 90}")
    assert complaint("config", "check") == complaint("history")
    code, text = complaint("history")
    assert (code, "state_dir: its path has 9 bytes too many for the socket" in text) == (2, True)
    place.write()
    assert place.runs() == []
    version = place.state_dir / "ledger" / "data" / "PG_VERSION"
    version.write_text("17\n")
    code, text = complaint("history")
    assert (code, "its data was written by PostgreSQL 17" in text) == (4, True)
    assert "Traceback" not in text


def test_it_is_dumped_and_loaded_and_moved_to_a_server(box: Sandbox, place: Place, tmp_path: Path) -> None:
    dump = tmp_path / "ledger.sql"

    with running("serve", config=place.config, log=tmp_path / "stderr") as daemon:
        wait_for("the daemon", lambda: fetch(f"{place.base}/livez"))
        wait_for("the ledger", lambda: place.runs() == [])
        fill(place.execute, (TABLE,), SLOT, nights=100, lines=3)
        daemon.terminate()
        daemon.wait(60)
    count = len(place.runs("--limit", "1000", "--installation", "all"))
    assert count == 100

    # As to another major version.
    place.tool("pg_dump", "--create", "--clean", "--if-exists", "-f", str(dump))
    (place.state_dir / "ledger" / "data").rename(tmp_path / "old")
    place.tool("psql", "-q", "-v", "ON_ERROR_STOP=1", "-d", "postgres", "-f", str(dump))
    assert len(place.runs("--limit", "1000", "--installation", "all")) == count

    name = f"moved{uuid4().hex[:8]}"
    box.postgres.create_database(name)
    ask = partial(box.postgres.execute, name)
    move = partial(icekeeper, "ledger", "move", "--json", config=place.config)
    assert move().returncode == 2  # the settings name no server
    place.write(postgres={"dsn": box.postgres.dsn(name), "password": box.postgres.password})
    dry = icekeeper("ledger", "move", "--dry-run", config=place.config)
    assert (dry.returncode, "run `icekeeper migrate`" in dry.stderr) == (4, True)
    first = move()
    assert first.returncode == 0, first.stderr
    rows = {each["table"]: (each["rows"], each["moved"]) for each in document(first)["tables"]}
    assert rows["maintenance_runs"] == (count, count)
    assert rows["maintenance_logs"][1] >= 300
    assert rows["maintenance_audit_log"][0] == rows["maintenance_audit_log"][1] >= 90
    assert ask("SELECT count(*) FROM maintenance_runs") == [(count,)]
    assert len(place.runs("--limit", "1000", "--installation", "all")) == count

    # What came since is brought, too, and the rest is left as it is.
    ask("DELETE FROM maintenance_runs WHERE run_id = md5('run6')::uuid")
    dry = icekeeper("ledger", "move", "--dry-run", "--json", config=place.config)
    again = {each["table"]: each["moved"] for each in document(dry)["tables"]}
    assert (again["maintenance_runs"], again["maintenance_tasks"], again["maintenance_audit_log"]) == (1, 3, 0)
    assert ask("SELECT count(*) FROM maintenance_runs") == [(count - 1,)]

    # To a server where another installation has its name.
    shared = f"shared{uuid4().hex[:8]}"
    box.postgres.create_database(shared)
    place.write(postgres={"dsn": box.postgres.dsn(shared), "password": box.postgres.password})
    assert icekeeper("migrate", config=place.config).returncode == 0
    box.postgres.execute(shared, "UPDATE maintenance_installations SET installation_id = gen_random_uuid()")
    refused = move()
    assert (refused.returncode, "with --as NAME this one gets another name" in refused.stderr) == (4, True)
    assert move("--as", "no/name").returncode == 2
    assert move("--as", "mine").returncode == 0
    named = box.postgres.execute(shared, "SELECT name FROM maintenance_installations ORDER BY name")
    assert ("mine",) in named
    assert len(named) == 2
    place.write(postgres={"dsn": box.postgres.dsn(name), "password": box.postgres.password})

    # Another history of the same run: nothing of the rest is moved.
    ask("UPDATE maintenance_runs SET outcome = 'cancelled' WHERE run_id = md5('run8')::uuid")
    refused = move()
    assert refused.returncode == 4
    assert "has another row of maintenance_runs" in refused.stderr
    assert ask("SELECT count(*) FROM maintenance_runs") == [(count - 1,)]
    assert servers(place.state_dir) == []
