"""Parts that are down, hang or refuse: each gives its own reason. Ten tables on such a part: test_reasons_probe.py."""

from __future__ import annotations

import asyncio
from collections.abc import AsyncIterator
from datetime import timedelta
from typing import Any
from uuid import uuid4

import pytest

from icekeeper.adapters.clickhouse import client as clickhouse
from icekeeper.adapters.iceberg import calls as iceberg
from icekeeper.adapters.spark import engine as spark
from icekeeper.adapters.spark.engine import SparkEngine
from icekeeper.core.enums import RunOutcome, Stage, TaskOutcome
from icekeeper.core.events import Event, TaskEnded
from icekeeper.core.reasons import Reason
from icekeeper.execution.log_files import run_log_path
from icekeeper.sandbox import Sandbox
from tests.conftest import COINBASE, Night
from tests.integration.evidence import FAILED, HELD, Scenario, collected_in, play
from tests.integration.faults import Answer, Mode, Request, Rule
from tests.integration.lab import WRONG, Lab, laboratory, later

COMPACT, EXPIRE, AUDIT = Stage.COMPACT, Stage.EXPIRE, Stage.AUDIT
SCENARIOS: list[Scenario] = []
ON_REST: list[Scenario] = []
scenario, on_rest = collected_in(SCENARIOS), collected_in(ON_REST)


@pytest.fixture(scope="module")
async def lab(box: Sandbox, engine: SparkEngine, tmp_path_factory: pytest.TempPathFactory) -> AsyncIterator[Lab]:
    async with laboratory(box, engine, tmp_path_factory.mktemp("parts")) as made:
        yield made


@pytest.fixture(scope="module")
async def rest_lab(box: Sandbox, engine: SparkEngine, tmp_path_factory: pytest.TempPathFactory) -> AsyncIterator[Lab]:
    async with laboratory(box, engine, tmp_path_factory.mktemp("rest"), "rest") as made:
        yield made


@pytest.fixture(autouse=True)
def impatience(monkeypatch: pytest.MonkeyPatch) -> None:
    """Work that waits for a store that is down gives up soon."""
    monkeypatch.setattr(spark, "INTERRUPT_AFTER_S", 0.5)


def fresh(document: dict[str, Any]) -> None:
    """A catalog that the session has not opened yet; its tables are another's, or not there."""
    document["catalog"]["name"] = f"fresh{uuid4().hex[:8]}"


# --- catalog


@scenario(Reason.CATALOG_DOWN, COMPACT, FAILED, "refused")
async def a_catalog_that_was_never_reached_refuses(lab: Lab) -> AsyncIterator[Night]:
    async with lab.night(fresh) as night:
        await lab.catalog.set(Mode.REFUSE)
        yield night


@scenario(Reason.CATALOG_DOWN, EXPIRE, FAILED, "I/O error")
async def a_catalog_that_was_in_use_refuses(lab: Lab) -> AsyncIterator[Night]:
    async with lab.night() as night:
        await night.state(COINBASE)
        await lab.catalog.set(Mode.REFUSE)
        yield night


@scenario(Reason.CATALOG_DOWN, AUDIT, FAILED, "catalog")
async def a_catalog_resets_connections(lab: Lab) -> AsyncIterator[Night]:
    async with lab.night() as night:
        await lab.catalog.set(Mode.RESET)
        yield night


@scenario(Reason.ACCESS_DENIED, COMPACT, FAILED, 'password authentication failed for user "icekeeper"')
async def a_jdbc_catalogs_password_is_wrong(lab: Lab) -> AsyncIterator[Night]:
    def change(document: dict[str, Any]) -> None:
        fresh(document)
        document["catalog"]["properties"]["jdbc.password"] = WRONG

    async with lab.night(change) as night:
        yield night


@scenario(Reason.ACCESS_DENIED, COMPACT, FAILED, "password authentication failed")
async def a_wrong_password_stands_in_the_catalogs_url(lab: Lab) -> AsyncIterator[Night]:
    def change(document: dict[str, Any]) -> None:
        fresh(document)
        document["catalog"]["uri"] += f"?user=icekeeper&password={WRONG}"
        del document["catalog"]["properties"]["jdbc.password"], document["catalog"]["properties"]["jdbc.user"]

    async with lab.night(change) as night:
        yield night


@scenario(Reason.JAR_MISSING, COMPACT, FAILED, "write spark.packages: [com.mysql:mysql-connector-j:9.5.0]")
async def a_driver_is_not_among_the_packages(lab: Lab) -> AsyncIterator[Night]:
    def change(document: dict[str, Any]) -> None:
        fresh(document)
        document["catalog"]["uri"] = "jdbc:mysql://127.0.0.1:1/catalog"

    async with lab.night(change) as night:
        yield night


