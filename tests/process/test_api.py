"""The API of a real daemon on a real PostgreSQL: all that its OpenAPI document allows, and what it doesn't."""

from __future__ import annotations

import json
import os
import signal
import socket
import subprocess
import sys
import time
from collections.abc import Iterator
from pathlib import Path
from urllib.parse import urlsplit
from uuid import uuid4

import psutil
import pytest

from icekeeper.sandbox import Sandbox
from tests.conftest import SLOT
from tests.process.alone import TABLES, TOKEN, Alone, alone
from tests.process.program import document, environment, icekeeper, wait_for

BEARER = f"Bearer {TOKEN}"
JSON = {"Content_Type": "application/json"}
UNRECORDED = b'{"stages": ["audit"], "record": false, '
# The id of no run.
NOBODY = "00000000-0000-4000-8000-000000000000"


@pytest.fixture(scope="module")
def served(box: Sandbox, tmp_path_factory: pytest.TempPathFactory) -> Iterator[Alone]:
    with alone(box, tmp_path_factory.mktemp("api"), nights=70) as daemon:
        yield daemon


# With the token everything; without it what needs one. No schema can tell a table that is not there or a cursor that is
# none from good ones: they are refused all the same. What asks the lakehouse is a 503 here: it is there for nobody.
_ASKS_THE_LAKEHOUSE = "accept-rewrite$"
_SIGNED_IN = ["--header", f"Authorization: {BEARER}", "--max-examples", "8"]
_WITH_THE_TOKEN = [*_SIGNED_IN, "--exclude-path-regex", _ASKS_THE_LAKEHOUSE]
_OF_THE_LAKEHOUSE = [*_SIGNED_IN, "--include-path-regex", _ASKS_THE_LAKEHOUSE]
_WITHOUT = ["--include-method", "POST", "--max-examples", "3"]


@pytest.mark.long
@pytest.mark.parametrize(
    "options",
    [_WITH_THE_TOKEN, _OF_THE_LAKEHOUSE, _WITHOUT],
    ids=["with-the-token", "of-the-lakehouse", "without-a-token"],
)
def test_every_answer_is_one_that_the_openapi_document_names(served: Alone, tmp_path: Path, options: list[str]) -> None:
    """As a program of its own, with a seed: what fails here is found again by the same command."""
    command = [sys.executable, "-m", "schemathesis.cli", "run", f"{served.base}/api/v1/openapi.json"]
    command += ["--seed", "20260218", "--phases", "coverage,fuzzing", "--no-color", "--request-timeout", "35"]
    unchecked = "positive_data_acceptance"
    if options is _OF_THE_LAKEHOUSE:
        unchecked += ",not_a_server_error"
    command += ["--exclude-checks", unchecked, "--continue-on-failure", *options]
    done = subprocess.run(command, capture_output=True, text=True, timeout=120, env=environment(), cwd=tmp_path)
    assert done.returncode == 0, done.stdout + done.stderr


