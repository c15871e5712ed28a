"""What the container's files say about each other, and about icekeeper: its pins, its settings, its memory."""

from __future__ import annotations

import re
import tomllib
from pathlib import Path
from typing import Any

import pytest
import yaml

from icekeeper.service.steps import _CANCEL_S
from icekeeper.service.supervisor import STOP_S
from icekeeper.settings import load
from icekeeper.settings.values.heap import heap_mib, needed

ROOT = Path(__file__).parents[2]


@pytest.fixture(scope="module")
def compose() -> dict[str, Any]:
    document: dict[str, Any] = yaml.safe_load((ROOT / "compose.yaml").read_text())
    return document


def pins(name: str) -> set[str]:
    """`package==version`. Packages that are pinned twice, for several Pythons, are there twice."""
    return set(re.findall(r"^[a-z0-9-]+==[^ ]+", (ROOT / name).read_text(), re.MULTILINE))


def test_the_image_runs_the_versions_that_the_tests_run() -> None:
    runtime = pins("constraints-runtime.txt")
    assert runtime <= pins("constraints.txt")
    project = tomllib.loads((ROOT / "pyproject.toml").read_text())["project"]
    wanted = {re.split(r"[\[><=]", requirement)[0] for requirement in project["dependencies"]}
    assert wanted <= {pin.partition("==")[0] for pin in runtime}


def test_the_image_carries_the_version_of_the_project() -> None:
    project = tomllib.loads((ROOT / "pyproject.toml").read_text())["project"]
    assert re.findall(r"^ARG VERSION=(\S+)$", (ROOT / "Dockerfile").read_text(), re.MULTILINE) == [project["version"]]


@pytest.mark.parametrize("service", ["icekeeper", "migrate"])
def test_the_settings_of_compose_are_good(
    compose: dict[str, Any], service: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    for name, value in compose["services"][service]["environment"].items():
        monkeypatch.setenv(name, value)
    settings = load(ROOT / "config" / "icekeeper.yaml", secrets=False)
    services = compose["services"]
    assert settings.catalog.properties["s3.endpoint"] == "http://s3:8333"
    assert settings.catalog.uri is not None
    assert settings.clickhouse is not None
    assert settings.postgres is not None
    for address in (settings.catalog.properties["s3.endpoint"], settings.clickhouse.url, settings.postgres.dsn):
        host = re.sub(r"^\w+://(\w+@)?", "", str(address)).partition(":")[0]
        assert host in services
    assert re.sub(r"^jdbc:postgresql://", "", settings.catalog.uri).partition(":")[0] in services


def test_compose_gives_each_secret_that_the_settings_name(compose: dict[str, Any]) -> None:
    named = set(
        re.findall(r"^[^#\n]*/run/secrets/([\w-]+)", (ROOT / "config/icekeeper.yaml").read_text(), re.MULTILINE)
    )
    for service in ("icekeeper", "migrate"):
        assert set(compose["services"][service]["secrets"]) == named
    assert set(compose["secrets"]) == named


def test_the_memory_limit_of_compose_has_room_for_the_heap_and_what_comes_beside_it(compose: dict[str, Any]) -> None:
    service = compose["services"]["icekeeper"]
    heap = heap_mib(service["environment"]["ICEKEEPER_SPARK__DRIVER_MEMORY"])
    assert needed(heap) <= heap_mib(service["mem_limit"])
    assert service["mem_limit"] == service["memswap_limit"]


def test_icekeeper_is_closed_up_in_compose(compose: dict[str, Any]) -> None:
    for name in ("icekeeper", "migrate"):
        service = compose["services"][name]
        assert service["read_only"] is True
        assert service["cap_drop"] == ["ALL"]
        assert service["security_opt"] == ["no-new-privileges:true"]
        assert "init" not in service, "the image has its own process 1, and Docker's would be a second"
    assert all(port.startswith("127.0.0.1:") for port in compose["services"]["icekeeper"]["ports"])


def test_the_daemon_is_given_the_time_to_stop_that_it_may_take(compose: dict[str, Any]) -> None:
    longest = sum(STOP_S.values()) + _CANCEL_S * len(STOP_S)
    assert longest < int(compose["services"]["icekeeper"]["stop_grace_period"].removesuffix("s"))
    page = (ROOT / "docs" / "containers.md").read_text()
    assert all(longest < int(given) for given in re.findall(r"--stop-timeout (\d+)", page))
