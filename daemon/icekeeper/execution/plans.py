"""Plans for many tables at once: reads metadata, changes and counts nothing."""

from __future__ import annotations

from icekeeper.core.errors import IcekeeperError
from icekeeper.core.tables.plan import Plan
from icekeeper.night.ports import RunPorts
from icekeeper.night.run import Order, prefetch_before
from icekeeper.night.task import make_plan


async def make_plans(order: Order, ports: RunPorts) -> tuple[list[Plan], dict[str, str]]:
    """A plan for every task of the order, and an error for every table that could not be read."""
    context = order.context(ports, emit=lambda event: None)
    plans: list[Plan] = []
    errors: dict[str, str] = {}
    for position, (stage, policy) in enumerate(order.work(), start=1):
        if policy.name in errors:
            continue
        if not errors:
            await prefetch_before(position, stage, order, ports)
        try:
            plans.append(await make_plan(stage, policy, context))
        except IcekeeperError as exc:
            errors[policy.name] = f"{exc} ({exc.reason}: {exc.reason.advice})"
    return plans, errors
