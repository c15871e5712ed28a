"""Keys: how both sides agree on one, what differs, what that means, and how far an audit goes to find it."""

from __future__ import annotations

import random
from collections.abc import Sequence
from dataclasses import replace
from datetime import timedelta
from fractions import Fraction
from typing import Any

import pytest

from icekeeper.core.audit.keys import (
    Buckets,
    ColumnType,
    Key,
    KeyColumn,
    Kind,
    agreed_key,
    differing_buckets,
    explorable,
    finer_bits,
    sampled,
    values_of,
)
from icekeeper.core.audit.records import AuditResult, FindingKind, Fingerprint, KeyComparison, Verdict
from icekeeper.core.audit.verdict import judge_keys, missing_keys
from icekeeper.core.enums import AuditStatus, Stage
from icekeeper.core.errors import DeadlineExceeded, PermanentError
from icekeeper.core.policy import KeyPolicy
from icekeeper.core.reasons import Reason
from icekeeper.night.task import Task
from tests.unit.builders import SLOT, WINDOW_START, audit_policy, table_policy
from tests.unit.fakes import Step, World, fails, permanent
from tests.unit.keyed import KeyedRow

pytestmark = pytest.mark.usefixtures("logs")

LONG, TEXT, DAYS = ColumnType("long", Kind.NUMBER), ColumnType("string", Kind.TEXT), ColumnType("date", Kind.DAY)
OK, WARNING, MISSING = AuditStatus.OK, AuditStatus.WARNING, AuditStatus.MISSING_DATA


# --- agreeing on a key


def test_a_key_has_both_sides_names_and_the_larger_scale() -> None:
    iceberg = {"symbol": TEXT, "price": ColumnType("decimal(38, 8)", Kind.NUMBER, 8)}
    source = {"sym": ColumnType("String", Kind.TEXT), "price": ColumnType("Decimal(18, 10)", Kind.NUMBER, 10)}
    key = agreed_key(("symbol",), ("price",), {"symbol": "sym"}, iceberg, source)
    assert key == Key((KeyColumn("symbol", "sym", Kind.TEXT),), (KeyColumn("price", "price", Kind.NUMBER, 10),))


@pytest.mark.parametrize(
    ("iceberg", "source", "text"),
    [
        ({}, {"k": LONG}, "Iceberg has no column k"),
        ({"k": LONG}, {}, "ClickHouse has no column k"),
        ({"k": LONG}, {"k": ColumnType("String", Kind.TEXT)}, "k is long in Iceberg and String in ClickHouse"),
        ({"k": DAYS}, {"k": ColumnType("Int64", Kind.NUMBER)}, "k is date in Iceberg and Int64 in ClickHouse"),
        # The hours that the day has lost would differ in every row.
        ({"k": DAYS}, {"k": ColumnType("DateTime", Kind.INSTANT)}, "k is date in Iceberg and DateTime in ClickHouse"),
        (
            {"k": ColumnType("decimal(38, 8)", Kind.NUMBER, 8, 30)},
            {"k": ColumnType("Decimal(18, 9)", Kind.NUMBER, 9)},
            "k is decimal(38, 8) in Iceberg and Decimal(18, 9) in ClickHouse: "
            "30 digits before the point and 9 after it are too many to compare",
        ),
        (
            {"k": ColumnType("decimal(38, 37)", Kind.NUMBER, 37, 1)},
            {"k": ColumnType("Decimal(38, 37)", Kind.NUMBER, 37)},
            "k is decimal(38, 37) in Iceberg and Decimal(38, 37) in ClickHouse: "
            "1 digits before the point and 37 after it are too many to compare",
        ),
        (
            {"k": ColumnType("double", None)},
            {"k": ColumnType("Float64", None)},
            "k is double in Iceberg, which has no text that is the same on both sides; "
            "k is Float64 in ClickHouse, which has no text that is the same on both sides",
        ),
    ],
)
def test_columns_that_cannot_be_compared_are_refused(
    iceberg: dict[str, ColumnType], source: dict[str, ColumnType], text: str
) -> None:
    with pytest.raises(PermanentError) as raised:
        agreed_key(("k",), (), {}, iceberg, source)
    assert (raised.value.reason, raised.value.args[0]) == (Reason.KEY_TYPE, text)


