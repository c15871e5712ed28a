"""Proves files: those of a window's scan, or those that a rewrite replaced. What a bad one means: core/audit.

The work on the files themselves is done in the JVM, by FileProver.java.
"""

from __future__ import annotations

import json
from collections import Counter
from collections.abc import Iterable, Sequence
from dataclasses import dataclass
from datetime import UTC, datetime, timedelta
from functools import partial
from pathlib import Path
from typing import Any

from icekeeper.adapters.iceberg.jvm import IcebergJvm
from icekeeper.adapters.iceberg.proof.footers import Footer, Footers
from icekeeper.adapters.iceberg.tables import Tables
from icekeeper.core.audit.proof import FilesProof
from icekeeper.core.audit.records import BadFile, FileFault
from icekeeper.core.calendar import Window
from icekeeper.core.errors import PermanentError, TransientError
from icekeeper.core.reasons import Reason

# Requests to the store at a time: they wait for it, and hardly for the CPU. S3FileIO has 50 connections.
THREADS = 32
# So many paths are checked before what was read of them is kept.
BATCH = 20_000
_PROVER = "icekeeper.FileProver"
_SOURCE = Path(__file__).with_name("FileProver.java")
_JAVA = 8  # the class file version that Janino writes best; any newer Java runs it
# The formats whose footers hold the number of rows, and deletion vectors' files.
_FOOTERS = frozenset({"PARQUET", "ORC", "PUFFIN"})
_ENCRYPTED = "encrypted"
_MICROSECOND = timedelta(microseconds=1)
# What Iceberg counts event times by. Of nanoseconds there is no whole number in a timedelta.
_UNITS = {"TIMESTAMP": _MICROSECOND, "DATE": timedelta(days=1)}
_DATA = "DATA"


@dataclass(frozen=True, slots=True)
class PlannedFile:
    """A file of a scan by its manifest. `offset`: where its deletion vector begins; -1 for a whole file.

    `first` and `last`: bounds of its event times, as Iceberg counts them; None where the manifest has none.
    """

    path: str
    offset: int
    partition: str
    content: str
    format: str
    bytes: int
    records: int
    encrypted: bool
    first: int | None = None
    last: int | None = None

    @property
    def footer(self) -> Footer:
        return self.path, self.bytes, self.offset

    @property
    def countable(self) -> bool:
        """Whether its rows can be counted without reading them."""
        return self.format in _FOOTERS and not self.encrypted


@dataclass(frozen=True, slots=True)
class FileAnswer:
    """What the JVM found of the file with this number. `fault` is a FileFault's word, `encrypted`, or None."""

    number: int
    fault: str | None
    records: int | None
    bytes: int | None
    text: str | None


def prove_files(
    jvm: IcebergJvm, tables: Tables, footers: Footers, table: str, timestamp: str, window: Window
) -> FilesProof:
    """Plans the window's scan at the current snapshot, and checks every file of it. Raises the store's errors."""
    handle = tables.handle(jvm, table)
    snapshot_id = jvm.current_id(handle)
    if snapshot_id is None:
        return FilesProof(None)
    prover = _prover(jvm, handle)
    field = _event_time(handle, timestamp)
    prover.plan(_scan(jvm, handle, field, window), field.fieldId())
    proof = _prove(jvm, prover, footers, snapshot_id, str(field.type().typeId()))
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


def _prove(jvm: IcebergJvm, prover: Any, footers: Footers, snapshot_id: int, counted_as: str = "") -> FilesProof:
    """`counted_as`: the type of the event time."""
    planned = [PlannedFile(*row) for row in json.loads(jvm.written_by(prover.describe))]
    known = footers.records(file.footer for file in planned if file.countable)
    # One that would be called bad by what is known is read again.
    unproven = [n for n, file in enumerate(planned) if file.countable and known.get(file.footer) != file.records]
    read = ",".join(map(str, unproven))
    answers: list[FileAnswer] = []
    for first in range(0, prover.paths(), BATCH):
        ask = partial(prover.prove, read, first, BATCH, THREADS)
        some = [FileAnswer(*row) for row in json.loads(jvm.written_by(ask))]
        # What was read is kept even if the next batch fails: a large window is proven by several attempts.
        footers.keep(
            {planned[one.number].footer: one.records for one in some if one.records is not None and not one.fault}
        )
        answers += some
    proof, counted = weigh(snapshot_id, planned, known, answers, counted_as)
    footers.keep(counted)
    return proof


