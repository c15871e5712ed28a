"""The rules, the dashboard and Alertmanager's example, judged by the real programs that will read them."""

from __future__ import annotations

import json
import subprocess
from pathlib import Path

import pytest
import yaml

from icekeeper.core.events import RunEnded, RunStarted, TaskEnded
from icekeeper.status.gauges import DaemonState
from tests.debian import program
from tests.unit.builders import daemon_metrics, table_policy
from tests.unit.reports import OPENING, REPORT, TABLE
from tests.unit.test_alerting import ALERTMANAGER, DASHBOARD, PROMETHEUS, RULES, TESTS, expressions


@pytest.fixture(scope="module")
def promtool() -> Path:
    return program("prometheus", "promtool")


def run(*command: str | Path, given: bytes | None = None) -> str:
    """What a program that succeeds says."""
    done = subprocess.run([*map(str, command)], input=given, capture_output=True, timeout=120, check=False)
    output = (done.stdout + done.stderr).decode()
    assert done.returncode == 0, output
    return output


def test_promtool_has_nothing_to_say_about_an_exposition(promtool: Path) -> None:
    metrics = daemon_metrics(lambda: DaemonState(policies=(table_policy(TABLE),)))
    metrics.observe(RunStarted(OPENING))
    for task in REPORT.tasks:
        metrics.observe(TaskEnded(task))
    metrics.observe(RunEnded(REPORT))
    assert run(promtool, "check", "metrics", given=metrics.exposition()) == ""


def test_the_rules_and_the_example_that_loads_them_are_valid(promtool: Path) -> None:
    assert "SUCCESS" in run(promtool, "check", "rules", RULES)
    assert "is valid" in run(promtool, "check", "config", PROMETHEUS)


@pytest.mark.parametrize("file", TESTS, ids=lambda path: path.name)
def test_every_alert_fires_where_it_should_and_is_silent_where_it_should(promtool: Path, file: Path) -> None:
    assert "SUCCESS" in run(promtool, "test", "rules", file)


def test_every_question_of_the_dashboard_can_be_asked(promtool: Path, tmp_path: Path) -> None:
    rules = [
        {"record": f"panel:{number}", "expr": expression}
        for number, expression in enumerate(expressions(json.loads(DASHBOARD.read_text())))
    ]
    file = tmp_path / "dashboard.yml"
    file.write_text(yaml.safe_dump({"groups": [{"name": "dashboard", "rules": rules}]}))
    assert "SUCCESS" in run(promtool, "check", "rules", file)


def test_alertmanager_takes_the_example() -> None:
    assert "SUCCESS" in run(program("prometheus-alertmanager", "amtool"), "check-config", ALERTMANAGER)
