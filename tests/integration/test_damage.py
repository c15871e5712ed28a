"""A few seeds of the damage campaign: it works, and finds audits that are wrong. `make damage` plays many."""

from __future__ import annotations

from dataclasses import replace
from typing import Any

import pytest

from icekeeper.core.audit.records import BadFile, FileFault
from icekeeper.core.enums import AuditStatus, Proof
from icekeeper.core.reasons import Reason
from tests.conftest import MakeNight
from tests.damage.campaign import derive, play
from tests.damage.judge import judge
from tests.damage.kinds import FILE_KINDS, ROW_KINDS, Planted
from tests.unit.reports import AUDIT

KINDS = (*ROW_KINDS, *FILE_KINDS)
GONE = Planted("file gone", "", 0, Reason.FILE_MISSING, Proof.FILES, "s3://b/x.parquet")
LOST = Planted("cycles lost", "", -100)
HEALTHY = replace(
    AUDIT, ch_row_count=1000, iceberg_row_count=1000, status=AuditStatus.OK, reason=None, proof=Proof.FILES
)


def test_a_seed_is_a_plan_and_the_kinds_come_in_turn() -> None:
    assert derive(7) == derive(7)
    assert {kind for seed in range(len(KINDS)) for kinds in derive(seed).kinds for kind in kinds} == set(KINDS)


@pytest.mark.parametrize(
    ("proof", "planted", "changes", "wrong"),
    [
        (Proof.FILES, (), {}, []),
        (Proof.FILES, (), {"reason": Reason.OFFLOAD_BEHIND}, ["nothing is wrong with the day"]),
        (Proof.FILES, (), {"proof": Proof.MANIFESTS}, ["nothing is wrong with the day"]),
        (Proof.FILES, (), {"iceberg_row_count": 999}, ["counted 1000 and 999"]),
        (Proof.FILES, (LOST,), {"iceberg_row_count": 900}, ["called ok, it is missing_data"]),
        (Proof.FILES, (LOST,), {"iceberg_row_count": 900, "status": AuditStatus.MISSING_DATA}, []),
        (Proof.MANIFESTS, (GONE,), {}, []),
        (Proof.FILES, (GONE,), {}, ["called ok None", "names []"]),
        (Proof.ROWS, (GONE,), {"status": AuditStatus.ERROR, "reason": Reason.FILE_MISSING}, ["names []"]),
    ],
)  # fmt: skip
def test_an_audit_that_is_fooled_or_cries_wolf_is_found(
    proof: Proof, planted: tuple[Planted, ...], changes: dict[str, Any], wrong: list[str]
) -> None:
    found = list(judge(proof, planted, 1000, 1000, replace(HEALTHY, **{"proof": proof, **changes})))
    assert len(found) == len(wrong)
    assert all(text in each for text, each in zip(wrong, found, strict=True)), found


def test_the_files_that_are_named_are_those_that_are_hurt() -> None:
    bad = BadFile("s3://b/x.parquet", "", "data", FileFault.MISSING, 10, 1000)
    named = replace(HEALTHY, status=AuditStatus.ERROR, reason=Reason.FILE_MISSING, bad_files=(bad,))
    assert list(judge(Proof.FILES, [GONE], 1000, 1000, named)) == []
    other = replace(named, bad_files=(replace(bad, path="s3://b/y.parquet"),))
    assert len(list(judge(Proof.FILES, [GONE], 1000, 1000, other))) == 1


async def test_damaged_days_are_never_called_clean_and_healthy_ones_never_bad(make_night: MakeNight) -> None:
    results = [await play(derive(seed), make_night) for seed in (2, 7, 9)]
    assert {result.plan.proof for result in results} >= {Proof.FILES, Proof.ROWS}
    assert [result.wrong for result in results] == [(), (), ()]
