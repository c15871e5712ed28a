"""What tests take from Debian: programs out of its packages, unpacked beside the tests and not installed."""

from __future__ import annotations

import os
import shutil
import subprocess
from collections.abc import Sequence
from pathlib import Path

import pytest
from filelock import FileLock

# `make clean` empties it.
CACHE = Path(__file__).parents[1] / ".cache" / "debian"
# Where Debian's build of Alertmanager looks for its templates, installed or not; and, as long, its working directory.
_TEMPLATES = b"/usr/share/prometheus/alertmanager"
_HERE = b"/proc/self/cwd/./././././././././."


def program(package: str, *names: str) -> Path:
    """A program by one of its names, from the PATH or else from the newest package that apt-get gives; as any user.

    Skips the test where this is no Debian and the program is not there; where CI is set the test fails instead.
    """
    for name in names:
        if (found := shutil.which(name)) is not None:
            return Path(found)
    try:
        tree = unpacked(package)
    except RuntimeError as exc:
        text = f"{names[0]} is not in the PATH, and can't be taken from Debian's package {package}: {exc}"
        if os.environ.get("CI"):
            pytest.fail(text)
        pytest.skip(text)
    return next(path for name in names for place in ("bin", "sbin") if (path := tree / "usr" / place / name).exists())


def unpacked(package: str) -> Path:
    """The files of a package, below a directory. RuntimeError where they can't be had."""
    if shutil.which("apt-get") is None or shutil.which("dpkg-deb") is None:
        raise RuntimeError("this is no Debian")
    tree = CACHE / package
    CACHE.mkdir(parents=True, exist_ok=True)
    with FileLock(CACHE / f"{package}.lock"):
        if not tree.exists():
            fresh = CACHE / f"{package}.fresh"
            shutil.rmtree(fresh, ignore_errors=True)
            fresh.mkdir()
            done = apt_get("download", package, directory=fresh)
            if done.returncode != 0:
                raise RuntimeError(done.stderr[-2000:])
            (archive,) = fresh.glob("*.deb")
            subprocess.run(["dpkg-deb", "-x", archive, fresh / "tree"], check=True, capture_output=True)
            for binary in (fresh / "tree" / "usr").glob("bin/*"):
                _look_here(binary)
            (fresh / "tree").rename(tree)
            shutil.rmtree(fresh)
    return tree


def share(program: Path) -> Path | None:
    """The directory that an unpacked Alertmanager has to be started in: that of its templates."""
    directory = program.parents[1] / "share" / "prometheus" / "alertmanager"
    return directory if directory.is_dir() else None


def _look_here(binary: Path) -> None:
    if _TEMPLATES in (content := binary.read_bytes()):
        binary.write_bytes(content.replace(_TEMPLATES, _HERE))


def apt_get(*arguments: str, directory: Path | None = None) -> subprocess.CompletedProcess[str]:
    """Runs apt-get, and once more with new package lists where that fails.

    A machine that never asked has none, one that asked long ago has outdated ones. Without root they are our own.
    """
    done = _apt_get(arguments, directory)
    if done.returncode == 0:
        return done
    own: Sequence[str] = ()
    if os.geteuid() != 0:
        apt = CACHE / "apt"
        (apt / "lists" / "partial").mkdir(parents=True, exist_ok=True)
        own = (f"-oDir::State::lists={apt}/lists", f"-oDir::Cache={apt}/cache")
    _apt_get((*own, "update"), directory)
    return _apt_get((*own, *arguments), directory)


def _apt_get(arguments: Sequence[str], directory: Path | None) -> subprocess.CompletedProcess[str]:
    environment = {**os.environ, "DEBIAN_FRONTEND": "noninteractive"}
    command = ["apt-get", "--quiet", *arguments]
    return subprocess.run(command, capture_output=True, text=True, env=environment, cwd=directory, check=False)
