"""Five years of nights in the ledger: every page and answer is quick, and no query reads a big table as a whole."""

from __future__ import annotations

import http.client
import json
import statistics
import time
from collections.abc import Iterator
from datetime import UTC, datetime, timedelta
from typing import Any
from urllib.parse import urlsplit
from uuid import UUID

import asyncpg
import pytest

from icekeeper.adapters.ledger.sql import statement
from icekeeper.sandbox import Sandbox
from tests.conftest import SLOT
from tests.process.alone import TABLES, Alone, alone

# One measures; what the others look at is made for it.
pytestmark = pytest.mark.timing

NIGHTS = 1826
LIMIT_S = 0.1
TIMES, MOST_TIMES = 15, 300
# One row for each night, acknowledged day or icekeeper: a page or two. The others have one for each table, or line.
SMALL = {"maintenance_runs", "maintenance_acks", "maintenance_installations"}


@pytest.fixture(scope="module")
def served(box: Sandbox, tmp_path_factory: pytest.TempPathFactory) -> Iterator[Alone]:
    with alone(box, tmp_path_factory.mktemp("years"), nights=NIGHTS, lines=100) as daemon:
        yield daemon


def the_run(served: Alone) -> UUID:
    """One of the last year, with its log."""
    query = "SELECT run_id FROM maintenance_runs WHERE outcome = 'failed' ORDER BY started_at DESC LIMIT 1"
    return UUID(str(served.execute(query)[0][0]))


def test_every_page_and_answer_takes_less_than_a_tenth_of_a_second(served: Alone) -> None:
    run_id, table = the_run(served), TABLES[0]
    after = served.ask("GET", "/api/v1/runs?limit=200")[1]["next"]
    paths = [
        "/",
        "/runs",
        "/runs?outcome=missed",
        f"/runs/{run_id}",
        f"/runs/{run_id}?text=task&level=warning",
        f"/runs/{run_id}/log.jsonl",
        "/tables",
        f"/tables/{table}",
        f"/tables/{table}?days=1825",
        "/settings",
        "/sign-in",
        "/metrics",
        "/livez",
        "/readyz",
        "/api/v1/status",
        "/api/v1/runs",
        "/api/v1/runs?limit=200",
        f"/api/v1/runs?limit=200&after={after}",
        f"/api/v1/runs?outcome=failed&table={table}",
        f"/api/v1/runs/{run_id}",
        f"/api/v1/runs/{run_id}/logs?limit=1000",
        f"/api/v1/runs/{run_id}/logs?text=WARNING&level=warning",
        "/api/v1/nights?days=400",
        "/api/v1/findings?days=400",
        "/api/v1/tables",
        f"/api/v1/tables/{table}",
        f"/api/v1/tables/{table}?days=2000",
        "/api/v1/config",
        "/api/v1/openapi.json",
    ]
    took = {path: _took_s(served, path) for path in paths}
    print("\n  least   median")
    for path, (least, median) in took.items():
        print(f"{least * 1000:7.1f}  {median * 1000:7.1f} ms  {path}")
    # The least, for other work on the machine is no page's: of that the median tells as much as of the page.
    assert {path: least for path, (least, _) in took.items() if least >= LIMIT_S} == {}


def _took_s(served: Alone, path: str) -> tuple[float, float]:
    """The least and the median over one connection; the first answer does not count.

    One that is too slow is asked for again and again: a machine that is busy lets it have its time once.
    """
    place = urlsplit(served.base)
    connection = http.client.HTTPConnection(place.hostname or "", place.port, timeout=30)
    took: list[float] = []
    while len(took) <= TIMES or (min(took[1:]) >= LIMIT_S and len(took) <= MOST_TIMES):
        began = time.monotonic()
        connection.request("GET", path)
        answer = connection.getresponse()
        answer.read()
        took.append(time.monotonic() - began)
        assert answer.status == 200, path
    connection.close()
    return min(took[1:]), statistics.median(took[1:])


