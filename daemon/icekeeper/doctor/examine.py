"""The doctor's round: which checks run side by side, and in which order they are shown."""

from __future__ import annotations

import asyncio
import os
from collections.abc import Mapping
from functools import partial

from icekeeper.core.policy import TablePolicy
from icekeeper.doctor.check import Check, Subject, guarded
from icekeeper.doctor.clocks import examine_clocks
from icekeeper.doctor.host import examine_host
from icekeeper.doctor.lakehouse import examine_lakehouse
from icekeeper.doctor.ledger import examine_ledger
from icekeeper.doctor.offload import examine_offload
from icekeeper.doctor.source import examine_source
from icekeeper.execution.wiring import Services

_ORDER = tuple(Subject)
# Checks of each table have limits of their own.
_ROUND_S = 1800.0


async def examine(
    services: Services, policies: tuple[TablePolicy, ...], environ: Mapping[str, str] = os.environ
) -> list[Check]:
    """Checks every system for these tables, whatever fails on the way. What it changes, it puts back."""
    host = await examine_host(services, environ)
    systems = await asyncio.gather(
        guarded(Subject.ENGINE, partial(examine_lakehouse, services, policies, host), _ROUND_S),
        guarded(Subject.CLICKHOUSE, partial(examine_source, services, policies), _ROUND_S),
        guarded(Subject.POSTGRES, partial(examine_ledger, services), _ROUND_S),
        guarded(Subject.CLOCK, partial(examine_clocks, services)),
    )
    checks = [*host.checks, *(check for checks in systems for check in checks)]
    if not any(check.subject is Subject.OFFLOAD for check in checks):
        # After the others: the session is up by then, if it can be.
        checks += await guarded(Subject.OFFLOAD, partial(examine_offload, services, policies), _ROUND_S)
    if not any(check.subject is Subject.OTHERS for check in checks):
        checks.append(Subject.OTHERS.passed("no other job has maintained these tables in the last 26 hours"))
    return sorted(checks, key=lambda check: _ORDER.index(check.subject))
