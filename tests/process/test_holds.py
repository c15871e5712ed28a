"""`hold` and `release` on the real program: beside a daemon, which is told, and without one, straight to the ledger."""

from __future__ import annotations

import json
from typing import Any

import pytest

from icekeeper.sandbox import Sandbox
from tests.process.alone import TABLES, TOKEN, alone
from tests.process.program import document, fetch, icekeeper, metrics, wait_for

A, B = TABLES[:2]
JSON = {"Authorization": f"Bearer {TOKEN}", "Content_Type": "application/json"}


def _stages(holds: list[dict[str, Any]]) -> list[tuple[str, str]]:
    return sorted((hold["table"], hold["stage"]) for hold in holds)


def test_what_an_operator_holds_is_shown_everywhere_and_released_with_a_daemon_and_without(
    box: Sandbox, tmp_path: Any, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("SUDO_USER", "ann")
    with alone(box, tmp_path) as daemon:
        config = daemon.config
        held = icekeeper("hold", A, "--stage", "expire", "--until", "8h", "--note", "a reader", config=config)
        assert held.returncode == 0, held.stderr
        assert held.stdout.startswith(f"{A}: expire on hold until ")
        assert held.stdout.endswith(": a reader\n")
        assert " by ann since 2026-02-18T03:0" in held.stdout  # the daemon's clock
        whole = icekeeper("hold", B, "--note", "restored", "--by", "bob", "--json", config=config)
        assert _stages(document(whole)["held"]) == [(B, stage) for stage in ("audit", "compact", "expire")]

        shown = wait_for("the holds", lambda: (found := daemon.ask("GET", "/api/v1/status")[1])["holds"][3:] and found)
        assert _stages(shown["holds"]) == [(A, "expire"), *((B, stage) for stage in ("audit", "compact", "expire"))]
        texts = [one["text"] for one in shown["troubles"] if " on hold " in one["text"]]
        assert [text.partition(" on hold ")[0] for text in texts] == [f"{A}: expire", f"{B}: compact, expire, audit"]
        series = metrics(daemon.base)
        assert series[f'icekeeper_operator_hold{{stage="expire",table="{A}"}}'] == 1
        assert series[f'icekeeper_operator_hold{{stage="compact",table="{A}"}}'] == 0
        page = fetch(f"{daemon.base}/tables/{A}") or ""
        assert "Expire on hold" in page
        assert "a reader" in page
        assert "on hold until" in icekeeper("status", config=config).stdout
        _, one = daemon.ask("GET", f"/api/v1/tables/{A}")
        assert _stages(one["holds"]) == [(A, "expire")]

        body = json.dumps({"stages": ["compact"], "note": "by the API"}).encode()
        assert daemon.ask("POST", f"/api/v1/tables/{A}/hold", body, Content_Type="application/json")[0] == 401
        status, answer = daemon.ask("POST", f"/api/v1/tables/{A}/hold", body, **JSON)
        assert (status, answer["items"][0]["by"], answer["items"][0]["until"]) == (200, "the API", None)
        for wrong in (
            {"note": ""},
            {"note": " "},
            {"stages": ["compact"]},
            {"note": "n", "stages": ["repair"]},
            {"note": "n", "until": "2026-02-18T02:00:00Z"},
            {"note": "n", "until": "tomorrow"},
            {"note": "n", "more": 1},
        ):
            status, answer = daemon.ask("POST", f"/api/v1/tables/{A}/hold", json.dumps(wrong).encode(), **JSON)
            assert status == 422, (wrong, answer)
        status, answer = daemon.ask("POST", "/api/v1/tables/cold.nowhere/hold", b'{"note": "n"}', **JSON)
        assert (status, "cold.nowhere is not configured" in str(answer)) == (422, True)
        _, listed = daemon.ask("GET", f"/api/v1/holds?table={A}")
        assert _stages(listed["items"]) == [(A, "compact"), (A, "expire")]

        released = icekeeper("release", A, "--stage", "expire", "--by", "eve", config=config)
        assert released.stdout.startswith(f"released: {A}: expire on hold until "), released.stderr
        again = icekeeper("release", A, "--stage", "expire", config=config)
        assert (again.returncode, f"expire of {A} was not on hold" in again.stderr) == (0, True)
        _, past = daemon.ask("GET", f"/api/v1/holds?table={A}&in_force=false")
        assert {(hold["stage"], hold["released_by"]) for hold in past["items"]} == {
            ("expire", "eve"),
            ("compact", None),
        }
        events = [json.loads(line) for line in daemon.log.read_text().splitlines() if line.startswith("{")]
        told = [(event["event"], event["by"]) for event in events if event["event"] in ("table_held", "table_released")]
        assert told == [
            ("table_held", "ann"),
            ("table_held", "bob"),
            ("table_held", "the API"),
            ("table_released", "eve"),
        ]

    mistakes = {
        ("hold", A): "it needs a note that says why",
        ("hold", A, "--note", " "): "it needs a note that says why",
        ("hold", "cold.nowhere", "--note", "n"): "cold.nowhere is not configured",
        ("hold", A, "--note", "n", "--until", "2026-01-01"): "lies in the past",
        ("hold", A, "--note", "n", "--stage", "repair"): "'repair' is not one of",
        ("hold", "--note", "n"): "to put a table on hold",
        ("release", "cold.nowhere"): "cold.nowhere is not configured",
    }
    for arguments, message in mistakes.items():
        done = icekeeper(*arguments, config=config)
        assert (done.returncode, done.stdout) == (2, ""), arguments
        assert message in done.stderr
    # Nobody serves the state directory any more.
    alone_held = icekeeper("hold", A, "--stage", "audit", "--note", "without a daemon", "--json", config=config)
    assert _stages(document(alone_held)["held"]) == [(A, "audit")]
    kept = json.loads((tmp_path / "state" / "holds.json").read_text())["holds"]
    assert ("without a daemon", "ann") in {(hold["note"], hold["by"]) for hold in kept}
    done = icekeeper("release", B, "--json", config=config)
    assert _stages(document(done)["released"]) == [(B, stage) for stage in ("audit", "compact", "expire")]
    listing = document(icekeeper("hold", "--list", "--json", config=config))
    assert _stages(listing["in_force"]) == [(A, "audit"), (A, "compact")]
    assert {(hold["table"], hold["released_by"]) for hold in listing["past"]} == {(A, "eve"), (B, "ann")}
    text = icekeeper("hold", config=config).stdout
    assert "without a daemon" in text
    assert "was on hold" in text
