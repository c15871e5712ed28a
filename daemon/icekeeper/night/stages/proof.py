"""Proves that rewrites kept every value, and marks the table where one did not. The rules: core/tables/rewrites.py."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from datetime import timedelta
from functools import partial

import structlog

from icekeeper.core.enums import Stage
from icekeeper.core.errors import IcekeeperError, PermanentError
from icekeeper.core.formats import counted, listed
from icekeeper.core.policy import TablePolicy
from icekeeper.core.reasons import Reason
from icekeeper.core.tables.content import Content, wrong_content
from icekeeper.core.tables.rewrites import (
    ALL_COLUMNS,
    MetricsVerdict,
    ProvenBy,
    RewriteProof,
    Rewritten,
    in_turn,
    judge_metrics,
)
from icekeeper.core.tables.state import MISMATCH_TAG, Snapshot
from icekeeper.night.stages.context import Deadline, ProvenRewrite, TaskContext

log = structlog.get_logger(__name__)

# How many partitions and columns an error names.
_NAMED = 5
_TAG_TIMEOUT = timedelta(seconds=60)
_TAG_ATTEMPTS = 2
# What a snapshot's summary says of the files and rows of a rewrite.
_SUMMARY = ("deleted-data-files", "added-data-files", "deleted-records", "added-records")


async def prove_rewrites(
    policy: TablePolicy, context: TaskContext, rewrites: Sequence[Snapshot], worked: timedelta, deadline: Deadline
) -> list[RewriteProof]:
    """Proves each by its metrics, and as much of their content as the budget allows.

    `worked`: how long they took. PermanentError `rewrite_mismatch` where one is not what it replaced. What can't be
    read is unproven, and no error.
    """
    context.ports.proofs.earn(worked, policy.compact.prove_pct)
    proofs = [await _prove(policy, context, snapshot, worked / len(rewrites), deadline) for snapshot in rewrites]
    context.proven.setdefault(policy.name, []).extend(
        ProvenRewrite(snapshot.id, snapshot.parent_id, proof.how)
        for snapshot, proof in zip(rewrites, proofs, strict=True)
        if snapshot.parent_id is not None
    )
    return proofs


async def _prove(
    policy: TablePolicy, context: TaskContext, snapshot: Snapshot, worked: timedelta, deadline: Deadline
) -> RewriteProof:
    try:
        change = await context.ports.lakehouse.rewritten(policy.name, snapshot.id, deadline.remaining())
    except IcekeeperError as exc:
        log.warning("rewrite_not_proven", error=str(exc))
        return _unproven(f"not read: {exc.reason}")
    if _sums(change) != tuple(snapshot.count(key) for key in _SUMMARY):
        return _unproven("its manifests and its summary differ")
    lost = await _lost_deletes(policy, context, snapshot, change, deadline)
    if lost:
        raise await mismatch(policy, context, snapshot, lost)
    verdict = judge_metrics(change)
    if verdict.wrong:
        return await _confirm(policy, context, snapshot, verdict, deadline)
    parts = await _prove_content(policy, context, snapshot, change, worked, deadline)
    if parts and len(parts) == len(change.units):
        return RewriteProof(ProvenBy.CONTENT, {}, parts)
    how = ProvenBy.UNPROVEN if verdict.unproven else ProvenBy.METRICS
    return RewriteProof(how, verdict.unproven, parts)


def _unproven(why: str, parts: tuple[str, ...] = ()) -> RewriteProof:
    return RewriteProof(ProvenBy.UNPROVEN, {ALL_COLUMNS: why}, parts)


def _sums(change: Rewritten) -> tuple[int, ...]:
    """As the snapshot's summary has them."""
    return change.files_went, change.files_came, change.rows_went, change.rows_came


async def _lost_deletes(
    policy: TablePolicy, context: TaskContext, snapshot: Snapshot, change: Rewritten, deadline: Deadline
) -> str:
    """Counts live rows where delete files had to be applied and as many rows came as went. Says what is wrong."""
    if not change.with_deletes or change.rows_went != change.rows_came or change.parent_id is None:
        return ""
    count = context.ports.lakehouse.count_at
    try:
        with _charged(context):
            before = await count(policy.name, change.parent_id, deadline.remaining())
            after = await count(policy.name, snapshot.id, deadline.remaining())
    except IcekeeperError as exc:
        log.warning("rewrite_not_proven", error=str(exc))
        return ""  # unproven in any case: deletes were applied
    return "" if before == after else f"{after} live rows after {before}: deletes were not applied"


async def _confirm(
    policy: TablePolicy, context: TaskContext, snapshot: Snapshot, verdict: MetricsVerdict, deadline: Deadline
) -> RewriteProof:
    """Reads all that was rewritten: manifests of other writers may claim what is not so."""
    what = listed(verdict.wrong, _NAMED)
    try:
        with _charged(context):
            content = await context.ports.lakehouse.content(policy.name, snapshot.id, (), True, deadline.remaining())
    except IcekeeperError as exc:
        # That it could not be read proves nothing.
        log.error("rewrite_not_proven", error=str(exc), found=what)
        return _unproven(f"by its metrics it is wrong ({what}), and its rows could not be read: {exc.reason}")
    if not content.equal:
        raise await mismatch(policy, context, snapshot, f"{what}; {wrong_content(content)}")
    if not content.proven:
        return _unproven("only some of the rows had ids before")
    log.warning("metrics_wrong", snapshot_id=snapshot.id, found=what)
    return RewriteProof(ProvenBy.CONTENT, {}, ("",))


