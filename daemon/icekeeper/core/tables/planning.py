"""Deciding what a compaction or an audit would do and why, from policy and metadata. Pure. Expiry: expiry.py."""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass, replace
from itertools import groupby
from types import MappingProxyType

from icekeeper.core.calendar import Window
from icekeeper.core.enums import Decision, Stage
from icekeeper.core.formats import counted, listed
from icekeeper.core.policy import CompactPolicy, TablePolicy
from icekeeper.core.reasons import Reason
from icekeeper.core.tables.plan import Plan, Rewrite, Slice
from icekeeper.core.tables.state import FileGroup, TableState

# A slice is the work that a deadline can cost: what a small engine rewrites in a minute or two. A day of the offload
# fits.
SLICE_MAX_FILES = 5_000
SLICE_MAX_BYTES = 4 * 1024**3
# A slice that exceeded its deadline is retried in so many pieces.
SHRINK = 4
# Reading in many Spark tasks costs a shuffle to the writer: it pays where opening files takes most of the time.
SPREAD_MIN_FILES = 16
SPREAD_MAX_SIZE = 4 * 1024**2
# RewriteDataFiles.MAX_CONCURRENT_FILE_GROUP_REWRITES_DEFAULT of Iceberg.
MOST_AT_ONCE = 5
# Row groups of this size and more on average are copied as they are; a file is hardly smaller than its row groups.
COPY_MIN_SIZE = 4 * 1024**2

# SizeBasedFileRewritePlanner.MIN_FILE_SIZE_DEFAULT_RATIO of Iceberg: below it a file is small.
MIN_FILE_SIZE_RATIO = 0.75
# SizeBasedFileRewritePlanner.MAX_FILE_SIZE_DEFAULT_RATIO: above it a file is split.
MAX_FILE_SIZE_RATIO = 1.80

# How many partitions, and reasons to leave some out, a note names; the others are counted.
_NAMED = 3

