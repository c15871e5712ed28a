"""Whether the daemon's components are healthy, as last seen, for /readyz and the metrics. Who checks: service/."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any, Literal

import structlog

from icekeeper.adapters.spool.outbox import Outbox, Waiting
from icekeeper.core.errors import IcekeeperError, PermanentError
from icekeeper.core.reasons import Reason
from icekeeper.status.metrics import Metrics

log = structlog.get_logger(__name__)

NOT_READY: Mapping[str, Any] = {"ready": False, "status": "stopping", "down": [], "parts": {}}


class ServiceHealth:
    """`waiting` is what waits in the spool, as of the last check."""

    def __init__(self, metrics: Metrics) -> None:
        self._gauges = {
            "ledger": metrics.ledger_up,
            "spool": metrics.spool_up,
            "configuration": metrics.reload_successful,
        }
        self._healthy = dict.fromkeys(self._gauges, False)
        self.waiting = Waiting(0, 0, None)

    def note(self, component: Literal["ledger", "spool", "configuration"], healthy: bool) -> None:
        """Takes note of how a component was when it was last used."""
        self._healthy[component] = healthy
        self._gauges[component].set(healthy)

    async def check_spool(self, outbox: Outbox) -> None:
        """Asks the spool how much waits in it. Raises where it is damaged: only a restart repairs that."""
        try:
            self.waiting = await outbox.waiting()
            self.note("spool", True)
        except IcekeeperError as exc:
            self.note("spool", False)
            log.error("spool_not_read", error=str(exc), advice=exc.reason.advice)
            if isinstance(exc, PermanentError) and exc.reason is Reason.UNEXPECTED:
                raise

    def parts(self, *, engine_up: bool, leading: bool) -> dict[str, str]:
        """Each component's state in a word or two."""
        return {
            "engine": "up" if engine_up else "starting or down",
            "ledger": "up" if self._healthy["ledger"] else "down",
            "spool": "up" if self._healthy["spool"] else "down",
            "configuration": "loaded" if self._healthy["configuration"] else "the last reload failed",
            "lease": "held" if leading else "waiting",
        }

    def readiness(self, *, engine_up: bool, leading: bool) -> Mapping[str, Any]:
        """Ready means that slots are taken, also while a component is down: its work waits or fails by itself."""
        parts = self.parts(engine_up=engine_up, leading=leading)
        down = [name for name, state in parts.items() if state not in ("up", "loaded", "held")]
        return {"ready": True, "status": "degraded" if down else "ok", "down": down, "parts": parts}
