"""The settings of a catalog in Spark."""

from __future__ import annotations

import pytest

from icekeeper.adapters.iceberg.catalog import catalog_conf

MIB = 1024**2


@pytest.mark.parametrize(
    ("kind", "heap_mib", "cached_mib"),
    [
        *(("jdbc", heap, cached) for heap, cached in ((240, 80), (1024, 100))),
        *((kind, 1024, 100) for kind in ("hadoop", "hive")),
        *((kind, 960, 40) for kind in ("rest", "glue", "custom")),
        ("rest", 8192, 100),
    ],
)
def test_manifests_are_kept_in_a_third_of_the_heap_by_all_file_ios_together(
    kind: str, heap_mib: int, cached_mib: int
) -> None:
    conf = catalog_conf("lake", {"type": kind}, heap_mib * MIB)
    assert conf["spark.sql.catalog.lake.io.manifest.cache.max-total-bytes"] == str(cached_mib * MIB)
