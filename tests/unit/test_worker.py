"""The worker of the nights: a slot is done once, whatever ends its term."""

from __future__ import annotations

import asyncio
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from dataclasses import replace
from pathlib import Path
from typing import cast

import yaml

from icekeeper.adapters.spark.engine import SparkEngine
from icekeeper.adapters.spool.spool import Spool
from icekeeper.core.enums import RunOutcome, Trigger
from icekeeper.core.events import Event, RunEnded
from icekeeper.execution.wiring import Services, build, spark_options
from icekeeper.scheduling.reload import Configuration
from icekeeper.scheduling.worker import Worker
from icekeeper.settings import Settings, load
from tests.unit.builders import SLOT
from tests.unit.fakes import World


class Replaced:
    """A configuration that a reload has replaced during a run: at the run's end its connections take long to close."""

    def __init__(self, services: Services) -> None:
        self.services = services
        self.closing = asyncio.Event()

    @property
    def settings(self) -> Settings:
        return self.services.settings

    @asynccontextmanager
    async def borrowed(self) -> AsyncIterator[Services]:
        yield self.services
        self.closing.set()
        await asyncio.Event().wait()


def settings_of_one_table(place: Path) -> Settings:
    """Settings of a host without its servers."""
    path = place / "icekeeper.yaml"
    document = {
        "catalog": {"name": "k2", "type": "hadoop", "warehouse": str(place / "lake")},
        "clickhouse": {"url": "http://127.0.0.1:1", "database": "k2"},
        "postgres": {"dsn": "postgresql://icekeeper@127.0.0.1:1/icekeeper"},
        "tables": [{"name": "cold.a", "audit": False}],
        "state_dir": str(place / "state"),
    }
    path.write_text(yaml.safe_dump(document))
    return load(path)


async def test_a_run_closes_its_slot_though_the_term_ends_before_the_services_are_given_back(tmp_path: Path) -> None:
    settings, world = settings_of_one_table(tmp_path), World()
    settings.state_dir.mkdir()
    for policy in settings.policies():
        world.add(policy)
    services = replace(build(settings, SparkEngine(spark_options(settings))), ports=world.ports)
    configuration, ended = Replaced(services), list[Event]()
    spool = await Spool.open(settings.state_dir, clock=world.clock)
    try:
        nights = Worker(cast(Configuration, configuration), spool, ended.append, world.clock)
        term = asyncio.create_task(nights.run())
        await nights.slots.put(SLOT, Trigger.SCHEDULE)
        await configuration.closing.wait()
        await nights.stop()
        term.cancel()
        await asyncio.wait([term])

        assert [event.report.outcome for event in ended if isinstance(event, RunEnded)] == [RunOutcome.SUCCESS]
        assert nights.slots.open == {}
    finally:
        await spool.close()
        await services.close()
