"""icekeeper installed on a machine by the commands of docs/install.md, with what they fetch kept for next time."""

from __future__ import annotations

import hashlib
import os
import re
import shutil
import subprocess
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

from tests.packaging import debian
from tests.packaging.machine import SOURCE, Machine, booted

PAGE = debian.ROOT / "docs" / "install.md"
_PACKAGES = (
    *("systemd", "systemd-sysv", "dbus", "python3", "python3-venv", "openjdk-17-jre-headless"),
    *("ca-certificates", "curl"),
)
# What decides which wheels come out.
_PINS = ("constraints-build.txt", "constraints-runtime.txt")


def commands(heading: str) -> list[str]:
    """The blocks that the page tells to type below a heading, in their order."""
    return blocks(heading, "sh")


def blocks(heading: str, language: str) -> list[str]:
    """The blocks of a language below a heading of the page."""
    (section,) = re.findall(rf"^## {re.escape(heading)}\n(.*?)(?=^## |\Z)", PAGE.read_text(), re.MULTILINE | re.DOTALL)
    found = re.findall(rf"^```{language}\n(.*?)^```", section, re.MULTILINE | re.DOTALL)
    assert found, heading
    return found


@contextmanager
def machine() -> Iterator[Machine]:
    """A booted machine with icekeeper of this checkout installed, and neither configured nor started."""
    pins = b"".join((debian.ROOT / name).read_bytes() for name in _PINS)
    wheels = debian.CACHE / f"wheels-{hashlib.sha256(pins).hexdigest()[:16]}"
    pip = Path(os.environ.get("PIP_CACHE_DIR", Path.home() / ".cache" / "pip"))
    for directory in (wheels, pip):
        directory.mkdir(parents=True, exist_ok=True)
    binds = {wheels: f"{SOURCE}/kept", pip: "/root/.cache/pip"}
    with booted(debian.tree(*_PACKAGES), binds) as running:
        running.run("update-ca-certificates")
        _unpack(running)
        _build(running, wheels)
        for block in commands("2. Install, on the host"):
            running.sh(block)
        yield running


def _unpack(running: Machine) -> None:
    """The files of this checkout that git knows, as a release has them, and the jars that this host has already."""
    target = running.path(SOURCE)
    listed = subprocess.run(
        ["git", "ls-files", "--cached", "--others", "--exclude-standard", "-z"],
        cwd=debian.ROOT, capture_output=True, text=True, check=True,
    ).stdout  # fmt: skip
    for name in filter(None, listed.split("\0")):
        if (debian.ROOT / name).is_file():
            (target / name).parent.mkdir(parents=True, exist_ok=True)
            shutil.copy(debian.ROOT / name, target / name)
    for line in (target / "jars.sha256").read_text().splitlines():
        name = line.split()[1]
        *group, _artifact, _version, file = name.split("/")
        fetched = next(Path.home().glob(f".ivy2*/jars/{'.'.join(group)}_{file}"), None)
        if fetched is not None:
            (target / "jars" / name).parent.mkdir(parents=True, exist_ok=True)
            shutil.copy(fetched, target / "jars" / name)


def _build(running: Machine, wheels: Path) -> None:
    tools, dependencies, program, fetch_jars, check_jars = commands("1. Build, where there is internet")
    environ = {name: value for name, value in os.environ.items() if name.startswith("PIP_")}
    running.sh(tools, environ=environ)
    if not any(wheels.iterdir()):
        running.sh(f"{dependencies}\ncp wheels/*.whl kept/", environ=environ, timeout=900)
    running.sh("mkdir -p wheels && cp kept/*.whl wheels/")
    running.sh(program, environ=environ)
    if running.sh(check_jars, check=False).returncode != 0:
        maven = re.search(r"^ARG MAVEN=(\S+)", (debian.ROOT / "Dockerfile").read_text(), re.MULTILINE)
        assert maven is not None
        running.sh(fetch_jars, environ={"MAVEN": os.environ.get("MAVEN", maven[1])})
        running.sh(check_jars)
