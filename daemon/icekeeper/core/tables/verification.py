"""Whether a rewrite or an expiry did what was planned, decided from the table's state before and after. Pure."""

from __future__ import annotations

from dataclasses import dataclass
from uuid import UUID

from icekeeper.core.tables.plan import Slice
from icekeeper.core.tables.state import RUN_ID_PROPERTY, Snapshot, TableState


@dataclass(frozen=True, slots=True)
class Recount:
    """Two snapshots whose live rows must be equal in number, where delete files make the summaries inconclusive."""

    before: int
    after: int


def own_rewrites(before: TableState, after: TableState, run_id: UUID) -> tuple[Snapshot, ...]:
    """The `replace` snapshots that this run added between the two states."""
    known = {snapshot.id for snapshot in before.history}
    return tuple(
        snapshot
        for snapshot in after.history
        if snapshot.id not in known
        and snapshot.operation == "replace"
        and snapshot.summary.get(RUN_ID_PROPERTY) == str(run_id)
    )


def check_rewrite(planned: Slice, rewrites: tuple[Snapshot, ...]) -> tuple[list[str], list[Recount]]:
    """What is wrong with the snapshots of a rewrite, and the recounts that decide the rest.

    Rows added must equal rows deleted where no delete file applied, and there must be fewer files than before
    (unless the plan allows more). Commits of other writers do not matter: only this run's snapshots are checked.
    """
    if not rewrites:
        return ["the rewrite reported success, but no snapshot of this run is in the table"], []
    problems: list[str] = []
    recounts: list[Recount] = []
    for snapshot in rewrites:
        added, deleted = snapshot.count("added-records"), snapshot.count("deleted-records")
        if added != deleted:
            if snapshot.parent_id is not None and added < deleted:
                recounts.append(Recount(snapshot.parent_id, snapshot.id))
            else:
                problems.append(f"snapshot {snapshot.id} added {added} rows for {deleted} that it replaced")
        files_in, files_out = snapshot.count("deleted-data-files"), snapshot.count("added-data-files")
        if files_out >= files_in and not planned.may_grow:
            problems.append(f"snapshot {snapshot.id} made {files_out} files of {files_in}")
    return problems, recounts


def check_expiry(
    before: TableState, after: TableState, named: tuple[int, ...], due: frozenset[str] = frozenset()
) -> list[str]:
    """What is wrong after an expiry: a named snapshot still there, another one gone, a reference lost.

    References in `due` may go: they are older than their own age limit.
    """
    left = {snapshot.id for snapshot in after.history}
    problems = [f"snapshot {i} is still there" for i in named if i in left]
    problems += [f"snapshot {s.id} was not named and is gone" for s in before.history if s.id not in {*named, *left}]
    refs = {ref.name for ref in after.refs}
    problems += [
        f"the {ref.kind} {ref.name} is gone" for ref in before.refs if ref.name not in refs and ref.name not in due
    ]
    return problems
