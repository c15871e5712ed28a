"""Paths of files that could not be deleted, as they are kept on disk."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path

import pytest

from icekeeper.adapters.iceberg.deleting import kept as module
from icekeeper.adapters.iceberg.deleting.kept import KeptPaths, identity


def writes(*lines: str) -> Callable[[str], None]:
    def append(path: str) -> None:
        with Path(path).open("a") as file:
            file.writelines(f"{line}\n" for line in lines)

    return append


def test_paths_are_added_counted_replaced_and_gone(tmp_path: Path) -> None:
    kept = KeptPaths(tmp_path)
    path = kept.path("0a")
    assert (kept.count("0a"), kept.counts()) == (0, {})
    kept.add("0a", "cold.größe", writes("s3://b/1", "s3://b/2"))
    kept.add("0a", "cold.größe", writes("s3://b/3"))
    assert path.stat().st_mode & 0o777 == 0o600
    assert (kept.count("0a"), KeptPaths(tmp_path).counts()) == (3, {"cold.größe": 3})
    assert kept.count("0b") == 0, "a table that was made again has none"
    kept.replace("0a", "cold.renamed", 1, writes("s3://b/2"))
    assert (path.read_text(), kept.counts()) == ("# cold.renamed\ns3://b/2\n", {"cold.renamed": 1})
    kept.replace("0a", "cold.renamed", 0, writes())
    assert (kept.counts(), list(path.parent.iterdir())) == ({}, [])


def test_a_write_that_broke_off_spoils_no_other_path(tmp_path: Path) -> None:
    kept = KeptPaths(tmp_path)
    path = kept.path("0a")
    kept.add("0a", "cold.a", writes("s3://b/1"))
    with path.open("a") as file:
        file.write("s3://b/to")
    kept.add("0a", "cold.a", writes("s3://b/2"))
    assert path.read_text().split() == ["#", "cold.a", "s3://b/1", "s3://b/to", "s3://b/2"]

    def breaks_off(to: str) -> None:
        writes("s3://b/1")(to)
        raise OSError("no space left")

    with pytest.raises(OSError, match="no space left"):
        kept.replace("0a", "cold.a", 1, breaks_off)
    assert kept.counts() == {"cold.a": 3}


def test_an_expiry_that_has_begun_counts_until_its_paths_are_known(tmp_path: Path) -> None:
    kept = KeptPaths(tmp_path)
    kept.begin("0a", "s3://b/metadata/7.json", (1, 2))
    assert (kept.begun("0a"), kept.count("0a")) == (("s3://b/metadata/7.json", (1, 2)), 2)
    kept.end("0a")
    kept.end("0a")
    assert (kept.begun("0a"), kept.count("0a")) == (None, 0)


def test_a_table_without_a_uuid_is_known_by_its_location() -> None:
    assert identity("0a", "s3://b/t") == "0a"
    assert identity(None, "s3://b/t") == identity(None, "s3://b/t") != identity(None, "s3://b/u")


def test_more_than_are_kept_is_a_warning(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, logs: list[dict[str, object]]
) -> None:
    monkeypatch.setattr(module, "MOST_PATHS", 1)
    KeptPaths(tmp_path).replace("0a", "cold.a", 2, writes("s3://b/1"))
    assert [(line["event"], line["files"]) for line in logs] == [("undeleted_files_forgotten", 1)]
