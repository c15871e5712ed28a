"""What the Kubernetes manifests say: by Kubernetes' own schemas, and by what icekeeper needs and promises."""

from __future__ import annotations

import re
from pathlib import Path
from typing import Any

import kubernetes_validate
import pytest
import yaml

from icekeeper.service.steps import _CANCEL_S
from icekeeper.service.supervisor import STOP_S
from icekeeper.settings import Settings, load
from icekeeper.settings.messages.warnings import warnings
from icekeeper.settings.values.heap import heap_mib, needed

DIRECTORY = Path(__file__).parents[2] / "config" / "kubernetes"
WORKLOADS = ("statefulset", "prepare")
MIB = 1024**2


def manifest(name: str) -> dict[str, Any]:
    document: dict[str, Any] = yaml.safe_load((DIRECTORY / f"{name}.yaml").read_text())
    return document


def pod(name: str) -> dict[str, Any]:
    spec: dict[str, Any] = manifest(name)["spec"]["template"]["spec"]
    return spec


def containers(name: str) -> list[dict[str, Any]]:
    return [*pod(name)["containers"], *pod(name).get("initContainers", [])]


@pytest.fixture
def settings(tmp_path: Path) -> Settings:
    path = tmp_path / "icekeeper.yaml"
    path.write_text(manifest("configmap")["data"]["icekeeper.yaml"])
    return load(path, secrets=False)


@pytest.mark.parametrize("version", ["1.32", "1.37"])
@pytest.mark.parametrize("name", sorted(path.stem for path in DIRECTORY.glob("*.yaml")))
def test_a_manifest_fits_the_schema_of_kubernetes_and_has_no_other_key(name: str, version: str) -> None:
    document = manifest(name)
    assert kubernetes_validate.validate(document, version, strict=True) == version
    with pytest.raises(kubernetes_validate.ValidationError):
        kubernetes_validate.validate({**document, "spek": {}}, version, strict=True)


def test_the_settings_are_good_and_nothing_about_them_is_doubtful(
    settings: Settings, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("ICEKEEPER_HTTP__LISTEN", "0.0.0.0:9420")  # as in the image
    limit = heap_mib(pod("statefulset")["containers"][0]["resources"]["limits"]["memory"].removesuffix("i").lower())
    assert warnings(settings, memory=(limit * MIB, "the container")) == []


@pytest.mark.parametrize("name", WORKLOADS)
def test_a_workload_mounts_what_the_settings_name(name: str) -> None:
    spec, written = pod(name), manifest("configmap")["data"]["icekeeper.yaml"]
    assert set(re.findall(r"_file: (/\S+)/", written)) == {"/run/secrets"}
    claims = [claim["metadata"]["name"] for claim in manifest(name)["spec"].get("volumeClaimTemplates", [])]
    volumes = {volume["name"] for volume in spec["volumes"]} | set(claims)
    for container in containers(name):
        mounts = {mount["mountPath"]: mount["name"] for mount in container["volumeMounts"]}
        assert set(mounts) == {"/etc/icekeeper", "/run/secrets", "/var/lib/icekeeper", "/tmp"}
        assert set(mounts.values()) == volumes
    sources = {volume["name"]: volume for volume in spec["volumes"]}
    assert sources["config"]["configMap"]["name"] == manifest("configmap")["metadata"]["name"]


@pytest.mark.parametrize("name", WORKLOADS)
def test_a_workload_is_closed_up_and_has_memory_for_the_heap(name: str, settings: Settings) -> None:
    spec = pod(name)
    assert spec["automountServiceAccountToken"] is False
    assert (spec["securityContext"]["runAsNonRoot"], spec["securityContext"]["fsGroup"]) == (True, 10001)
    for container in containers(name):
        assert container["securityContext"] == {
            "readOnlyRootFilesystem": True, "allowPrivilegeEscalation": False, "capabilities": {"drop": ["ALL"]},
        }  # fmt: skip
    (container,) = spec["containers"]
    limit = container["resources"]["limits"]["memory"]
    assert container["resources"]["requests"]["memory"] == limit
    assert needed(heap_mib(settings.spark.driver_memory)) <= heap_mib(limit.removesuffix("i").lower())


def test_the_daemon_has_the_time_to_stop_that_it_may_take_and_is_not_ended_because_a_system_is_away() -> None:
    spec = pod("statefulset")
    assert sum(STOP_S.values()) + _CANCEL_S * len(STOP_S) < spec["terminationGracePeriodSeconds"]
    (container,) = spec["containers"]
    probes = {probe: container[probe]["httpGet"] for probe in ("startupProbe", "livenessProbe", "readinessProbe")}
    paths = {"startupProbe": "/livez", "livenessProbe": "/livez", "readinessProbe": "/readyz"}
    assert probes == {probe: {"path": path, "port": "http"} for probe, path in paths.items()}
    assert [port["name"] for port in container["ports"]] == ["http"]


def test_the_daemon_starts_where_postgresql_is_away_and_two_of_them_need_one_more_line() -> None:
    """Migrations are a job's: where PostgreSQL is away, no init container keeps a night from beginning."""
    assert "initContainers" not in pod("statefulset")
    assert manifest("statefulset")["spec"]["replicas"] == 1
    text = (DIRECTORY / "statefulset.yaml").read_text()
    assert '# env: [{name: ICEKEEPER_REPLICAS, value: "true"}]' in text


def test_the_job_migrates_before_it_asks_the_doctor_and_ends() -> None:
    spec = pod("prepare")
    assert [(each["name"], each["args"]) for each in spec["initContainers"]] == [("migrate", ["migrate"])]
    assert [(each["name"], each["args"]) for each in spec["containers"]] == [("doctor", ["doctor"])]
    assert spec["restartPolicy"] == "Never"
    images = {each["image"] for name in WORKLOADS for each in containers(name)}
    assert len(images) == 1


def test_the_service_reaches_the_daemon_and_not_the_job_and_keeps_a_client_with_its_pod() -> None:
    service, spec = manifest("service")["spec"], manifest("statefulset")["spec"]
    labels = spec["template"]["metadata"]["labels"]
    assert service["selector"] == labels == spec["selector"]["matchLabels"]
    assert service["selector"] != manifest("prepare")["spec"]["template"]["metadata"]["labels"]
    assert (service["sessionAffinity"], spec["serviceName"]) == ("ClientIP", manifest("service")["metadata"]["name"])
    assert [port["targetPort"] for port in service["ports"]] == ["http"]


def test_the_service_monitor_selects_the_service_and_its_port() -> None:
    """Its kind is of Prometheus' operator, whose schema Kubernetes does not have."""
    monitor, service = manifest("prometheus-operator/servicemonitor"), manifest("service")
    assert (monitor["apiVersion"], monitor["kind"]) == ("monitoring.coreos.com/v1", "ServiceMonitor")
    assert monitor["spec"]["selector"]["matchLabels"].items() <= service["metadata"]["labels"].items()
    (endpoint,) = monitor["spec"]["endpoints"]
    assert endpoint["port"] in {port["name"] for port in service["spec"]["ports"]}
    assert endpoint["path"] == "/metrics"
