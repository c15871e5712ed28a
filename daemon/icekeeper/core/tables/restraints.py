"""Reasons not to change a table although there is something to do: each turns an `act` into a `hold`.

Pure: reading clocks, disks and the ledger is done by night/stages/restraint.py.
"""

from __future__ import annotations

from collections.abc import Collection, Iterable, Mapping
from dataclasses import dataclass, replace
from datetime import datetime, timedelta

from icekeeper.core.audit.records import OpenWindow
from icekeeper.core.enums import Decision
from icekeeper.core.formats import duration, iso_minute, listed
from icekeeper.core.offload import Writing
from icekeeper.core.policy import ExpirePolicy, RunPolicy, TablePolicy
from icekeeper.core.reasons import Reason
from icekeeper.core.tables.expiry import due_refs
from icekeeper.core.tables.plan import Plan
from icekeeper.core.tables.state import MISMATCH_TAG, FileGroup, TableState

# How many files a note names; the others are counted.
_NAMED = 3


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
    held = replace(plan, decision=Decision.HOLD, reason=restraint.reason, note=note)
    return replace(held, slices=(), snapshot_ids=(), warning="")


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


def by_delete_switch(name: str) -> Restraint | None:
    """Holds an expiry whose files would stay in the store, which no snapshot names any more. `name`: the property."""
    if not name:
        return None
    return Restraint(Reason.DELETE_DISABLED, f"{name} is false and there are no delete tags")


def by_findings(findings: Iterable[OpenWindow], policy: ExpirePolicy, now: datetime) -> Restraint | None:
    """Holds an expiry on open findings, each until `hold_max` after it was first found.

    They are those of the policy's kinds, and bad files in any case: an older snapshot may be the way back to what they
    held.
    """
    kinds = [f for f in findings if f.bad_file_rows is not None or f.status in policy.hold_on]
    held = [f for f in kinds if now - f.since < policy.hold_max]
    if not held:
        return None
    days = listed((f"{f.window.start:%Y-%m-%d} ({_kind(f)})" for f in held), most=5)
    until = max(f.since for f in held) + policy.hold_max
    return Restraint(Reason.AUDIT_HOLD, f"open: {days}; held until {iso_minute(until)} at the latest")


def _kind(finding: OpenWindow) -> str:
    return (finding.reason or finding.status) if finding.bad_file_rows is not None else finding.status


def by_mismatch(state: TableState, now: datetime) -> Restraint | None:
    """Holds a table of which a rewrite was found wrong: a tag keeps the snapshot before, until its own age ends it."""
    due = due_refs(state, now)
    for ref in state.refs:
        if not ref.name.startswith(MISMATCH_TAG) or ref.name in due:
            continue
        before, until = state.snapshot(ref.snapshot_id), ""
        if before is not None and ref.max_ref_age is not None:
            until = f" until {iso_minute(before.committed_at + ref.max_ref_age)} at the latest"
        text = f"a rewrite was found wrong: the tag {ref.name} keeps snapshot {ref.snapshot_id} of before; held{until}"
        return Restraint(Reason.REWRITE_MISMATCH, text)
    return None


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


def by_files(groups: Iterable[FileGroup]) -> Restraint | Mapping[str, str]:
    """Which partitions a compaction leaves out, because files in them do not fit the table's schema, or are listed
    twice; each with why.

    A restraint where it would leave out all of these groups, or can't select the others by partition.
    """
    groups = tuple(groups)
    left_out = {group.partition: group for group in groups if group.unfit or group.twice}
    if left_out and (len(left_out) == len({g.partition for g in groups}) or any(g.older_spec for g in groups)):
        unfit = any(group.unfit for group in left_out.values())
        return Restraint(Reason.SCHEMA_MISMATCH if unfit else Reason.COUNT_MISMATCH, _unfit(left_out.values()))
    return {partition: _unfit([group]) for partition, group in left_out.items()}


def _unfit(groups: Collection[FileGroup]) -> str:
    unfit, twice = ([file for group in groups for file in getattr(group, name)] for name in ("unfit", "twice"))
    parts = []
    if unfit:
        parts.append(f"a rewrite would change files that do not fit the schema: {listed(unfit, most=_NAMED)}")
    if twice:
        parts.append(f"files are listed twice: {listed(twice, most=_NAMED)}")
    return " and ".join(parts)


def _bad_files(findings: Iterable[OpenWindow]) -> str:
    days = listed((f"{f.window.start:%Y-%m-%d} ({_kind(f)})" for f in findings), most=5)
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
