"""Rules, dashboard and runbooks fit together, and go by metrics that there are. What Prometheus says: integration/."""

from __future__ import annotations

import json
import re
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest
import yaml

from icekeeper.core.events import RunEnded
from icekeeper.status.gauges import DaemonState
from tests.unit.builders import daemon_metrics, table_policy
from tests.unit.reports import REPORT, TABLE, samples

ROOT = Path(__file__).parents[2]
RULES, PROMETHEUS = (ROOT / "config" / "prometheus" / name for name in ("icekeeper.rules.yml", "prometheus.yml"))
ALERTMANAGER, DASHBOARD = ROOT / "config" / "alertmanager.yml", ROOT / "config" / "grafana" / "icekeeper.json"
RUNBOOKS = ROOT / "docs" / "runbooks"
TESTS = sorted((ROOT / "tests" / "alerts").glob("*.test.yml"))

_GROUPS = yaml.safe_load(RULES.read_text())["groups"]
ALERTS = {rule["alert"]: rule for group in _GROUPS for rule in group["rules"] if "alert" in rule}


def expressions(dashboard: Any) -> Iterator[str]:
    """What the panels and variables ask, with Grafana's variables filled in."""
    for variable in dashboard["templating"]["list"]:
        if (values := re.search(r"label_values\((\w+), \w+\)", str(variable["query"]))) is not None:
            yield values[1]
    for panel in dashboard["panels"]:
        for target in panel.get("targets", ()):
            expression: str = target["expr"]
            yield re.sub(r"\$__(range|interval|rate_interval)", "1h", expression).replace("$job", ".*")


def named(text: str) -> set[str]:
    """The metrics that a text speaks of."""
    return set(re.findall(r"(?<!:)\bicekeeper_[a-z_]+(?=[{\[ ),]|$)", text, re.MULTILINE)) - {"icekeeper_docs"}


@pytest.fixture(scope="module")
def exposed() -> set[str]:
    metrics = daemon_metrics(lambda: DaemonState(policies=(table_policy(TABLE),)))
    metrics.observe(RunEnded(REPORT))
    return {name.partition("{")[0] for name in samples(metrics)}


def test_rules_and_their_tests_go_by_metrics_that_there_are(exposed: set[str]) -> None:
    used = {name for group in _GROUPS for rule in group["rules"] for name in named(rule["expr"])}
    used |= {name for rule in ALERTS.values() for name in named(rule["annotations"]["description"])}
    assert len(used) > 20
    assert used <= exposed
    for file in TESTS:
        for test in yaml.safe_load(file.read_text())["tests"]:
            for series in test.get("input_series", ()):
                assert series["series"].partition("{")[0] in exposed | {"up"}, test["name"]


@pytest.mark.parametrize("alert", ALERTS)
def test_every_alert_says_what_it_is_and_where_to_read_on(alert: str) -> None:
    rule = ALERTS[alert]
    assert rule["labels"]["severity"] in ("critical", "warning")
    assert set(rule["annotations"]) == {"summary", "description", "runbook_url"}
    page = f"docs/runbooks/{alert}.md"
    assert rule["annotations"]["runbook_url"] == "{{ with $externalLabels.icekeeper_docs }}{{ . }}/{{ end }}" + page
    text = (ROOT / page).read_text()
    assert text.startswith(f"# {alert}\n")
    for part in ("## What it means", "## Look at first", "## What to do", "## When it can wait"):
        assert part in text, part
    assert f"[{alert}]({alert}.md)" in (RUNBOOKS / "README.md").read_text()


@pytest.mark.parametrize("alert", ALERTS)
def test_every_alert_is_tested_firing_and_silent(alert: str) -> None:
    asked = f'ALERTS{{alertname="{alert}", alertstate="firing"}}'
    outcomes = [
        bool(check["exp_samples"])
        for file in TESTS
        for test in yaml.safe_load(file.read_text())["tests"]
        for check in test.get("promql_expr_test", ())
        if check["expr"] == asked
    ]
    assert set(outcomes) == {True, False}


def test_no_runbook_is_of_an_alert_that_is_gone() -> None:
    assert {page.stem for page in RUNBOOKS.glob("*.md")} - {"README"} == set(ALERTS)


def test_what_alertmanager_silences_by_another_alert_are_alerts() -> None:
    used = set(re.findall(r"Icekeeper\w+", ALERTMANAGER.read_text()))
    assert used
    assert used <= set(ALERTS)


# --- the dashboard


def test_the_dashboard_goes_by_metrics_that_there_are(exposed: set[str]) -> None:
    asked = list(expressions(json.loads(DASHBOARD.read_text())))
    assert len(asked) > 20
    used = {name for expression in asked for name in named(expression)}
    assert used <= exposed
    # A replica more must not draw everything twice.
    for expression in asked:
        assert re.search(r"\b(max|min|sum|count) (by|without)|^icekeeper_build_info", expression), expression


def test_the_dashboard_shows_a_month_and_its_panels_lie_side_by_side() -> None:
    dashboard = json.loads(DASHBOARD.read_text())
    assert dashboard["time"] == {"from": "now-30d", "to": "now"}
    places = [panel["gridPos"] for panel in dashboard["panels"]]
    taken = [
        (x, y)
        for place in places
        for x in range(place["x"], place["x"] + place["w"])
        for y in range(place["y"], place["y"] + place["h"])
    ]
    assert len(taken) == len(set(taken))
    assert max(x for x, _ in taken) < 24
    ids = [panel["id"] for panel in dashboard["panels"]]
    assert len(ids) == len(set(ids))
    for panel in dashboard["panels"]:
        assert panel["type"] == "row" or panel["datasource"]["uid"] == "$datasource", panel["title"]
