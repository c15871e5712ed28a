"""Whether a rewrite or an expiry did what was planned, decided from the table's state before and after. Pure."""

from __future__ import annotations

from collections.abc import Iterable
from dataclasses import dataclass
from uuid import UUID

from icekeeper.core.audit.proof import FilesProof, named_files
from icekeeper.core.audit.records import FileFault
from icekeeper.core.formats import counted
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
    (unless the plan allows more): in all, for of two snapshots, of row groups copied and of the rest, one may be of a
    file that stays alone. Commits of other writers do not matter: only this run's snapshots are checked.
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
    files_in, files_out = (sum(s.count(f"{key}-data-files") for s in rewrites) for key in ("deleted", "added"))
    if files_out >= files_in and not planned.may_grow:
        ids = ", ".join(str(snapshot.id) for snapshot in rewrites)
        problems.append(
            f"{'snapshot' if len(rewrites) == 1 else 'snapshots'} {ids} made {files_out} files of {files_in}"
        )
    return problems, recounts


def explained_by_manifests(rewrites: tuple[Snapshot, ...], replaced: Iterable[FilesProof]) -> str | None:
    """The text of a rewrite whose rows differ only because manifests claimed other rows than the files hold.

    `replaced`: what was found of the files that each of the snapshots replaced. None: that does not explain it.
    """
    bad = tuple(file for proof in replaced for file in proof.bad)
    added, claimed = (sum(s.count(key) for s in rewrites) for key in ("added-records", "deleted-records"))
    held = claimed + sum(file.rows_found - file.rows for file in bad if file.rows_found is not None)
    if not bad or held != added or any(file.fault is not FileFault.COUNT for file in bad):
        return None
    return (
        f"the rewrite found {counted(added, 'row')} where the manifests claimed {claimed}, and wrote all of them: "
        f"{named_files(bad)}"
    )


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
