"""The last days as audits have counted them, and how many in a row have a source without rows."""

from __future__ import annotations

import pytest

from icekeeper.core.audit.days import DAYS_KEPT, PastAudit, empty_days, newest_days
from icekeeper.core.enums import AuditStatus
from tests.unit.builders import DAY, HOUR, WINDOW_START

OK, ERROR = AuditStatus.OK, AuditStatus.ERROR
EMPTY, FULL, QUIET = (0, 9, OK), (9, 9, OK), (0, 0, OK)


@pytest.mark.parametrize(
    ("days", "row"),
    [
        ([], 0),
        ([FULL], 0),
        ([QUIET, QUIET, QUIET], 0),
        ([EMPTY], 1),
        ([FULL, EMPTY, EMPTY, EMPTY], 3),
        ([EMPTY, EMPTY, FULL, EMPTY], 1),
        ([EMPTY, EMPTY, EMPTY, FULL], 0),
        ([EMPTY, QUIET, EMPTY, QUIET], 2),
        ([EMPTY, (None, None, ERROR), EMPTY], 2),
        ([EMPTY, (0, 9, ERROR), EMPTY], 2),
        ([EMPTY, (9, 0, AuditStatus.MISSING_DATA), EMPTY], 1),
    ],
)
def test_days_in_a_row_whose_source_is_empty_though_iceberg_is_not(
    days: list[tuple[int | None, int | None, AuditStatus]], row: int
) -> None:
    audits = {
        ("cold.a", day): PastAudit(day, day + DAY + HOUR, status, clickhouse, iceberg)
        for number, (clickhouse, iceberg, status) in enumerate(days)
        for day in [WINDOW_START + number * DAY]
    }
    audits["cold.b", WINDOW_START] = PastAudit(WINDOW_START, WINDOW_START, OK, 9, 9)
    assert empty_days(audits) == ({"cold.a": row} if row else {})


def test_the_newest_days_of_each_table_are_kept() -> None:
    days = [WINDOW_START + number * DAY for number in range(DAYS_KEPT + 5)]
    audits = {(table, day): PastAudit(day, day, OK, 9, 9) for table in ("cold.a", "cold.b") for day in days}
    kept = newest_days(audits)
    assert sorted(day for table, day in kept if table == "cold.b") == days[5:]
    assert len(kept) == 2 * DAYS_KEPT
