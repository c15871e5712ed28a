"""The order in which a daemon shuts down, and that no step costs a later one."""

from __future__ import annotations

from collections.abc import Awaitable, Callable
from pathlib import Path
from types import SimpleNamespace
from typing import cast

import pytest
from structlog.testing import capture_logs

from icekeeper.service.components import Components
from icekeeper.service.supervisor import Supervisor

IN_ORDER = ["the run", "shipping", "orders", "control", "http", "poller", "spool", "pools", "session"]


@pytest.mark.parametrize("broken", [None, *(step for step in IN_ORDER if step != "orders")])
async def test_nothing_is_served_any_more_when_files_and_connections_close_and_all_are_closed(
    tmp_path: Path, broken: str | None
) -> None:
    done = list[str]()

    def step(name: str) -> Callable[[], Awaitable[None]]:
        async def act() -> None:
            done.append(name)
            if name == broken:
                raise OSError(name)

        return act

    parts = SimpleNamespace(
        scheduler=SimpleNamespace(stop=lambda: None),
        leadership=SimpleNamespace(end=step("the run")),
        shipper=SimpleNamespace(ship=step("shipping")),
        orders=SimpleNamespace(stop=lambda: done.append("orders")),
        control=SimpleNamespace(stop=step("control")),
        web=SimpleNamespace(stop=step("http")),
        ledger_poller=SimpleNamespace(close=step("poller")),
        spool=SimpleNamespace(close=step("spool")),
        configuration=SimpleNamespace(close=step("pools")),
        engine=SimpleNamespace(stop=step("session"), abort=lambda: done.append("kill")),
    )
    parts.stop_serving = lambda: Components.stop_serving(cast(Components, parts))
    parts.close = lambda: Components.close(cast(Components, parts))
    with capture_logs() as logs:
        await Supervisor(tmp_path)._shutdown(cast(Components, parts), [])
    assert done == IN_ORDER + ["kill"] * (broken == "session")
    failed = [line["error"] for line in logs if line["event"] == "step_failed"]
    assert failed == ([] if broken is None else [f"OSError: {broken}"])
