"""Plans for many tables at once: reads metadata, changes and counts nothing."""

from __future__ import annotations

from dataclasses import replace

from icekeeper.core.calendar import Window
from icekeeper.core.enums import Stage
from icekeeper.core.errors import IcekeeperError
from icekeeper.core.formats import counted
from icekeeper.core.tables.plan import Plan
from icekeeper.night.order import Order
from icekeeper.night.ports import RunPorts
from icekeeper.night.run import prefetch_before
from icekeeper.night.task import make_plan


async def make_plans(order: Order, ports: RunPorts) -> tuple[list[Plan], dict[str, str]]:
    """A plan for every task of the order, and an error for every table that could not be read."""
    context = order.context(ports, emit=lambda event: None)
    older: dict[str, list[Window]] = {}
    for policy, day in order.older_days():
        older.setdefault(policy.name, []).append(day)
    plans: list[Plan] = []
    errors: dict[str, str] = {}
    for position, (stage, policy) in enumerate(order.work(), start=1):
        if policy.name in errors:
            continue
        if not errors:
            await prefetch_before(position, stage, order, ports)
        try:
            plan = await make_plan(stage, policy, context)
            if stage is Stage.AUDIT and (days := older.get(policy.name)):
                again = f"after all tables {counted(len(days), 'older day')} again, from {days[0].start:%Y-%m-%d} on"
                plan = replace(plan, note=f"{plan.note}; {again}")
            plans.append(plan)
        except IcekeeperError as exc:
            errors[policy.name] = f"{exc} ({exc.reason}: {exc.reason.advice})"
    return plans, errors