def weigh(
    snapshot_id: int,
    planned: Sequence[PlannedFile],
    known: dict[Footer, int],
    answers: Iterable[FileAnswer],
    counted_as: str = "",
) -> tuple[FilesProof, dict[Footer, int]]:
    """What the answers mean, and the rows of the files whose footers are known now. Pure."""
    found = {answer.number: answer for answer in answers}
    by_length: Counter[str] = Counter()
    counted: dict[Footer, int] = {}
    bad: list[BadFile] = []
    listed: set[str] = set()
    for number, file in enumerate(planned):
        answer = found.get(number)
        if answer is not None and answer.fault not in (None, _ENCRYPTED):
            bad.append(_bad(file, counted_as, FileFault(answer.fault), answer.records, answer.bytes, answer.text))
            continue
        records = _records(file, known, answer)
        if records is None:
            by_length[_ENCRYPTED if file.format in _FOOTERS else file.format.lower()] += 1
        else:
            counted[file.footer] = records
        if records is not None and records != file.records:
            bad.append(_bad(file, counted_as, FileFault.COUNT, records))
        elif file.content == _DATA and file.path in listed:
            bad.append(_bad(file, counted_as, FileFault.LISTED_TWICE, records))
        listed.add(file.path)
    read = sum(answer.fault is None for answer in found.values())
    return FilesProof(snapshot_id, len(planned), read, dict(by_length), tuple(bad)), counted


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


def _event_time(handle: Any, column: str) -> Any:
    field = handle.schema().caseInsensitiveFindField(column)
    if field is None:
        raise PermanentError(f"it has no column {column!r}", reason=Reason.UNEXPECTED, where=str(handle.name()))
    return field


def _scan(jvm: IcebergJvm, handle: Any, field: Any, window: Window) -> Any:
    """The scan that Spark would make of the window at the current snapshot, with the bounds of its event times."""
    expressions = jvm.iceberg.expressions.Expressions
    column, kind = handle.schema().findColumnName(field.fieldId()), field.type()
    scan = handle.newScan().includeColumnStats(jvm.java.util.Collections.singleton(column))
    name = str(kind.typeId())
    if name.startswith("TIMESTAMP"):
        bounds = (instant.astimezone(UTC) for instant in (window.start, window.end))
        zone = UTC if kind.shouldAdjustToUTC() else None
        low, high = (bound.replace(tzinfo=zone).isoformat() for bound in bounds)
    elif name == "DATE":
        low, high = f"{window.start:%Y-%m-%d}", f"{window.end - timedelta(microseconds=1) + timedelta(days=1):%Y-%m-%d}"
    else:  # Spark has to read every file
        return scan
    return scan.filter(
        getattr(expressions, "and")(expressions.greaterThanOrEqual(column, low), expressions.lessThan(column, high))
    )


def _prover(jvm: IcebergJvm, handle: Any) -> Any:
    """A FileProver of the table, without files."""
    constructor = jvm.once(_PROVER, lambda: _compiled(jvm).getConstructors()[0])
    return constructor.newInstance(jvm.array(jvm.lang.Object, (handle,)))


def _compiled(jvm: IcebergJvm) -> Any:
    """The class FileProver, compiled by Janino, the compiler that Spark has for its queries.

    Once a JVM: py4j remembers methods by the name of their class, and a second class would get those of the first.
    """
    spark: Any = jvm.spark._jvm
    compiler = spark.org.codehaus.janino.SimpleCompiler()
    compiler.setTargetVersion(_JAVA)
    compiler.setParentClassLoader(jvm.lang.Thread.currentThread().getContextClassLoader())
    compiler.cook(_SOURCE.read_text(encoding="utf-8"))
    return compiler.getClassLoader().loadClass(_PROVER)


def require_snapshot(jvm: IcebergJvm, tables: Tables, table: str, snapshot_id: int) -> None:
    """TransientError where the snapshot was expired meanwhile: then its files may be missing rightly."""
    if tables.handle(jvm, table).snapshot(snapshot_id) is None:
        raise TransientError("its snapshot was expired while it was audited", reason=Reason.CONFLICT, where=table)
