"""What a count of Iceberg rests on, and what files that fail the proof mean. Reading files: adapters/iceberg/proof."""

from __future__ import annotations

from collections.abc import Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass, field
from datetime import datetime, timedelta

from icekeeper.core.audit.records import MOST_FINDINGS, BadFile, Explanation, FileFault, Finding, FindingKind, Verdict
from icekeeper.core.calendar import Window
from icekeeper.core.enums import AuditStatus, Proof
from icekeeper.core.formats import counted, listed, number
from icekeeper.core.reasons import Reason

# How many bad files a note names; the others are counted.
_NAMED = 3
_MINUTE, _MICROSECOND = timedelta(minutes=1), timedelta(microseconds=1)


@dataclass(frozen=True, slots=True)
class FilesProof:
    """What was found of the files that a window's scan plans at one snapshot (None: the table has none yet).

    `files` data and delete files were checked, `read` of them for the first time. `by_length`: how many of them are
    proven by their length only, by what keeps their rows from being counted (avro, encrypted). `digest`: of which files
    these are, and what their manifests say of them; None where they are not a window's, or there is no snapshot.
    """

    snapshot_id: int | None
    files: int = 0
    read: int = 0
    by_length: Mapping[str, int] = field(default_factory=dict)
    bad: tuple[BadFile, ...] = ()
    digest: str | None = None

    @property
    def bad_rows(self) -> int | None:
        """The rows of the bad data files, by their manifests; None where no file is bad."""
        return sum(file.rows for file in self.bad if file.content == "data") if self.bad else None

    @property
    def proof(self) -> Proof:
        """The weakest proof of any of them."""
        return Proof.LENGTHS if self.by_length else Proof.FILES

    @property
    def note(self) -> str:
        """What could not be proven, in a clause; empty where all was."""
        if not self.by_length:
            return ""
        kinds = ", ".join(f"{count} {kind}" for kind, count in sorted(self.by_length.items()))
        return f"of {sum(self.by_length.values())} of {counted(self.files, 'file')} only the length is proven ({kinds})"


# The worst first: it gives the audit its reason.
_REASONS = {
    FileFault.MISSING: Reason.FILE_MISSING,
    FileFault.LENGTH: Reason.FILE_CORRUPT,
    FileFault.UNREADABLE: Reason.FILE_CORRUPT,
    FileFault.COUNT: Reason.COUNT_MISMATCH,
    FileFault.LISTED_TWICE: Reason.COUNT_MISMATCH,
    FileFault.SCHEMA: Reason.SCHEMA_MISMATCH,
}


FILE_REASONS = frozenset(_REASONS.values())


def judge_files(proof: FilesProof) -> Verdict | None:
    """The verdict of an audit whose files fail the proof, None where none of them does."""
    if not proof.bad:
        return None
    faults = {file.fault for file in proof.bad}
    reason = next(reason for fault, reason in _REASONS.items() if fault in faults)
    what = "do not fit the table's schema" if faults == {FileFault.SCHEMA} else "are not what their manifests say"
    note = (
        f"{len(proof.bad)} of {counted(proof.files, 'file')} of the window {what}, with "
        f"{counted(proof.bad_rows or 0, 'row')} by these manifests: {named_files(proof.bad)}"
    )
    return Verdict(AuditStatus.ERROR, reason, None, None, note)


def named_files(bad: Iterable[BadFile]) -> str:
    """The first of them with what is wrong, and how many more there are."""
    return listed((f"{file.path} ({_wrong(file)})" for file in bad), most=_NAMED)


