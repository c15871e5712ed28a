"""The platform's offload: cycles that copy a table's new rows from ClickHouse to Iceberg, one by one or by a clock."""

from __future__ import annotations

from collections.abc import Sequence
from datetime import UTC, datetime

import numpy as np
import pyarrow as pa
from pyiceberg.exceptions import CommitFailedException

from icekeeper.sandbox.file_slices import micros, slice_by_tick
from icekeeper.sandbox.table_shapes import TableShape
from icekeeper.sandbox.table_writer import Head, TableWriter
from icekeeper.sandbox.watermarks import RepairRequest
from icekeeper.sandbox.world import World, hours_mask
from icekeeper.sandbox.world_spec import OFFLOAD_LAG, from_micros, to_micros

_COMMIT_ATTEMPTS = 20


class Offload:
    """The offload of one world."""

    def __init__(self, world: World) -> None:
        self.world = world

    def run(self, table: str | None = None, *, at: datetime, lose: Sequence[datetime] = ()) -> int:
        """One cycle of one table, or of all: what arrived since the watermark up to five minutes before `at`.

        First all tables get their rows up to then. Rows of the hours in `lose` (their starts) are read and dropped
        while the watermark moves on: the offload lost them. Returns the number of rows appended.
        """
        shapes = self._shapes(table)
        self.world.trade(at - OFFLOAD_LAG)
        return sum(self._cycle(shape, at, lose) for shape in shapes)

    def begin(self, *, at: datetime) -> None:
        """The cycle that begins at `at` marks all tables as `running`. `run` with the same `at` ends it."""
        moment = from_micros(self.world.spec.marked_us(to_micros(at)))
        for shape in self.world.spec.shapes:
            self.world.watermarks.running(shape.source, moment)

    def advance(self, until: datetime, lose: Sequence[datetime] = (), table: str | None = None) -> int:
        """Runs every cycle of all tables whose commit comes before `until`; returns the number of rows appended.

        `lose` concerns `table`, or all tables if that is None.
        """
        spec, losing = self.world.spec, self._shapes(table)
        first = to_micros(self.world.traded_until() + OFFLOAD_LAG)
        ticks = range(first - first % spec.step_us + spec.step_us, spec.last_tick_before(until) + 1, spec.step_us)
        if not ticks:
            return 0
        self.world.trade(from_micros(ticks[-1]) - OFFLOAD_LAG)
        return sum(
            self._cycle(shape, from_micros(tick), lose if shape in losing else ())
            for tick in ticks
            for shape in spec.shapes
        )

    def repair(self) -> int:
        """Brings what it was asked for: rows of ClickHouse whose keys Iceberg lacks. Returns how many it appended."""
        requests = self.world.repair_requests
        requests.create()
        shapes, brought = {shape.iceberg: shape for shape in self.world.spec.shapes}, 0
        for request in requests.open():
            try:
                rows = self._missing(shapes[request.table], request)
                if rows.num_rows:
                    self._append(shapes[request.table], rows, datetime.now(UTC))
            except Exception as error:
                requests.failed(request.finding_id, str(error))
                raise
            requests.done(request.finding_id, rows.num_rows)
            brought += int(rows.num_rows)
        return brought

    def _missing(self, shape: TableShape, request: RepairRequest) -> pa.Table:
        """The rows of the request's time whose keys Iceberg lacks."""
        key, at = list(request.key), shape.timestamp
        there = self.world.read(shape, to_micros(request.start) - 1, to_micros(request.end) - 1)
        within = f"{at} >= '{request.start.isoformat()}' AND {at} < '{request.end.isoformat()}'"
        ours = self.world.catalog.pyiceberg().load_table(shape.identifier).scan(within, selected_fields=tuple(key))
        kinds = pa.schema([there.schema.field(name).remove_metadata() for name in key])
        held = ours.to_arrow().select(key).cast(kinds)
        place = there.append_column("place", pa.array(range(there.num_rows)))
        # A join takes no lists and maps along.
        lacking = place.select([*key, "place"]).join(held, keys=key, join_type="left anti")
        return there.take(lacking["place"].sort())

    def _shapes(self, table: str | None) -> tuple[TableShape, ...]:
        shapes = tuple(shape for shape in self.world.spec.shapes if table in (None, shape.iceberg))
        if not shapes:
            raise ValueError(f"the world {self.world.name} has no table {table}")
        return shapes

    def _cycle(self, shape: TableShape, at: datetime, lose: Sequence[datetime]) -> int:
        world, marks = self.world, self.world.watermarks
        began, ended = (
            from_micros(moment(to_micros(at))) for moment in (world.spec.marked_us, world.spec.committed_us)
        )
        marks.running(shape.source, began)
        try:
            low = marks.at(shape.source)
            read = world.read(shape, to_micros(low) if low else 0, to_micros(at - OFFLOAD_LAG))
            if read.num_rows == 0:
                return 0
            rows = read.filter(pa.array(hours_mask(shape, read, lose)))
            if rows.num_rows:
                self._append(shape, rows, at)
        except Exception as error:
            marks.failed(shape.source, str(error), ended)
            raise
        newest = from_micros(int(micros(read, shape.timestamp).max()))
        marks.succeeded(shape.source, newest, shape.max_sequence(read), rows.num_rows, at, ended)
        return int(rows.num_rows)

    def _append(self, shape: TableShape, rows: pa.Table, at: datetime) -> None:
        spec = self.world.spec
        one_tick = np.zeros(rows.num_rows, dtype=np.int64)
        slices = slice_by_tick(shape, rows, one_tick, spec.files_per_commit, spec.rows_per_file)[0]
        for attempt in range(1, _COMMIT_ATTEMPTS + 1):
            metadata, io = self.world.catalog.load(shape)
            head = Head.of(metadata, io)
            # Not in the future, or maintenance by the wall clock would be refused; and after what maintenance has
            # already committed: Iceberg's snapshot log must be in order.
            committed_us = min(spec.committed_us(to_micros(at)), to_micros(datetime.now(UTC)))
            timestamp_ms = max(committed_us // 1000, head.timestamp_ms + 1)
            with self.world.catalog.uploads() as put:
                writer = TableWriter(metadata, put)
                files = [writer.write_file(each.rows, each.partition) for each in slices]
                snapshot, _ = writer.append(head, files, timestamp_ms)
            try:
                self.world.catalog.commit(shape, metadata, snapshot)
                return
            except CommitFailedException:
                # Another commit came first. These files are not in the table: they are written again on top of it.
                if attempt == _COMMIT_ATTEMPTS:
                    raise


class OffloadClock:
    """A clock that stands still until it is moved on, and an offload that keeps to it.

    A cycle that is due begins (its tables are `running`) and ends when the clock passes those moments, so that what
    happens between two moves meets it as it is then. Not before the offload's next cycle.
    """

    def __init__(self, offload: Offload, now: datetime) -> None:
        self._offload = offload
        self._now = now

    def now(self) -> datetime:
        return self._now

    def move(self, until: datetime) -> None:
        """Moves on; what the offload does up to then is done, in its order."""
        spec = self._offload.world.spec
        step = spec.step_us
        first = to_micros(self._now) // step * step
        for tick in range(first, to_micros(until) + 1, step):
            if self._now < from_micros(spec.marked_us(tick)) <= until:
                self._offload.begin(at=from_micros(tick))
            if self._now < from_micros(spec.committed_us(tick)) <= until:
                self._offload.run(at=from_micros(tick))
        self._now = until

    def skip(self, until: datetime) -> None:
        """Moves on quickly: one cycle, the last before `until`, brings the rows of all of them."""
        tick = from_micros(self._offload.world.spec.last_tick_before(until))
        if tick > self._now:
            self._offload.run(at=tick)
        self._now = until
