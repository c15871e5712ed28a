"""Replacing files by copies of their row groups, on the driver. In the JVM: RowGroupCopier.java."""

from __future__ import annotations

from collections.abc import Mapping
from contextlib import suppress
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import structlog
from py4j.protocol import Py4JError, Py4JJavaError

from icekeeper.adapters.iceberg.deleting.kept import KeptPaths, identity
from icekeeper.adapters.iceberg.jvm import IcebergJvm
from icekeeper.adapters.iceberg.planner import split_lookback
from icekeeper.adapters.iceberg.proof.compiled import ROW_GROUP_COPIER, new_instance
from icekeeper.core.errors import PermanentError, TransientError
from icekeeper.core.reasons import Reason
from icekeeper.core.tables import planning
from icekeeper.core.tables.state import COPIED, ROW_GROUPS_PROPERTY

log = structlog.get_logger(__name__)

# The footers and indexes of the files of a slice may take one part in so many of the heap.
FOOTERS_SHARE = 8
_FOLDER = Path(__file__).parent
# What RowGroupCopier says of a copy that differs from what it read, and of a file whose pages are not what was written.
_DIFFERS = "is not what was copied"
_DAMAGED = " is damaged: "


@dataclass(frozen=True, slots=True)
class Copied:
    """`files`: how many were replaced by copies. `refused`: why others can't be, the first of them; empty: none."""

    files: int = 0
    refused: str = ""


def copy_row_groups(
    jvm: IcebergJvm,
    name: str,
    table: Any,
    options: Mapping[str, str],
    selected: Any | None,
    properties: Mapping[str, str],
    kept: KeptPaths,
) -> Copied:
    """Commits copies of the row groups of what Iceberg's planner chooses, group by group where that is safe.

    `selected`: an expression of partitions, None for all; `properties`: of the snapshot. What the commit raises is
    raised; TransientError where a copy is not what was read, PermanentError where a file is damaged: a rewrite would
    give its pages new checksums. Nothing is left of a copy that did not land: what could not be deleted, also for the
    process was killed, is kept for the next expiry.
    """
    snapshot = jvm.current_id(table)
    if snapshot is None:
        return Copied()
    if selected is None:
        selected = jvm.iceberg.expressions.Expressions.alwaysTrue()
    planner = jvm.iceberg.actions.BinPackRewriteFilePlanner(table, selected, snapshot, True)
    planner.init(dict(options))
    copier = new_instance(jvm, ROW_GROUP_COPIER, table, planning.COPY_MIN_SIZE, FOOTERS_SHARE, folder=_FOLDER)
    largest = planning.large_file_limit(int(options["target-file-size-bytes"]))
    refused: list[str] = []
    groups = planner.plan().groups().iterator()
    while groups.hasNext():
        why = copier.take(groups.next(), split_lookback(table), largest)
        if why is not None:
            log.info("row_groups_not_copied", why=str(why))
            refused.append(_shortened(str(why)))
    gone, came, size = (int(number) for number in copier.sums())
    if gone:
        try:
            _keep(table, name, copier, kept)
        except (OSError, Py4JJavaError) as exc:
            log.warning("row_groups_not_copied", why=str(exc))
            return Copied(refused="state_dir can't be written to")
        why = _copy(jvm, name, table, copier, {**properties, ROW_GROUPS_PROPERTY: COPIED}, kept)
        if why is not None:
            log.warning("row_groups_not_copied", why=why)
            return Copied(refused=_shortened(why))
        log.info("row_groups_copied", files=gone, added=came, bytes=size)
    return Copied(gone, refused[0] if refused else "")


def _shortened(why: str) -> str:
    """With the name of the file, not its whole path."""
    path, colon, reason = why.partition(": ")
    return f"{path.rpartition('/')[2]}: {reason}" if colon and "/" in path else why


def _table_id(table: Any) -> str:
    metadata = table.operations().current()
    return identity(metadata.uuid(), str(metadata.location()))


def _keep(table: Any, name: str, copier: Any, kept: KeptPaths) -> None:
    """Has the next expiry delete the copies, unless the table refers to them by then: the process may be killed."""
    kept.add(_table_id(table), name, copier.writePaths)


def _copy(
    jvm: IcebergJvm, name: str, table: Any, copier: Any, properties: Mapping[str, str], kept: KeptPaths
) -> str | None:
    """Why nothing was committed, where only footers or indexes say something wrong: Spark may read such files.

    Whatever a commit is answered, nothing that may have landed is kept for deletion: it is forgotten before that.
    """
    pairs = [text for pair in properties.items() for text in pair]
    try:
        if (why := copier.copy()) is not None:
            if copier.abandon():
                _forget(table, name, copier, kept)
            return str(why)
        _forget(table, name, copier, kept)
        copier.commit(jvm.array(jvm.lang.String, pairs))
        return None
    except (Py4JError, OSError) as exc:
        with suppress(Py4JError):  # the JVM may be gone
            if copier.abandon():
                _forget(table, name, copier, kept)
            elif copier.mayBeDeleted():
                _keep(table, name, copier, kept)
        message = str(exc.java_exception.getMessage()) if isinstance(exc, Py4JJavaError) else ""
        if _DAMAGED in message:
            text = f"a file is damaged, and was neither copied nor rewritten: {message}"
            raise PermanentError(text, reason=Reason.FILE_CORRUPT, where=name) from exc
        if _DIFFERS in message:
            text = f"a copy differs from what was read, and was not committed: {message}"
            raise TransientError(text, reason=Reason.NOT_VERIFIED, where=name) from exc
        raise


def _forget(table: Any, name: str, copier: Any, kept: KeptPaths) -> None:
    kept.remove(_table_id(table), name, {str(path) for path in copier.paths()})