@pytest.mark.parametrize(
    ("path", "status"),
    [
        ("/api/v1/runs?table=%00", 422),
        ("/api/v1/runs?outcome=%00", 422),
        ("/api/v1/runs?limit=" + "9" * 6000, 422),
        ("/api/v1/runs?limit=5&limit=6", 422),
        ("/api/v1/runs?nonsense=1", 422),
        ("/api/v1/runs?after=0001-01-01T00:00:00%2B23:59_" + NOBODY, 422),
        ("/api/v1/runs?after=9999-12-31T23:59:59-23:59_" + NOBODY, 422),
        ("/api/v1/runs?after=0001-01-01T00:00:00Z_" + NOBODY, 200),
        ("/api/v1/runs?after=9999-12-31T23:59:59.999999Z_" + NOBODY, 200),
        ("/api/v1/runs?after=2026-02-18", 422),
        ("/api/v1/runs?after=%00", 422),
        ("/api/v1/runs?table=%F0%9F%A7%8A%27%3B--", 200),
        ("/api/v1/runs?table=%ED%A0%80", 200),  # half a surrogate pair: no text
        ("/api/v1/runs/%00", 422),
        ("/api/v1/runs/", 404),
        ("/api/v1/runs/nonsense", 422),
        (f"/api/v1/runs/{NOBODY}", 404),
        (f"/api/v1/runs/{NOBODY}?run_id={NOBODY}", 422),
        (f"/api/v1/runs/{NOBODY}/logs", 200),
        (f"/api/v1/runs/{NOBODY}/logs?text=%00", 422),
        (f"/api/v1/runs/{NOBODY}/logs?after={2**31}", 422),
        (f"/api/v1/runs/{NOBODY}/logs?after=-1", 422),
        ("/api/v1/tables/%00", 422),
        ("/api/v1/tables/..%2f..%2fetc%2fpasswd", 404),
        ("/api/v1/tables/" + "x" * 301, 422),
        ("/api/v1/tables/%C3%BC", 404),
        (f"/api/v1/tables/{TABLES[0]}?days=0", 422),
        ("/api/v1/nights?days=99999999999999999999", 422),
        ("/api/v1/findings?days=1&open=true", 200),
        ("/api/v1/findings?table=%ED%A0%80", 200),
        ("/api/v1/findings?table=%00", 422),
        ("/api/v1/findings?open=perhaps", 422),
        ("/api/v1/findings?days=0", 422),
        ("/api/v1/certificates", 200),
        ("/api/v1/certificates?day=2026-02-17&by=keys", 200),
        ("/api/v1/certificates?table=%ED%A0%80&from=1970-01-01&to=1970-01-02", 200),
        (f"/api/v1/certificates?table={TABLES[0]}&day=2020-02-17", 200),
        ("/api/v1/certificates?table=cold.nowhere&day=2020-02-17", 404),
        ("/api/v1/certificates?from=2026-02-17", 422),
        ("/api/v1/certificates?to=1970-01-01", 200),
        ("/api/v1/certificates?from=9998-12-30&to=9998-12-31", 200),
        ("/api/v1/certificates?table=%00", 422),
        ("/api/v1/certificates?day=2026-02-30", 422),
        ("/api/v1/certificates?day=9999-12-31", 422),
        ("/api/v1/certificates?day=2026-02-17&to=2026-02-17", 422),
        ("/api/v1/certificates?from=2026-02-17&to=2026-02-16", 422),
        ("/api/v1/certificates?from=2020-02-17&to=2026-02-16", 422),
        ("/api/v1/certificates?by=faith", 422),
        ("/api/v1/status?x=1", 422),
        ("/api/v1", 404),
        ("//api/v1/status", 404),
        ("/static/../pages.py", 404),
        ("/static/%2e%2e/pages.py", 404),
    ],
)
def test_odd_questions_have_plain_answers(served: Alone, path: str, status: int) -> None:
    got, answer = served.ask("GET", path)
    assert got == status, answer
    if status != 200:
        assert answer["status"] == status
        assert answer["title"]
        assert answer["detail"]


@pytest.mark.parametrize(
    ("body", "status"),
    [
        (b"", 422),
        (b"null", 422),
        (b"[]", 422),
        (b"{", 422),
        (b"\xff\xfe", 422),
        (b'{"tables": ["\\ud800"]}', 422),
        (b'{"tables": ["\\u0000"]}', 422),
        (b'{"tables": ["cold.nowhere"]}', 422),
        (b'{"slot": "0001-01-01T00:00:00+23:59"}', 422),
        (b'{"slot": "9999-12-31T23:59:59-23:59"}', 422),
        (b'{"slot": "1969-12-31T00:00:00Z"}', 422),
        (b'{"slot": "2026-02-19T00:00:00Z"}', 422),  # in the daemon's future
        (b'{"slot": 0}', 422),
        (b'{"dry_run": "yes"}', 422),
        (b'{"window_hours": 1e999}', 422),
        (b'{"window_hours": 9' + b"9" * 5000 + b"}", 422),
        (b'{"window": {"start": "2026-02-16T02:07:13Z", "end": "2026-02-17T02:07:13Z"}}', 422),  # it would record it
        (UNRECORDED + b'"window": {"start": "2026-02-17T00:00:00Z", "end": "2026-02-17T00:00:00Z"}}', 422),
        (UNRECORDED + b'"window": {"start": "2026-02-16T00:00:00", "end": "2026-02-17T00:00:00"}}', 422),
        (
            UNRECORDED
            + b'"window_hours": 6, "window": {"start": "2026-02-16T02:07:13Z", "end": "2026-02-17T02:07:13Z"}}',
            422,
        ),
        (b'{"stages": ["vacuum"]}', 422),
        (b'{"nonsense": 1}', 422),
        (b'{"tables": [' + b"[" * 20000 + b"]" * 20000 + b"]}", 422),
        (b'{"tables": ["' + b"x" * 70_000 + b'"]}', 413),
    ],
)
def test_odd_orders_begin_nothing(served: Alone, body: bytes, status: int) -> None:
    before = served.execute("SELECT count(*) FROM maintenance_runs WHERE trigger = 'manual'")
    got, answer = served.ask("POST", "/api/v1/runs", body, Authorization=BEARER, **JSON)
    assert (got, answer["status"]) == (status, status), answer
    assert served.execute("SELECT count(*) FROM maintenance_runs WHERE trigger = 'manual'") == before