@pytest.mark.parametrize(
    ("iceberg", "source", "kind"),
    [
        (DAYS, ColumnType("Date", Kind.DAY), Kind.INSTANT),
        (ColumnType("timestamptz", Kind.INSTANT), ColumnType("Date", Kind.DAY), Kind.INSTANT),
        (TEXT, ColumnType("FixedString(3)", Kind.PADDED), Kind.PADDED),
        (
            ColumnType("decimal(38, 36)", Kind.NUMBER, 36, 2),
            ColumnType("Decimal(38, 36)", Kind.NUMBER, 36),
            Kind.NUMBER,
        ),
        (ColumnType("decimal(38, 8)", Kind.NUMBER, 8, 30), ColumnType("Decimal(76, 8)", Kind.NUMBER, 8), Kind.NUMBER),
    ],
)
def test_kinds_that_can_be_compared_have_one_text(iceberg: ColumnType, source: ColumnType, kind: Kind) -> None:
    assert agreed_key(("k",), (), {}, {"k": iceberg}, {"k": source}).columns[0].kind is kind


@pytest.mark.parametrize(
    ("text", "values"),
    [
        (b"3:BTC12;1708128000000000;", ("BTC", "12", "2024-02-17T00:00:00Z")),
        (b"0:-1.50;N", ("", "-1.5", None)),
        (b"NNN", (None, None, None)),
        (b"5:N3:;N0.00;-1;", ("N3:;N", "0", "1969-12-31T23:59:59.999999Z")),
        (b"N12345678901234567890123456789012345678.90;N", (None, "12345678901234567890123456789012345678.9", None)),
        # No UTF-8, or half of a character; a year past 9999.
        (b"2:\xff;1;N", ("\ufffd;", "1", None)),
        (b"1:\xc31;N", ("\ufffd", "1", None)),
        (b"N1;9223372036854775807;", (None, "1", "9223372036854775807")),
    ],
)
def test_a_keys_text_has_its_values(text: bytes, values: tuple[str | None, ...]) -> None:
    columns = [KeyColumn(str(kind), "", kind, 2) for kind in (Kind.TEXT, Kind.NUMBER, Kind.INSTANT)]
    assert values_of(columns, text) == values


# --- buckets


def test_a_merging_sources_keys_are_sampled_above_a_size_by_the_day_of_the_slot() -> None:
    assert sampled(SLOT, 0, 1000) is None
    assert sampled(SLOT, 1000, 1000) is None
    parts = [sampled(SLOT + timedelta(days=day), 3001, 1000) for day in range(4)]
    assert {part and part.bits for part in parts} == {2}
    assert sorted(part.numbers[0] for part in parts if part) == [0, 1, 2, 3]
    assert sampled(SLOT, 3001, 1000) == sampled(SLOT + timedelta(hours=9), 3001, 1000)


def test_buckets_become_finer_within_bounds() -> None:
    assert finer_bits(None, 200) == 5
    assert finer_bits(None, 10**12) == 14
    assert finer_bits(Buckets(14, (1, 2)), 10_000) == 14 + 10
    assert finer_bits(Buckets(14, tuple(range(3500))), 10**8) == 14 + 4
    assert finer_bits(Buckets(3, (5,)), 1) == 4


def test_buckets_that_differ_are_explored_up_to_a_number_of_rows_but_one_at_least() -> None:
    same, other = Fingerprint(2, (1, 1)), Fingerprint(3, (1, 1))
    assert differing_buckets({0: same, 1: same, 2: same}, {0: same, 2: other, 3: other}) == {1: 2, 2: 3, 3: 3}
    assert explorable({1: 20, 2: 30, 3: 1}, 50) == (1, 2)
    assert explorable({1: 200, 2: 30}, 50) == (1,)
    assert explorable({}, 50) == ()


