"""Who hears of a run's events, and what one that fails costs the others."""

from __future__ import annotations

from structlog.testing import capture_logs

from icekeeper.core.enums import Stage
from icekeeper.core.events import Event, TaskStarted
from icekeeper.service.run_events import RunEvents


def test_a_subscriber_that_fails_costs_neither_the_run_nor_those_after_it() -> None:
    events, seen = RunEvents(), list[Event]()

    def broken(event: Event) -> None:
        raise ValueError("a bug")

    events.subscribe(broken, seen.append)
    started = TaskStarted(Stage.COMPACT, "cold.a", 1, 1)
    with capture_logs() as logs:
        events.publish(started)
    assert seen == [started]
    assert [line["event"] for line in logs] == ["run_event_not_taken"]


def test_all_are_called_when_no_run_is_under_way() -> None:
    events, called = RunEvents(), list[str]()
    events.on_no_run(lambda: called.append("metrics"), lambda: called.append("live"))
    events.no_run()
    assert called == ["metrics", "live"]
