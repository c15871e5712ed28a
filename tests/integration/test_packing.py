"""How files are packed: `auto`, the default, makes of small files the same files as binpack."""

from __future__ import annotations

import asyncio
from collections.abc import Mapping, Sequence
from dataclasses import replace
from datetime import timedelta
from itertools import chain, groupby
from uuid import uuid4

import pyarrow as pa
import pyarrow.parquet as pq

from icekeeper.core.policy import Strategy
from icekeeper.core.tables.plan import Rewrite
from icekeeper.core.tables.planning import plan_compaction
from tests.conftest import COINBASE, MakeNight, Night

# A row, and what a data file holds: its rows in their order.
Row = tuple[object, ...]
Rows = tuple[Row, ...]


async def test_auto_writes_what_binpack_writes_the_same_groups_with_the_rows_in_the_order_of_their_files(
    make_night: MakeNight,
) -> None:
    night = await make_night(
        COINBASE, days=2.25, old_snapshots=0, commits_per_day=32, files_per_commit=4, rows_per_file=40
    )
    # Manifests are read side by side: in which order files are packed is the same each time where there is one.
    await night.sql(f"CALL {{c}}.system.rewrite_manifests('{night.catalog}.{COINBASE}')")
    (policy,) = night.settings.policies()
    assert policy.compact.strategy == "auto", "the default"
    before = (await night.state(COINBASE)).history[-1].id
    inputs = await asyncio.to_thread(partitions, night)

    scratch = night.services.engine.options.scratch
    shuffled = set(scratch.rglob("shuffle_*"))

    packed: dict[Strategy, Mapping[str, list[Rows]]] = {}
    ways: dict[Strategy, set[Rewrite]] = {}
    for strategy in ("binpack", "auto"):
        ways[strategy] = await pack(night, strategy)
        packed[strategy] = await asyncio.to_thread(partitions, night)
        await night.sql(f"CALL {{c}}.system.rollback_to_snapshot('{night.catalog}.{COINBASE}', {before})")

    assert ways["binpack"] == {Rewrite.BINPACK}
    assert ways["auto"] == {Rewrite.SPREAD}
    for strategy, found in packed.items():
        assert found.keys() == inputs.keys()
        for partition, files in found.items():
            assert len(files) == 1 < len(inputs[partition]), f"{strategy}, {partition}"
            assert sorted(files[0], key=repr) == sorted(chain(*inputs[partition]), key=repr), f"{strategy}, {partition}"
    for _ in range(150):  # Spark removes it by a thread of its own
        if not set(scratch.rglob("shuffle_*")) - shuffled:
            break
        await asyncio.sleep(0.2)
    assert not set(scratch.rglob("shuffle_*")) - shuffled
    for strategy, found in packed.items():
        for partition, files in found.items():
            assert_whole_files(files[0], inputs[partition], f"{strategy}, {partition}")


def assert_whole_files(rows: Rows, files: Sequence[Rows], where: str) -> None:
    """The rows are those of the files, one file after the other, each in its order."""
    place = {row: (number, at) for number, file in enumerate(files) for at, row in enumerate(file)}
    assert len(place) == len(rows) == sum(map(len, files)), where
    places = [place[row] for row in rows]
    parts = [[at for _, at in part] for _, part in groupby(places, key=lambda each: each[0])]
    assert len(parts) == len(files), f"{where}: {len(files)} files lie in {len(parts)} parts"
    assert all(part == sorted(part) for part in parts), where


async def pack(night: Night, strategy: Strategy) -> set[Rewrite]:
    """Compacts the table by a strategy; in which ways its partitions were rewritten."""
    lakehouse, (policy,) = night.services.ports.lakehouse, night.settings.policies()
    policy = replace(policy, compact=replace(policy.compact, strategy=strategy))
    groups = await lakehouse.file_groups(COINBASE, policy.compact)
    plan = plan_compaction(policy, await night.state(COINBASE), groups)
    for part in plan.slices:
        await lakehouse.compact(COINBASE, policy.compact, part, uuid4(), timedelta(minutes=2))
    return {part.how for part in plan.slices}


def partitions(night: Night) -> dict[str, list[Rows]]:
    """The rows of each data file, by partition."""
    store = night.box.s3.filesystem()
    found: dict[str, list[Rows]] = {}
    for task in night.world.pyiceberg_catalog().load_table(COINBASE).scan().plan_files():
        path = task.file.file_path.removeprefix("s3://")
        columns = pq.read_table(path, filesystem=store, partitioning=None).columns
        found.setdefault(str(task.file.partition), []).append(tuple(zip(*map(_values, columns), strict=True)))
    return found


def _values(column: pa.ChunkedArray) -> list[object]:
    return column.to_pylist()  # type: ignore[no-any-return]