def _wrong(file: BadFile) -> str:
    """What is wrong with it, in a few words."""
    what = "" if file.content == "data" else f"{file.content.replace('_', ' ')}, "
    if file.fault is FileFault.MISSING:
        return f"{what}missing, {counted(file.rows, 'row')}"
    if file.fault is FileFault.LENGTH:
        found = "another length" if file.bytes_found is None else f"{number(file.bytes_found)} bytes"
        return f"{what}{found} instead of {number(file.bytes)}, {counted(file.rows, 'row')}"
    if file.fault is FileFault.UNREADABLE:
        return f"{what}unreadable: {file.detail}, {counted(file.rows, 'row')}"
    if file.fault is FileFault.LISTED_TWICE:
        return f"listed twice, {counted(file.rows, 'row')}"
    if file.fault is FileFault.SCHEMA or file.rows_found is None:
        return f"{what}{file.detail}"
    return f"{what}holds {counted(file.rows_found, 'row')}, its manifest claims {file.rows}"


# --- findings


def findings_of_files(
    window: Window, bad: Sequence[BadFile], clickhouse: Mapping[datetime, int] | None
) -> tuple[Finding, ...]:
    """The findings of a window's bad files, those that share a time as one; `clickhouse`: its rows by the minute.

    Rows of a file that is listed twice are there twice: it has findings of its own.
    """
    twice = [file for file in bad if file.fault is FileFault.LISTED_TWICE]
    others = [file for file in bad if file.fault is not FileFault.LISTED_TWICE]
    return (
        *_findings_of_files(FindingKind.FILE, window, others, clickhouse),
        *_findings_of_files(FindingKind.DUPLICATE, window, twice, clickhouse),
    )


def _findings_of_files(
    kind: FindingKind, window: Window, bad: Sequence[BadFile], clickhouse: Mapping[datetime, int] | None
) -> Iterator[Finding]:
    groups: list[tuple[Window, list[BadFile]]] = []
    spans = [(_span_of(file, window), file) for file in bad]
    known = [(part, file) for part, file in spans if part is not None]
    for part, file in sorted(known, key=lambda one: one[0].start):
        if groups and (part.start <= groups[-1][0].end or len(groups) == MOST_FINDINGS):
            before, files = groups[-1]
            groups[-1] = Window(before.start, max(before.end, part.end)), [*files, file]
        else:
            groups.append((part, [file]))
    if others := [file for part, file in spans if part is None]:
        groups.append((window, others))
    for part, files in groups:
        rows = sum(file.rows for file in files if file.content == "data")
        yield _finding_of_files(kind, part, tuple(file.path for file in files), rows, clickhouse)


def finding_of_unreadable(window: Window, files: tuple[str, ...], clickhouse: Mapping[datetime, int] | None) -> Finding:
    """The finding of files whose rows can't be read, as far as they are known: how many rows these are is not."""
    return _finding_of_files(FindingKind.FILE, window, files, 0, clickhouse)


def _span_of(file: BadFile, window: Window) -> Window | None:
    """The minutes of the window that the file's rows may be of; None where its manifest does not say."""
    if file.first is None or file.last is None or file.first >= window.end or file.last < window.start:
        return None
    start, last = (
        min(max(instant, window.start), window.end - _MICROSECOND).replace(second=0, microsecond=0)
        for instant in (file.first, file.last)
    )
    return Window(max(start, window.start), min(last + _MINUTE, window.end))


def _finding_of_files(
    kind: FindingKind, part: Window, files: tuple[str, ...], rows: int, clickhouse: Mapping[datetime, int] | None
) -> Finding:
    held = None if clickhouse is None else _within(clickhouse, part)
    evidence = counted(len(files), "file") if files else "files that are not known"
    if len(files) > MOST_FINDINGS:
        evidence = f"{evidence}, {MOST_FINDINGS} of them named"
    return Finding(
        kind,
        part.start,
        part.end,
        rows,
        clickhouse=held,
        explanation=Explanation.BAD_FILE,
        evidence=evidence if held is None else f"{evidence}; ClickHouse holds {counted(held, 'row')} of that time",
        files=files[:MOST_FINDINGS],
    )


def _within(rows: Mapping[datetime, int], part: Window) -> int:
    start = part.start.replace(second=0, microsecond=0)
    return sum(count for minute, count in rows.items() if start <= minute < part.end)
