"""Passes the events of runs on to every subscriber. Who subscribes: components.py."""

from __future__ import annotations

from collections.abc import Callable

from icekeeper.core.events import Event, Subscriber


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
            subscriber(event)

    def no_run(self) -> None:
        for callback in self._no_run_callbacks:
            callback()
