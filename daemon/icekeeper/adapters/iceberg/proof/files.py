"""Proves files: those of a window's scan, or those that a rewrite replaced. What a bad one means: core/audit.

The work on the files themselves is done in the JVM, by FileProver.java.
"""

from __future__ import annotations

import hashlib
import json
from collections import Counter
from collections.abc import Collection, Iterable, Sequence
from dataclasses import replace
from datetime import UTC, datetime, timedelta
from typing import Any

from icekeeper.adapters.iceberg.jvm import IcebergJvm
from icekeeper.adapters.iceberg.proof.compiled import FILE_PROVER, SCHEMA_FIT, new_instance
from icekeeper.adapters.iceberg.proof.footers import Footer, Footers
from icekeeper.adapters.iceberg.proof.reading import FOOTERS, FileAnswer, PlannedFile, planned_files, read_footers
from icekeeper.adapters.iceberg.rows.readable import require_readable
from icekeeper.adapters.iceberg.tables import Tables
from icekeeper.core.audit.proof import FilesProof
from icekeeper.core.audit.records import BadFile, FileFault
from icekeeper.core.calendar import Window
from icekeeper.core.errors import PermanentError, TransientError
from icekeeper.core.reasons import Reason

_ENCRYPTED = "encrypted"
_MICROSECOND = timedelta(microseconds=1)
# What Iceberg counts event times by. Of nanoseconds there is no whole number in a timedelta.
_UNITS = {"TIMESTAMP": _MICROSECOND, "DATE": timedelta(days=1)}
_DATA = "DATA"


def prove_files(
    jvm: IcebergJvm,
    tables: Tables,
    footers: Footers,
    table: str,
    timestamp: str,
    window: Window,
    at: int | None = None,
    whole: bool = True,
) -> FilesProof:
    """Plans the window's scan at a snapshot, by default the current one, and checks every file of it.

    `whole`: also whether a file is listed once more outside of the window, which takes all manifests.
    Raises the store's errors; PermanentError `snapshot_expired` where the table has no such snapshot.
    """
    handle = tables.handle(jvm, table)
    snapshot_id = jvm.current_id(handle) if at is None else at
    if snapshot_id is None:
        return FilesProof(None)
    snapshot = handle.snapshot(snapshot_id)
    if at is not None and snapshot is None:
        raise PermanentError(f"it has no snapshot {at} any more", reason=Reason.SNAPSHOT_EXPIRED, where=table)
    require_readable(jvm, table, handle)
    prover, fit = _prover(jvm, handle), new_instance(jvm, SCHEMA_FIT, handle)
    field = event_time(jvm, handle, timestamp)
    prover.plan(_scan(jvm, handle, field, fit, window, snapshot_id), field.fieldId(), fit)
    twice = tables.listed_twice(jvm, table, handle, snapshot) if whole else ()
    proof = _prove(jvm, prover, footers, snapshot_id, str(field.type().typeId()), timestamp, twice)
    if any(file.fault is FileFault.MISSING for file in proof.bad):
        require_snapshot(jvm, tables, table, snapshot_id)
    return proof


def prove_replaced(jvm: IcebergJvm, tables: Tables, footers: Footers, table: str, snapshot_id: int) -> FilesProof:
    """Checks the data files that a snapshot removed. Raises the store's errors."""
    handle = tables.handle(jvm, table)
    prover = _prover(jvm, handle)
    require_snapshot(jvm, tables, table, snapshot_id)
    prover.addAll(handle.snapshot(snapshot_id).removedDataFiles(handle.io()))
    return _prove(jvm, prover, footers, snapshot_id)


def _prove(
    jvm: IcebergJvm,
    prover: Any,
    footers: Footers,
    snapshot_id: int,
    counted_as: str = "",
    column: str = "",
    twice: Collection[str] = (),
) -> FilesProof:
    """`counted_as`: the type of the event time; `column`: its name, where the files are those of a window.

    `twice`: paths of data files that the table has more than once.
    """
    planned = planned_files(jvm, prover)
    known = footers.records(file.footer for file in planned if file.countable)
    # One that would be called bad by what is known is read again.
    unproven = [n for n, file in enumerate(planned) if file.countable and known.get(file.footer) != file.records]
    answers = read_footers(jvm, prover, footers, planned, unproven, lengths=True)
    proof, counted = weigh(snapshot_id, planned, known, answers, counted_as, twice)
    footers.keep(counted)
    return replace(proof, digest=_digest(column, planned)) if column else proof


