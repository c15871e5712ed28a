"""How the components are, as /readyz and the metrics have it."""

from __future__ import annotations

from typing import Any

import pytest
from structlog.testing import capture_logs

from icekeeper.adapters.spool.outbox import Waiting
from icekeeper.core.errors import IcekeeperError, PermanentError
from icekeeper.core.reasons import Reason
from icekeeper.status.health import NOT_READY, ServiceHealth
from icekeeper.status.metrics import Metrics


class ScriptedOutbox:
    """A spool that answers, or doesn't."""

    def __init__(self, error: IcekeeperError | None = None) -> None:
        self.error = error

    async def waiting(self) -> Waiting:
        if self.error is not None:
            raise self.error
        return Waiting(3, 1, None)


def check(health: ServiceHealth, error: IcekeeperError | None = None) -> Any:
    outbox: Any = ScriptedOutbox(error)
    return health.check_spool(outbox)


async def test_what_waits_is_known_and_a_spool_on_a_full_disk_is_down() -> None:
    metrics = Metrics()
    health = ServiceHealth(metrics)
    await check(health)
    assert health.waiting == Waiting(3, 1, None)
    health.note("ledger", True)
    health.note("configuration", True)
    seen = health.readiness(engine_up=True, leading=True)
    assert (seen["ready"], seen["status"], seen["down"]) == (True, "ok", [])
    with capture_logs():
        await check(health, PermanentError("no room", reason=Reason.DISK_LOW))
    seen = health.readiness(engine_up=False, leading=False)
    assert (seen["status"], seen["down"]) == ("degraded", ["engine", "spool", "lease"])
    assert "icekeeper_spool_up 0.0" in metrics.exposition().decode()


async def test_a_spool_that_is_damaged_ends_the_daemon_for_only_a_restart_mends_it() -> None:
    with capture_logs() as logs, pytest.raises(PermanentError, match="corrupt"):
        await check(ServiceHealth(Metrics()), PermanentError("is corrupt: restart icekeeper"))
    assert logs[0]["event"] == "spool_not_read"


def test_a_daemon_that_stops_is_not_ready() -> None:
    assert (NOT_READY["ready"], NOT_READY["status"]) == (False, "stopping")
