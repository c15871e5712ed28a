"""A few seeds of the damage campaign: it works, and finds audits that are wrong. `make damage` plays many."""

from __future__ import annotations

from dataclasses import replace
from datetime import UTC, datetime
from typing import Any

import pytest

from icekeeper.core.audit.certificates import CertifiedDay, Uncertified
from icekeeper.core.audit.records import BadFile, Explanation, FileFault, Finding, FindingKind, KeyComparison
from icekeeper.core.enums import AuditStatus, Proof
from icekeeper.core.reasons import Reason
from tests.conftest import MakeNight
from tests.damage.campaign import derive, play
from tests.damage.judge import judge, judge_certificate, judge_revocation
from tests.damage.kinds import FILE_KINDS, MINUTE, ROW_KINDS, Planted
from tests.damage.scene import LakeFile
from tests.damage.truth import Row, Truth
from tests.unit.reports import AUDIT, TABLE
from tests.unit.test_certificates import CERTIFICATE, REVOKED

DAY = datetime(2026, 2, 17, tzinfo=UTC)
KINDS = (*ROW_KINDS, *FILE_KINDS)
HURT = LakeFile("s3://b/x.parquet", 10, DAY + MINUTE, DAY + 5 * MINUTE)
GONE = Planted.by_files("file gone", "", Reason.FILE_MISSING, HURT)
LOST = Planted("cycles lost", "")
HEALTHY = replace(
    AUDIT, ch_row_count=1000, iceberg_row_count=1000, status=AuditStatus.OK, reason=None, proof=Proof.FILES
)


def test_a_seed_is_a_plan_and_the_kinds_come_in_turn() -> None:
    assert derive(7) == derive(7)
    assert {kind for seed in range(len(KINDS)) for kinds in derive(seed).kinds for kind in kinds} == set(KINDS)


def rows(*spans: tuple[int, int], price: int = 1) -> dict[tuple[str | None, ...], list[Row]]:
    """A row for each number of these half-open spans, each in a minute of its own."""
    numbers = [number for first, end in spans for number in range(first, end)]
    return {(str(number),): [Row(DAY + number * MINUTE, (price,))] for number in numbers}


WHOLE = rows((0, 1000))
SAME = Truth.of(WHOLE, WHOLE, merges=False)
FEWER = Truth.of(WHOLE, rows((0, 500), (600, 1000)), merges=False)
CHANGED = Truth.of(WHOLE, WHOLE | rows((5, 7), price=2), merges=False)
HOLE = Finding(FindingKind.MISSING, DAY + 500 * MINUTE, DAY + 600 * MINUTE, 100)
MORE = Finding(FindingKind.EXTRA, DAY + 1000 * MINUTE, DAY + 1200 * MINUTE, 200)
LACKS = {"iceberg_row_count": 900, "status": AuditStatus.MISSING_DATA}
OTHER = Finding(FindingKind.CHANGED, DAY + 5 * MINUTE, DAY + 7 * MINUTE, 2, sample_keys=(("5",), ("6",)))
DIFFER = {
    "status": AuditStatus.WARNING,
    "reason": Reason.CONTENT_MISMATCH,
    "key_comparison": KeyComparison(("id",), ("price",), False, 1000, 1000, equal=False, changed=2),
}


@pytest.mark.parametrize(
    ("proof", "planted", "truth", "changes", "wrong"),
    [
        (Proof.FILES, (), SAME, {}, []),
        (Proof.FILES, (), SAME, {"reason": Reason.OFFLOAD_BEHIND}, ["nothing is wrong with the day"]),
        (Proof.FILES, (), SAME, {"proof": Proof.MANIFESTS}, ["nothing is wrong with the day"]),
        (Proof.FILES, (), SAME, {"iceberg_row_count": 999}, ["counted 1000 and 999"]),
        (Proof.FILES, (), SAME, {"findings": (HOLE,)}, ["instead of []", "have [100] rows"]),
        (Proof.FILES, (LOST,), FEWER, LACKS | {"findings": (HOLE,)}, []),
        (Proof.FILES, (LOST,), FEWER, LACKS | {"findings": (HOLE,), "status": AuditStatus.OK}, ["called ok, it is m"]),
        (Proof.FILES, (LOST,), FEWER, LACKS, ["no finding of kind missing holds", "have [] rows"]),
        (Proof.FILES, (LOST,), FEWER, LACKS | {"findings": (replace(HOLE, rows=99),)}, ["instead of [", "have [99]"]),
        (
            Proof.FILES,
            (LOST,),
            FEWER,
            LACKS | {"findings": (replace(HOLE, end=DAY + 590 * MINUTE),)},
            ["instead of [", "no finding of kind missing holds"],
        ),
        # Iceberg holds more, and a hole all the same.
        (
            Proof.FILES,
            (LOST,),
            Truth.of(WHOLE, rows((0, 500), (600, 1200)), merges=False),
            {"iceberg_row_count": 1100, "findings": (HOLE, MORE)},
            ["called ok, it is missing_data"],
        ),
        (Proof.FILES, (LOST,), CHANGED, DIFFER | {"findings": (OTHER,)}, []),
        (Proof.FILES, (LOST,), CHANGED, DIFFER, ["no finding", "have [] rows", "name 0 keys of 2"]),
        (
            Proof.FILES,
            (LOST,),
            CHANGED,
            DIFFER | {"findings": (replace(OTHER, sample_keys=(("5",), ("7",))),)},
            ["names keys that are none of"],
        ),
        (Proof.MANIFESTS, (GONE,), SAME, {}, []),
        (Proof.FILES, (GONE,), SAME, {}, ["called ok None", "names []", "found ()", "findings name []"]),
        (
            Proof.ROWS,
            (GONE,),
            SAME,
            {"status": AuditStatus.ERROR, "reason": Reason.FILE_MISSING},
            ["names []", "found ()", "findings name []"],
        ),
    ],
)
def test_an_audit_that_is_fooled_or_cries_wolf_is_found(
    proof: Proof, planted: tuple[Planted, ...], truth: Truth, changes: dict[str, Any], wrong: list[str]
) -> None:
    audit = replace(HEALTHY, **{"proof": proof, **changes})
    found = list(judge(proof, planted, audit, truth, keyed=audit.key_comparison is not None))
    assert len(found) == len(wrong), found
    assert all(text in each for text, each in zip(wrong, found, strict=True)), found


