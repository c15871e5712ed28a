"""How the daemon's parts are, as they were last seen, for /readyz and the metrics. Looking is their own business."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

import structlog

from icekeeper.adapters.spool.spool import Spool, Waiting
from icekeeper.core.errors import IcekeeperError, PermanentError
from icekeeper.core.reasons import Reason
from icekeeper.status.metrics import Metrics

log = structlog.get_logger(__name__)

# How often the spool is asked how much waits in it.
LOOK_S = 5.0


class ServiceHealth:
    """`waiting` is what the spool last said; `answered` is called by whoever has asked a part something."""

    def __init__(self, metrics: Metrics) -> None:
        self._metrics = metrics
        self._well = {"ledger": False, "spool": False, "configuration": False}
        self.waiting = Waiting(0, 0, None)

    def answered(self, part: str, well: bool) -> None:
        """Takes note of how `ledger`, `spool` or `configuration` is."""
        self._well[part] = well
        gauges = {
            "ledger": self._metrics.ledger_up,
            "spool": self._metrics.spool_up,
            "configuration": self._metrics.reload_successful,
        }
        gauges[part].set(well)

    async def look_at(self, spool: Spool) -> None:
        """Asks the spool how much waits in it. Raises where it is damaged: only a restart mends that."""
        try:
            self.waiting = await spool.waiting()
            self.answered("spool", True)
        except IcekeeperError as exc:
            self.answered("spool", False)
            log.error("spool_not_read", error=str(exc), advice=exc.reason.advice)
            if isinstance(exc, PermanentError) and exc.reason is Reason.UNEXPECTED:
                raise

    def parts(self, *, engine_up: bool, leading: bool) -> dict[str, str]:
        """Each part in a word."""
        return {
            "engine": "up" if engine_up else "starting or down",
            "ledger": "up" if self._well["ledger"] else "down",
            "spool": "up" if self._well["spool"] else "down",
            "configuration": "loaded" if self._well["configuration"] else "the last reload failed",
            "lease": "held" if leading else "waiting",
        }

    def readiness(self, *, engine_up: bool, leading: bool) -> Mapping[str, Any]:
        """Ready means: slots are taken. A part that is down is named, and its work waits or fails by itself."""
        parts = self.parts(engine_up=engine_up, leading=leading)
        down = [name for name, said in parts.items() if said not in ("up", "loaded", "held")]
        return {"ready": True, "status": "degraded" if down else "ok", "down": down, "parts": parts}


def not_ready(stopping: bool) -> Mapping[str, Any]:
    """Of a daemon that starts or stops."""
    return {"ready": False, "status": "stopping" if stopping else "starting", "down": [], "parts": {}}
