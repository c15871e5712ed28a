"""One line about what the daemon does now, for `systemctl status`."""

from __future__ import annotations

from icekeeper.core.events import Event, RunEnded, RunStarted, TaskProgressed, TaskStarted
from icekeeper.core.runs import RunReport
from icekeeper.scheduling.scheduler import Scheduler
from icekeeper.service.systemd import Systemd


class StatusLine:
    """Follows the runs and sends systemd the line whenever it changes."""

    def __init__(self, systemd: Systemd, scheduler: Scheduler) -> None:
        self._systemd = systemd
        self._scheduler = scheduler
        self._run = ""
        # The line of a run under way; empty while there is none.
        self._run_line = ""
        self._last: RunReport | None = None

    @property
    def text(self) -> str:
        if self._run_line:
            return self._run_line
        slot = self._scheduler.next_slot
        following = f"next night {slot:%Y-%m-%d %H:%M} UTC" if slot is not None else "the schedule has no further night"
        if self._last is None:
            return f"idle; {following}"
        return f"idle; the night of {self._last.slot:%Y-%m-%d} was {self._last.outcome}; {following}"

    def observe(self, event: Event) -> None:
        """Takes an event of a run."""
        if isinstance(event, RunStarted):
            opening = event.opening
            self._run = f"night of {opening.slot:%Y-%m-%d} ({opening.trigger})"
            self._run_line = self._run
        elif isinstance(event, TaskStarted):
            self._run_line = f"{self._run}: {event.stage} {event.table}, {event.position} of {event.of}"
        elif isinstance(event, TaskProgressed):
            self._run_line = f"{self._run}: {event.stage} {event.table}: {event.note}"
        elif isinstance(event, RunEnded):
            self._last, self._run_line = event.report, ""
        else:
            return
        self._systemd.status(self.text)