def test_an_order_needs_its_content_type_and_an_origin_of_ours(served: Alone) -> None:
    asked = {"Authorization": BEARER}
    assert served.ask("POST", "/api/v1/runs", b"{}", **asked, Content_Type="text/plain")[0] == 415
    assert served.ask("POST", "/api/v1/runs", b"{}", **asked, **JSON, Origin="http://evil.example")[0] == 403
    assert served.ask("PUT", "/api/v1/runs", b"{}", **asked, **JSON)[0] == 405
    assert served.ask("HEAD", "/api/v1/status")[0] == 200
    assert served.ask("HEAD", "/api/v1/events")[0] == 405


def test_a_run_is_begun_shown_while_it_is_under_way_and_found_by_its_id(served: Alone) -> None:
    body = json.dumps({"stages": ["expire"], "tables": [TABLES[0]]}).encode()
    status, answer = served.ask("POST", "/api/v1/runs", body, Authorization=BEARER, **JSON)
    assert status == 202
    path = f"/api/v1/runs/{answer['run_id']}"
    run = wait_for("its end", lambda: (run := served.ask("GET", path)[1]).get("outcome") and run)
    assert (run["trigger"], run["outcome"], run["tables"]) == ("manual", "failed", [TABLES[0]])
    assert [task["reason"] for task in run["tasks"]] == ["engine_down"]
    assert run["tasks"][0]["advice"]
    logs = served.ask("GET", f"{path}/logs")[1]
    assert "run_ended" in [line["event"] for line in logs["items"]]
    warnings = served.ask("GET", f"{path}/logs?level=error")[1]["items"]
    assert {line["level"] for line in warnings} <= {"error", "critical"}
    # An operator's run of a stage answers for no night: the last night is the last night.
    assert served.ask("GET", "/api/v1/status")[1]["last_run"]["run_id"] != answer["run_id"]
    assert served.ask("POST", f"{path}/cancel", b"", Authorization=BEARER)[0] == 404


def test_pages_of_runs_follow_one_another_and_none_is_listed_twice(served: Alone) -> None:
    seen: list[str] = []
    after = ""
    while True:
        page = served.ask("GET", f"/api/v1/runs?limit=16&trigger=schedule{after}")[1]
        seen += [run["run_id"] for run in page["items"]]
        if page["next"] is None:
            break
        after = f"&after={page['next']}"
    assert len(seen) == len(set(seen)) == 70
    missed = served.ask("GET", "/api/v1/runs?outcome=failed&trigger=schedule")[1]["items"]
    assert {run["outcome"] for run in missed} == {"failed"}


def test_words_of_a_newer_icekeeper_are_shown_as_they_are(served: Alone) -> None:
    run_id = str(uuid4())
    served.execute(
        """
        INSERT INTO maintenance_runs
          (run_id, slot, trigger, outcome, started_at, finished_at, settings_hash, installation_id)
        SELECT $1, $2, 'tide', 'splendid', $2, $2, '', installation_id FROM maintenance_installations
        """,
        run_id,
        SLOT.replace(year=2020),
    )
    served.execute(
        """
        INSERT INTO maintenance_tasks (run_id, stage, iceberg_table, position, outcome, reason, note, attempts,
                                       started_at, duration_s)
        VALUES ($1, 'vacuum', 'odd"name; --', 1, 'mended', 'full_moon', '', 1, $2, 1)
        """,
        run_id,
        SLOT.replace(year=2020),
    )
    status, run = served.ask("GET", f"/api/v1/runs/{run_id}")
    assert status == 200, run
    assert (run["outcome"], run["tasks"][0]["stage"], run["tasks"][0]["advice"]) == ("splendid", "vacuum", None)
    assert served.ask("GET", "/api/v1/runs?limit=200")[0] == 200


def test_a_log_line_that_is_no_text_or_half_a_line_is_no_crash(served: Alone) -> None:
    run_id = uuid4()
    path = served.config.parent / "state" / "runs" / f"{run_id}.jsonl"
    path.parent.mkdir(exist_ok=True)
    lines = [
        b'{"event": "a", "path": "\\udcff"}',
        b'{"event": "b',
        b"\xff\xfe",
        b'["c"]',
        b'{"event": "d", "n": 1e999}',
    ]
    path.write_bytes(b"\n".join(lines))
    status, page = served.ask("GET", f"/api/v1/runs/{run_id}/logs")
    assert status == 200, page
    assert [line["event"] for line in page["items"]] == ["a", "d"]


