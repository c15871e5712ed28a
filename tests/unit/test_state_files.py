"""What a scrape shows of files that others change: read again each time, and never waited for."""

from __future__ import annotations

import asyncio
import os
from datetime import timedelta
from pathlib import Path
from uuid import UUID

from structlog.testing import capture_logs

from icekeeper.adapters.iceberg.deleting.kept import KeptPaths
from icekeeper.adapters.ledger.kept_holds import FILE, KeptHolds
from icekeeper.adapters.spool.spool import Spool
from icekeeper.core.enums import Stage
from icekeeper.core.tables.holds import OperatorHold
from icekeeper.scheduling import pause
from icekeeper.scheduling.pause import Pause
from icekeeper.service.state_files import StateFiles
from tests.unit.fakes import ManualClock

CLOCK = ManualClock()
TWO_HOURS = Pause("ops", "host", CLOCK.now, CLOCK.now + timedelta(hours=2), "moving the warehouse")


async def test_a_pause_shows_until_it_is_over_and_corrupt_files_are_counted(tmp_path: Path) -> None:
    clock = ManualClock()
    spool = await Spool.open(tmp_path, clock=clock)
    try:
        files = StateFiles(tmp_path, spool, clock)
        await files.refresh()
        assert (files.pause, files.corrupt_spool_files) == (None, 0)
        pause.write(tmp_path, TWO_HOURS)
        (tmp_path / "spool.db.corrupt-20260218T020000").touch()
        (tmp_path / "undeleted").mkdir()
        for table_id, paths in (("0a", "s3://b/1\ns3://b/2\n"), ("0b", "s3://b/3\n")):
            KeptPaths(tmp_path).path(table_id).write_text(f"# cold.a/b\n{paths}")
        assert files.undeleted == {}
        await files.refresh()
        assert files.undeleted == {"cold.a/b": 3}
        assert (files.pause, files.corrupt_spool_files) == (TWO_HOURS, 1)
        clock.advance(timedelta(hours=2))
        assert files.pause is None
    finally:
        await spool.close()


async def test_a_disk_that_hangs_keeps_the_last_values_and_holds_nothing_up(tmp_path: Path) -> None:
    spool = await Spool.open(tmp_path, clock=CLOCK)
    pause.write(tmp_path, TWO_HOURS)
    files = StateFiles(tmp_path, spool, CLOCK)
    await files.refresh()
    (tmp_path / "pause.json").unlink()
    os.mkfifo(tmp_path / "pause.json")  # who reads it waits until somebody writes
    refreshing = asyncio.create_task(files.refresh())
    try:
        async with asyncio.timeout(30):
            await asyncio.sleep(0.1)
            assert not refreshing.done()
            await refreshing
            await files.refresh()
        assert files.pause == TWO_HOURS
    finally:
        await asyncio.to_thread((tmp_path / "pause.json").write_text, "{}")
        await files.refresh()
        await spool.close()


async def test_holds_that_can_not_be_read_keep_their_last_values_and_are_logged_once(tmp_path: Path) -> None:
    spool = await Spool.open(tmp_path, clock=CLOCK)
    held = OperatorHold(UUID(int=1), "cold.a", Stage.EXPIRE, "n", "ann", "h", CLOCK.now)
    KeptHolds(tmp_path).write([held])
    files = StateFiles(tmp_path, spool, CLOCK)
    try:
        await files.refresh()
        (tmp_path / FILE).write_text('{"holds": [{')
        with capture_logs() as logs:
            for _ in range(3):
                await files.refresh()
        assert (files.holds, files.holds_known) == ((held,), False)
        assert [line["event"] for line in logs] == ["kept_holds_not_read"]
        KeptHolds(tmp_path).write([])
        await files.refresh()
        assert (files.holds, files.holds_known) == ((), True)
    finally:
        await spool.close()