@scenario(Reason.JAR_MISSING, COMPACT, FAILED, "org.apache.iceberg:iceberg-gcp-bundle:1.12.0]")
async def a_clouds_client_is_not_among_the_packages(lab: Lab) -> AsyncIterator[Night]:
    def change(document: dict[str, Any]) -> None:
        fresh(document)
        document["catalog"]["properties"]["io-impl"] = "org.apache.iceberg.gcp.gcs.GCSFileIO"

    async with lab.night(change) as night:
        yield night


@scenario(Reason.JAR_MISSING, COMPACT, FAILED, "name the package that has it in spark.packages")
async def a_class_is_not_among_the_packages(lab: Lab) -> AsyncIterator[Night]:
    def change(document: dict[str, Any]) -> None:
        fresh(document)
        document["catalog"]["properties"]["io-impl"] = "com.acme.iceberg.FileIO"

    async with lab.night(change) as night:
        yield night


@on_rest(Reason.CATALOG_DOWN, COMPACT, FAILED, "Connection refused")
async def a_rest_catalog_refuses(lab: Lab) -> AsyncIterator[Night]:
    async with lab.night() as night:
        await lab.catalog.set(Mode.REFUSE)
        yield night


@on_rest(Reason.ACCESS_DENIED, COMPACT, FAILED, "Invalid client credentials")
async def a_rest_catalogs_credential_is_wrong(lab: Lab) -> AsyncIterator[Night]:
    def change(document: dict[str, Any]) -> None:
        fresh(document)
        document["catalog"]["properties"]["credential"] = f"somebody:{WRONG}"

    async with lab.night(change) as night:
        yield night


@on_rest(Reason.TABLE_NOT_FOUND, COMPACT, FAILED, "cannot be found")
async def a_rest_catalog_has_no_such_warehouse(lab: Lab) -> AsyncIterator[Night]:
    def change(document: dict[str, Any]) -> None:
        fresh(document)
        document["catalog"]["warehouse"] = "s3://nowhere"

    async with lab.night(change) as night:
        yield night


# --- store


@scenario(
    Reason.STORAGE_DOWN, COMPACT, FAILED, "reading its metadata was stopped after 2 s, waiting for the object store"
)
async def a_store_refuses(lab: Lab) -> AsyncIterator[Night]:
    async with lab.night() as night:
        await night.state(COINBASE)
        await lab.refill()  # or there would be nothing to read
        await lab.store.set(Mode.REFUSE)
        with pytest.MonkeyPatch.context() as patch:
            patch.setattr(iceberg, "METADATA_TIMEOUT", timedelta(seconds=2))
            yield night


@on_rest(Reason.ACCESS_DENIED, COMPACT, FAILED, "Service: S3, Status Code: 403")
async def a_stores_secret_is_wrong(lab: Lab) -> AsyncIterator[Night]:
    def change(document: dict[str, Any]) -> None:
        fresh(document)
        document["catalog"]["properties"]["s3.secret-access-key"] = WRONG

    async with lab.night(change) as night:
        yield night


@scenario(Reason.CLOCK_SKEW, COMPACT, FAILED, "time is too large")
async def a_store_finds_this_hosts_clock_wrong(lab: Lab) -> AsyncIterator[Night]:
    async def skewed(request: Request) -> Answer | None:
        if "-m" not in request.target or request.method != "GET":
            return None
        message = "The difference between the request time and the server's time is too large."
        error = f"<Error><Code>RequestTimeTooSkewed</Code><Message>{message}</Message></Error>"
        return Answer(403, error.encode(), "application/xml")

    async with lab.night() as night:
        await lab.refill()
        lab.store.rule = skewed
        yield night


# --- ClickHouse


@scenario(Reason.SOURCE_DOWN, AUDIT, FAILED, "Cannot connect")
async def a_source_refuses(lab: Lab) -> AsyncIterator[Night]:
    async with lab.night() as night:
        await lab.source.set(Mode.REFUSE)
        yield night


@scenario(Reason.SOURCE_DOWN, AUDIT, FAILED, "hangs")
async def a_source_hangs(lab: Lab) -> AsyncIterator[Night]:
    async with lab.night() as night:
        await lab.source.set(Mode.HANG)
        with pytest.MonkeyPatch.context() as patch:
            patch.setattr(clickhouse, "PROBE_TIMEOUT", timedelta(seconds=0.5))
            patch.setattr(clickhouse, "WAKE_TIMEOUT", timedelta(seconds=0.5))
            yield night


@scenario(Reason.ACCESS_DENIED, AUDIT, FAILED, "user icekeeper was refused")
async def a_sources_password_is_wrong(lab: Lab) -> AsyncIterator[Night]:
    def change(document: dict[str, Any]) -> None:
        document["clickhouse"]["password"] = WRONG

    async with lab.night(change) as night:
        yield night


