"""State in state_dir that others change, read off the event loop: the pause, holds, corrupt spool files, kept paths."""

from __future__ import annotations

import asyncio
from collections.abc import Mapping
from pathlib import Path

from icekeeper.adapters.iceberg.deleting.kept import KeptPaths
from icekeeper.adapters.ledger.kept_holds import KeptHolds
from icekeeper.adapters.spool.spool import Spool
from icekeeper.core.tables.holds import OperatorHold
from icekeeper.night.ports import Clock
from icekeeper.scheduling import pause
from icekeeper.scheduling.pause import Pause

# A disk answers in milliseconds. One that hangs must not delay a scrape, which shows the last values then.
_READ_S = 1.0

_Read = tuple[Pause | None, int, Mapping[str, int], tuple[OperatorHold, ...] | None]


class StateFiles:
    """The values as of the last `refresh`."""

    def __init__(self, state_dir: Path, spool: Spool, clock: Clock) -> None:
        self._state_dir = state_dir
        self._spool = spool
        self._clock = clock
        self._kept = KeptPaths(state_dir)
        self._kept_holds = KeptHolds(state_dir)
        self._reading: asyncio.Future[_Read] | None = None
        self._pause: Pause | None = None
        self._holds: tuple[OperatorHold, ...] = ()
        self.corrupt_spool_files = 0
        self.undeleted: Mapping[str, int] = {}

    @property
    def pause(self) -> Pause | None:
        """The pause in force."""
        return self._pause if self._pause is not None and self._pause.holds(self._clock()) else None

    @property
    def holds(self) -> tuple[OperatorHold, ...]:
        """The holds in force, as the ledger had them when it was last read."""
        return tuple(hold for hold in self._holds if hold.holds(self._clock()))

    @property
    def holds_known(self) -> bool:
        """Whether the file of holds could be read, where there is one."""
        return not self._kept_holds.damaged

    async def refresh(self) -> None:
        """Reads the files again. Takes a second at most, and raises nothing."""
        if self._reading is None:  # else the disk hangs: one thread is enough to wait for it
            self._reading = asyncio.ensure_future(asyncio.to_thread(self._read))
            self._reading.add_done_callback(self._take)
        await asyncio.wait([self._reading], timeout=_READ_S)

    def _read(self) -> _Read:
        held = self._kept_holds.read()
        return pause.read(self._state_dir), len(self._spool.corrupt_files()), self._kept.counts(), held

    def _take(self, reading: asyncio.Future[_Read]) -> None:
        self._reading = None
        if not reading.cancelled() and reading.exception() is None:
            self._pause, self.corrupt_spool_files, self.undeleted, held = reading.result()
            # Where that is not known now, the last ones are shown: their end is not.
            self._holds = self._holds if held is None else held
