"""The JSON Schema of the configuration: editors complete and check with it what `load` judges."""

from __future__ import annotations

import re
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import pytest
import yaml

from icekeeper.settings import Settings, schema
from tests.unit.test_settings_mistakes import GOOD, ROWS

SHIPPED = Path(__file__).parents[2] / "config" / "icekeeper.yaml"


def blocks() -> Iterator[tuple[str, dict[str, Any]]]:
    document = schema()
    yield "", document
    yield from document["$defs"].items()


def test_it_describes_every_block_and_every_key() -> None:
    document = schema()
    assert set(document["required"]) == {"catalog", "tables"}
    assert set(document["properties"]) == set(Settings.model_fields)
    for name, block in blocks():
        assert block["additionalProperties"] is False, name
        for key, described in block["properties"].items():
            assert described.get("description"), f"{name}.{key}"


def test_its_defaults_are_written_as_the_file_would_have_them() -> None:
    definitions = schema()["$defs"]
    assert definitions["Compact"]["properties"]["timeout"]["default"] == "10m"
    assert definitions["Compact"]["properties"]["target_file_size"]["default"] == "128MiB"
    assert definitions["Audit"]["properties"]["missing_pct"]["maximum"] == 100
    assert definitions["Compact"]["properties"]["retries"]["maximum"] == 10


def test_its_patterns_fit_its_own_examples_and_defaults() -> None:
    checked = 0
    for name, block in blocks():
        for key, described in block["properties"].items():
            for variant in (described, *described.get("anyOf", ()), described.get("items", {})):
                if pattern := variant.get("pattern"):
                    default = described.get("default")
                    examples = [*variant.get("examples", ()), *(default if isinstance(default, list) else [default])]
                    assert examples, f"{name}.{key}"
                    for example in examples:
                        checked += 1
                        assert example is None or re.search(pattern, example), f"{name}.{key}: {example}"
    assert checked > 40


@pytest.fixture
def valid() -> Callable[[Any], bool]:
    """Whether a document fits the schema, by a validator that is not ours."""
    jsonschema = pytest.importorskip("jsonschema", reason="no validator of JSON Schema is installed")
    jsonschema.Draft202012Validator.check_schema(schema())
    fits: Callable[[Any], bool] = jsonschema.Draft202012Validator(schema()).is_valid
    return fits


def test_the_shipped_configuration_is_valid(valid: Callable[[Any], bool]) -> None:
    assert valid(yaml.safe_load(SHIPPED.read_text()))


# What no schema can see: values against each other, calendars and ports, and what is in files.
UNSEEN = re.compile(
    r"must not exceed|at least|at most|listed twice|enabled: there is|is there twice|without its catalog|its port|"
    r"no password in it|can't be read|is empty; it|lines; it|larger than|not UTF-8|no file can|the path of a file|"
    r"a dsn of its own|is no \w+: |never fires|time zone|not YAML|can't read|plain text|merge key|type: custom|"
    r"a_file|[.]nan|Apprise understands|divides a day|: a condition |brackets don't match|"
    r"compare needs key|both name|has no source"
)


def test_it_refuses_what_load_refuses(valid: Callable[[Any], bool]) -> None:
    assert valid(yaml.safe_load("\n".join(GOOD.values())))
    judged = [row for row in ROWS if not row.variables and not any(map(UNSEEN.search, row.messages))]
    assert len(judged) > 100
    assert not [row.place for row in judged if valid(yaml.safe_load(row.text()))]
