"""The plan of a night that would begin now, made at most once a minute for all requests."""

from __future__ import annotations

import asyncio
from datetime import datetime, timedelta

from icekeeper.adapters.waiting import retrieve
from icekeeper.core.enums import Stage
from icekeeper.night.ports import Clock
from icekeeper.scheduling.orders import Orders, RunRequest
from icekeeper.status import schemas

# A plan loads the metadata of every table.
FRESH = timedelta(seconds=60)
# The timeout of a request. A run under way may keep the session busy: the plan is finished in the background.
_WAIT_S = 25.0


class PlanCache:
    """Keeps the last plan. An error is raised to every request that waits, and is not kept."""

    def __init__(self, orders: Orders, clock: Clock) -> None:
        self._orders = orders
        self._clock = clock
        self._last: schemas.Plan | None = None
        self._making: asyncio.Task[schemas.Plan] | None = None
        self._plans: set[asyncio.Task[schemas.Plan]] = set()

    async def plan(self) -> schemas.Plan:
        """The last plan if it is fresh, else a new one. TimeoutError where that takes long."""
        # If the clock was set back, the last plan is of the future: a new one is made.
        if self._last is not None and timedelta() <= self._clock() - self._last.made_at < FRESH:
            return self._last
        if self._making is None:
            now = self._clock()
            self._making = asyncio.create_task(self._make(RunRequest(slot=now.replace(second=0, microsecond=0)), now))
            self._making.add_done_callback(self._made)
        async with asyncio.timeout(_WAIT_S):
            return await asyncio.shield(self._making)

    def forget(self) -> None:
        """What a plan depends on has changed: the next one is made anew."""
        self._last = self._making = None

    async def make(self, request: RunRequest, now: datetime) -> schemas.Plan:
        """A new plan of just these stages and tables. It is made to its end also where the request is cancelled."""
        # A cancelled read of metadata may cost the Spark session.
        self._plans.add(making := asyncio.create_task(self._make(request, now)))
        making.add_done_callback(self._plans.discard)
        making.add_done_callback(retrieve)
        return await asyncio.shield(making)

    async def _make(self, request: RunRequest, now: datetime) -> schemas.Plan:
        plans, errors = await self._orders.plan(request)
        order = {stage: position for position, stage in enumerate(Stage)}
        ordered = tuple(
            schemas.TablePlan.model_validate(plan) for plan in sorted(plans, key=lambda plan: order[plan.stage])
        )
        return schemas.Plan(slot=request.slot, made_at=now, plans=ordered, errors=errors)

    def _made(self, making: asyncio.Task[schemas.Plan]) -> None:
        if making is not self._making:
            return
        self._making = None
        if not making.cancelled() and making.exception() is None:
            self._last = making.result()
