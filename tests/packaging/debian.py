"""What tests take from Debian: its packages on this host, and bookworm trees kept for next time."""

from __future__ import annotations

import hashlib
import os
import shutil
import subprocess
from collections.abc import Sequence
from pathlib import Path

from filelock import FileLock

from tests.debian import apt_get

ROOT = Path(__file__).parents[2]
# `make clean` empties it.
CACHE = ROOT / ".cache" / "packaging"
SUITE = "bookworm"
_LOCAL_CAS = Path("/usr/local/share/ca-certificates")


def install(*packages: str) -> None:
    """Installs the Debian packages that this host lacks; says what it needs where it can't."""
    missing = [package for package in packages if not _installed(package)]
    if not missing:
        return
    wanted = f"these tests need the Debian packages {' '.join(missing)}"
    if os.geteuid() != 0 or shutil.which("apt-get") is None:
        raise RuntimeError(f"{wanted}: run them as root on Debian, or install these first")
    done = apt_get("install", "--yes", "--no-install-recommends", *missing)
    if done.returncode != 0:
        raise RuntimeError(f"{wanted}, and apt-get could not install them:\n{done.stderr[-2000:]}")


def tree(*packages: str) -> Path:
    """A minimal bookworm with these packages as a tar of its root directory, made once for each list of packages.

    `/usr/local/share/ca-certificates` comes along: what this host trusts is trusted inside, once the package
    ca-certificates is installed there.
    """
    CACHE.mkdir(parents=True, exist_ok=True)
    command = _debootstrap(sorted(packages))
    authorities = [path.read_bytes() for path in sorted(_LOCAL_CAS.glob("**/*.crt"))]
    recipe = hashlib.sha256(repr((command, authorities, Path(__file__).read_bytes())).encode()).hexdigest()[:16]
    made = CACHE / f"{SUITE}-{recipe}.tar"
    with FileLock(CACHE / f"{SUITE}.lock"):
        if not made.exists():
            install("debootstrap")
            _make(command, made)
    return made


def _installed(package: str) -> bool:
    command = ["dpkg-query", "--show", "--showformat=${db:Status-Status}", package]
    try:
        return subprocess.run(command, capture_output=True, text=True, check=False).stdout == "installed"
    except FileNotFoundError:  # no Debian
        return False


def _debootstrap(packages: Sequence[str]) -> list[str]:
    with_packages = [f"--include={','.join(packages)}"] if packages else []
    return ["debootstrap", "--variant=minbase", *with_packages, SUITE, "TREE"]


def _make(command: Sequence[str], made: Path) -> None:
    """Lays the tree in a directory beside the tar, packs it, and removes it."""
    directory = made.with_suffix(".tree")
    shutil.rmtree(directory, ignore_errors=True)
    command = [str(directory) if part == "TREE" else part for part in command]
    done = subprocess.run(command, capture_output=True, text=True, check=False)
    if done.returncode != 0:
        raise RuntimeError(f"debootstrap failed:\n{done.stdout[-2000:]}{done.stderr[-2000:]}")
    for emptied in ("var/cache/apt/archives", "var/lib/apt/lists"):
        shutil.rmtree(directory / emptied)
        (directory / emptied / "partial").mkdir(parents=True)
    if _LOCAL_CAS.is_dir():
        shutil.copytree(_LOCAL_CAS, directory / _LOCAL_CAS.relative_to("/"), dirs_exist_ok=True)
    fresh = made.with_suffix(".fresh")
    subprocess.run(
        ["tar", "--create", "--numeric-owner", f"--file={fresh}", f"--directory={directory}", "."], check=True
    )
    fresh.replace(made)
    shutil.rmtree(directory)
