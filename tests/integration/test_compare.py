"""`icekeeper compare` on real parts: a row of the flow in the audit table for each way to differ from icekeeper's."""

from __future__ import annotations

import io
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from datetime import UTC, datetime, timedelta

import pytest
from rich.console import Console

from icekeeper.cli.output.compare import comparisons_document, show_comparisons
from icekeeper.core.audit.compare import Cause, Comparisons
from icekeeper.core.audit.records import AuditResult
from icekeeper.core.calendar import Window
from icekeeper.core.enums import AuditStatus, Stage
from icekeeper.execution.comparison import compare_audits
from icekeeper.sandbox import Sandbox
from tests.conftest import BINANCE, COINBASE, GOLD, SLOT, MakeNight, Night

DAY, HOUR, MINUTE = timedelta(days=1), timedelta(hours=1), timedelta(minutes=1)
FLOW_ROW = """
    INSERT INTO maintenance_audit_log (run_timestamp, iceberg_table, ch_source, layer, audit_window_hours, window_start,
      window_end, ch_row_count, iceberg_row_count, delta, delta_pct, status)
    VALUES ($1, $2, 'source', 'bronze', 24, $3, $4, $5, $6, $6::bigint - $5::bigint, 0, $7)
"""


@dataclass(frozen=True)
class Row:
    """The flow's row of a day that ends `hours` before the slot, as the differences from what is there."""

    table: str
    hours: int
    clickhouse: int
    iceberg: int
    status: str
    causes: tuple[Cause, ...]

    @property
    def window(self) -> Window:
        end = SLOT - self.hours * HOUR
        return Window(end - DAY, end)


async def recounted(night: Night, window: Window, tables: Sequence[str]) -> Sequence[AuditResult]:
    done = await night.execute(Stage.AUDIT, tables=tuple(tables), record=False, slot=window.end, window=window)
    return done.report.audits


async def compared(night: Night, since: datetime) -> Comparisons:
    return await compare_audits(
        night.services, night.settings.policies(), since, lambda window, tables: recounted(night, window, tables)
    )


def flow_writes(night: Night, row: Row, clickhouse: int, iceberg: int) -> None:
    window = row.window
    night.ledger(
        FLOW_ROW, window.end + 10 * MINUTE, row.table, window.start, window.end, clickhouse, iceberg, row.status
    )


async def counts(night: Night, row: Row) -> tuple[int, int]:
    """The window's rows by the flow's way of counting, without FINAL, and in Iceberg."""
    (policy,) = [each for each in night.settings.policies() if each.name == row.table]
    assert policy.source is not None
    source, lakehouse = night.services.source, night.services.ports.lakehouse
    raw = await source.count(policy.source, row.window, False, MINUTE)
    return raw.rows, (await lakehouse.count(row.table, policy.timestamp, row.window, MINUTE)).rows