@scenario(Reason.SOURCE_OUT_OF_MEMORY, AUDIT, FAILED, "memory limit exceeded")
async def a_source_grants_no_memory(lab: Lab) -> AsyncIterator[Night]:
    def change(document: dict[str, Any]) -> None:
        document["clickhouse"]["settings"] = {"max_memory_usage": 1}

    async with lab.night(change) as night:
        yield night


def counts_answered(*answers: Answer) -> Rule:
    """The first counts are answered so, the others pass."""
    left = list(answers)

    async def rule(request: Request) -> Answer | None:
        return left.pop(0) if left and b"SELECT count()" in request.body else None

    return rule


@scenario(Reason.SOURCE_FAULT, AUDIT, FAILED, "All connection tries failed")
async def a_source_does_not_reach_its_shards(lab: Lab) -> AsyncIterator[Night]:
    text = b"Code: 279. DB::Exception: All connection tries failed. (ALL_CONNECTION_TRIES_FAILED)"
    async with lab.night() as night:
        lab.source.rule = counts_answered(Answer(500, text, headers=("X-ClickHouse-Exception-Code: 279",)))
        yield night


async def test_a_source_that_a_proxy_does_not_reach_is_counted_by_the_third_attempt(lab: Lab) -> None:
    def change(document: dict[str, Any]) -> None:
        document["audit"]["retries"] = 2

    async with lab.night(change) as night:
        lab.source.rule = counts_answered(Answer(502, b"<html>Bad Gateway</html>"), Answer(524))
        (task,) = (await night.run(AUDIT)).tasks
        await lab.calm()
        assert (task.outcome, task.attempts) == (TaskOutcome.DONE, 3)


# --- PostgreSQL


@scenario(Reason.LEDGER_DOWN, EXPIRE, HELD, "whether a finding is open can't be asked")
async def a_ledger_can_not_say_whether_a_finding_is_open(lab: Lab) -> AsyncIterator[Night]:
    def change(document: dict[str, Any]) -> None:
        document["expire"]["hold_on"] = ["missing_data"]

    async with lab.night(change, clock=later) as night:
        night.settings.state_dir.mkdir(parents=True, exist_ok=True)
        await night.services.holds.keep()  # what is on hold is known
        await lab.ledger.set(Mode.REFUSE)
        tasks = set()

        class Events(list[Event]):
            def append(self, event: Event) -> None:
                super().append(event)
                if isinstance(event, TaskEnded):  # the ledger is back when the run is closed
                    tasks.add(asyncio.ensure_future(lab.calm()))

        night.events = Events()
        yield night


# --- all of them


@pytest.mark.parametrize("scenario", SCENARIOS, ids=str)
async def test_a_system_that_fails_is_named_in_every_output(lab: Lab, scenario: Scenario) -> None:
    await play(lab, scenario)


@pytest.mark.parametrize("scenario", ON_REST, ids=str)
async def test_a_part_of_a_lakehouse_with_a_rest_catalog_is_named_alike(rest_lab: Lab, scenario: Scenario) -> None:
    await play(rest_lab, scenario)


async def test_a_ledger_that_is_lost_in_the_middle_costs_the_record_and_not_the_work(lab: Lab) -> None:
    async def lose_the_ledger(request: Request) -> None:
        if request.method == "PUT":
            await lab.ledger.set(Mode.REFUSE)

    await lab.refill()
    async with lab.night() as night:
        lab.store.rule = lose_the_ledger
        done = await night.execute(COMPACT)
        await lab.calm()

        assert done.report.outcome is RunOutcome.SUCCESS
        assert done.not_shipped is not None
        assert done.not_shipped.reason is Reason.LEDGER_DOWN
        assert "PostgreSQL 127.0.0.1" in str(done.not_shipped)
        run_id = done.report.run_id
        assert night.ledger("SELECT outcome FROM maintenance_runs WHERE run_id = $1", str(run_id)) == []
        text = run_log_path(night.settings.state_dir, run_id).read_text()
        assert (await night.execute(COMPACT)).not_shipped is None
        assert night.ledger("SELECT outcome FROM maintenance_runs WHERE run_id = $1", str(run_id)) == [("success",)]
        assert not [secret for secret in lab.secrets() if secret in text]


async def test_a_ledgers_password_that_is_wrong_is_access_denied_and_not_shown(lab: Lab) -> None:
    def change(document: dict[str, Any]) -> None:
        document["postgres"]["password"] = WRONG
        document["expire"]["hold_on"] = ["missing_data"]

    async with lab.night(change, clock=later) as night:
        done = await night.execute(EXPIRE)
        (task,) = done.report.tasks
        assert (task.outcome, task.reason) == (HELD, Reason.ACCESS_DENIED)
        assert done.not_shipped is not None
        assert done.not_shipped.reason is Reason.ACCESS_DENIED
        for text in (task.note, str(done.not_shipped)):
            assert "icekeeper" in text
            assert WRONG not in text