# --- what it means


def comparison(**fields: Any) -> KeyComparison:
    given = {"clickhouse": 1000, "iceberg": 1000, "explored": 1000, "equal": False, **fields}
    return KeyComparison(columns=("symbol",), compare=(), distinct=False, **given)


@pytest.mark.parametrize(
    ("counted", "keys", "status", "reason"),
    [
        (OK, {"equal": True}, OK, None),
        (OK, {"missing": 10}, OK, None),
        (OK, {"missing": 11}, WARNING, None),
        (OK, {"missing": 50}, WARNING, None),
        (OK, {"missing": 51}, MISSING, None),
        (OK, {"extra": 900}, OK, None),
        (OK, {"duplicate": 1}, WARNING, Reason.CONTENT_MISMATCH),
        (OK, {"changed": 1}, WARNING, Reason.CONTENT_MISMATCH),
        (OK, {"missing": 51, "duplicate": 51}, MISSING, Reason.CONTENT_MISMATCH),
        (OK, {"missing": None}, WARNING, None),
        (MISSING, {"missing": None}, MISSING, None),
        (MISSING, {"missing": 1}, MISSING, None),
        (WARNING, {"equal": True}, WARNING, None),
        # Found among a tenth of what differs: ten times as much is missing.
        (OK, {"missing": 6, "explored": 100, "unexplored": 900}, MISSING, None),
        (OK, {"iceberg": 940, "missing": 1, "explored": 1000, "unexplored": 0}, MISSING, None),
        (OK, {"clickhouse": 0, "extra": 1000}, OK, None),
        # They agreed when they were read again; or nothing was found of what could be explored.
        (OK, {}, OK, None),
        (OK, {"explored": 0, "unexplored": 10}, WARNING, None),
        # What was not explored may hide doubled rows and changed values, whatever was found elsewhere.
        (OK, {"extra": 400, "unexplored": 9000}, WARNING, None),
        (OK, {"missing": 1, "extra": 1, "unexplored": 9000}, WARNING, None),
    ],
)
def test_the_verdict_is_the_worse_of_counts_and_keys(
    counted: AuditStatus, keys: dict[str, Any], status: AuditStatus, reason: Reason | None
) -> None:
    verdict = judge_keys(Verdict(counted, None, 0, None, "equal"), comparison(**keys), audit_policy())
    assert (verdict.status, verdict.reason) == (status, reason)
    assert verdict.note.startswith("equal; keys ")


def test_missing_keys_are_a_fraction_and_at_least_what_the_counts_say() -> None:
    assert missing_keys(comparison(missing=1, explored=3, unexplored=1)) == Fraction(4, 3)
    assert missing_keys(comparison(missing=None, iceberg=990)) == 10


def test_the_note_says_what_differs_and_what_was_not_explored() -> None:
    keys = comparison(missing=5, duplicate=2, changed=1, unexplored=70, explored=30, sample=(3, 8))
    note = judge_keys(Verdict(OK, None, 0, None, "equal"), keys, audit_policy()).note
    assert note == (
        "equal; keys of one 8th of all differ by symbol: 5 missing, 2 duplicate, 1 changed, among 30 rows; "
        "70 rows more were not explored (audit.drill_rows)"
    )


# --- the audit, on fakes

RULES = KeyPolicy(("id",), ("price",), drill_rows=1000)
POLICY = table_policy(audit=replace(audit_policy(), keys=RULES))
SOURCE = "bronze_trades_binance"
# What the fakes count in a day.
ROWS = 2400


@pytest.fixture
def world() -> World:
    world = World()
    world.add(POLICY)
    kinds = {"id": LONG, "price": ColumnType("decimal(38, 8)", Kind.NUMBER, 8)}
    world.lakehouse.column_kinds = world.source.column_kinds = kinds
    rows = [(f"{number};", f"{number % 7}.00000000;") for number in range(ROWS)]
    world.source.hours[SOURCE] = {WINDOW_START: ROWS}
    world.source.keyed[SOURCE], world.lakehouse.keyed[POLICY.name] = rows, random.Random(1).sample(rows, ROWS)
    return world


