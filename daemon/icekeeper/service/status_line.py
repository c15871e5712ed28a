"""One line about what the daemon does now, for `systemctl status`."""

from __future__ import annotations

from collections.abc import Callable
from datetime import datetime

from icekeeper.core.events import Event, RunEnded, RunStarted, TaskProgressed, TaskStarted
from icekeeper.core.runs import RunReport


class StatusLine:
    """Follows the runs and tells a line whenever it changes."""

    def __init__(self, tell: Callable[[str], None], next_slot: Callable[[], datetime | None]) -> None:
        self._tell = tell
        self._next_slot = next_slot
        self._run = ""
        # What was last told of a run under way; empty while none is.
        self._now = ""
        self._last: RunReport | None = None

    @property
    def text(self) -> str:
        """What is to be said now."""
        if self._now:
            return self._now
        slot = self._next_slot()
        following = f"next night {slot:%Y-%m-%d %H:%M} UTC" if slot is not None else "the schedule has no further night"
        if self._last is None:
            return f"idle; {following}"
        return f"idle; the night of {self._last.slot:%Y-%m-%d} was {self._last.outcome}; {following}"

    def observe(self, event: Event) -> None:
        """Takes an event of a run."""
        if isinstance(event, RunStarted):
            opening = event.opening
            self._run = f"night of {opening.slot:%Y-%m-%d} ({opening.trigger})"
            self._now = self._run
        elif isinstance(event, TaskStarted):
            self._now = f"{self._run}: {event.stage} {event.table}, {event.position} of {event.of}"
        elif isinstance(event, TaskProgressed):
            self._now = f"{self._run}: {event.stage} {event.table}: {event.note}"
        elif isinstance(event, RunEnded):
            self._last, self._now = event.report, ""
        else:
            return
        self._tell(self.text)
