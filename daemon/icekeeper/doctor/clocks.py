"""This host's clock against the servers' clocks."""

from __future__ import annotations

from collections.abc import Mapping
from datetime import timedelta

from icekeeper.core.reasons import Reason
from icekeeper.core.tables.restraints import by_clock
from icekeeper.doctor.check import Check, Subject
from icekeeper.execution.wiring import Services


async def examine_clocks(services: Services) -> list[Check]:
    return clock_checks(await services.ports.surroundings.clock_ahead(), services.settings.run.max_clock_skew)


def clock_checks(ahead: Mapping[str, timedelta], limit: timedelta) -> list[Check]:
    """One line a server: by how much this host's clock is ahead of it."""
    if not ahead:
        return [Subject.CLOCK.skipped("no server has told its time")]
    this_host_is_wrong = by_clock(ahead, limit) is not None
    checks = []
    for server, by in sorted(ahead.items()):
        seconds = by.total_seconds()
        text = f"this host's clock is {abs(seconds):.1f} s {'behind' if seconds < 0 else 'ahead of'} {server}'s"
        if abs(by) <= limit:
            checks.append(Subject.CLOCK.passed(text))
        elif this_host_is_wrong:
            held = f"{text}: compactions and expiries would be held ({Reason.CLOCK_SKEW})"
            checks.append(Subject.CLOCK.failure(held, Reason.CLOCK_SKEW.advice))
        else:
            advice = f"Check NTP on {server}'s host: its clock is wrong."
            checks.append(Subject.CLOCK.warning(f"{text}, and another server agrees with this host", advice))
    return checks
