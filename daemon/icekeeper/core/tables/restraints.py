"""What keeps a night from changing a table though there is something to do: each turns an `act` into a `hold`.

Who asks clocks, disks and the ledger lives elsewhere; here is decided what their answers mean.
"""

from __future__ import annotations

from collections.abc import Iterable, Mapping
from dataclasses import dataclass, replace
from datetime import datetime, timedelta

from icekeeper.core.audit.records import Finding
from icekeeper.core.enums import Decision
from icekeeper.core.policy import ExpirePolicy
from icekeeper.core.reasons import Reason
from icekeeper.core.tables.plan import Plan


@dataclass(frozen=True, slots=True)
class Restraint:
    """Why a task must not act now: the reason, and the facts in a sentence."""

    reason: Reason
    note: str


@dataclass(frozen=True, slots=True)
class Disk:
    """A directory that the work needs, and the bytes that its file system has free."""

    path: str
    free: int


def restrained(plan: Plan, restraint: Restraint | None) -> Plan:
    """The plan, held where it would act and something stands against that."""
    if restraint is None or plan.decision is not Decision.ACT:
        return plan
    note = f"{restraint.note}; it would {plan.note}"
    return replace(plan, decision=Decision.HOLD, reason=restraint.reason, note=note, slices=(), snapshot_ids=())


def by_clock(ahead: Mapping[str, timedelta], limit: timedelta) -> Restraint | None:
    """Holds where clocks differ. `ahead` says by how much this host's clock is ahead of each one that could be asked.

    A commit with a wrong time is refused by Iceberg, or makes it refuse the writers that come after it. One server
    that agrees with this host clears it: then it is the other server's clock that is wrong.
    """
    off = {name: by for name, by in ahead.items() if abs(by) > limit}
    if not off or len(off) < len(ahead):
        return None
    told = ", ".join(f"{abs(by).total_seconds():.0f} s {_side(by)} {name}" for name, by in sorted(off.items()))
    return Restraint(Reason.CLOCK_SKEW, f"this host's clock is {told}")


def clock_error(ahead: Mapping[str, timedelta], limit: timedelta) -> timedelta:
    """By how much this host's clock is ahead of the truth, as far as the servers know it; 0 where it may be right."""
    if by_clock(ahead, limit) is None:
        return timedelta(0)
    return min(ahead.values(), key=abs)


def _side(by: timedelta) -> str:
    return "ahead of" if by > timedelta(0) else "behind"


def by_disk(disks: Iterable[Disk], least: int) -> Restraint | None:
    """Holds where a file system that the work needs has less than `least` bytes free."""
    for disk in disks:
        if disk.free < least:
            free, limit = disk.free / 1024**2, least / 1024**2
            return Restraint(
                Reason.DISK_LOW, f"{disk.path} has {free:.0f} MiB free, run.min_free_disk is {limit:.0f} MiB"
            )
    return None


def by_findings(findings: Iterable[Finding], policy: ExpirePolicy, now: datetime) -> Restraint | None:
    """Holds where a window is open that the policy holds on, for as long as `hold_max` after it was first found."""
    held = [f for f in findings if f.status in policy.hold_on and now - f.since < policy.hold_max]
    if not held:
        return None
    days = ", ".join(f"{f.window.start:%Y-%m-%d} ({f.status})" for f in held[:5])
    more = f" and {len(held) - 5} more" if len(held) > 5 else ""
    until = max(f.since for f in held) + policy.hold_max
    return Restraint(Reason.AUDIT_HOLD, f"open: {days}{more}; held until {until:%Y-%m-%dT%H:%MZ} at the latest")


OBSERVING = Restraint(Reason.OBSERVING, "mode is observe")
