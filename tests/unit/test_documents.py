"""What the documents promise is what the code says."""

from __future__ import annotations

import re
import textwrap
from pathlib import Path

import yaml

from icekeeper.core.audit.certificates import Uncertified
from icekeeper.core.reasons import Reason
from icekeeper.http import openapi
from icekeeper.http.api import ROUTES
from icekeeper.sandbox.table_shapes import TABLES
from icekeeper.settings import load
from icekeeper.settings.messages.warnings import warnings
from icekeeper.settings.model import Settings
from tests.unit.builders import daemon_metrics

ROOT = Path(__file__).parents[2]
OPERATIONS = (ROOT / "docs" / "operations.md").read_text()


def test_every_reason_stands_in_the_operations_page_with_its_advice() -> None:
    for reason in Reason:
        assert f"| `{reason}` | {reason.advice} |" in OPERATIONS


def test_every_metric_stands_in_the_operations_page() -> None:
    for family in daemon_metrics().registry.collect():
        assert f"`{family.name}" in OPERATIONS, family.name


def test_the_shipped_configuration_is_complete_and_holds_the_defaults() -> None:
    """Its secret files are not there, so it is read without them."""
    text = (ROOT / "config" / "icekeeper.yaml").read_text()
    document = yaml.safe_load(re.sub(r"(password|key|id)_file: \S+", r"\1: x", text))
    settings = Settings(**document)
    assert len(settings.policies()) == 10
    for name in Settings.model_fields:
        if name in ("catalog", "clickhouse", "postgres", "tables"):
            continue
        assert name in document, f"{name} is not explained in config/icekeeper.yaml"
        assert getattr(settings, name) == Settings.model_fields[name].default, name


def test_the_shipped_tables_are_those_of_the_platform_and_leave_their_ttl_to_clickhouse() -> None:
    shipped = yaml.safe_load((ROOT / "config" / "icekeeper.yaml").read_text())
    assert shipped["tables"] == [
        {"name": shape.iceberg, "source": shape.source, "timestamp": shape.timestamp, "layer": shape.layer}
        for shape in TABLES
    ]


def test_the_settings_of_the_migration_page_are_valid(tmp_path: Path) -> None:
    """Each block laid over the shipped file, as the page says."""
    page = (ROOT / "docs" / "migration.md").read_text()
    shipped = yaml.safe_load((ROOT / "config" / "icekeeper.yaml").read_text())
    blocks = [yaml.safe_load(textwrap.dedent(text)) for text in re.findall(r"^ *```yaml\n(.*?)```", page, re.S | re.M)]
    settings = [block for block in blocks if "services" not in block]
    assert [sorted(block) for block in settings] == [
        ["catalog", "clickhouse", "offload", "postgres", "spark"],
        ["mode", "schedule"],
        ["mode", "schedule"],
        ["catalog"],
    ]
    platform = settings[0]
    for number, block in enumerate(settings):
        path = tmp_path / f"{number}.yaml"
        path.write_text(yaml.safe_dump({**shipped, **platform, **block}))
        loaded = load(path, secrets=False)
        if number in (1, 2):
            assert not [line for line in warnings(loaded, memory=None) if "schedule.cron" in line]
    (mount,) = [block["services"]["icekeeper"]["volumes"] for block in blocks if "services" in block]
    assert mount[0].endswith(f":{platform['catalog']['warehouse']}")


def test_the_readme_names_every_command() -> None:
    from icekeeper.cli import cli

    readme = (ROOT / "README.md").read_text()
    for command in cli.commands:
        assert f"`{command}" in readme, command


def test_schemas_have_the_published_names_from_which_clients_are_generated() -> None:
    schemas = openapi.document(ROUTES)["components"]["schemas"]
    names = (
        "Accepted Acknowledgement Audit AuditPoint AuditedDay AuditedDays AuditedFinding BadFile Certificate "
        "Certificates CertifiedBy CertifiedDay Config Finding Findings Health HealthPoint Hold HoldAsked "
        "HoldReleased Holds KeyComparison LastAudit LastNight LogLine LogPage MissingHour Night Nights "
        "OlderDays Ordered Pause Plan PlannedRepair PlannedSlice PlannedWindow Problem Reloaded "
        "RewriteAccepted Run RunAsked RunOutcome RunPage RunSummary RunUnderWay Stage StageProgress Status "
        "Table TablePlan TableSummary TableTask Tables Task TaskInHand TaskProgress Trigger Trouble "
        "WindowAsked"
    )
    assert " ".join(sorted(schemas)) == names


def test_why_a_day_is_not_certified_stands_in_the_page_of_audits_with_its_advice() -> None:
    page = (ROOT / "docs" / "audit.md").read_text()
    for why in Uncertified:
        assert f"| `{why}` | {why.advice} |" in page


def test_the_configurations_of_the_page_on_other_platforms_are_good_and_nothing_about_them_is_doubtful(
    tmp_path: Path,
) -> None:
    """Those that no night of `make test-platforms` tries, too."""
    page = (ROOT / "docs" / "own-platform.md").read_text()
    files = [text for text in re.findall(r"^```yaml\n(.*?)^```", page, re.S | re.M) if "catalog:" in text]
    types = []
    for number, text in enumerate(files):
        path = tmp_path / f"{number}.yaml"
        path.write_text(text)
        settings = load(path, secrets=False)
        assert warnings(settings, memory=None) == []
        types.append(settings.catalog.type)
    assert set(types) == {"rest", "jdbc", "glue", "hive", "hadoop"}
    assert len(files) >= 11


def test_the_six_lines_of_the_readme_are_a_whole_configuration(tmp_path: Path) -> None:
    (text,) = re.findall(r"^```yaml\n(.*?)^```", (ROOT / "README.md").read_text(), re.S | re.M)
    assert text.count("\n") == 6
    path = tmp_path / "icekeeper.yaml"
    path.write_text(text)
    assert warnings(load(path), memory=None) == []
