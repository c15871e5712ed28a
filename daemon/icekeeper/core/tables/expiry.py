"""Deciding which snapshots expire and which stay, from policy, metadata and `now`. Pure."""

from __future__ import annotations

from collections.abc import Iterable
from dataclasses import dataclass, replace
from datetime import UTC, datetime

from icekeeper.core.calendar import expiry_cutoff
from icekeeper.core.enums import Decision, Stage
from icekeeper.core.formats import counted, iso_minute, listed
from icekeeper.core.policy import ExpirePolicy, TablePolicy
from icekeeper.core.reasons import Reason
from icekeeper.core.tables.plan import Plan
from icekeeper.core.tables.state import MAIN, Ref, Snapshot, TableState
from icekeeper.core.tables.writer_state import WriterState, states_by_branch

# Snapshots of all ages are younger.
_BEGINNING = datetime.min.replace(tzinfo=UTC)


def plan_expiry(policy: TablePolicy, state: TableState, slot: datetime, now: datetime, kept: int = 0) -> Plan:
    """Names the snapshots that are old enough, not among the last ones of a branch, not referenced, and not needed by
    a writer to find its state. `kept`: how many files of earlier expiries are to be tried again."""

    def plan(decision: Decision, note: str, reason: Reason | None = None, ids: tuple[int, ...] = ()) -> Plan:
        return Plan(Stage.EXPIRE, policy.name, decision, note, reason, snapshot_ids=ids, health=state.health)

    due, known = due_snapshots(policy.expire, state, slot, now), len(state.history)
    files = f"{counted(kept, 'file')} of earlier expiries" if kept else ""
    if not due.ids and not due.stay and not kept:
        return plan(Decision.SKIP, f"none of {known} snapshots can go", Reason.NOTHING_EXPIRED)
    if not state.gc_enabled:
        what = f"{len(due.ids) + len(due.stay)} snapshots" if due.ids or due.stay else files
        return plan(Decision.HOLD, f"{what} are due, but gc.enabled is false", Reason.GC_DISABLED)
    if due.own_age:
        note = f"{due.stays}; a branch's own max-snapshot-age-ms takes them at any expiry"
        return plan(Decision.HOLD, note, Reason.WRITER_STATE)
    if not due.ids and files:
        note = f"would try again to delete {files}"
        return plan(Decision.ACT, f"{note}; {due.stays}" if due.stays else note)
    if not due.ids:
        return plan(Decision.SKIP, f"none of {known} snapshots can go; {due.stays}", Reason.NOTHING_EXPIRED)
    cutoff = iso_minute(expiry_cutoff(slot, now, policy.expire.older_than))
    note = f"would expire {len(due.ids)} of {known} snapshots, committed before {cutoff}"
    again = f"{files} tried again" if files else ""
    note = "; ".join(part for part in (note, due.loses, due.stays, again) if part)
    return replace(plan(Decision.ACT, note, ids=due.ids), warning=due.loses)


@dataclass(frozen=True, slots=True)
class DueSnapshots:
    """The snapshots that may expire by their age: `ids` go, those that `stay` are needed to find the states `kept`.

    `lost`: the states that no writer finds after it. `own_age`: at any expiry Iceberg itself would drop some that stay.
    """

    ids: tuple[int, ...]
    stay: tuple[int, ...]
    kept: tuple[WriterState, ...]
    lost: tuple[WriterState, ...]
    own_age: bool

    @property
    def stays(self) -> str:
        """What stays, and why, in a sentence; empty where nothing does."""
        if not self.stay:
            return ""
        return (
            f"{counted(len(self.stay), 'due snapshot')} kept, by which a writer finds its state: {_states(self.kept)}"
        )

    @property
    def loses(self) -> str:
        """Whose state goes, in a sentence; empty where none does."""
        if not self.lost:
            return ""
        return f"the last state of a writer goes, which then starts over or writes again: {_states(self.lost)}"


def _states(states: Iterable[WriterState]) -> str:
    return listed(map(str, states))


def due_snapshots(rule: ExpirePolicy, state: TableState, slot: datetime, now: datetime) -> DueSnapshots:
    """What is due, what of it writers need, and what they lose."""
    cutoff, oldest = (expiry_cutoff(slot, now, age) for age in (rule.older_than, rule.writer_state_max))
    due = expired_snapshots(state, cutoff, rule.retain_last, now)
    branches = states_by_branch(state, rule.writer_state, due_refs(state, now)) if due else ()
    needed = frozenset[int]().union(*(branch.needed(oldest) for branch in branches))
    ids = tuple(snapshot_id for snapshot_id in due if snapshot_id not in needed)
    # From a branch with an age of its own Iceberg drops old snapshots at every expiry, named or not.
    dropped = expired_snapshots(state, _BEGINNING, rule.retain_last, now)
    return DueSnapshots(
        ids=ids,
        stay=tuple(snapshot_id for snapshot_id in due if snapshot_id in needed),
        kept=tuple(each for branch in branches for each in branch.lost(due) if each.committed_at >= oldest),
        lost=tuple(each for branch in branches for each in branch.lost(ids)),
        own_age=not needed.isdisjoint(dropped),
    )


def expired_snapshots(state: TableState, cutoff: datetime, retain_last: int, now: datetime) -> tuple[int, ...]:
    """The ids to expire, oldest first, by the rules of Iceberg's RemoveSnapshots.

    A branch keeps its last `retain_last` snapshots (or its own number) and all that are not older than `cutoff` (or
    than its own age, measured from `now`); a tag keeps its snapshot; a snapshot that no branch reaches stays until
    `cutoff` passes it. Source: Iceberg spec, 'Snapshot Retention Policy'.
    """
    due = due_refs(state, now)
    refs = [ref for ref in state.refs if ref.name not in due]
    reachable: set[int] = set()
    kept: set[int] = set()
    for ref in refs:
        kept.add(ref.snapshot_id)
        if ref.kind == "tag":
            continue
        least = ref.min_snapshots_to_keep or retain_last
        oldest = now - ref.max_snapshot_age if ref.max_snapshot_age is not None else cutoff
        keeping = True
        for depth, snapshot in enumerate(state.ancestors(ref.snapshot_id)):
            reachable.add(snapshot.id)
            keeping = keeping and (depth < least or snapshot.committed_at >= oldest)
            if keeping:
                kept.add(snapshot.id)
    kept.update(s.id for s in state.history if s.id not in reachable and s.committed_at >= cutoff)
    return tuple(s.id for s in state.history if s.id not in kept)


def due_refs(state: TableState, now: datetime) -> frozenset[str]:
    """The branches and tags older than their own age limit: Iceberg drops them with the next expiry."""
    by_id = {snapshot.id: snapshot for snapshot in state.history}
    return frozenset(ref.name for ref in state.refs if _ref_is_due(ref, by_id, now))


def _ref_is_due(ref: Ref, by_id: dict[int, Snapshot], now: datetime) -> bool:
    if ref.name == MAIN or ref.max_ref_age is None:
        return False
    snapshot = by_id.get(ref.snapshot_id)
    return snapshot is None or now - snapshot.committed_at > ref.max_ref_age
