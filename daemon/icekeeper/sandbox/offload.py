"""The platform's offload: ticks that copy a table's new rows from ClickHouse to Iceberg, and its watermark."""

from __future__ import annotations

from collections.abc import Sequence
from datetime import UTC, datetime

import numpy as np
import pyarrow as pa
from pyiceberg.exceptions import CommitFailedException

from icekeeper.sandbox.file_slices import slice_by_tick
from icekeeper.sandbox.table_shapes import TableShape
from icekeeper.sandbox.table_writer import Head, TableWriter
from icekeeper.sandbox.world import World, hours_mask
from icekeeper.sandbox.world_spec import OFFLOAD_LAG, from_micros, to_micros

_COMMIT_ATTEMPTS = 20


class Offload:
    """The offload of one world."""

    def __init__(self, world: World) -> None:
        self._world = world

    def run(self, table: str | None = None, *, at: datetime, lose: Sequence[datetime] = ()) -> int:
        """One tick of one table, or of all: what arrived since the watermark up to five minutes before `at`.

        First all tables get their rows up to then. Rows of the hours in `lose` (their starts) are read and dropped
        while the watermark moves on: the offload lost them. Returns the number of rows appended.
        """
        shapes = self._shapes(table)
        self._world.trade(at - OFFLOAD_LAG)
        return sum(self._tick(shape, at, lose) for shape in shapes)

    def advance(self, until: datetime, lose: Sequence[datetime] = (), table: str | None = None) -> int:
        """Runs every tick of all tables whose commit comes before `until`; returns the number of rows appended.

        `lose` concerns `table`, or all tables if that is None.
        """
        spec, losing = self._world.spec, self._shapes(table)
        first = to_micros(self._world.traded_until() + OFFLOAD_LAG)
        last = spec.last_tick_before(until)
        ticks = range(first - first % spec.step_us + spec.step_us, last + 1, spec.step_us)
        if not ticks:
            return 0
        self._world.trade(from_micros(last) - OFFLOAD_LAG)
        return sum(
            self._tick(shape, from_micros(tick), lose if shape in losing else ())
            for tick in ticks
            for shape in spec.shapes
        )

    def _shapes(self, table: str | None) -> tuple[TableShape, ...]:
        shapes = tuple(shape for shape in self._world.spec.shapes if table in (None, shape.iceberg))
        if not shapes:
            raise ValueError(f"the world {self._world.name} has no table {table}")
        return shapes

    def _tick(self, shape: TableShape, at: datetime, lose: Sequence[datetime]) -> int:
        world = self._world
        self._set_watermark(shape, "status = 'running'")
        try:
            low, high = world.watermark(shape.iceberg), at - OFFLOAD_LAG
            rows = world.read(shape, to_micros(low) if low else 0, to_micros(high))
            max_sequence = _max_sequence(shape, rows)
            rows = rows.filter(pa.array(hours_mask(shape, rows, lose)))
            if rows.num_rows:
                self._append(shape, rows, at)
        except Exception as error:
            failed = "status = 'failed', failure_count = failure_count + 1, last_error_message = $2"
            self._set_watermark(shape, failed, str(error))
            raise
        self._set_watermark(
            shape,
            "status = 'success', last_offload_timestamp = greatest(last_offload_timestamp, $2), "
            "last_offload_max_sequence = coalesce($3, last_offload_max_sequence), last_offload_row_count = $4, "
            "last_successful_run = $5, failure_count = 0, last_error_message = NULL",
            high,
            max_sequence,
            rows.num_rows,
            at,
        )
        return int(rows.num_rows)

    def _append(self, shape: TableShape, rows: pa.Table, at: datetime) -> None:
        spec = self._world.spec
        one_tick = np.zeros(rows.num_rows, dtype=np.int64)
        slices = slice_by_tick(shape, rows, one_tick, spec.files_per_commit, spec.rows_per_file)[0]
        for attempt in range(1, _COMMIT_ATTEMPTS + 1):
            metadata, io = self._world.catalog.load(shape)
            head = Head.of(metadata, io)
            # Not in the future, or maintenance by the wall clock would be refused; and after what maintenance has
            # already committed: Iceberg's snapshot log must be in order.
            committed_us = min(spec.committed_us(to_micros(at)), to_micros(datetime.now(UTC)))
            timestamp_ms = max(committed_us // 1000, head.timestamp_ms + 1)
            with self._world.catalog.uploads() as put:
                writer = TableWriter(metadata.location, metadata.schema(), metadata.spec(), put)
                files = [writer.write_file(each.rows, each.partition) for each in slices]
                snapshot, _ = writer.append(head, files, timestamp_ms)
            try:
                self._world.catalog.commit(shape, metadata, snapshot)
                return
            except CommitFailedException:
                # Another commit came first. These files are not in the table: they are written again on top of it.
                if attempt == _COMMIT_ATTEMPTS:
                    raise

    def _set_watermark(self, shape: TableShape, assignments: str, *values: object) -> None:
        sql = f"UPDATE offload_watermarks SET {assignments} WHERE table_name = $1"
        self._world.postgres.execute(self._world.postgres_database, sql, shape.source, *values)


def _max_sequence(shape: TableShape, rows: pa.Table) -> int | None:
    if shape.sequence is None or rows.num_rows == 0:
        return None
    return int(np.max(rows.column(shape.sequence).to_numpy()))
