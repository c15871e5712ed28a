"""The default jars: where they are searched, and that the list for the image names them."""

from __future__ import annotations

from pathlib import Path
from types import SimpleNamespace

import pytest

from icekeeper.adapters.spark import jars
from icekeeper.adapters.spark.jars import maven_path
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


@pytest.mark.parametrize("account", [True, False])
def test_spark_has_its_cache_in_the_accounts_home_as_java_sees_it(
    account: bool, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    def getpwuid(uid: int) -> SimpleNamespace:
        if not account:
            raise KeyError(uid)
        return SimpleNamespace(pw_dir=str(tmp_path / "account"))

    monkeypatch.setattr("pwd.getpwuid", getpwuid)
    monkeypatch.setenv("HOME", str(tmp_path / "set"))
    cache = tmp_path / ("account" if account else "set") / ".ivy2.5.2" / "jars"
    cache.mkdir(parents=True)
    assert jars.cached_jars(["a:b:1"], {}) is None
    (jar := cache / "a_b-1.jar").touch()
    assert jars.cached_jars(["a:b:1"], {}) == [jar]
    assert jars.in_ivy_cache([], {})
