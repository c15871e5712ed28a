"""Paths of files that an expiry could not delete, kept in state_dir until they are gone. Deleting: files.py."""

from __future__ import annotations

import hashlib
import json
import os
from collections.abc import Callable, Collection, Iterable, Mapping
from pathlib import Path

import structlog

from icekeeper.adapters.state_dir import give_to_its_owner, make_state_dir

log = structlog.get_logger(__name__)

FOLDER = "undeleted"
# Of a table, at about 120 bytes each; those above it are forgotten with a warning.
MOST_PATHS = 500_000
_PATHS, _BEGUN = ".paths", ".begun"
_NAME = b"# "


def identity(uuid: str | None, location: str) -> str:
    """What tells a table from others, whatever its name: its UUID, or its location (format version 1 may lack one)."""
    return uuid or f"at-{hashlib.sha256(location.encode()).hexdigest()[:32]}"


class KeptPaths:
    """A file `undeleted/ID.paths` for each table that has any: its name behind a `#`, then one path a line.

    `ID.begun` is there while an expiry is committed whose paths are not known yet: from the metadata before it, and the
    snapshots that go, they are found again.
    """

    def __init__(self, state_dir: Path) -> None:
        self._folder = state_dir / FOLDER
        self._counts: dict[Path, tuple[tuple[int, int], str, int]] = {}

    def path(self, table_id: str) -> Path:
        return self._folder / f"{table_id}{_PATHS}"

    def count(self, table_id: str) -> int:
        """How many files of a table are kept; of an expiry whose paths are to be found again one a snapshot."""
        begun = self.begun(table_id)
        return self._read(self.path(table_id))[1] + (len(begun[1]) if begun else 0)

    def counts(self) -> Mapping[str, int]:
        """How many files are kept, by the table's name when it was last expired."""
        counts: dict[str, int] = {}
        for path in self._folder.glob(f"*{_PATHS}"):
            name, files = self._read(path)
            counts[name] = counts.get(name, 0) + files
        return {name: files for name, files in counts.items() if files}

    def _read(self, path: Path) -> tuple[str, int]:
        """The name and the number of paths, read again where the file has changed."""
        try:
            stat = path.stat()
            version = (stat.st_mtime_ns, stat.st_size)
            if path not in self._counts or self._counts[path][0] != version:
                with path.open("rb") as lines:
                    name = lines.readline().removeprefix(_NAME).decode(errors="replace").strip()
                    self._counts[path] = version, name, sum(1 for line in lines if line.strip())
        except FileNotFoundError:
            return "", 0
        return self._counts[path][1:]

    def add(self, table_id: str, name: str, append: Callable[[str], None]) -> None:
        """Keeps the paths that `append` writes to the end of the file that it is called with: on disk afterwards."""
        path = self.path(table_id)
        if not path.exists():
            self._make(path, _NAME + name.encode() + b"\n")
        with path.open("ab") as file:
            file.write(b"\n")  # what a write that broke off has left is a line of its own
        append(str(path))
        _flush(path)

    def remove(self, table_id: str, name: str, paths: Collection[str]) -> None:
        """Forgets these paths."""
        try:
            lines = self.path(table_id).read_text(encoding="utf-8").splitlines()
        except FileNotFoundError:
            return
        left = [line for line in lines if line and not line.startswith("#") and line not in paths]

        def append(path: str) -> None:
            with Path(path).open("a", encoding="utf-8") as file:
                file.writelines(f"{line}\n" for line in left)

        self.replace(table_id, name, len(left), append)

    def replace(self, table_id: str, name: str, count: int, append: Callable[[str], None]) -> None:
        """Keeps the paths that `append` writes in place of those before; of none the file goes."""
        path = self.path(table_id)
        if not count:
            path.unlink(missing_ok=True)
            return
        if count > MOST_PATHS:
            log.warning("undeleted_files_forgotten", table=name, files=count - MOST_PATHS)
        new = path.with_suffix(".new")
        self._make(new, _NAME + name.encode() + b"\n")
        append(str(new))
        _flush(new)
        new.replace(path)

    def begin(self, table_id: str, metadata: str, snapshot_ids: Iterable[int]) -> None:
        """Notes, before the commit, from what the paths of an expiry can be found again."""
        new = self._folder / f"{table_id}{_BEGUN}.new"
        self._make(new, json.dumps({"metadata": metadata, "snapshots": list(snapshot_ids)}).encode())
        _flush(new)
        new.replace(new.with_suffix(""))

    def begun(self, table_id: str) -> tuple[str, tuple[int, ...]] | None:
        """The metadata and the snapshots of an expiry that has begun and not come to its list of paths."""
        try:
            noted = json.loads((self._folder / f"{table_id}{_BEGUN}").read_bytes())
        except FileNotFoundError:
            return None
        return noted["metadata"], tuple(noted["snapshots"])

    def end(self, table_id: str) -> None:
        (self._folder / f"{table_id}{_BEGUN}").unlink(missing_ok=True)

    def _make(self, path: Path, start: bytes) -> None:
        make_state_dir(self._folder)
        with os.fdopen(os.open(path, os.O_WRONLY | os.O_CREAT | os.O_TRUNC | os.O_CLOEXEC, 0o600), "wb") as file:
            file.write(start)
        give_to_its_owner(path)


def _flush(path: Path) -> None:
    with path.open("rb") as file:
        os.fsync(file.fileno())