def test_five_years_of_a_table_are_as_many_points_as_a_chart_can_show_and_all_that_was_wrong(served: Alone) -> None:
    document = served.ask("GET", f"/api/v1/tables/{TABLES[0]}?days=2000")[1]
    assert len(document["tasks"]) == 100
    assert 300 < len(document["healths"]) <= 366
    bad = served.execute(
        "SELECT count(*) FROM maintenance_audit_log WHERE iceberg_table = $1 AND status <> 'ok'", TABLES[0]
    )[0][0]
    assert sum(audit["status"] != "ok" for audit in document["audits"]) == bad > 0
    assert len(document["audits"]) <= 366 + bad
    newest = f"{SLOT:%Y-%m-%d}"
    assert document["healths"][-1]["slot"].startswith(newest)
    assert document["audits"][-1]["window_end"].startswith(newest)
    for points in (document["healths"], document["audits"], document["tasks"]):
        began = [point.get("at") or point.get("window_start") or point["started_at"] for point in points]
        assert began == sorted(began)
    month = served.ask("GET", f"/api/v1/tables/{TABLES[0]}?days=30")[1]
    assert 28 <= len(month["healths"]) <= 30


async def test_the_ledgers_queries_use_their_indexes(served: Alone) -> None:
    run_id, year = the_run(served), SLOT - timedelta(days=365)
    table, began = TABLES[0], datetime(2024, 6, 1, tzinfo=UTC)
    long, stages = SLOT - timedelta(days=2000), ["compact", "expire", "audit"]
    connection = await asyncpg.connect(
        served.box.postgres.dsn(served.database), password=served.box.postgres.password, statement_cache_size=0
    )
    own = await connection.fetchval("SELECT installation_id FROM maintenance_installations")
    asked: list[tuple[str, str, tuple[object, ...]]] = [
        ("run_page", statement("run_page"), (None, None, None, None, None, 51, own)),
        ("run_page of all", statement("run_page"), (None, None, None, None, None, 51, None)),
        ("run_page after", statement("run_page"), (began, run_id, None, None, None, 51, own)),
        ("run_page missed", statement("run_page"), (None, None, "missed", None, None, 51, own)),
        ("run_page of a table", statement("run_page"), (None, None, None, "schedule", table, 51, own)),
        ("last_night", statement("last_night"), (stages, list(TABLES), SLOT - timedelta(days=40), own)),
        ("nights", statement("nights"), (stages, list(TABLES), SLOT - timedelta(days=67), own)),
        ("tasks", statement("tasks"), (run_id,)),
        ("audits", statement("audits"), (run_id,)),
        ("log_page", statement("log_page"), (run_id, 0, ["warning"], "task", 500)),
        ("table_tasks", statement("table_tasks"), (table, year, 100, own)),
        ("table_healths", statement("table_healths"), (table, long, 366, own)),
        ("table_audits", statement("table_audits"), (table, long, 366, own)),
        ("typical_durations", statement("typical_durations"), (list(TABLES), SLOT - timedelta(days=30), own)),
        ("open_windows", statement("open_windows"), (list(TABLES), own)),
    ]
    read_whole = {}
    try:
        for name, query, values in asked:
            rows = await connection.fetch(f"EXPLAIN (ANALYZE, FORMAT JSON) {query}", *values)
            document = json.loads(rows[0][0])[0]
            print(f"\n{name}: {document['Planning Time'] + document['Execution Time']:.1f} ms")
            nodes = list(_nodes(document["Plan"]))
            for depth, node in nodes:
                what = node.get("Index Name") or node.get("Relation Name") or ""
                print(f"{'  ' * depth}{node['Node Type']} {what} rows={node['Actual Rows']:g}")
            whole = {node["Relation Name"] for _, node in nodes if node["Node Type"] == "Seq Scan"} - SMALL
            if whole:
                read_whole[name] = whole
    finally:
        await connection.close()
    # Who asks what is open asks for all audits of all tables: there is nothing to leave out.
    assert set(read_whole) <= {"open_windows"}, read_whole


def _nodes(plan: dict[str, Any], depth: int = 1) -> Iterator[tuple[int, dict[str, Any]]]:
    yield depth, plan
    for child in plan.get("Plans", []):
        yield from _nodes(child, depth + 1)
