"""What a table's metadata.json tells without a JVM."""

from __future__ import annotations

import json

from icekeeper.adapters.iceberg.metadata import files_named, parse_history, parse_metadata
from icekeeper.core.tables.state import SmallFiles


def metadata(*summaries: dict[str, str]) -> str:
    return json.dumps({"snapshots": [
        {"snapshot-id": number, "timestamp-ms": number, "summary": summary} for number, summary in enumerate(summaries)
    ]})  # fmt: skip


def test_the_files_of_manifests_are_never_fewer_than_was_live_and_added() -> None:
    text = metadata(
        {"operation": "append", "total-data-files": "100", "total-delete-files": "2", "added-data-files": "10"},
        {"operation": "delete", "total-data-files": "100", "total-delete-files": "3", "added-delete-files": "1"},
        {"operation": "replace", "total-data-files": "1", "added-data-files": "1", "deleted-data-files": "100"},
    )
    assert files_named(parse_history(text)) == (100 + 3) + 10 + 1 + 1


def test_a_table_without_snapshots_or_summaries_names_none() -> None:
    assert files_named(parse_history("{}")) == 0
    assert files_named(parse_history(json.dumps({"snapshots": [{"snapshot-id": 1, "timestamp-ms": 1}]}))) == 0


def test_small_files_are_listed_by_partition_and_counted_over_all() -> None:
    state = parse_metadata("cold.a", "{}", [(10, 74, 75, 181), (180, 75), (1,)], manifests=2, target_file_size=100)
    assert state.small_files == (SmallFiles(2, 84), SmallFiles(1, 1))
    assert (state.health.data_files, state.health.small_files, state.health.bytes) == (7, 3, 596)
    assert state.large_files == 1


def test_partitions_of_several_specs_count_as_one() -> None:
    text = json.dumps({"partition-specs": [{"spec-id": 0}, {"spec-id": 1}]})
    state = parse_metadata("cold.a", text, [(10, 20), (30,)], manifests=1, target_file_size=100)
    assert state.small_files == (SmallFiles(3, 60),)


def test_deletes_that_no_summary_counts_are_unknown_and_not_none() -> None:
    def unknown(summary: dict[str, str]) -> bool:
        text = json.dumps({**json.loads(metadata(summary)), "current-snapshot-id": 0})
        return parse_metadata("cold.a", text, (), manifests=1, target_file_size=100).deletes_unknown

    assert unknown({"operation": "append"})
    assert not unknown({"operation": "append", "total-delete-files": "0"})
    assert not parse_metadata("cold.a", "{}", (), manifests=0, target_file_size=100).deletes_unknown
