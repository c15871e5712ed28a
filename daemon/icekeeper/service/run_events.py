"""Passes the events of runs on to every subscriber. The subscribers: components.py."""

from __future__ import annotations

from collections.abc import Callable

import structlog

from icekeeper.core.events import Event, Subscriber

log = structlog.get_logger(__name__)


class RunEvents:
    """Subscribers are called in the order in which they subscribed, and must not wait."""

    def __init__(self) -> None:
        self._subscribers: list[Subscriber] = []
        self._no_run_callbacks: list[Callable[[], None]] = []

    def subscribe(self, *subscribers: Subscriber) -> None:
        self._subscribers += subscribers

    def on_no_run(self, *callbacks: Callable[[], None]) -> None:
        """Has each called when no run is under way any more, also where the last one crashed without an event."""
        self._no_run_callbacks += callbacks

    def publish(self, event: Event) -> None:
        for subscriber in self._subscribers:
            try:
                subscriber(event)
            except Exception:  # a bug in what shows a run must not end the run
                log.exception("run_event_not_taken", about=type(event).__name__)

    def no_run(self) -> None:
        for callback in self._no_run_callbacks:
            callback()