def weigh(
    snapshot_id: int,
    planned: Sequence[PlannedFile],
    known: dict[Footer, int],
    answers: Iterable[FileAnswer],
    counted_as: str = "",
    twice: Collection[str] = (),
) -> tuple[FilesProof, dict[Footer, int]]:
    """What the answers mean, and the rows of the files whose footers are known now. Pure."""
    found = {answer.number: answer for answer in answers}
    by_length: Counter[str] = Counter()
    counted: dict[Footer, int] = {}
    bad: list[BadFile] = []
    entries = Counter(file.path for file in planned if file.content == _DATA)
    listed = {path for path in twice if entries[path] == 1}
    for number, file in enumerate(planned):
        answer = found.get(number)
        if answer is not None and answer.fault not in (None, _ENCRYPTED):
            bad.append(_bad(file, counted_as, FileFault(answer.fault), answer.records, answer.bytes, answer.text))
            continue
        if file.misfit is not None:
            found_rows = None if answer is None else answer.records
            bad.append(_bad(file, counted_as, FileFault.SCHEMA, found_rows, text=file.misfit))
            continue
        records = _records(file, known, answer)
        if records is None:
            by_length[_ENCRYPTED if file.format in FOOTERS else file.format.lower()] += 1
        else:
            counted[file.footer] = records
        if records is not None and records != file.records:
            bad.append(_bad(file, counted_as, FileFault.COUNT, records))
        elif file.content == _DATA and file.path in listed:
            bad.append(_bad(file, counted_as, FileFault.LISTED_TWICE, records))
        listed.add(file.path)
    read = sum(answer.fault is None for answer in found.values())
    return FilesProof(snapshot_id, len(planned), read, dict(by_length), tuple(bad)), counted


def _digest(column: str, planned: Sequence[PlannedFile]) -> str:
    """Of by which column a window's files were planned, which they are, and what their manifests say of them."""
    files = sorted((file.path, file.offset, file.content, file.bytes, file.records) for file in planned)
    return hashlib.sha256(json.dumps([column, files]).encode()).hexdigest()


def _records(file: PlannedFile, known: dict[Footer, int], answer: FileAnswer | None) -> int | None:
    """The rows in the file: as it was just read, or as its footer is known; None where no footer says."""
    if answer is not None and answer.fault is None:
        return answer.records
    return known.get(file.footer)


def _bad(
    file: PlannedFile,
    counted_as: str,
    fault: FileFault,
    records: int | None,
    length: int | None = None,
    text: str | None = None,
) -> BadFile:
    return BadFile(
        path=file.path,
        partition=file.partition,
        content=file.content.lower(),
        fault=fault,
        rows=file.records,
        bytes=file.bytes,
        rows_found=records,
        bytes_found=length,
        detail=text or "",
        first=_instant(counted_as, file.first),
        last=_instant(counted_as, file.last, last=True),
    )


def _instant(counted_as: str, value: float | None, *, last: bool = False) -> datetime | None:
    """A value of an Iceberg column of this type, of a date its first or last microsecond.

    None where it is not known or lies outside of Python's years.
    """
    unit = _UNITS.get(counted_as)
    if value is None or unit is None:
        return None
    try:
        return datetime(1970, 1, 1, tzinfo=UTC) + value * unit + (unit - _MICROSECOND if last else timedelta(0))
    except OverflowError:
        return None


def event_time(jvm: IcebergJvm, handle: Any, column: str) -> Any:
    """The field of the event-time column."""
    field = jvm.find_field(handle.schema(), column)
    if field is None:
        raise PermanentError(f"it has no column {column!r}", reason=Reason.UNEXPECTED, where=str(handle.name()))
    return field


def _scan(jvm: IcebergJvm, handle: Any, field: Any, fit: Any, window: Window, snapshot_id: int) -> Any:
    """The scan that Spark would make of the window at the snapshot, with the bounds of its event times."""
    column = handle.schema().findColumnName(field.fieldId())
    scan = handle.newScan().includeColumnStats(fit.columns(column))
    if snapshot_id != jvm.current_id(handle):  # a pinned scan is bound by the snapshot's schema of then
        scan = scan.useSnapshot(snapshot_id)
    condition = within(jvm, handle, field, window)
    return scan if condition is None else scan.filter(condition)


def within(jvm: IcebergJvm, handle: Any, field: Any, window: Window) -> Any | None:
    """Iceberg's condition on rows of a window; None where the event time is of a type that Spark has to convert."""
    expressions = jvm.iceberg.expressions.Expressions
    column, kind = handle.schema().findColumnName(field.fieldId()), field.type()
    name = str(kind.typeId())
    if name.startswith("TIMESTAMP"):
        bounds = (instant.astimezone(UTC) for instant in (window.start, window.end))
        zone = UTC if kind.shouldAdjustToUTC() else None
        low, high = (bound.replace(tzinfo=zone).isoformat() for bound in bounds)
    elif name == "DATE":
        low, high = f"{window.start:%Y-%m-%d}", f"{window.end - timedelta(microseconds=1) + timedelta(days=1):%Y-%m-%d}"
    else:  # Spark has to read every file
        return None
    return getattr(expressions, "and")(expressions.greaterThanOrEqual(column, low), expressions.lessThan(column, high))


def _prover(jvm: IcebergJvm, handle: Any) -> Any:
    """A FileProver of the table, without files."""
    return new_instance(jvm, FILE_PROVER, handle)


def require_snapshot(jvm: IcebergJvm, tables: Tables, table: str, snapshot_id: int) -> None:
    """TransientError where the snapshot was expired meanwhile: then its files may be missing rightly."""
    if tables.handle(jvm, table).snapshot(snapshot_id) is None:
        raise TransientError("its snapshot was expired while it was audited", reason=Reason.CONFLICT, where=table)
