"""Reasons not to change a table although there is something to do: each turns an `act` into a `hold`.

Pure: reading clocks, disks and the ledger is done by night/stages/restraint.py.
"""

from __future__ import annotations

from collections.abc import Iterable, Mapping
from dataclasses import dataclass, replace
from datetime import datetime, timedelta

from icekeeper.core.audit.records import OpenWindow
from icekeeper.core.enums import Decision
from icekeeper.core.formats import duration, iso_minute, listed
from icekeeper.core.offload import Writing
from icekeeper.core.policy import ExpirePolicy, RunPolicy, TablePolicy
from icekeeper.core.reasons import Reason
from icekeeper.core.tables.plan import Plan
from icekeeper.core.tables.state import FileGroup


@dataclass(frozen=True, slots=True)
class Restraint:
    """Why a task must not act now: the reason, and the facts in a sentence."""

    reason: Reason
    note: str


@dataclass(frozen=True, slots=True)
class Disk:
    """A directory that the task needs, and the free bytes of its file system."""

    path: str
    free: int


def restrained(plan: Plan, restraint: Restraint | None) -> Plan:
    """The plan; held if it would act and there is a restraint."""
    if restraint is None or plan.decision is not Decision.ACT:
        return plan
    note = f"{restraint.note}; it {plan.note}"
    return replace(plan, decision=Decision.HOLD, reason=restraint.reason, note=note, slices=(), snapshot_ids=())


def by_clock(ahead: Mapping[str, timedelta], limit: timedelta) -> Restraint | None:
    """Holds where this host's clock is wrong. `ahead`: by how much it is ahead of each server that could be asked.

    Iceberg refuses a commit with a wrong time, or refuses the writers that come after it. If one server agrees with
    this host, the other server's clock is the wrong one.
    """
    off = {name: by for name, by in ahead.items() if abs(by) > limit}
    if not off or len(off) < len(ahead):
        return None
    sides = ", ".join(f"{abs(by).total_seconds():.0f} s {_side(by)} {name}" for name, by in sorted(off.items()))
    return Restraint(Reason.CLOCK_SKEW, f"this host's clock is {sides}")


def clock_error(ahead: Mapping[str, timedelta], limit: timedelta) -> timedelta:
    """By how much this host's clock is ahead of the servers' clocks; 0 where by_clock does not hold."""
    if by_clock(ahead, limit) is None:
        return timedelta(0)
    return min(ahead.values(), key=abs)


def _side(by: timedelta) -> str:
    return "ahead of" if by > timedelta(0) else "behind"


def by_disk(disks: Iterable[Disk], least: int) -> Restraint | None:
    """Holds where a file system that the task needs has less than `least` bytes free."""
    for disk in disks:
        if disk.free < least:
            free, limit = disk.free / 1024**2, least / 1024**2
            return Restraint(
                Reason.DISK_LOW, f"{disk.path} has {free:.0f} MiB free, run.min_free_disk is {limit:.0f} MiB"
            )
    return None


def by_findings(findings: Iterable[OpenWindow], policy: ExpirePolicy, now: datetime) -> Restraint | None:
    """Holds an expiry on open findings of the policy's kinds, each until `hold_max` after it was first found.

    Bad files hold it for as long as they are open: an older snapshot may be the way back to what they held.
    """
    findings = tuple(findings)
    if bad := [finding for finding in findings if finding.bad_file_rows is not None]:
        return Restraint(Reason.AUDIT_HOLD, _bad_files(bad))
    held = [f for f in findings if f.status in policy.hold_on and now - f.since < policy.hold_max]
    if not held:
        return None
    days = listed((f"{f.window.start:%Y-%m-%d} ({f.status})" for f in held), most=5)
    until = max(f.since for f in held) + policy.hold_max
    return Restraint(Reason.AUDIT_HOLD, f"open: {days}; held until {iso_minute(until)} at the latest")


def by_bad_files(findings: Iterable[OpenWindow], groups: Iterable[FileGroup]) -> Restraint | frozenset[str]:
    """Which partitions a compaction leaves out, because an open finding names bad files in them.

    A restraint where it would leave out all of these groups, or can't tell which: what an older partition spec wrote
    can't be selected by partition.
    """
    groups = tuple(groups)
    left_out: set[str] = set()
    bad = [finding for finding in findings if finding.bad_file_rows is not None]
    for finding in bad:
        if finding.bad_partitions is None or any(group.older_spec for group in groups):
            return Restraint(Reason.AUDIT_HOLD, _bad_files(bad))
        left_out |= finding.bad_partitions
    if bad and left_out >= {group.partition for group in groups}:
        return Restraint(Reason.AUDIT_HOLD, _bad_files(bad))
    return frozenset(left_out & {group.partition for group in groups})


def _bad_files(findings: Iterable[OpenWindow]) -> str:
    days = listed((f"{f.window.start:%Y-%m-%d} ({f.reason or f.status})" for f in findings), most=5)
    return f"open: {days}; held until an audit finds its files whole, or it is acknowledged"


def by_offload(found: Writing | None) -> Restraint | None:
    """Holds while the offload writes into a table whose catalog takes one writer at a time."""
    return None if found is None else Restraint(Reason.OFFLOAD_RUNNING, f"waits for {found.what}")


def commits_wait(policies: Iterable[TablePolicy], policy: RunPolicy) -> str:
    """What the commits of a run wait for where the catalog takes one writer at a time; empty where they do not wait."""
    single = [each for each in policies if each.single_writer]
    if not single or policy.observe:
        return ""
    text = "This catalog takes one writer: nothing else may write into its tables during a run"
    if all(each.source is None for each in single):
        return f"{text}."
    longest = duration(policy.offload.wait.total_seconds())
    return f"{text}, except the offload: each commit waits for the end of its cycle, {longest} a stage at most."


OBSERVING = Restraint(Reason.OBSERVING, "mode is observe")
