"""What counting again says of an audit."""

from __future__ import annotations

from dataclasses import replace

import pytest

from icekeeper.core.audit.records import AuditResult
from icekeeper.core.audit.recount import Past, recounts
from icekeeper.core.enums import AuditStatus
from icekeeper.core.reasons import Reason
from tests.unit.reports import AUDIT

THEN = replace(AUDIT, status=AuditStatus.OK, ch_row_count=100, iceberg_row_count=100, snapshot_id=7)


@pytest.mark.parametrize(
    ("then", "now", "past", "note"),
    [
        pytest.param({}, {}, Past.SAME, "", id="nothing-changed"),
        pytest.param({}, {"iceberg_row_count": 99}, Past.CHANGED, "", id="a-snapshot-lost-a-row"),
        pytest.param({}, {"iceberg_row_count": 101, "ch_row_count": 101}, Past.CHANGED, "", id="both-sides-changed"),
        pytest.param({}, {"ch_row_count": 101}, Past.SOURCE_CHANGED, "", id="rows-came-late"),
        pytest.param({"iceberg_row_count": 90}, {"iceberg_row_count": 90}, Past.SAME, "", id="it-lacked-rows-then"),
        pytest.param(
            {}, {"ch_row_count": 3, "status": AuditStatus.ERROR, "reason": Reason.SOURCE_EXPIRED, "notes": "expired"},
            Past.SAME, "expired", id="the-source-has-expired",
        ),
        pytest.param(
            {}, {"iceberg_row_count": None, "reason": Reason.SNAPSHOT_EXPIRED, "notes": "gone"},
            Past.UNKNOWN, "gone", id="the-snapshot-is-gone",
        ),
        pytest.param(
            {"iceberg_row_count": None, "notes": "down"}, {}, Past.UNKNOWN,
            "its audit counted nothing then: down", id="it-was-not-counted",
        ),
        pytest.param({"snapshot_id": None}, {}, Past.UNKNOWN, "the table had no snapshot then", id="no-snapshot"),
        pytest.param({}, None, Past.UNKNOWN, "it is not audited any more", id="the-table-left"),
    ],
)  # fmt: skip
def test_an_audit_is_compared_with_what_is_counted_again(
    then: dict[str, object], now: dict[str, object] | None, past: Past, note: str
) -> None:
    again: list[AuditResult] = [] if now is None else [replace(THEN, **now)]  # type: ignore[arg-type]
    (found,) = recounts([replace(THEN, **then)], again)  # type: ignore[arg-type]
    assert (found.past, found.note) == (past, note)
    assert found.reason == (again[0].reason if again and past is Past.UNKNOWN else None)
