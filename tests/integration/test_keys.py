"""Audits with a key: damage that leaves the counts equal is found and named, and healthy tables of all types agree."""

from __future__ import annotations

from collections.abc import AsyncIterator
from dataclasses import dataclass, replace
from typing import Any

import pytest

from bench.audits import Counted
from icekeeper.adapters.spark.engine import SparkEngine
from icekeeper.core.audit.records import AuditResult, FindingKind, KeyComparison
from icekeeper.core.enums import AuditStatus, Stage
from icekeeper.core.reasons import Reason
from icekeeper.sandbox import Sandbox
from icekeeper.sandbox.table_shapes import TABLES, shape_of
from tests.conftest import BINANCE, GOLD, SILVER, MakeNight, Night, nights

KEYS = {
    "bronze": ["sequence_number", "symbol"],
    "silver": ["message_id"],
    "gold": ["exchange", "canonical_symbol", "window_start"],
}
# What ClickHouse and Iceberg hold of the silver table, of a type that has no common text.
NESTED = ("trade_conditions", "vendor_data", "validation_errors")
DAY = "{0} >= TIMESTAMP '2026-02-17 00:00:00+00:00' AND {0} < TIMESTAMP '2026-02-18 00:00:00+00:00'"
OK, WARNING, MISSING = AuditStatus.OK, AuditStatus.WARNING, AuditStatus.MISSING_DATA
MISMATCH = Reason.CONTENT_MISMATCH


def _keyed(document: dict[str, Any]) -> None:
    for table in document["tables"]:
        table["audit"] = {"key": KEYS[table["layer"]]}
        if table["name"] == BINANCE:
            table["audit"]["compare"] = ["price", "quantity", "event_time"]


@pytest.fixture(scope="module")
async def night(box: Sandbox, engine: SparkEngine, tmp_path_factory: pytest.TempPathFactory) -> AsyncIterator[Night]:
    async with nights(box, engine, tmp_path_factory.mktemp("keys")) as make:
        yield await make(BINANCE, GOLD, change=_keyed, rows_per_file=50, commits_per_day=8, old_snapshots=0)


async def audited(night: Night, table: str) -> tuple[AuditResult, KeyComparison]:
    (audit,) = (await night.run(Stage.AUDIT, tables=(table,))).audits
    assert audit.key_comparison is not None, audit.notes
    return audit, audit.key_comparison


@dataclass(frozen=True)
class Damage:
    """Statements on Iceberg's table `{t}`, where `{first}` and `{last}` choose some of the day's rows by their key, and
    what an audit then says: its status and reason, and how many rows are missing, extra, doubled and changed."""

    statements: tuple[str, ...]
    status: AuditStatus
    reason: Reason | None
    found: tuple[int, int, int, int]
    delta: int = 0


_DOUBLED = "INSERT INTO {t} SELECT * FROM {t} WHERE {last}"
KINDS = ("missing", "extra", "duplicate", "changed")
DAMAGE = {
    "nothing": Damage((), OK, None, (0, 0, 0, 0)),
    "lost and doubled": Damage(("DELETE FROM {t} WHERE {first}", _DOUBLED), WARNING, MISMATCH, (40, 0, 40, 0)),
    "lost": Damage(("DELETE FROM {t} WHERE {first}",), WARNING, None, (40, 0, 0, 0), -40),
    "doubled": Damage((_DOUBLED,), WARNING, MISMATCH, (0, 0, 40, 0), 40),
    "another price": Damage(
        ("UPDATE {t} SET price = price + 0.01 WHERE {one}",), WARNING, MISMATCH, (0, 0, 0, 1)
    ),
    "a nulled column": Damage(("UPDATE {t} SET quantity = NULL WHERE {first}",), WARNING, MISMATCH, (0, 0, 0, 40)),
    "swapped values": Damage(
        ("UPDATE {t} SET price = CASE WHEN {one} THEN {other_price} ELSE {one_price} END WHERE {one} OR {other}",),
        WARNING,
        MISMATCH,
        (0, 0, 0, 2),
    ),
    "a column that is not compared": Damage(
        ("UPDATE {t} SET quote_volume = 0 WHERE {first}",), OK, None, (0, 0, 0, 0)
    ),
    "another key": Damage(
        ("UPDATE {t} SET sequence_number = -sequence_number WHERE {first}",), WARNING, None, (40, 40, 0, 0)
    ),
    "rows of its own": Damage(
        ("INSERT INTO {t} SELECT * FROM {t} WHERE {last}", "UPDATE {t} SET symbol = 'ÜX/€' WHERE {last}"),
        WARNING,
        None,
        (40, 80, 0, 0),
        40,
    ),
}  # fmt: skip