async def audited(world: World, rows: Sequence[KeyedRow] | None = None, **rules: Any) -> AuditResult:
    if rows is not None:
        world.lakehouse.keyed[POLICY.name] = list(rows)
        world.lakehouse.tables[POLICY.name].hours = {WINDOW_START: len(rows)}
    policy = table_policy(audit=replace(audit_policy(), keys=replace(RULES, **rules)))
    audit = (await Task(Stage.AUDIT, policy, world.context()).run()).audit
    assert audit is not None
    return audit


async def test_equal_fingerprints_take_one_scan_a_side(world: World) -> None:
    audit = await audited(world)
    assert (audit.status, audit.reason, audit.notes) == (OK, None, "equal; keys equal by id with price")
    assert audit.key_comparison is not None
    assert (audit.key_comparison.clickhouse, audit.key_comparison.iceberg) == (ROWS, ROWS)
    scans = ("source.count", "source.fingerprints", "source.key_rows", "count", "fingerprints", "key_rows")
    assert world.methods(*scans) == ["source.count", "count", "fingerprints"]


async def test_rows_lost_and_others_doubled_are_found_among_equal_counts(world: World) -> None:
    rows = world.source.keyed[SOURCE]
    audit = await audited(world, [*rows[30:], *rows[-30:]])
    keys = audit.key_comparison
    assert keys is not None
    assert (audit.status, audit.reason, audit.delta) == (WARNING, Reason.CONTENT_MISMATCH, 0)
    assert (keys.missing, keys.extra, keys.duplicate, keys.changed, keys.unexplored) == (30, 0, 30, 0, 0)
    assert {finding.kind for finding in audit.findings} == {FindingKind.MISSING, FindingKind.DUPLICATE}
    assert sum(len(finding.sample_keys) for finding in audit.findings) == 20
    # More than drill_rows: buckets come before keys. Less: keys at once.
    assert len(world.called("source.fingerprints")) == 1
    assert len(world.called("source.key_rows")) == 1


async def test_few_rows_are_compared_key_by_key_at_once(world: World) -> None:
    audit = await audited(world, [], drill_rows=ROWS)
    assert audit.status is MISSING
    assert audit.key_comparison is not None
    assert audit.key_comparison.missing == ROWS
    assert not world.called("source.fingerprints")


async def test_what_the_budget_leaves_unexplored_is_said_and_judged_by_its_share(world: World) -> None:
    rows = world.source.keyed[SOURCE]
    audit = await audited(world, rows[::2], drill_rows=1000)
    keys = audit.key_comparison
    assert keys is not None
    assert audit.status is MISSING
    assert 2000 < keys.explored + keys.unexplored <= ROWS
    assert 0 < keys.explored <= 1000
    assert f"{keys.unexplored} rows more were not explored" in audit.notes
    assert missing_keys(keys) >= ROWS // 2 - 1


async def test_metadata_that_counts_other_rows_than_were_read_is_an_error(world: World) -> None:
    world.lakehouse.keyed[POLICY.name].pop()
    audit = await audited(world)
    assert (audit.status, audit.reason) == (AuditStatus.ERROR, Reason.COUNT_MISMATCH)
    assert (audit.ch_row_count, audit.iceberg_row_count) == (ROWS, None)
    assert f"its metadata counts {ROWS} rows of the window, and {ROWS - 1} were read" in audit.notes


async def test_a_source_that_merges_is_compared_by_distinct_keys_without_values(world: World) -> None:
    world.source.merging.add(SOURCE)
    rows = world.source.keyed[SOURCE]
    audit = await audited(world, [*rows, *((key, "0.00000000;") for key, _ in rows[:50])])
    keys = audit.key_comparison
    assert keys is not None
    assert (audit.status, keys.equal, keys.distinct, keys.compare) == (OK, True, True, ())
    assert "distinct keys equal by id" in audit.notes


