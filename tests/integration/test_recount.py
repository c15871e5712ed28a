"""Audits that are counted again at their snapshot, on the real parts."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import pytest

from icekeeper.core.audit.records import AuditResult
from icekeeper.core.audit.recount import Past, Recount, recounts
from icekeeper.core.enums import Stage
from icekeeper.core.reasons import Reason
from tests.conftest import COINBASE, MakeNight, Night

APPEND = (
    f"INSERT INTO {{c}}.{COINBASE} SELECT * FROM {{c}}.{COINBASE}"
    " WHERE exchange_timestamp >= DATE '2026-02-17' AND exchange_timestamp < DATE '2026-02-18' LIMIT 7"
)


async def counted_again(night: Night, then: Sequence[AuditResult]) -> Recount:
    """The audit of the one table, and what is counted at its snapshot now."""
    pinned = {audit.iceberg_table: audit.snapshot_id for audit in then if audit.snapshot_id is not None}
    done = await night.execute(Stage.AUDIT, record=False, snapshots=pinned)
    (found,) = recounts(then, done.report.audits)
    return found


@pytest.mark.parametrize("proof", ["manifests", "files", "rows"])
async def test_a_snapshot_is_counted_as_it_was_until_it_is_expired(make_night: MakeNight, proof: str) -> None:
    def settings(document: dict[str, Any]) -> None:
        document["audit"] = {"proof": proof, "retries": 0}

    night = await make_night(COINBASE, change=settings)
    then = (await night.run(Stage.AUDIT)).audits
    at = then[0].snapshot_id
    # What comes later, and what a compaction makes of it, is not of that snapshot.
    await night.sql(APPEND)
    await night.run(Stage.COMPACT)

    found = await counted_again(night, then)

    assert (found.past, found.snapshot_id) == (Past.SAME, at)
    assert found.iceberg == (then[0].iceberg_row_count, then[0].iceberg_row_count)
    assert (await night.run(Stage.AUDIT)).audits[0].iceberg_row_count != then[0].iceberg_row_count

    await night.sql(
        f"CALL {{c}}.system.expire_snapshots(table => '{{c}}.{COINBASE}', snapshot_ids => ARRAY({at}),"
        " older_than => TIMESTAMP '1970-01-01 00:00:00')"
    )
    found = await counted_again(night, then)
    assert (found.past, found.reason) == (Past.UNKNOWN, Reason.SNAPSHOT_EXPIRED), found.note


async def test_a_file_that_is_lost_later_is_a_past_that_is_not_known(make_night: MakeNight) -> None:
    night = await make_night(COINBASE)
    then = (await night.run(Stage.AUDIT)).audits
    lost = next(key for key in sorted(night.store()) if key.endswith(".parquet") and "2026-02-17" in key)
    night.box.s3.filesystem().delete_file(f"warehouse/{lost}")

    found = await counted_again(night, then)

    assert (found.past, found.reason) == (Past.UNKNOWN, Reason.FILE_MISSING)