def test_status_on_the_command_line_says_what_is_wrong_and_exits_by_it(served: Alone) -> None:
    done = icekeeper("status", "--json", config=served.config)
    answer = document(done)
    assert (answer["state"], done.returncode) == ("error", 1)
    assert any("1 day lacks rows" in trouble["text"] for trouble in answer["troubles"]), answer["troubles"]
    shown = icekeeper("status", config=served.config)
    assert shown.returncode == 1
    for word in ("error", "next night", "last night", "icekeeper ack", "engine"):
        assert word in shown.stdout, shown.stdout


def test_nothing_can_be_cancelled_where_nothing_is_under_way(served: Alone) -> None:
    done = icekeeper("cancel", config=served.config)
    assert done.returncode == 2
    assert "no run is under way" in done.stderr


def test_logs_on_the_command_line_are_those_of_the_last_run(served: Alone) -> None:
    chosen = ("--slot", f"{SLOT:%Y-%m-%d}", "--table", TABLES[0])
    run = document(icekeeper("compact", *chosen, "--json", config=served.config))
    done = icekeeper("logs", "--json", config=served.config)
    assert done.returncode == 0, done.stderr
    lines = [json.loads(line) for line in done.stdout.splitlines()]
    assert lines[-1]["event"] == "run_ended"
    shown = icekeeper("logs", run["run_id"][:8], "--level", "error", config=served.config)
    assert "task_failed" in shown.stdout or "engine_down" in shown.stdout, shown.stdout
    assert "run_ended" not in shown.stdout
    assert icekeeper("logs", "ffffffff", config=served.config).returncode == 2


def test_without_postgresql_the_api_says_so_and_the_daemon_lives(served: Alone) -> None:
    served.box.postgres.stop()
    try:
        for path in (
            "/api/v1/runs",
            f"/api/v1/runs/{uuid4()}",
            "/api/v1/nights",
            "/api/v1/findings",
            "/api/v1/certificates",
            f"/api/v1/tables/{TABLES[0]}",
        ):
            status, answer = served.ask("GET", path)
            assert (status, answer["reason"]) == (503, "ledger_down"), answer
            assert answer["advice"]
            assert "password" not in json.dumps(answer)
            assert served.box.postgres.password not in json.dumps(answer)
        assert served.ask("GET", "/api/v1/status")[0] == 200
        assert served.ask("GET", "/api/v1/tables")[0] == 200
        done = icekeeper("status", config=served.config)
        assert done.returncode in (1, 3), done.stderr
    finally:
        served.box.postgres.start()
    wait_for("PostgreSQL", lambda: served.ask("GET", "/api/v1/runs")[0] == 200)


def test_without_the_ledgers_tables_the_api_says_what_to_do(served: Alone) -> None:
    served.execute("ALTER TABLE maintenance_runs RENAME TO gone")
    try:
        status, answer = served.ask("GET", "/api/v1/runs")
        assert (status, answer["reason"]) == (503, "ledger_down")
        assert "icekeeper migrate" in answer["detail"]
        assert served.ask("GET", "/api/v1/status")[0] == 200
    finally:
        served.execute("ALTER TABLE gone RENAME TO maintenance_runs")


def test_a_listener_holds_up_no_stop_and_without_a_daemon_commands_say_so(box: Sandbox, tmp_path: Path) -> None:
    with alone(box, tmp_path) as daemon:
        place = urlsplit(daemon.base)
        with socket.create_connection((place.hostname or "", place.port or 0), timeout=30) as listener:
            listener.sendall(b"GET /api/v1/events HTTP/1.1\r\nHost: localhost\r\n\r\n")
            assert listener.recv(4096).startswith(b"HTTP/1.1 200")
            began = time.monotonic()
            os.kill(daemon.pid, signal.SIGTERM)
            while listener.recv(4096):
                pass
            wait_for("its end", lambda: not psutil.pid_exists(daemon.pid), 30)
            assert time.monotonic() - began < 10
        done = icekeeper("status", config=daemon.config)
        assert done.returncode == 4
        assert "no daemon serves" in done.stdout
        assert document(icekeeper("status", "--json", config=daemon.config))["daemon"] is False
        assert icekeeper("cancel", config=daemon.config).returncode == 4
