"""docs/permissions.md is true: a whole night with exactly these rights, and the doctor names each that is missing."""

from __future__ import annotations

import asyncio
import json
import re
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from pathlib import Path
from typing import Any
from uuid import uuid4
from xml.sax.saxutils import escape

import pytest

from icekeeper.adapters.ledger.sql.grants import grants
from icekeeper.adapters.ledger.sql.migrations import migrate
from icekeeper.adapters.postgres.pool import Postgres
from icekeeper.core.enums import RunOutcome
from icekeeper.doctor import Check, Level, Subject, examine
from icekeeper.doctor.ledger import examine_ledger
from icekeeper.doctor.offload import examine_offload
from icekeeper.doctor.source import examine_source
from icekeeper.sandbox import Sandbox
from tests.conftest import BINANCE, COINBASE, MakeNight, Night
from tests.integration.clickhouse_users import restart_as_made, restart_with_users

pytestmark = pytest.mark.long

PAGE = Path(__file__).parents[2] / "docs" / "permissions.md"
SMALL: dict[str, Any] = {"commits_per_day": 24, "files_per_commit": 1, "days": 1.5}
PASSWORD = "choose one"
S3_SECRET = "a-secret-of-20-letters"


def blocks(heading: str, language: str) -> list[str]:
    """The code blocks of a language below a heading of the page."""
    section = PAGE.read_text().partition(f"\n## {heading}\n")[2].partition("\n## ")[0]
    return [rest.partition("```")[0] for rest in section.split(f"```{language}\n")[1:]]


def statements(heading: str, role: str = "icekeeper") -> list[str]:
    """The page's statements about a role."""
    found = [" ".join(line.split()) for block in blocks(heading, "sql") for line in block.split(";") if line.strip()]
    return [line for line in found if re.search(rf"\b(?:TO|ROLE|USER) {role}\b", line)]


def policy(night_name: str, *, without: str | None = None) -> dict[str, Any]:
    """The page's policy for a world's part of the bucket; perhaps with one action less."""
    document: dict[str, Any] = json.loads(
        blocks("S3", "json")[0].replace("BUCKET/WAREHOUSE", f"warehouse/{night_name}").replace("BUCKET", "warehouse")
    )
    for statement in document["Statement"]:
        actions = statement["Action"] if isinstance(statement["Action"], list) else [statement["Action"]]
        statement["Action"] = [action for action in actions if action != without]
    document["Statement"] = [statement for statement in document["Statement"] if statement["Action"]]
    return document


def postgres_role(box: Sandbox, night: str, heading: str, role: str, name: str) -> None:
    """Runs the page's statements about a role, under another name: roles are the server's, not a database's."""
    for statement in statements(heading, role):
        text = re.sub(rf"\b{role}\b", name, statement)
        box.postgres.execute(night, re.sub(r"ON DATABASE \w+", f"ON DATABASE {night}", text))


@asynccontextmanager
async def clickhouse_rights(box: Sandbox, grants: list[str], readonly: int) -> AsyncIterator[None]:
    """ClickHouse's engine started anew, with these rights for the only user that it has; afterwards as it was."""
    # The front's `USE default` is the sandbox's way to set a request's database.
    given = ["GRANT SHOW DATABASES ON default.*", *grants]
    queries = "".join(f"<query>{escape(grant)}</query>" for grant in given)
    profile, rights = f"<readonly>{readonly}</readonly>", f"<grants>{queries}</grants>"
    try:
        await asyncio.to_thread(restart_with_users, box.clickhouse, box.root, profile=profile, rights=rights)
        yield
    finally:
        await asyncio.to_thread(restart_as_made, box.clickhouse, box.root)


def clickhouse_grants(night: str) -> list[str]:
    """The page's grants on this world's tables, as the engine's users file wants them: without a name."""
    found = [line for line in statements("ClickHouse") if line.startswith("GRANT")]
    ours = [line for line in found if any(source in line for source in ("trades_binance", "trades_coinbase"))]
    return [line.replace("k2.", f"{night}.").removesuffix(" TO icekeeper") for line in ours]


@pytest.fixture
async def limited(make_night: MakeNight, box: Sandbox) -> Night:
    """A world on which every account may do what the page says, and nothing else."""
    name = f"permitted{uuid4().hex[:8]}"
    keeper, catalog = f"keeper_{name}", f"catalog_{name}"

    def change(document: dict[str, Any]) -> None:
        server = document["postgres"]
        server |= {"dsn": server["dsn"].replace("icekeeper@", f"{keeper}@"), "password": PASSWORD}
        document["catalog"]["properties"] |= {
            "jdbc.user": catalog,
            "jdbc.password": PASSWORD,
            "s3.access-key-id": name,
            "s3.secret-access-key": S3_SECRET,
        }

    night = await make_night(BINANCE, COINBASE, name=name, change=change, migrated=False, generation="older", **SMALL)
    await migrate(box.postgres.dsn(name), box.postgres.password)
    box.postgres.execute(name, "REVOKE ALL ON SCHEMA public FROM PUBLIC")
    box.postgres.execute(name, f"REVOKE ALL ON DATABASE {name} FROM PUBLIC")
    postgres_role(box, name, "PostgreSQL: the ledger", "icekeeper", keeper)
    postgres_role(box, name, "PostgreSQL: a JDBC catalog", "icekeeper_catalog", catalog)
    await asyncio.to_thread(box.s3.add_identity, name, S3_SECRET, policy(name))
    return night


