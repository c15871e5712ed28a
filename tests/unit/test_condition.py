"""How the parts are, as /readyz and the metrics have it."""

from __future__ import annotations

from typing import Any

import pytest
from structlog.testing import capture_logs

from icekeeper.adapters.spool.spool import Waiting
from icekeeper.core.errors import IcekeeperError, PermanentError
from icekeeper.core.reasons import Reason
from icekeeper.status.health import ServiceHealth, not_ready
from icekeeper.status.metrics import Metrics


class Asked:
    """A spool that answers, or doesn't."""

    def __init__(self, error: IcekeeperError | None = None) -> None:
        self.error = error

    async def waiting(self) -> Waiting:
        if self.error is not None:
            raise self.error
        return Waiting(3, 1, None)


def look(condition: ServiceHealth, error: IcekeeperError | None = None) -> Any:
    spool: Any = Asked(error)
    return condition.look_at(spool)


async def test_what_waits_is_known_and_a_full_disk_is_a_part_that_is_down() -> None:
    metrics = Metrics()
    condition = ServiceHealth(metrics)
    await look(condition)
    assert condition.waiting == Waiting(3, 1, None)
    for part in ("ledger", "configuration"):
        condition.answered(part, True)
    told = condition.readiness(engine_up=True, leading=True)
    assert (told["ready"], told["status"], told["down"]) == (True, "ok", [])
    with capture_logs():
        await look(condition, PermanentError("no room", reason=Reason.DISK_LOW))
    told = condition.readiness(engine_up=False, leading=False)
    assert (told["status"], told["down"]) == ("degraded", ["engine", "spool", "lease"])
    assert "icekeeper_spool_up 0.0" in metrics.exposition().decode()


async def test_a_spool_that_is_damaged_ends_the_daemon_for_only_a_restart_mends_it() -> None:
    with capture_logs() as logs, pytest.raises(PermanentError, match="corrupt"):
        await look(ServiceHealth(Metrics()), PermanentError("is corrupt: restart icekeeper"))
    assert logs[0]["event"] == "spool_not_read"


def test_a_daemon_that_starts_or_stops_is_not_ready() -> None:
    assert [not_ready(stopping)["status"] for stopping in (False, True)] == ["starting", "stopping"]
    assert not not_ready(True)["ready"]