@pytest.mark.long
async def test_each_difference_between_the_flow_and_icekeeper_is_explained(make_night: MakeNight) -> None:
    night = await make_night(BINANCE, COINBASE, GOLD, now=SLOT + 4 * HOUR, days=2, commits_per_day=24)
    clickhouse, database = night.world.clickhouse, night.world.clickhouse_database
    rows = [
        Row(BINANCE, 0, 0, 0, "ok", (Cause.AGREE,)),
        Row(BINANCE, 1, 0, -30, "missing_data", (Cause.LATER_ROWS,)),
        Row(BINANCE, 2, -1, 0, "ok", (Cause.LATER_ROWS,)),
        Row(BINANCE, 3, +7, 0, "warning", (Cause.UNEXPLAINED,)),
        Row(BINANCE, 4, 0, +7, "ok", (Cause.UNEXPLAINED,)),
        Row(GOLD, 0, 0, 0, "missing_data", (Cause.UNMERGED,)),
        Row(GOLD, 1, -3, 0, "missing_data", (Cause.UNMERGED,)),
        Row(COINBASE, 1, 0, 0, "ok", (Cause.EXPIRED,)),
    ]
    for row in rows:
        raw, there = await counts(night, row)
        assert raw > 100
        flow_writes(night, row, raw + row.clickhouse, there + row.iceberg)
    failed = Row(BINANCE, 5, 0, 0, "missing_data", (Cause.FLOW_FAILED,))
    flow_writes(night, failed, 0, 0)
    flow_writes(night, Row("cold.forgotten", 0, 0, 0, "ok", ()), 5, 5)
    # Rows twice in Iceberg, as after an offload that repeats a commit.
    surplus = Row(BINANCE, 20, 0, 0, "warning", (Cause.SURPLUS,))
    await night.sql(
        f"INSERT INTO {{c}}.{BINANCE} SELECT * FROM {{c}}.{BINANCE} "
        f"WHERE exchange_timestamp >= TIMESTAMP '{surplus.window.start}' "
        f"AND exchange_timestamp < TIMESTAMP '{surplus.window.start + 2 * HOUR}'"
    )
    raw, there = await counts(night, surplus)
    assert there > raw
    flow_writes(night, surplus, raw, there)
    # What ClickHouse has dropped since, by a TTL that only its own definition tells of.
    clickhouse.execute(
        "ALTER TABLE bronze_trades_coinbase MODIFY TTL toDateTime(ingestion_timestamp) + INTERVAL 1 HOUR "
        "SETTINGS materialize_ttl_after_modify = 0",
        database=database,
    )
    clickhouse.execute(
        "ALTER TABLE bronze_trades_coinbase DELETE WHERE exchange_timestamp < '2026-02-17 12:00:00' "
        "SETTINGS mutations_sync = 2",
        database=database,
    )
    own = await night.run(Stage.AUDIT, tables=(BINANCE, GOLD))
    kept = night.ledger("SELECT * FROM maintenance_audit_log ORDER BY id")

    everything = await compared(night, SLOT - 7 * DAY)

    found = everything.comparisons
    causes = {(each.flow.iceberg_table, each.flow.window): each.explanations for each in found}
    assert {key: tuple(each.cause for each in explanations) for key, explanations in causes.items()} == {
        (row.table, row.window): row.causes for row in [*rows, failed, surplus]
    }
    assert night.ledger("SELECT * FROM maintenance_audit_log ORDER BY id") == kept
    first = next(each for each in found if each.flow.window == rows[0].window and each.flow.iceberg_table == BINANCE)
    assert first.same is not None
    assert first.same.window == rows[0].window
    assert first.night is not None
    assert (first.night.window, first.night.ch_row_count) == (
        Window(SLOT.replace(hour=0) - DAY, SLOT.replace(hour=0)),
        own.audits[0].ch_row_count,
    )
    # As the command shows it.
    document = comparisons_document(everything, 7)
    assert (document["explained"], document["not_audited"]) == (False, ["cold.forgotten"])
    assert [each["explained"] for each in document["comparisons"]].count(False) == 2
    screen = Console(record=True, width=200, file=io.StringIO())
    show_comparisons(screen, everything, 7)
    text = screen.export_text()
    assert "audited by another job and not by icekeeper: cold.forgotten" in text
    assert "10 audits: 1 agree, 7 explained, 2 not" in text
    assert text.count("to count by hand") == 2
    for each in found:
        if not each.explained:
            assert each.same is not None
            assert f"{each.same.ch_query}\n" in text
            assert f"{each.same.iceberg_query}\n" in text


async def test_what_the_flow_counted_equal_to_icekeepers_own_audit_is_not_counted_again(make_night: MakeNight) -> None:
    night = await make_night(BINANCE)
    (own,) = (await night.run(Stage.AUDIT)).audits
    assert own.ch_row_count is not None
    row = Row(BINANCE, 2, 0, 0, "ok", (Cause.AGREE,))
    assert (row.window.start, row.window.end) == (own.window_start, own.window_end)
    # The flow tried twice: what it wrote last counts.
    night.ledger(FLOW_ROW, row.window.end + MINUTE, BINANCE, row.window.start, row.window.end, 0, 0, "error")
    flow_writes(night, row, own.ch_row_count, own.iceberg_row_count or 0)

    async def no_recount(window: Window, tables: Sequence[str]) -> Sequence[AuditResult]:
        raise AssertionError(f"{tables} counted again")

    (only,) = (await compare_audits(night.services, night.settings.policies(), SLOT - 7 * DAY, no_recount)).comparisons
    assert [each.cause for each in only.explanations] == [Cause.AGREE]
    assert only.same == only.night
    assert await compare_audits(night.services, night.settings.policies(), SLOT, no_recount) == Comparisons(())