async def test_a_sample_of_a_merging_source_is_judged_by_its_own_share(world: World) -> None:
    world.source.merging.add(SOURCE)
    rows = world.source.keyed[SOURCE]
    audit = await audited(world, rows[ROWS // 10 :], sample_above=1000, samples=0)
    keys = audit.key_comparison
    assert keys is not None
    assert keys.sample is not None
    assert keys.sample[1] == 4
    assert 0 < (keys.missing or 0) < ROWS // 10
    assert keys.clickhouse < ROWS // 2
    assert [finding.sample_keys for finding in audit.findings] == [()]


@pytest.mark.parametrize("drill_rows", [1000, 2 * ROWS])
async def test_rows_that_come_to_the_source_meanwhile_are_not_taken_for_missing(world: World, drill_rows: int) -> None:
    rows = world.source.keyed[SOURCE]
    late = [(f"late {number};", "1.00000000;") for number in range(ROWS // 2)]
    first = "source.fingerprints" if drill_rows < ROWS else "source.key_rows"
    world.source.script(first, SOURCE, Step(first=lambda: rows.extend(late)))
    audit = await audited(world, [*rows, rows[0]], drill_rows=drill_rows)
    assert (audit.status, audit.reason) == (WARNING, None)
    assert audit.key_comparison is not None
    assert audit.key_comparison.missing is None


@pytest.mark.parametrize(("queries", "scans"), [(3, 1), (4, 2), (6, 4)])
async def test_looking_for_keys_takes_no_more_queries_than_the_budget(world: World, queries: int, scans: int) -> None:
    """Half of the rows differ: each round of smaller buckets leaves more rows than may be read."""
    many = [(f"{number};", "1;") for number in range(40_000)]
    world.source.keyed[SOURCE] = many
    world.source.hours[SOURCE] = {WINDOW_START: len(many)}
    audit = await audited(world, many[::2] + many[::2], drill_queries=queries, drill_rows=1000)
    assert audit.key_comparison is not None
    assert audit.key_comparison.unexplored > 0
    assert "were not explored (audit.drill_rows)" in audit.notes
    assert len(world.called("source.fingerprints")) <= scans
    assert len(world.called("source.key_rows")) == len(world.called("source.count_by_minute")) == 1


async def test_looking_for_keys_ends_in_time(world: World) -> None:
    rows = world.source.keyed[SOURCE]
    world.source.script("source.fingerprints", SOURCE, Step(takes=timedelta(minutes=6)))
    audit = await audited(world, [*rows[:-1], rows[0]])
    assert "which of them could not be found out" in audit.notes
    assert "the minutes could not be counted" in audit.notes
    assert audit.status is WARNING


async def test_a_file_in_which_keys_cannot_be_read_is_an_error(world: World) -> None:
    world.lakehouse.script("key_rows", POLICY.name, fails(permanent(Reason.FILE_CORRUPT)))
    audit = await audited(world, world.source.keyed[SOURCE][1:])
    assert (audit.status, audit.reason, audit.bad_file_rows) == (AuditStatus.ERROR, Reason.FILE_CORRUPT, 0)


@pytest.mark.parametrize("method", ["key_rows", "fingerprints"])
async def test_keys_that_could_not_be_found_out_are_a_warning_that_says_so(world: World, method: str) -> None:
    rows = world.source.keyed[SOURCE]
    world.source.script(f"source.{method}", SOURCE, fails(DeadlineExceeded("too slow")))
    audit = await audited(world, [*rows[:-1], rows[0]])
    assert (audit.status, audit.reason) == (WARNING, None)
    assert "which of them could not be found out" in audit.notes
    assert audit.key_comparison is not None
    assert audit.key_comparison.missing is None


async def test_a_key_that_is_not_there_is_an_error(world: World) -> None:
    del world.source.column_kinds["price"]
    world.source.column_kinds = {"id": LONG}
    audit = await audited(world)
    assert (audit.status, audit.reason) == (AuditStatus.ERROR, Reason.KEY_TYPE)
    assert "ClickHouse has no column price" in audit.notes
