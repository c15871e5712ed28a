"""Where a table's file would be if its warehouse had moved, by the paths that the metadata and the catalog have."""

from __future__ import annotations

import pytest

from icekeeper.adapters.iceberg.misplaced import counterpart_of, plain

TABLE = "cold.trades"
OPENED = "file:/data/warehouse/cold/trades"
CONTAINER = "/home/iceberg/warehouse/cold/trades"


@pytest.mark.parametrize(
    ("one", "other"),
    [
        ("/w/t", "file:/w/t"),
        ("/w/t", "file:///w/t/"),
        ("/w//t", "/w/t"),
        ("s3://b/w/t", "s3a://b/w/t"),
        ("s3n://b/w//t", "s3://b/w/t"),
        ("hdfs://name:8020/w/t", "hdfs://name:8020/w/t/"),
    ],
)
def test_two_ways_to_write_a_path_are_one_place(one: str, other: str) -> None:
    assert plain(one) == plain(other)


@pytest.mark.parametrize(
    ("one", "other"), [("/w/t", "/w/u"), ("s3://a/w", "s3://b/w"), ("/w/t", "hdfs://name/w/t"), ("s3://b/w", "/b/w")]
)
def test_two_places_stay_two(one: str, other: str) -> None:
    assert plain(one) != plain(other)


@pytest.mark.parametrize(
    ("named", "location", "opened", "counterpart"),
    [
        # A mount: the metadata was written in a container.
        (f"{CONTAINER}/metadata/snap-1.avro", CONTAINER, OPENED, f"{OPENED}/metadata/snap-1.avro"),
        (f"file:{CONTAINER}/data/d=1/a.parquet", f"file://{CONTAINER}", OPENED, f"{OPENED}/data/d=1/a.parquet"),
        # A bucket that was copied to another.
        ("s3a://old/w/cold/trades/data/a.parquet", "s3://old/w/cold/trades", "s3://new/w/cold/trades",
         "s3://new/w/cold/trades/data/a.parquet"),
        # The location says nothing of the files' old place: the table's name in the path does.
        (f"{CONTAINER}/data/a.parquet", OPENED, OPENED, f"{OPENED}/data/a.parquet"),
        (f"{CONTAINER}/metadata/1.metadata.json", "", OPENED, f"{OPENED}/metadata/1.metadata.json"),
        # The file belongs where the catalog looks: it is gone, and nothing has moved.
        ("/data/warehouse/cold/trades/data/a.parquet", "/data/warehouse/cold/trades", OPENED, None),
        ("s3a://b/w/cold/trades/data/a.parquet", "s3://b/w/cold/trades", "s3://b/w/cold/trades", None),
        # It belongs to another directory altogether: a table whose files were added where they lay.
        ("/landing/2026/a.parquet", OPENED, OPENED, None),
        (f"{CONTAINER}/data/a.parquet", "", "", None),
    ],
)  # fmt: skip
def test_a_missing_file_has_a_counterpart_where_the_warehouse_has_moved(
    named: str, location: str, opened: str, counterpart: str | None
) -> None:
    assert counterpart_of(named, TABLE, location, opened) == counterpart