# Of each kind of damage `make test` plants one.
OFTEN = ("nothing", "lost and doubled", "another price")


@pytest.mark.parametrize(
    "damage",
    [pytest.param(one, id=name, marks=() if name in OFTEN else pytest.mark.long) for name, one in DAMAGE.items()],
)
async def test_planted_damage_is_found_and_named(night: Night, damage: Damage) -> None:
    name = f"{night.catalog}.{BINANCE}"
    await night.sql(f"ALTER TABLE {name} SET TBLPROPERTIES ('write.delete.mode' = 'merge-on-read')")
    before = (await night.state(BINANCE)).health.snapshot_id
    day = DAY.format("exchange_timestamp")
    rows = await night.sql(f"SELECT sequence_number, any_value(price), count(*) FROM {name} WHERE {day} GROUP BY 1")
    prices = {number: price for number, price, count in sorted(rows) if count == 1}
    numbers = list(prices)
    assert len(numbers) > 1000
    first, last = (", ".join(map(str, chosen)) for chosen in (numbers[:40], numbers[-40:]))
    one, other = numbers[100], next(number for number in numbers if prices[number] != prices[numbers[100]])
    words = {
        "t": name,
        "first": f"sequence_number IN ({first})",
        "last": f"sequence_number IN ({last})",
        "one": f"sequence_number = {one}",
        "other": f"sequence_number = {other}",
        "one_price": f"CAST({prices[one]} AS DECIMAL(38, 8))",
        "other_price": f"CAST({prices[other]} AS DECIMAL(38, 8))",
    }
    try:
        for statement in damage.statements:
            await night.sql(statement.format(**words))
        audit, keys = await audited(night, BINANCE)
    finally:
        await night.sql(f"CALL {night.catalog}.system.rollback_to_snapshot('{BINANCE}', {before})")

    assert (audit.status, audit.reason) == (damage.status, damage.reason), audit.notes
    assert (keys.missing, keys.extra, keys.duplicate, keys.changed) == damage.found, audit.notes
    assert audit.delta == damage.delta
    assert keys.equal == (not any(damage.found))
    assert (keys.columns, keys.distinct, keys.unexplored) == (("sequence_number", "symbol"), False, 0)
    by_kind = {kind: sum(each.rows for each in audit.findings if each.kind == kind) for kind in KINDS}
    assert tuple(by_kind.values()) == damage.found, audit.findings
    named = [key for finding in audit.findings for key in finding.sample_keys]
    assert len(named) == min(20, sum(damage.found))
    if damage.found[0] and damage.statements[0].startswith("DELETE"):
        missing = [each for each in audit.findings if each.kind is FindingKind.MISSING]
        assert {int(key[0] or "") for each in missing for key in each.sample_keys} <= {*numbers[:40]}
        assert "missing 02-17 " in audit.notes


async def test_one_lost_row_is_found_by_at_most_twelve_queries_a_side(make_night: MakeNight) -> None:
    def change(document: dict[str, Any]) -> None:
        _keyed(document)
        document["tables"][0]["audit"]["drill_rows"] = 1000

    night = await make_night(BINANCE, change=change, rows_per_file=100, commits_per_day=8, old_snapshots=0)
    ports = night.services.ports
    lakehouse: Any = Counted(ports.lakehouse)
    source: Any = Counted(ports.source)
    ports = replace(ports, lakehouse=lakehouse, source=source, source_keys=source)
    night.services = replace(night.services, ports=ports)
    name = f"{night.catalog}.{BINANCE}"
    day = DAY.format("exchange_timestamp")
    ((lost,),) = await night.sql(f"SELECT max(sequence_number) FROM {name} WHERE {day}")
    await night.sql(f"DELETE FROM {name} WHERE {day} AND sequence_number = {lost}")
    audit, keys = await audited(night, BINANCE)

    assert (audit.delta, keys.missing, keys.unexplored) == (-1, 1, 0)
    assert keys.clickhouse > 1000, "more than are read at once"
    assert [key[0] for finding in audit.findings for key in finding.sample_keys] == [str(lost)]
    assert lakehouse.queries <= 12
    assert source.queries <= 12


