"""A cache of built sandboxes on disk: a big world is built once and copied afterwards. Starts no servers."""

from __future__ import annotations

import fcntl
import hashlib
import json
import shutil
import subprocess
from collections.abc import Callable, Sequence
from pathlib import Path

from icekeeper.sandbox.errors import SandboxError
from icekeeper.sandbox.world_spec import WorldSpec


def cached(cache: Path, specs: Sequence[WorldSpec], timezone: str, build: Callable[[Path], None]) -> Path:
    """The directory of a stopped sandbox with these worlds; `build(directory)` makes it if it isn't there yet.

    Its name is a hash of the specs and this package's source: a change of either builds anew. Old directories stay
    until the cache is removed. Of two processes that call at once, one builds and the other waits.
    """
    if any(spec.catalog == "hadoop" for spec in specs):
        raise SandboxError("a hadoop world can't be cached: its metadata holds the absolute path of its warehouse")
    cache.mkdir(parents=True, exist_ok=True)
    cache = cache.resolve()
    finished = cache / _key(specs, timezone)
    with finished.with_suffix(".lock").open("w") as lock:
        fcntl.flock(lock, fcntl.LOCK_EX)
        if not finished.exists():
            draft = finished.with_suffix(".draft")
            if draft.exists():
                shutil.rmtree(draft)
            build(draft)
            draft.rename(finished)
    return finished


def copy(source: Path, target: Path) -> None:
    """Copies a sandbox's directory with owners and modes, sharing blocks where the file system can."""
    # Python's own copytree shares no blocks and keeps no owners.
    done = subprocess.run(
        ["cp", "-a", "--reflink=auto", f"{source}/.", str(target)], capture_output=True, text=True, check=False
    )
    if done.returncode:
        raise SandboxError(f"copying {source} failed: {done.stderr}")


def _key(specs: Sequence[WorldSpec], timezone: str) -> str:
    digest = hashlib.sha256(json.dumps([timezone, *(spec.to_json() for spec in specs)], sort_keys=True).encode())
    for source in sorted(Path(__file__).parent.rglob("*.py")):
        digest.update(source.read_bytes())
    return digest.hexdigest()[:24]