@dataclass(frozen=True)
class Odd:
    """A window of the flow: where it begins and ends relative to an event time of a row, and whether it holds that."""

    begins: timedelta
    ends: timedelta
    holds: bool


ODD_WINDOWS = {
    "now - 24h, at 02:07": Odd(-DAY + 7 * MINUTE, 7 * MINUTE, True),
    "begins with a row": Odd(timedelta(0), 30 * MINUTE, True),
    "ends with a row": Odd(-25 * HOUR, timedelta(0), False),
    "begins a millisecond after a row": Odd(timedelta(milliseconds=1), HOUR, False),
    "ends a millisecond after a row": Odd(-90 * MINUTE, timedelta(milliseconds=1), True),
    "of a millisecond": Odd(timedelta(0), timedelta(milliseconds=1), True),
}


async def test_any_window_is_counted_half_open_to_the_millisecond(make_night: MakeNight) -> None:
    night = await make_night(BINANCE, now=SLOT + 4 * HOUR, days=2, commits_per_day=24)
    clickhouse, database = night.world.clickhouse, night.world.clickhouse_database
    times = [
        datetime.fromtimestamp(int(line) / 1000, UTC)
        for line in clickhouse.execute(
            "SELECT toUnixTimestamp64Milli(exchange_timestamp) AS at FROM bronze_trades_binance ORDER BY at",
            database=database,
        ).split()
    ]
    row = next(at for at in times if at >= SLOT and at.microsecond and times.count(at) == 1)
    held = {}
    for name, odd in ODD_WINDOWS.items():
        window = Window(row + odd.begins, row + odd.ends)
        held[window] = [at for at in times if window.start <= at < window.end]
        assert (row in held[window]) is odd.holds, name
        night.ledger(FLOW_ROW, window.end + HOUR, BINANCE, window.start, window.end, len(held[window]), 0, "ok")

    found = (await compared(night, SLOT - 7 * DAY)).comparisons

    counts = {each.flow.window: each.same and (each.same.ch_row_count, each.same.iceberg_row_count) for each in found}
    assert counts == {window: (len(rows), len(rows)) for window, rows in held.items()}
    for each in found:
        assert each.same is not None
        assert each.same.window == each.flow.window
        # As they are shown to be run by hand.
        assert each.same.ch_query is not None
        query = clickhouse.execute(each.same.ch_query, database=database)
        assert int(query) == each.same.ch_row_count


async def test_a_window_that_is_not_over_or_holds_nothing_is_not_counted(make_night: MakeNight) -> None:
    night = await make_night(BINANCE)
    night.travel(SLOT)
    for start, end in ((SLOT - DAY, SLOT + MINUTE), (SLOT - HOUR, SLOT - HOUR), (SLOT - HOUR, SLOT - DAY)):
        night.ledger(FLOW_ROW, SLOT, BINANCE, start, end, 10, 10, AuditStatus.OK.value)
    found = (await compared(night, SLOT - 7 * DAY)).comparisons
    assert [(each.same, each.explained) for each in found] == [(None, False)] * 3
    assert all("not over yet or holds nothing" in each.explanations[0].text for each in found)
    assert comparisons_document(Comparisons(found), 7)["comparisons"][0]["same"] is None


@pytest.fixture(scope="module")
def in_new_york() -> Iterator[Sandbox]:
    with Sandbox.start(clickhouse_timezone="America/New_York") as box:
        yield box


async def test_a_window_that_the_flow_had_read_in_the_servers_zone(make_night: MakeNight, in_new_york: Sandbox) -> None:
    night = await make_night(GOLD, on=in_new_york, now=SLOT + 8 * HOUR, days=2, commits_per_day=24)
    row = Row(GOLD, 0, 0, 0, "missing_data", (Cause.ZONE,))
    within = "window_start >= '2026-02-17 02:00:00' AND window_start < '2026-02-18 02:00:00'"
    database = night.world.clickhouse_database
    answer = in_new_york.clickhouse.execute(f"SELECT count() FROM ohlcv_1m WHERE {within}", database=database)
    slipped = int(answer)
    raw, there = await counts(night, row)
    assert slipped not in (raw, there)
    flow_writes(night, row, slipped, there)

    (only,) = (await compared(night, SLOT - 7 * DAY)).comparisons

    assert Cause.ZONE in {each.cause for each in only.explanations}
    assert only.explained
    assert "America/New_York" in only.explanations[0].text
