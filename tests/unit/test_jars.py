"""The jars of the default: where they are looked for, and that the image's list is theirs."""

from __future__ import annotations

from pathlib import Path

import pytest

from icekeeper.adapters.spark.jars import maven_path, without_resolving, write_down
from icekeeper.execution.wiring import spark_options
from icekeeper.settings.model import DEFAULT_PACKAGES, Settings

ROOT = Path(__file__).parents[2]
NAMES = [maven_path(coordinate).rpartition("/")[2] for coordinate in DEFAULT_PACKAGES]


@pytest.fixture
def home(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """A directory with the jars of the default, taken for the installation's."""
    for name in NAMES:
        (tmp_path / name).touch()
    monkeypatch.setattr("icekeeper.execution.wiring.JARS", tmp_path)
    return tmp_path


def settings(**spark: object) -> Settings:
    return Settings.model_validate(
        {
            "spark": spark,
            "catalog": {"name": "k2", "type": "rest", "uri": "http://catalog:8181"},
            "clickhouse": {"url": "http://clickhouse:8123", "database": "k2"},
            "postgres": {"dsn": "postgresql://icekeeper@postgres/icekeeper"},
            "tables": [{"name": "cold.t"}],
        }
    )


def test_jars_of_the_installation_are_taken_instead_of_fetching_any(home: Path) -> None:
    options = spark_options(settings())
    assert options.jars == tuple(str(home / name) for name in NAMES)
    assert options.packages == ()


def test_an_installation_without_all_of_them_has_them_fetched(home: Path) -> None:
    (home / NAMES[1]).unlink()
    options = spark_options(settings())
    assert (options.jars, options.packages) == ((), DEFAULT_PACKAGES)


def test_what_the_settings_name_comes_before_what_is_there(home: Path) -> None:
    named = spark_options(settings(jars=["/jars/own.jar"]))
    assert (named.jars, named.packages) == (("/jars/own.jar",), ())
    fetched = spark_options(settings(packages=["a.b:c:1"]))
    assert (fetched.jars, fetched.packages) == ((), ("a.b:c:1",))
    nothing = spark_options(settings(packages=[]))
    assert (nothing.jars, nothing.packages) == ((), ())


def test_the_list_that_the_image_is_built_from_names_these_jars() -> None:
    listed = [line.split("  ", 1) for line in (ROOT / "jars.sha256").read_text().splitlines()]
    assert [path for _, path in listed] == [maven_path(coordinate) for coordinate in DEFAULT_PACKAGES]
    assert all(len(sha256) == 64 for sha256, _ in listed)


# --- what the resolver found the last time

ASKED = {"spark.master": "local[2]", "spark.jars.packages": "a.b:c:1,d:e:2"}


@pytest.fixture
def record(tmp_path: Path) -> Path:
    """Written by a start that got two jars."""
    jars = [tmp_path / "c 1.jar", tmp_path / "e.jar"]
    for jar in jars:
        jar.touch()
    write_down(ASKED, ",".join(jar.as_uri() for jar in jars), tmp_path / "jars.json")
    return tmp_path / "jars.json"


def test_a_start_takes_the_jars_that_the_same_packages_were_the_last_time(record: Path) -> None:
    jars = f"{record.parent / 'c 1.jar'},{record.parent / 'e.jar'}"
    assert without_resolving(ASKED, record) == {"spark.master": "local[2]", "spark.jars": jars}
    moved = ASKED | {"spark.master": "local[8]"}
    assert without_resolving(moved, record)["spark.jars"] == jars


@pytest.mark.parametrize(
    "other",
    [{"spark.jars.packages": "a.b:c:2,d:e:2"}, {"spark.jars.excludes": "x:y"}, {"spark.jars": "/own.jar"}],
)
def test_other_wishes_are_resolved_anew(record: Path, other: dict[str, str]) -> None:
    assert without_resolving(ASKED | other, record) == ASKED | other


def test_jars_that_are_gone_are_fetched_anew(record: Path) -> None:
    (record.parent / "e.jar").unlink()
    assert without_resolving(ASKED, record) == ASKED


@pytest.mark.parametrize("text", ["", "{}", "[]", '{"asked": 1}', "\x00"])
def test_a_record_that_is_none_costs_nothing_but_time(tmp_path: Path, text: str) -> None:
    (tmp_path / "jars.json").write_text(text)
    assert without_resolving(ASKED, tmp_path / "jars.json") == ASKED


@pytest.mark.parametrize("version", ["latest.release", "1.+", "[1,2)", "1-SNAPSHOT"])
def test_a_version_that_may_be_another_tomorrow_is_asked_for_every_time(tmp_path: Path, version: str) -> None:
    write_down({"spark.jars.packages": f"a.b:c:{version}"}, "file:///c.jar", tmp_path / "jars.json")
    assert not (tmp_path / "jars.json").exists()


def test_jars_that_lie_elsewhere_are_not_written_down(tmp_path: Path) -> None:
    write_down(ASKED, "file:///c.jar,hdfs://name/e.jar", tmp_path / "jars.json")
    assert not (tmp_path / "jars.json").exists()
