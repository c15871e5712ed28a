"""The Sandbox: starts and stops all servers of a lakehouse on this machine, and builds worlds on them."""

from __future__ import annotations

import atexit
import json
import os
import secrets
import shutil
import tempfile
from collections.abc import Callable
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from types import TracebackType
from typing import Any

from icekeeper.sandbox.cache import cached, copy
from icekeeper.sandbox.catalogs import JdbcCatalog, LakeCatalog, RestLakeCatalog
from icekeeper.sandbox.errors import SandboxError
from icekeeper.sandbox.hadoop_catalog import HadoopCatalog
from icekeeper.sandbox.servers.clickhouse import ClickHouse
from icekeeper.sandbox.servers.postgres import Postgres
from icekeeper.sandbox.servers.process import Janitor
from icekeeper.sandbox.servers.s3 import S3
from icekeeper.sandbox.world import World, valid_name
from icekeeper.sandbox.world_builder import build_world
from icekeeper.sandbox.world_spec import WorldSpec

_STATE = "sandbox.json"


class Sandbox:
    """S3 with a REST catalog, PostgreSQL and ClickHouse on the loopback, and the worlds built on them.

    Use `Sandbox.start()`, as a context manager or with `stop()`. If this process is killed, the janitor ends the
    servers and removes the directory. Not thread-safe.
    """

    def __init__(self, root: Path, *, temporary: bool, clickhouse_timezone: str | None) -> None:
        self.root = root
        self.worlds: dict[str, World] = {}
        self._temporary = temporary
        self._owner = os.getpid()
        self._janitor: Janitor | None = Janitor()
        if temporary:
            self._janitor.remove(root)
        state = self._read_state(clickhouse_timezone)
        self.s3 = S3(root, self._janitor, access_key=state["access_key"], secret_key=state["secret_key"])
        self.postgres = Postgres(root, self._janitor, password=state["postgres_password"])
        self.clickhouse = ClickHouse(
            root, self._janitor, password=state["clickhouse_password"], timezone=state["clickhouse_timezone"]
        )
        self._state = state

    @classmethod
    def start(cls, root: Path | None = None, clickhouse_timezone: str | None = None) -> Sandbox:
        """Starts all servers; returns when they answer.

        `root` None: a temporary directory, removed by `stop()`. A given one is kept, and a later start on it brings
        everything back, on other ports. `clickhouse_timezone` None: UTC, or what that directory was started with.
        """
        if root is None:
            return cls._run(_temporary_root(), temporary=True, clickhouse_timezone=clickhouse_timezone)
        root.mkdir(parents=True, exist_ok=True)
        return cls._run(root.resolve(), temporary=False, clickhouse_timezone=clickhouse_timezone)

    @classmethod
    def from_cache(cls, cache: Path, *specs: WorldSpec, clickhouse_timezone: str = "UTC") -> Sandbox:
        """Starts a temporary sandbox that has these worlds already, from a copy kept below `cache` (built if missing).

        The worlds are in `.worlds` by name (`world1`, `world2`, ... for specs without one). JDBC and REST worlds only.
        """

        def build_in(directory: Path) -> None:
            with cls.start(directory, clickhouse_timezone) as box:
                for spec in specs:
                    box.world(spec)

        finished = cached(cache, specs, clickhouse_timezone, build_in)
        root = _temporary_root()
        copy(finished, root)
        return cls._run(root, temporary=True, clickhouse_timezone=clickhouse_timezone)

    @classmethod
    def _run(cls, root: Path, *, temporary: bool, clickhouse_timezone: str | None) -> Sandbox:
        box = cls(root, temporary=temporary, clickhouse_timezone=clickhouse_timezone)
        atexit.register(box.stop)
        try:
            box._start()
        except BaseException:
            box.stop()
            raise
        return box

    def _start(self) -> None:
        _in_parallel(self.s3.start, self.postgres.start, self.clickhouse.start)
        for name, document in self._state["worlds"].items():
            self.worlds[name] = self._world(WorldSpec.from_json(document), name)

    def __enter__(self) -> Sandbox:
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        self.stop()

    def stop(self, *, remove: bool = False) -> None:
        """Stops all servers; removes the directory if it is a temporary one or `remove`. Twice is fine."""
        # A forked child inherits the object and the exit handler, but not the servers.
        if self._janitor is None or os.getpid() != self._owner:
            return
        for world in self.worlds.values():
            world.catalog.close()
        _in_parallel(self.s3.stop, self.postgres.stop, self.clickhouse.stop)
        if self._temporary or remove:
            shutil.rmtree(self.root)
        self._janitor.dismiss()
        self._janitor = None
        atexit.unregister(self.stop)

    def world(self, spec: WorldSpec) -> World:
        """Builds a world; returns when all its rows and commits are there."""
        name = valid_name(spec.name) if spec.name is not None else self._next_name()
        if name in self.worlds:
            raise SandboxError(f"this sandbox has a world named {name} already")
        self.postgres.create_database(name)
        self.clickhouse.execute(f"CREATE DATABASE {name}")
        if spec.catalog == "rest":
            self.s3.create_table_bucket(_table_bucket(name))
        world = self._world(spec, name)
        build_world(world)
        self.worlds[name] = world
        self._state["worlds"][name] = spec.to_json()
        self._write_state()
        return world

    def _next_name(self) -> str:
        number = len(self.worlds) + 1
        while f"world{number}" in self.worlds:
            number += 1
        return f"world{number}"

    def _world(self, spec: WorldSpec, name: str) -> World:
        catalog: LakeCatalog
        if spec.catalog == "jdbc":
            catalog = JdbcCatalog(name, self.s3, self.postgres, name)
        elif spec.catalog == "rest":
            catalog = RestLakeCatalog(name, self.s3, _table_bucket(name))
        else:
            catalog = HadoopCatalog(name, self.root / "hadoop" / name)
        return World(spec, name, self.clickhouse, self.postgres, catalog)

    def _read_state(self, clickhouse_timezone: str | None) -> dict[str, Any]:
        """The secrets, generated at the first start, and the list of worlds."""
        path = self.root / _STATE
        state: dict[str, Any] = json.loads(path.read_text()) if path.exists() else {}
        state.setdefault("access_key", "sandbox" + secrets.token_hex(6))
        for name in ("secret_key", "postgres_password", "clickhouse_password"):
            state.setdefault(name, secrets.token_hex(16))
        state["clickhouse_timezone"] = clickhouse_timezone or state.get("clickhouse_timezone", "UTC")
        state.setdefault("worlds", {})
        self._state = state
        self._write_state()
        return state

    def _write_state(self) -> None:
        path = self.root / _STATE
        path.touch(mode=0o600)
        path.write_text(json.dumps(self._state))


def _temporary_root() -> Path:
    root = Path(tempfile.mkdtemp(prefix="icekeeper-sandbox-")).resolve()
    root.chmod(0o711)  # PostgreSQL may have to run as another user, and must get through
    return root


def _table_bucket(world: str) -> str:
    return world.replace("_", "-") + "-tables"


def _in_parallel(*actions: Callable[[], None]) -> None:
    """Runs all, each in a thread, and raises the first error after the last has ended."""
    with ThreadPoolExecutor(len(actions)) as pool:
        running = [pool.submit(action) for action in actions]
    for action in running:
        action.result()