async def test_a_source_that_merges_is_compared_by_distinct_keys(night: Night) -> None:
    name = f"{night.catalog}.{GOLD}"
    before = (await night.state(GOLD)).health.snapshot_id
    audit, keys = await audited(night, GOLD)
    assert (audit.status, keys.equal, keys.distinct, keys.compare) == (OK, True, True, ()), audit.notes
    # Iceberg holds rows that were still to be merged when they were read: more rows, and as many keys.
    assert audit.ch_row_count == keys.clickhouse == keys.iceberg < (audit.iceberg_row_count or 0)

    some = f"SELECT DISTINCT exchange, canonical_symbol FROM {name} ORDER BY 1, 2 LIMIT 1"
    ((exchange, symbol),) = await night.sql(some)
    symbols = f"exchange = '{exchange}' AND canonical_symbol = '{symbol}'"
    candles = f"SELECT count(DISTINCT window_start) FROM {name} WHERE {symbols} AND {DAY.format('window_start')}"
    ((lost,),) = await night.sql(candles)
    await night.sql(f"DELETE FROM {name} WHERE {symbols}")
    audit, keys = await audited(night, GOLD)
    await night.sql(f"CALL {night.catalog}.system.rollback_to_snapshot('{GOLD}', {before})")
    assert audit.status is MISSING, audit.notes
    assert (keys.missing, keys.extra, keys.duplicate, keys.changed) == (lost, 0, 0, 0)
    assert {key[:2] for finding in audit.findings for key in finding.sample_keys} == {(exchange, symbol)}
    assert sum(finding.rows for finding in audit.findings) == lost


@pytest.mark.long
@pytest.mark.parametrize("generation", ["current", "older"])
async def test_healthy_tables_agree_in_every_column(make_night: MakeNight, generation: str) -> None:
    def change(document: dict[str, Any]) -> None:
        for table in document["tables"]:
            shape = shapes[table["name"]]
            key = KEYS[table["layer"]]
            others = [name for name in shape.offloaded_columns if name not in (*key, *NESTED)]
            table["audit"] = {"key": key, "compare": others}

    shapes = {shape.iceberg: shape_of(shape.iceberg, generation) for shape in TABLES}  # type: ignore[arg-type]
    night = await make_night(change=change, generation=generation, old_snapshots=0)
    report = await night.run(Stage.AUDIT)
    assert len(report.audits) == 10
    for audit in report.audits:
        assert audit.status is OK, f"{audit.iceberg_table}: {audit.notes}"
        assert audit.key_comparison is not None
        assert audit.key_comparison.equal, f"{audit.iceberg_table}: {audit.notes}"
        assert audit.key_comparison.clickhouse > 0 or audit.iceberg_table.endswith("1d")
    compared = [audit.key_comparison.compare for audit in report.audits if audit.key_comparison]
    assert sum(map(bool, compared)) == (4 if generation == "current" else 2)


@pytest.mark.parametrize("limits", [{"sample_above": 1000}, {"sample_keys": 0}], ids=str)
async def test_what_the_settings_leave_out_is_said(make_night: MakeNight, limits: dict[str, int]) -> None:
    def change(document: dict[str, Any]) -> None:
        document["audit"] = limits
        _keyed(document)

    table = GOLD if "sample_above" in limits else SILVER
    night = await make_night(table, change=change, old_snapshots=0, rows_per_file=150, symbols=12)
    if table == GOLD:
        audit, keys = await audited(night, table)
        assert keys.sample is not None
        assert keys.sample[1] >= 2
        assert keys.equal
        assert 0 < keys.clickhouse < (audit.ch_row_count or 0)
        assert f"of one {keys.sample[1]}th of all" in audit.notes
        return
    await night.sql(f"DELETE FROM {{c}}.{table}")
    audit, keys = await audited(night, table)
    assert audit.status is MISSING
    assert keys.missing == audit.ch_row_count == sum(finding.rows for finding in audit.findings)
    assert {finding.sample_keys for finding in audit.findings} == {()}


async def test_final_on_a_source_that_merges_no_rows_takes_nothing_from_what_is_compared(make_night: MakeNight) -> None:
    def change(document: dict[str, Any]) -> None:
        _keyed(document)
        document["tables"][0]["audit"]["final"] = True

    night = await make_night(BINANCE, change=change, old_snapshots=0)
    audit, keys = await audited(night, BINANCE)
    assert (audit.ch_final, audit.ch_merges, keys.equal) == (True, False, True)
    assert (keys.distinct, len(keys.compare)) == (False, 3)