async def _prove_content(
    policy: TablePolicy,
    context: TaskContext,
    snapshot: Snapshot,
    change: Rewritten,
    worked: timedelta,
    deadline: Deadline,
) -> tuple[str, ...]:
    """The partitions whose rows are the same before and after, of those that the budget allows to read."""
    chosen, rewriting, available = _chosen(policy, context, change, worked)
    if not chosen:
        return ()
    context.report(Stage.COMPACT, policy.name, f"compares the content of {listed(_named(chosen), 2)}")
    began, budget = context.ports.clock(), context.ports.proofs
    content: Content | None = None
    try:
        # Slices that are still to be rewritten need the attempt's time, too.
        timeout = min(available, deadline.remaining() / 2)
        content = await context.ports.lakehouse.content(policy.name, snapshot.id, _selected(chosen), False, timeout)
    except IcekeeperError as exc:
        log.warning("content_not_read", error=str(exc), partitions=len(chosen))
    finally:
        budget.spend(context.ports.clock() - began, rewriting, finished=content is not None)
    if content is None:
        return ()
    if not content.equal:
        what = await _columns(policy, context, snapshot, chosen, content, deadline)
        raise await mismatch(policy, context, snapshot, f"{what} in {listed(_named(chosen), _NAMED)}")
    return chosen if content.proven else ()


def _chosen(
    policy: TablePolicy, context: TaskContext, change: Rewritten, worked: timedelta
) -> tuple[tuple[str, ...], timedelta, timedelta]:
    """Which partitions the budget allows to read, how long they took to rewrite, and how long it may take."""
    budget = context.ports.proofs
    available = budget.available(in_turn=policy.name == context.turn)
    chosen: list[str] = []
    rewriting = timedelta(0)
    if not policy.compact.prove_pct or available <= timedelta(0):
        return (), rewriting, available
    for unit in in_turn(change.units, context.slot):
        more = rewriting + worked * (unit.bytes_went / max(1, change.bytes_went))
        if budget.estimate(more) <= available:
            chosen.append(unit.partition)
            rewriting = more
    return tuple(chosen), rewriting, available


async def _columns(
    policy: TablePolicy,
    context: TaskContext,
    snapshot: Snapshot,
    parts: tuple[str, ...],
    content: Content,
    deadline: Deadline,
) -> str:
    """What is different, with its columns if they can be read once more."""
    read = context.ports.lakehouse.content
    try:
        with _charged(context):
            again = await read(policy.name, snapshot.id, _selected(parts), True, deadline.remaining())
        return wrong_content(again)
    except IcekeeperError as exc:
        log.warning("content_not_read", error=str(exc), partitions=len(parts))
        return wrong_content(content)


@contextmanager
def _charged(context: TaskContext) -> Iterator[None]:
    """Reading that has to be, whatever is saved: later comparisons wait for longer."""
    began = context.ports.clock()
    try:
        yield
    finally:
        context.ports.proofs.spend(context.ports.clock() - began, timedelta(0), finished=True)


def _selected(parts: tuple[str, ...]) -> tuple[str, ...]:
    return () if parts == ("",) else parts


def _named(parts: tuple[str, ...]) -> tuple[str, ...]:
    return tuple(part or "the table" for part in parts)


async def mismatch(policy: TablePolicy, context: TaskContext, snapshot: Snapshot, what: str) -> PermanentError:
    """Tags the snapshot before the rewrite, which holds the table's maintenance; the error that says what is wrong."""
    kept = await keep_before(policy, context, snapshot)
    text = f"the rewrite of snapshot {snapshot.parent_id} made another table of it (snapshot {snapshot.id}): {what}; "
    return PermanentError(text + kept, reason=Reason.REWRITE_MISMATCH, where=policy.name)


async def keep_before(policy: TablePolicy, context: TaskContext, snapshot: Snapshot) -> str:
    """Tags the snapshot before a wrong rewrite for as long as findings may hold an expiry; says so, and what to do.

    Whether or not it can be tagged, the run itself remembers the table.
    """
    context.mismatched.add(policy.name)
    tag = f"{MISMATCH_TAG}{context.run_id}"
    if snapshot.parent_id is None:
        return "it has no snapshot before it"
    clock, lakehouse = context.ports.clock, context.ports.lakehouse
    until = clock() + policy.expire.hold_max
    say = partial(context.report, Stage.COMPACT, policy.name)
    kept = ""
    for _ in range(_TAG_ATTEMPTS):
        # A time of its own: the attempt's may be over.
        gate = context.offload.before_commit(policy, say, clock() + _TAG_TIMEOUT)
        try:
            await lakehouse.tag(policy.name, tag, snapshot.parent_id, until, _TAG_TIMEOUT, gate)
        except IcekeeperError as exc:
            log.error("rewrite_not_tagged", tag=tag, snapshot_id=snapshot.parent_id, error=str(exc))
            kept = f"the snapshot before it could not be tagged ({exc}): keep it by hand, and pause the nights"
        else:
            log.error("rewrite_mismatch", tag=tag, snapshot_id=snapshot.id, parent_id=snapshot.parent_id)
            kept = f"the tag {tag} keeps the snapshot before it"
            break
    later = await _later(policy, context, snapshot)
    return (
        f"{kept}; rollback_to_snapshot('{policy.name}', {snapshot.parent_id}) takes away what was committed since, too"
        f"{later} (docs/operations.md, What proves a rewrite); icekeeper ack {policy.name} --rewrite --note TEXT "
        "accepts it"
    )


async def _later(policy: TablePolicy, context: TaskContext, snapshot: Snapshot) -> str:
    try:
        state = await context.ports.lakehouse.inspect(policy.name, policy.compact.target_file_size)
    except IcekeeperError:
        return ""
    later = sum(one.committed_at >= snapshot.committed_at and one.id != snapshot.id for one in state.history)
    return f": {counted(later, 'commit')} so far"
