"""The plan for a night that would begin now, made at most once a minute however many look."""

from __future__ import annotations

import asyncio
from datetime import datetime, timedelta

from icekeeper.core.enums import Stage
from icekeeper.night.ports import Clock
from icekeeper.scheduling.orders import Orders, RunRequest
from icekeeper.status import schemas

# A plan costs a look at the metadata of every table.
FRESH = timedelta(seconds=60)
# How long somebody waits for it: a run under way keeps the session busy, and the plan goes on behind.
_PATIENCE_S = 25.0


class PlanCache:
    """Keeps the last plan. What goes wrong is raised to everybody who waits for it."""

    def __init__(self, orders: Orders, clock: Clock) -> None:
        self._orders = orders
        self._clock = clock
        self._last: schemas.Plan | None = None
        self._making: asyncio.Task[schemas.Plan] | None = None

    async def plan(self) -> schemas.Plan:
        """The last one if it is fresh, else a new one. TimeoutError where that takes long: ask again."""
        # A clock that was set back leaves a plan of the future: it is made anew.
        if self._last is not None and timedelta() <= self._clock() - self._last.made_at < FRESH:
            return self._last
        if self._making is None:
            now = self._clock()
            self._making = asyncio.create_task(self.make(RunRequest(slot=now.replace(second=0, microsecond=0)), now))
            self._making.add_done_callback(self._made)
        async with asyncio.timeout(_PATIENCE_S):
            return await asyncio.shield(self._making)

    async def make(self, asked: RunRequest, now: datetime) -> schemas.Plan:
        """A plan of just that."""
        plans, errors = await self._orders.plan(asked)
        order = {stage: position for position, stage in enumerate(Stage)}
        told = tuple(
            schemas.TablePlan.model_validate(plan) for plan in sorted(plans, key=lambda plan: order[plan.stage])
        )
        return schemas.Plan(slot=asked.slot, made_at=now, plans=told, errors=errors)

    def _made(self, making: asyncio.Task[schemas.Plan]) -> None:
        self._making = None
        if not making.cancelled() and making.exception() is None:
            self._last = making.result()
