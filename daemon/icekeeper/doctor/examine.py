"""The doctor's round: who is asked beside whom, and in which order it is told. What is asked lives in the others."""

from __future__ import annotations

import asyncio
import os
from collections.abc import Mapping
from functools import partial

from icekeeper.core.policy import TablePolicy
from icekeeper.doctor.check import Check, Part, fine, guarded
from icekeeper.doctor.clocks import examine_clocks
from icekeeper.doctor.host import examine_here
from icekeeper.doctor.lake import examine_lake
from icekeeper.doctor.ledger import examine_ledger
from icekeeper.doctor.source import examine_source
from icekeeper.execution.wiring import Services

_ORDER = tuple(Part)
# What is asked table by table has a limit for each of its questions.
_ROUND_S = 1800.0


async def examine(
    services: Services, policies: tuple[TablePolicy, ...], environ: Mapping[str, str] = os.environ
) -> list[Check]:
    """Asks every part about these tables, whatever befalls the others; changes nothing that it does not put back."""
    here = await examine_here(services, environ)
    asked = await asyncio.gather(
        guarded(Part.ENGINE, partial(examine_lake, services, policies, here), _ROUND_S),
        guarded(Part.CLICKHOUSE, partial(examine_source, services, policies), _ROUND_S),
        guarded(Part.POSTGRES, partial(examine_ledger, services, policies), _ROUND_S),
        guarded(Part.CLOCK, partial(examine_clocks, services)),
    )
    checks = [*here.checks, *(check for part in asked for check in part)]
    if not any(check.part is Part.OTHERS for check in checks):
        checks.append(fine(Part.OTHERS, "nobody else has maintained these tables in the last 26 hours"))
    return sorted(checks, key=lambda check: _ORDER.index(check.part))
