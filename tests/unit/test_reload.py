"""The configuration in force: what a reload replaces, what may refuse it, and who keeps what it has borrowed."""

from __future__ import annotations

import asyncio
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
import yaml

from icekeeper.adapters.spark.engine import SparkEngine
from icekeeper.core.errors import ConfigError
from icekeeper.core.history import ConfigLoad
from icekeeper.execution.wiring import Services, build, spark_options
from icekeeper.scheduling.reload import Configuration
from icekeeper.scheduling.secret_files import SecretFiles
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
    assert edited.configuration.services.ports.proofs is services.ports.proofs, "what is saved for proofs stays"


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


# --- secrets that are rotated in their files


class Rotated(Edited):
    """A configuration whose catalog and PostgreSQL have secrets in files."""

    def __init__(self, place: Path) -> None:
        self.key, self.password = place / "key", place / "password"
        self.key.write_text("old-key")
        self.password.write_text("old-password\n")
        super().__init__(place)
        self.document["catalog"]["properties"] = {"s3.secret-access-key_file": str(self.key)}
        self.document["postgres"]["password_file"] = "password"
        self.write()
        settings, clock = load(self.path), ManualClock()
        services = build(settings, SparkEngine(spark_options(settings)), clock=clock, sleep=clock.sleep)
        self.configuration = Configuration(self.path, services, clock, clock.sleep)

    @property
    def in_force(self) -> tuple[str, str]:
        settings = self.configuration.settings
        assert settings.postgres is not None
        return settings.catalog.properties["s3.secret-access-key"], settings.postgres.secret() or ""


OLD = ("old-key", "old-password")


@pytest.mark.parametrize(
    ("change", "changes", "problem", "in_force"),
    [
        (lambda edited: None, None, None, OLD),
        (
            lambda edited: edited.key.write_text("new-key"),
            ("catalog: a secret of it: the session is recycled between runs",),
            None,
            ("new-key", "old-password"),
        ),
        (
            lambda edited: edited.password.write_text("new"),
            ("postgres: a secret of it: pool rebuilt",),
            None,
            ("old-key", "new"),
        ),
        (lambda edited: edited.key.write_text(""), (), "is empty", OLD),
        (lambda edited: edited.key.unlink(), (), "can't be read", OLD),
        # The file is being edited: nothing of it is in force before a reload.
        (
            lambda edited: (edited.key.write_text("new-key"), edited.write(mode="observe")),
            (),
            "other keys, too: they wait for a reload",
            OLD,
        ),
        # Another file for a secret that had none is a change of the configuration.
        (
            lambda edited: edited.write(http={"token_file": str(edited.key)}),
            (),
            "other keys, too: they wait for a reload",
            OLD,
        ),
    ],
    ids=["nothing", "a key", "a password", "an empty file", "no file", "other keys, too", "one more file"],
)
async def test_what_a_secret_file_holds_is_taken_up_alone(
    tmp_path: Path,
    change: Callable[[Rotated], object],
    changes: tuple[str, ...] | None,
    problem: str | None,
    in_force: tuple[str, str],
) -> None:
    edited = Rotated(tmp_path)
    change(edited)
    load = await edited.configuration.renew_secrets()
    assert (load.changes if load else None) == changes
    assert (load.problems == () if load else True) if problem is None else problem in load.problems[0]  # type: ignore[union-attr]
    assert edited.in_force == in_force
    assert edited.configuration.settings.mode == "maintain"


async def test_a_session_gets_the_rotated_secrets_and_nothing_else_that_was_reloaded(tmp_path: Path) -> None:
    edited = Rotated(tmp_path)
    used = edited.configuration.services.engine.options
    key = "spark.sql.catalog.k2.s3.secret-access-key"
    edited.key.write_text("new-key")
    await edited.configuration.renew_secrets()
    fresh = edited.configuration.with_secrets(used)
    assert fresh.session_conf == {**used.session_conf, key: "new-key"}

    edited.document["catalog"]["warehouse"] = str(tmp_path / "another")
    edited.write()
    await edited.configuration.reload("sighup")
    assert edited.configuration.with_secrets(used) == used, "the run under way goes on with its own catalog"


async def test_files_that_belong_together_are_read_once_none_of_them_changes_any_more(tmp_path: Path) -> None:
    edited, loads = Rotated(tmp_path), list[ConfigLoad | None]()

    async def taken_up(load: ConfigLoad | None) -> None:
        loads.append(load)

    waits = list[float]()

    async def sleep(seconds: float) -> None:
        waits.append(seconds)
        if len(waits) == 2:  # the first file has changed, and the other one follows
            edited.password.write_text("new-password")

    files = SecretFiles(edited.configuration, taken_up, sleep)
    used = edited.configuration.services.engine.options
    assert await files.after_refusal(used) == used
    assert (loads, waits) == ([None], [2.0])
    edited.key.write_text("new-key")
    fresh = await files.after_refusal(used)
    assert fresh.session_conf["spark.sql.catalog.k2.s3.secret-access-key"] == "new-key"
    assert edited.in_force == ("new-key", "new-password")
    assert await files.after_refusal(used) == fresh, "nothing is read where nothing has changed"
    assert len(loads) == 2
    assert waits == [2.0] * 3