_NOTHING: Mapping[str, str] = MappingProxyType({})


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
    left_out: Mapping[str, str] = _NOTHING,
) -> Plan:
    """Rewrites the `groups` of Iceberg's planner, in slices by partition, but for the partitions `left_out`, each with
    why.

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
    slices = tuple(
        replace(one, planned_at=health.snapshot_id, spec_id=state.spec_id)
        for how, some in ways.items()
        for one in _slices(some, bounds, how, named=named)
    )
    work = _slice((), worth, bounds, Rewrite.BINPACK)
    partitions = len({group.partition for group in worth})
    files = f"{counted(work.files, 'file')} ({work.bytes / 1024**2:.1f} MiB)"
    note = f"would rewrite {files} of {counted(partitions, 'partition')} into {work.output_files}"
    if len(slices) > 1:
        note += f", in {len(slices)} slices"
    note += _left_out(left_out)
    return Plan(Stage.COMPACT, policy.name, Decision.ACT, note, slices=slices, health=health)


def taken_groups(groups: Sequence[FileGroup]) -> list[FileGroup]:
    """The groups that a compaction takes: all of a partition where one gains, and all of a table where one of them has
    files of an older spec.
    """
    worth = [group for group in groups if group.gains]
    if any(group.older_spec for group in worth):
        return list(groups)
    partitions = {group.partition for group in worth}
    return [group for group in groups if group.partition in partitions]


def _left_out(left_out: Mapping[str, str]) -> str:
    """The partitions that are left out, with the first few of the reasons."""
    partitions: dict[str, list[str]] = {}
    for partition, why in sorted(left_out.items()):
        partitions.setdefault(why, []).append(partition)
    note = "".join(
        f"; not {listed(names, most=_NAMED)}, where {why}" for why, names in list(partitions.items())[:_NAMED]
    )
    more = sum(len(names) for names in list(partitions.values())[_NAMED:])
    return f"{note}; and not {counted(more, 'partition')} more" if more else note


def _by_way(policy: CompactPolicy, groups: Sequence[FileGroup]) -> dict[Rewrite, list[FileGroup]]:
    """The groups by how they are rewritten; all groups of a partition in the same way."""
    if policy.strategy != "auto":
        return {Rewrite(policy.strategy): list(groups)}
    # Files of an older spec can't be selected by partition: they all are rewritten in the same way.
    older = any(group.older_spec for group in groups)
    # Where some partition is read by many tasks anyway, those of few files are, too: one commit for all of them.
    least = 1 if any(_spreads(policy, group, SPREAD_MIN_FILES) for group in groups) else SPREAD_MIN_FILES
    found: dict[str, set[Rewrite]] = {}
    for group in groups:
        found.setdefault(group.partition, set()).add(Rewrite.BINPACK if older else _way(policy, group, least))
    ways: dict[Rewrite, list[FileGroup]] = {}
    for group in groups:
        of_partition = found[group.partition]
        how = next(iter(of_partition)) if len(of_partition) == 1 else Rewrite.BINPACK
        ways.setdefault(how, []).append(group)
    return ways


def _way(policy: CompactPolicy, group: FileGroup, least: int) -> Rewrite:
    """How a group is rewritten fastest, as far as numbers and sizes of files say."""
    if _spreads(policy, group, least):
        return Rewrite.SPREAD
    small = policy.copy_max is None or group.bytes <= policy.copy_max
    return Rewrite.COPY if small and group.bytes >= COPY_MIN_SIZE * group.files else Rewrite.BINPACK


def _spreads(policy: CompactPolicy, group: FileGroup, least: int) -> bool:
    """Whether reading in many Spark tasks is faster for a group, if `least` files are enough for that.

    Its rows have to fit into the memory of the task that writes them: those that it spilled would come back in another
    order.
    """
    fits = policy.spread_max is None or group.bytes <= policy.spread_max
    small = group.files >= least and group.bytes <= SPREAD_MAX_SIZE * group.files
    return fits and small and group.output_files == 1


@dataclass(frozen=True, slots=True)
class _Bounds:
    """The limits of a slice (input files, bytes), and of what is done at once: files written, bytes ordered."""

    files: int
    bytes: int
    writers: int | None
    ordered: int | None

    @classmethod
    def of(cls, policy: CompactPolicy, overran: int) -> _Bounds:
        smaller = SHRINK**overran
        files, size = max(1, SLICE_MAX_FILES // smaller), max(1, SLICE_MAX_BYTES // smaller)
        return cls(files, size, policy.max_writers, policy.spread_max)

    def hold(self, groups: Sequence[FileGroup]) -> bool:
        return self.pieces(groups) == 1

    def pieces(self, groups: Sequence[FileGroup]) -> int:
        """The number of pieces into which the groups have to be cut. All output files of a group are written at once:
        only where one has too many of them, it is cut for that.
        """
        files, size = sum(group.files for group in groups), sum(group.bytes for group in groups)
        by_outputs = 1
        if self.writers is not None and _most_outputs(groups) > self.writers:
            by_outputs = -(-sum(group.output_files for group in groups) // self.writers)
        return max(-(-files // self.files), -(-size // self.bytes), by_outputs)

    def at_once(self, groups: Sequence[FileGroup], how: Rewrite) -> int | None:
        """How many of the groups are rewritten at a time, so that all fit into memory; None: as many as usual."""
        limits = []
        if self.writers is not None:
            limits.append(self.writers // max(1, _most_outputs(groups)))
        if self.ordered is not None and how is Rewrite.SPREAD:
            limits.append(self.ordered // max(1, *(group.bytes for group in groups)))
        return min(MOST_AT_ONCE, max(1, min(limits))) if limits else None


def _most_outputs(groups: Sequence[FileGroup]) -> int:
    return max(group.output_files for group in groups)


def _slices(groups: Sequence[FileGroup], bounds: _Bounds, how: Rewrite, *, named: bool) -> Iterator[Slice]:
    """Whole partitions in the order of their paths, cut where a slice would exceed its bounds.

    `named`: the slices name their partitions even if one slice takes them all.
    """
    partitions = {name: list(members) for name, members in groupby(sorted(groups, key=_partition), key=_partition)}
    # A filter by partition can't select files of an older spec: a table that has some is cut by number of files.
    older = any(group.older_spec for group in groups)
    if len(partitions) == 1 or bounds.hold(groups) or older:
        yield from _cut(tuple(partitions) if named and not older else (), groups, bounds, how)
        return
    names: list[str] = []
    members: list[FileGroup] = []
    for name, more in partitions.items():
        if names and not bounds.hold([*members, *more]):
            yield from _cut(names, members, bounds, how)
            names, members = [], []
        names.append(name)
        members.extend(more)
    yield from _cut(names, members, bounds, how)


def _cut(partitions: Sequence[str], groups: Sequence[FileGroup], bounds: _Bounds, how: Rewrite) -> Iterator[Slice]:
    """One slice, or pieces of it by number of files where a single partition exceeds the bounds.

    A piece takes the still small output of the one before as input, so that the last leaves the same as one slice.
    """
    whole, pieces = _slice(partitions, groups, bounds, how), bounds.pieces(groups)
    most = max(2, -(-whole.files // pieces))
    if pieces == 1 or whole.files <= most:
        yield whole
        return
    pieces = -(-whole.files // most)
    size, outputs = whole.bytes // pieces, -(-whole.output_files // pieces)
    for taken in range(0, whole.files, most):
        # Which files a piece takes is not known: they may be large ones, of which it writes as many.
        files = min(most, whole.files - taken)
        yield replace(whole, files=files, bytes=size, output_files=outputs, may_grow=True, max_files=most)


def _partition(group: FileGroup) -> str:
    return group.partition


def _slice(partitions: Sequence[str], groups: Sequence[FileGroup], bounds: _Bounds, how: Rewrite) -> Slice:
    files, size = sum(g.files for g in groups), sum(g.bytes for g in groups)
    outputs = sum(g.output_files for g in groups)
    may_grow = outputs >= files or any(g.older_spec for g in groups)
    return Slice(tuple(partitions), files, size, outputs, may_grow, how=how, at_once=bounds.at_once(groups, how))


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