def test_the_files_that_are_named_are_those_that_are_hurt_with_their_rows_and_times() -> None:
    bad = BadFile(HURT.path, "", "data", FileFault.MISSING, 10, 1000)
    file = Finding(FindingKind.FILE, DAY, DAY + 6 * MINUTE, 10, explanation=Explanation.BAD_FILE, files=(bad.path,))
    named = replace(HEALTHY, status=AuditStatus.ERROR, reason=Reason.FILE_MISSING, bad_files=(bad,), findings=(file,))
    assert list(judge(Proof.FILES, [GONE], named, SAME)) == []
    for changes, wrong in (
        ({"bad_files": (replace(bad, path="s3://b/y.parquet"),)}, "names ['s3://b/y.parquet'] instead of"),
        ({"findings": (replace(file, files=()),)}, "findings name [()] instead of"),
        ({"findings": (replace(file, rows=9),)}, "has not the rows of"),
        ({"findings": (replace(file, end=HURT.last),)}, "does not hold the times of"),
        ({"findings": (file, HOLE)}, "of bad files"),
    ):
        found = list(judge(Proof.FILES, [GONE], replace(named, **changes), SAME))
        assert wrong in found[0], found


GIVEN = CertifiedDay(TABLE, DAY.date(), CERTIFICATE)
NOT_GIVEN = CertifiedDay(TABLE, DAY.date(), None, Uncertified.MISSING_ROWS)
TAKEN = CertifiedDay(TABLE, DAY.date(), REVOKED, Uncertified.REVOKED)
MERGED = Truth.of(WHOLE, WHOLE, merges=True)


@pytest.mark.parametrize(
    ("proof", "planted", "truth", "day", "wrong"),
    [
        (Proof.FILES, (), SAME, GIVEN, ""),
        (Proof.FILES, (), SAME, NOT_GIVEN, "certified by None instead of counts"),
        (Proof.MANIFESTS, (), SAME, GIVEN, "certified by counts instead of None"),
        (Proof.FILES, (), MERGED, NOT_GIVEN, ""),
        (Proof.FILES, (), MERGED, GIVEN, "certified by counts instead of None"),
        (Proof.FILES, (LOST,), FEWER, NOT_GIVEN, ""),
        (Proof.FILES, (LOST,), FEWER, GIVEN, "certified by counts instead of None"),
        (Proof.FILES, (GONE,), SAME, GIVEN, "certified by counts instead of None"),
        (Proof.FILES, (GONE,), SAME, TAKEN, ""),
    ],
)
def test_a_certificate_on_a_damaged_day_is_found_and_one_that_a_healthy_day_lacks(
    proof: Proof, planted: tuple[Planted, ...], truth: Truth, day: CertifiedDay, wrong: str
) -> None:
    found = list(judge_certificate(proof, planted, day, truth, keyed=False))
    assert bool(found) == bool(wrong)
    assert wrong in "".join(found)


@pytest.mark.parametrize(
    ("planted", "truth", "day", "wrong"),
    [
        (LOST, FEWER, TAKEN, ""),
        (LOST, FEWER, GIVEN, "its certificate is in force"),
        (GONE, SAME, TAKEN, ""),
        (GONE, SAME, GIVEN, "its certificate is in force"),
        (Planted("there was none to change", ""), SAME, TAKEN, "its certificate is revoked"),
    ],
)
def test_a_certificate_that_outlives_damage_is_found(
    planted: Planted, truth: Truth, day: CertifiedDay, wrong: str
) -> None:
    found = list(judge_revocation(Proof.FILES, [planted], day, truth, keyed=False))
    assert bool(found) == bool(wrong)
    assert wrong in "".join(found)


@pytest.mark.long
async def test_damaged_days_are_never_called_clean_and_healthy_ones_never_bad(make_night: MakeNight) -> None:
    results = [await play(derive(seed), make_night) for seed in (8, 19, 39)]
    assert {result.plan.proof for result in results} >= {Proof.FILES, Proof.ROWS}
    assert [result.wrong for result in results] == [(), (), ()]
