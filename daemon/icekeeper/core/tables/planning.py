"""Deciding what a task would do and why, from policy, metadata and `now`. Pure."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from datetime import datetime
from itertools import groupby

from icekeeper.core.calendar import Window, expiry_cutoff
from icekeeper.core.enums import Decision, Stage
from icekeeper.core.formats import counted, iso_minute, listed
from icekeeper.core.policy import CompactPolicy, TablePolicy
from icekeeper.core.reasons import Reason
from icekeeper.core.tables.plan import Plan, Rewrite, Slice
from icekeeper.core.tables.state import FileGroup, Ref, Snapshot, TableState

# A slice is the work that a deadline can cost: what a small engine rewrites in a minute or two. A day of the offload
# fits.
SLICE_MAX_FILES = 5_000
SLICE_MAX_BYTES = 4 * 1024**3
# A slice that exceeded its deadline is retried in so many pieces.
SHRINK = 4
# Reading in many Spark tasks costs a shuffle to the writer: it pays where opening files takes most of the time.
SPREAD_MIN_FILES = 16
SPREAD_MAX_SIZE = 4 * 1024**2

# SizeBasedFileRewritePlanner.MIN_FILE_SIZE_DEFAULT_RATIO of Iceberg: below it a file is small.
MIN_FILE_SIZE_RATIO = 0.75
# SizeBasedFileRewritePlanner.MAX_FILE_SIZE_DEFAULT_RATIO: above it a file is split.
MAX_FILE_SIZE_RATIO = 1.80

MAIN = "main"


def may_interest_planner(state: TableState, policy: CompactPolicy) -> bool:
    """Whether Iceberg's planner could find work. Asking the planner itself reads every manifest again.

    It groups a partition's small files if there are enough of them or they hold enough bytes; files with deletes and
    large files it takes also alone. Source: Iceberg's SizeBasedFileRewritePlanner, `enoughInputFiles`, `enoughContent`.
    """
    if state.health.delete_files or state.deletes_unknown or state.large_files:
        return True
    return any(
        small.files > 1 and (small.files >= policy.min_input_files or small.bytes > policy.target_file_size)
        for small in state.small_files
    )


def plan_compaction(
    policy: TablePolicy,
    state: TableState,
    groups: Sequence[FileGroup],
    *,
    overran: int = 0,
    left_out: frozenset[str] = frozenset(),
) -> Plan:
    """Rewrites the `groups` of Iceberg's planner, in slices by partition, but for the partitions `left_out`.

    `overran`: how often a slice of this task exceeded its deadline; each time makes the slices smaller.
    """
    health = state.health
    worth = [group for group in groups if group.gains and group.partition not in left_out]
    if not worth:
        small = health.small_files
        reason = Reason.TOO_FEW_FILES if small else Reason.NOTHING_SMALL
        note = f"{small} small of {health.data_files} files" if health.data_files else "no data files"
        return Plan(Stage.COMPACT, policy.name, Decision.SKIP, note, reason, health=health)
    bounds = _Bounds.of(policy.compact, overran)
    ways = _by_way(policy.compact, worth)
    # Slices name their partitions where some groups are left out or rewritten differently.
    named = len(worth) < len(groups) or len(ways) > 1
    slices = tuple(one for how, some in ways.items() for one in _slices(some, bounds, how, named=named))
    work = _slice((), worth, Rewrite.BINPACK)
    partitions = len({group.partition for group in worth})
    files = f"{counted(work.files, 'file')} ({work.bytes / 1024**2:.1f} MiB)"
    note = f"would rewrite {files} of {counted(partitions, 'partition')} into {work.output_files}"
    if len(slices) > 1:
        note += f", in {len(slices)} slices"
    if left_out:
        note += f"; not {listed(sorted(left_out), most=3)}, where files are bad"
    return Plan(Stage.COMPACT, policy.name, Decision.ACT, note, slices=slices, health=health)


def _by_way(policy: CompactPolicy, groups: Sequence[FileGroup]) -> dict[Rewrite, list[FileGroup]]:
    """The groups by how they are rewritten; all groups of a partition in the same way."""
    if policy.strategy != "auto":
        return {Rewrite(policy.strategy): list(groups)}
    # Files of an older spec can't be selected by partition: they all are rewritten in the same way.
    binpacked = {group.partition for group in groups if not _spreads(group)}
    if any(group.older_spec for group in groups):
        binpacked = {group.partition for group in groups}
    ways: dict[Rewrite, list[FileGroup]] = {}
    for group in groups:
        how = Rewrite.BINPACK if group.partition in binpacked else Rewrite.SPREAD
        ways.setdefault(how, []).append(group)
    return ways


def _spreads(group: FileGroup) -> bool:
    """Whether reading in many Spark tasks is faster for a group."""
    return group.output_files == 1 and group.files >= SPREAD_MIN_FILES and group.bytes <= SPREAD_MAX_SIZE * group.files


@dataclass(frozen=True, slots=True)
class _Bounds:
    """The limits of a slice: input files, bytes, and output files."""

    files: int
    bytes: int
    outputs: int | None

    @classmethod
    def of(cls, policy: CompactPolicy, overran: int) -> _Bounds:
        smaller = SHRINK**overran
        return cls(max(1, SLICE_MAX_FILES // smaller), max(1, SLICE_MAX_BYTES // smaller), policy.max_writers)

    def hold(self, one: Slice) -> bool:
        fits = self.outputs is None or one.output_files <= self.outputs
        return fits and one.files <= self.files and one.bytes <= self.bytes

    def pieces(self, one: Slice) -> int:
        """The number of pieces into which a slice has to be cut."""
        by_outputs = 1 if self.outputs is None else -(-one.output_files // self.outputs)
        return max(-(-one.files // self.files), -(-one.bytes // self.bytes), by_outputs)


def _slices(groups: Sequence[FileGroup], bounds: _Bounds, how: Rewrite, *, named: bool) -> Iterator[Slice]:
    """Whole partitions in the order of their paths, cut where a slice would exceed its bounds.

    `named`: the slices name their partitions even if one slice takes them all.
    """
    partitions = {name: list(members) for name, members in groupby(sorted(groups, key=_partition), key=_partition)}
    # A filter by partition can't select files of an older spec: a table that has some is cut by number of files.
    older = any(group.older_spec for group in groups)
    everything = _slice(tuple(partitions) if named and not older else (), groups, how)
    if len(partitions) == 1 or bounds.hold(everything) or older:
        yield from _cut(everything, bounds)
        return
    names: list[str] = []
    members: list[FileGroup] = []
    for name, more in partitions.items():
        if names and not bounds.hold(_slice((), [*members, *more], how)):
            yield from _cut(_slice(names, members, how), bounds)
            names, members = [], []
        names.append(name)
        members.extend(more)
    yield from _cut(_slice(names, members, how), bounds)


def _cut(whole: Slice, bounds: _Bounds) -> Iterator[Slice]:
    """The slice, or pieces of it by number of files where a single partition exceeds the bounds.

    A piece takes the still small output of the one before as input, so that the last leaves the same as one slice.
    """
    pieces = bounds.pieces(whole)
    most = max(2, -(-whole.files // pieces))
    if pieces == 1 or whole.files <= most:
        yield whole
        return
    pieces = -(-whole.files // most)
    size, outputs = whole.bytes // pieces, -(-whole.output_files // pieces)
    for taken in range(0, whole.files, most):
        # Which files a piece takes is not known: they may be large ones, of which it writes as many.
        files = min(most, whole.files - taken)
        yield Slice(whole.partitions, files, size, outputs, may_grow=True, max_files=most, how=whole.how)


def _partition(group: FileGroup) -> str:
    return group.partition


def _slice(partitions: Sequence[str], groups: Sequence[FileGroup], how: Rewrite) -> Slice:
    files, size = sum(g.files for g in groups), sum(g.bytes for g in groups)
    outputs = sum(g.output_files for g in groups)
    may_grow = outputs >= files or any(g.older_spec for g in groups)
    return Slice(tuple(partitions), files, size, outputs, may_grow, how=how)


def plan_expiry(policy: TablePolicy, state: TableState, slot: datetime, now: datetime) -> Plan:
    """Names the snapshots that are old enough, not among the last ones of a branch and not referenced."""

    def plan(decision: Decision, note: str, reason: Reason | None = None, ids: tuple[int, ...] = ()) -> Plan:
        return Plan(Stage.EXPIRE, policy.name, decision, note, reason, snapshot_ids=ids, health=state.health)

    cutoff = expiry_cutoff(slot, now, policy.expire.older_than)
    ids = expired_snapshots(state, cutoff, policy.expire.retain_last, now)
    if not ids:
        return plan(Decision.SKIP, f"none of {len(state.history)} snapshots can go", Reason.NOTHING_EXPIRED)
    if not state.gc_enabled:
        return plan(Decision.HOLD, f"{len(ids)} snapshots are due, but gc.enabled is false", Reason.GC_DISABLED)
    note = f"would expire {len(ids)} of {len(state.history)} snapshots, committed before {iso_minute(cutoff)}"
    return plan(Decision.ACT, note, ids=ids)


def expired_snapshots(state: TableState, cutoff: datetime, retain_last: int, now: datetime) -> tuple[int, ...]:
    """The ids to expire, oldest first, by the rules of Iceberg's RemoveSnapshots.

    A branch keeps its last `retain_last` snapshots (or its own number) and all that are not older than `cutoff` (or
    than its own age, measured from `now`); a tag keeps its snapshot; a snapshot that no branch reaches stays until
    `cutoff` passes it. Source: Iceberg spec, 'Snapshot Retention Policy'.
    """
    by_id = {snapshot.id: snapshot for snapshot in state.history}
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
        for depth, snapshot in enumerate(_ancestors(ref.snapshot_id, by_id)):
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


def _ancestors(snapshot_id: int, by_id: dict[int, Snapshot]) -> Iterator[Snapshot]:
    current: int | None = snapshot_id
    while current is not None and (snapshot := by_id.get(current)) is not None:
        yield snapshot
        current = snapshot.parent_id


def plan_audit(policy: TablePolicy, window: Window) -> Plan:
    """Counts the window on both sides; never skipped."""
    note = f"would count both sides over {window}"
    return Plan(Stage.AUDIT, policy.name, Decision.ACT, note, window=window)


def small_file_limit(target_file_size: int) -> int:
    """The size in bytes below which a file is small for Iceberg's planner."""
    return int(target_file_size * MIN_FILE_SIZE_RATIO)


def large_file_limit(target_file_size: int) -> int:
    """The size in bytes above which Iceberg's planner splits a file."""
    return int(target_file_size * MAX_FILE_SIZE_RATIO)