async def ask(night: Night) -> list[Check]:
    return await examine(night.services, night.settings.policies())


def failure(checks: list[Check]) -> list[Check]:
    return [check for check in checks if check.level is Level.ERROR]


async def test_a_whole_night_needs_no_more_than_the_page_says(limited: Night, box: Sandbox) -> None:
    async with clickhouse_rights(box, clickhouse_grants(limited.world.name), readonly=2):
        assert failure(await ask(limited)) == []
        report = await limited.run()
        assert failure(await ask(limited)) == []

    assert report.outcome is RunOutcome.SUCCESS, [task.error for task in report.tasks]
    assert {(task.stage.value, task.outcome.value) for task in report.tasks} == {
        ("compact", "done"), ("expire", "done"), ("audit", "done"),
    }  # fmt: skip
    assert [audit.ch_final for audit in report.audits] == [True, False]


async def test_the_ledgers_grants_on_the_page_are_those_that_icekeeper_knows(limited: Night, box: Sandbox) -> None:
    owner = Postgres(box.postgres.dsn(limited.world.name), box.postgres.password)
    known = await grants(owner, "icekeeper")
    await owner.close()
    granted = {line for line in statements("PostgreSQL: the ledger") if "maintenance_" in line or "version" in line}
    assert granted == {
        line.replace('"icekeeper"', "icekeeper") for line in known if " ON maintenance_" in line or "version" in line
    }


async def database_checks(night: Night) -> list[Check]:
    """The doctor's checks of PostgreSQL: of the ledger, and of the offload's table in it."""
    ledger = await examine_ledger(night.services)
    return [*ledger, *await examine_offload(night.services, night.settings.policies())]


async def test_each_missing_grant_in_postgresql_is_named(limited: Night, box: Sandbox) -> None:
    name, role = limited.world.name, limited.services.postgres.target.role
    for statement in statements("PostgreSQL: the ledger"):
        if not statement.startswith("GRANT") or "DATABASE" in statement:
            continue
        privileges, _, tables = statement.removeprefix("GRANT ").removesuffix(" TO icekeeper").partition(" ON ")
        for table in tables.split(", "):
            for privilege in privileges.split(", "):
                right = f"{privilege} ON {table}"
                box.postgres.execute(name, f"REVOKE {right} FROM {role}")
                checks = await database_checks(limited)
                box.postgres.execute(name, f"GRANT {right} TO {role}")
                named = [
                    f
                    for f in checks
                    if f"GRANT {privilege} ON " in f.advice and f" TO {role}" in f.advice.replace('"', "")
                ]
                assert named, (right, checks)
                assert table.rpartition(" ")[2] in named[0].advice
    assert failure(await database_checks(limited)) == []


async def test_each_missing_action_of_the_stores_policy_is_named(limited: Night, box: Sandbox) -> None:
    name = limited.world.name
    # Untested: s3:AbortMultipartUpload, which only a broken upload needs.
    for action in ("s3:PutObject", "s3:DeleteObject", "s3:ListBucket", "s3:GetObject"):
        await asyncio.to_thread(box.s3.add_identity, name, S3_SECRET, policy(name, without=action))
        checks = [check for check in await ask(limited) if check.subject is Subject.STORAGE]
        (check,) = [each for each in checks if each.level is not Level.OK and "probe" not in each.text]
        bucket = "arn:aws:s3:::warehouse"
        resource = bucket if action == "s3:ListBucket" else f"{bucket}/{name}/*"
        assert f"Allow {action} on {resource}" in check.advice, check
        if action == "s3:DeleteObject":
            (left,) = [key for key in limited.store() if "icekeeper-doctor-probe" in key][:1]
            assert any("still in the store" in each.text for each in checks), left


async def test_a_missing_right_on_the_catalogs_tables_is_named(limited: Night, box: Sandbox) -> None:
    name = limited.world.name
    box.postgres.execute(name, f"REVOKE UPDATE ON iceberg_tables FROM catalog_{name}")
    (check,) = failure(await ask(limited))
    assert check.subject is Subject.CATALOG
    assert f"GRANT UPDATE ON iceberg_tables TO catalog_{name};" in check.advice


async def test_each_missing_right_in_clickhouse_is_named(limited: Night, box: Sandbox) -> None:
    name, policies = limited.world.name, limited.settings.policies()
    missing, given = clickhouse_grants(name)
    async with clickhouse_rights(box, [given], readonly=2):
        (check,) = failure(await examine_source(limited.services, policies))
    assert f"{missing} TO icekeeper;" in check.advice
    await limited.services.source.close()

    async with clickhouse_rights(box, clickhouse_grants(name), readonly=1):
        (check,) = failure(await examine_source(limited.services, policies))
    # Only the table whose rows have to be merged needs a setting that the profile forbids to set.
    assert "fixes final = '0'" in check.text
    assert "readonly = 2" in check.advice
