"""The configuration in force: what a reload replaces, what may refuse it, and who keeps what it has borrowed."""

from __future__ import annotations

import asyncio
from pathlib import Path
from typing import Any

import pytest
import yaml

from icekeeper.adapters.spark.engine import SparkEngine
from icekeeper.core.errors import ConfigError
from icekeeper.execution.wiring import Services, build, spark_options
from icekeeper.scheduling.reload import Configuration
from icekeeper.settings import Settings, load
from tests.unit.fakes import ManualClock


class Edited:
    """A configuration over a file that a test edits."""

    def __init__(self, place: Path) -> None:
        self.path = place / "icekeeper.yaml"
        self.document: dict[str, Any] = {
            "catalog": {"name": "k2", "type": "hadoop", "warehouse": str(place / "lake")},
            "clickhouse": {"url": "http://127.0.0.1:1", "database": "k2"},
            "postgres": {"dsn": "postgresql://icekeeper@127.0.0.1:1/icekeeper"},
            "tables": [{"name": "cold.a", "audit": False}],
            "state_dir": str(place / "state"),
        }
        self.write()
        settings, clock = load(self.path), ManualClock()
        services = build(settings, SparkEngine(spark_options(settings)), clock=clock, sleep=clock.sleep)
        self.configuration = Configuration(self.path, services, clock, clock.sleep)

    def write(self, **blocks: Any) -> None:
        self.path.write_text(yaml.safe_dump({**self.document, **blocks}))


async def test_who_follows_a_change_is_called_when_it_is_in_force_and_not_where_nothing_has_changed(
    tmp_path: Path,
) -> None:
    edited, modes = Edited(tmp_path), list[tuple[str, str, str]]()
    configuration = edited.configuration
    configuration.on_change(lambda old, new: modes.append((old.mode, new.mode, configuration.settings.mode)))
    load = await configuration.reload("sighup")
    assert (load.changes, load.problems, modes) == ((), (), [])
    edited.write(mode="observe")
    load = await configuration.reload("http")
    assert (load.by, load.changes) == ("http", ("mode: maintain -> observe: from the next run on",))
    assert load.settings_hash == configuration.settings.digest()
    assert modes == [("maintain", "observe", "observe")]


async def test_a_refused_change_leaves_all_as_it_was(tmp_path: Path) -> None:
    edited, followed = Edited(tmp_path), list[Settings]()
    configuration, services = edited.configuration, edited.configuration.services

    async def refuse(old: Settings, new: Settings) -> None:
        raise ConfigError([f"http.listen: {new.http.listen} can't be had"])

    configuration.before_change(refuse)
    configuration.on_change(lambda old, new: followed.append(new))
    for blocks, problem in (
        ({"http": {"listen": "127.0.0.1:9"}}, "127.0.0.1:9 can't be had"),
        ({"state_dir": str(tmp_path / "other")}, "state_dir: it can't change"),
        ({"tables": []}, "tables"),
    ):
        edited.write(**blocks)
        load = await configuration.reload("sighup")
        assert problem in load.problems[0]
        assert load.settings_hash == services.settings.digest()
    assert (configuration.services is services, followed) == (True, [])


async def test_services_that_a_reload_replaces_are_closed_when_the_last_run_gives_them_back(tmp_path: Path) -> None:
    edited = Edited(tmp_path)
    closed = list[str]()
    async with edited.configuration.borrowed() as services:
        edited.write(postgres={"dsn": "postgresql://icekeeper@127.0.0.1:2/icekeeper"})
        await edited.configuration.reload("sighup")
        assert edited.configuration.services is not services
        assert edited.configuration.services.source is services.source  # ClickHouse's settings are the same

        for name, connection in (("postgres", services.postgres), ("clickhouse", services.source)):

            async def close(name: str = name) -> None:
                closed.append(name)

            setattr(connection, "close", close)  # noqa: B010 - mypy refuses to assign a method
        await asyncio.sleep(0)
        assert closed == []
    assert closed == ["postgres"]
    assert not _takes_prefetches(services)
    assert _takes_prefetches(edited.configuration.services)


def _takes_prefetches(services: Services) -> bool:
    try:
        services.lakehouse._prefetchers.submit(int)
    except RuntimeError:  # its threads have ended
        return False
    return True


async def test_an_error_of_one_connection_keeps_no_other_open(tmp_path: Path) -> None:
    services = Edited(tmp_path).configuration.services
    closed = list[str]()

    async def fails() -> None:
        raise OSError("broken")

    async def closes() -> None:
        closed.append("postgres")

    setattr(services.source, "close", fails)  # noqa: B010 - mypy refuses to assign a method
    setattr(services.postgres, "close", closes)  # noqa: B010
    with pytest.raises(OSError, match="broken"):
        await services.close()
    assert closed == ["postgres"]
    assert not _takes_prefetches(services)
