"""What answers about files mean: proven, proven by length, bad; the verdict on bad ones; footers kept on disk."""

from __future__ import annotations

import sqlite3
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest

from icekeeper.adapters.iceberg.proof.files import weigh
from icekeeper.adapters.iceberg.proof.footers import Footer, Footers
from icekeeper.adapters.iceberg.proof.reading import FileAnswer, PlannedFile
from icekeeper.adapters.iceberg.rows.counting import naming_files
from icekeeper.core.audit.proof import FilesProof, judge_files
from icekeeper.core.audit.records import BadFile, FileFault
from icekeeper.core.enums import AuditStatus, Proof
from icekeeper.core.errors import PermanentError, UnreadableFiles
from icekeeper.core.reasons import Reason

DATA = PlannedFile("s3://w/t/a.parquet", -1, "day=17", "DATA", "PARQUET", 1000, 100, False)
VECTOR = PlannedFile("s3://w/t/a.puffin", 4, "day=17", "POSITION_DELETES", "PUFFIN", 50, 7, False)
SNAPSHOT = 12


def answered(
    number: int = 0, fault: str | None = None, records: int | None = None, length: int | None = None
) -> FileAnswer:
    return FileAnswer(number, fault, records, length, "a text" if fault == "unreadable" else None)


@pytest.mark.parametrize(
    ("file", "known", "answer", "fault"),
    [
        (DATA, None, answered(records=100), None),
        (DATA, 100, None, None),
        (DATA, None, answered(records=99), FileFault.COUNT),
        (DATA, None, answered(records=101), FileFault.COUNT),
        # The same file under a manifest that claims something else by now.
        (replace(DATA, records=900), 100, None, FileFault.COUNT),
        (DATA, 100, answered(fault="missing"), FileFault.MISSING),
        (DATA, None, answered(fault="missing"), FileFault.MISSING),
        (DATA, 100, answered(fault="length", length=500), FileFault.LENGTH),
        (DATA, None, answered(fault="unreadable"), FileFault.UNREADABLE),
        (DATA, None, answered(fault="schema_mismatch", records=100), FileFault.SCHEMA),
        (replace(DATA, misfit="the required column v holds 1 null"), 100, None, FileFault.SCHEMA),
        (VECTOR, None, answered(records=7), None),
        (VECTOR, 7, None, None),
        (VECTOR, None, answered(fault="count"), FileFault.COUNT),
    ],
)
def test_a_file_is_bad_only_if_it_is_not_what_its_manifest_says(
    file: PlannedFile, known: int | None, answer: FileAnswer | None, fault: FileFault | None
) -> None:
    before: dict[Footer, int] = {} if known is None else {file.footer: known}
    proof, counted = weigh(SNAPSHOT, [file], before, [] if answer is None else [answer])

    assert [bad.fault for bad in proof.bad] == ([] if fault is None else [fault])
    assert (proof.snapshot_id, proof.files, proof.proof) == (SNAPSHOT, 1, Proof.FILES)
    assert proof.read == (1 if answer is not None and answer.fault is None else 0)
    # Rows that were counted are kept, right or wrong: the next audit compares them again.
    assert counted == ({file.footer: 100 if file.path == DATA.path else 7} if fault is None else counted)
    if fault in (FileFault.MISSING, FileFault.LENGTH, FileFault.UNREADABLE):
        assert counted == {}


@pytest.mark.parametrize(
    ("file", "answer", "kind"),
    [
        (replace(DATA, format="AVRO"), None, "avro"),
        (replace(DATA, encrypted=True), None, "encrypted"),
        (DATA, answered(fault="encrypted", records=-1), "encrypted"),
    ],
)
def test_rows_that_a_footer_does_not_say_leave_a_proof_by_length(
    file: PlannedFile, answer: FileAnswer | None, kind: str
) -> None:
    proof, counted = weigh(SNAPSHOT, [file, VECTOR], {VECTOR.footer: 7}, [] if answer is None else [answer])

    assert (proof.bad, proof.by_length, proof.proof) == ((), {kind: 1}, Proof.LENGTHS)
    assert proof.note == f"of 1 of 2 files only the length is proven (1 {kind})"
    assert set(counted) == {VECTOR.footer}


def test_a_data_file_that_manifests_list_twice_is_bad_and_a_vectors_file_is_not() -> None:
    other = replace(VECTOR, offset=60)
    known = {DATA.footer: 100, VECTOR.footer: 7, other.footer: 7}
    proof, _ = weigh(SNAPSHOT, [DATA, VECTOR, other, DATA], known, [])

    assert [(bad.path, bad.fault) for bad in proof.bad] == [(DATA.path, FileFault.LISTED_TWICE)]


def test_a_data_file_whose_other_entry_is_of_another_window_is_listed_twice() -> None:
    known = {DATA.footer: 100, VECTOR.footer: 7}
    for planned, twice, found in (
        ([DATA, VECTOR], (DATA.path, "s3://w/another.parquet"), 1),
        ([DATA, DATA], (DATA.path,), 1),
        ([DATA, DATA, DATA], (DATA.path,), 2),
        ([DATA], (), 0),
    ):
        proof, _ = weigh(SNAPSHOT, planned, known, [], twice=twice)
        assert [bad.fault for bad in proof.bad] == [FileFault.LISTED_TWICE] * found


@pytest.mark.parametrize("change", [{"format": "AVRO"}, {"encrypted": True}])
def test_a_data_file_that_is_listed_twice_is_bad_though_no_footer_says_its_rows(change: dict[str, Any]) -> None:
    file = replace(DATA, **change)
    proof, _ = weigh(SNAPSHOT, [file, file], {}, [])
    assert [(bad.fault, bad.rows_found) for bad in proof.bad] == [(FileFault.LISTED_TWICE, None)]


LOGGED = "26/02/18 02:00:00 ERROR BaseReader: Error reading file(s): s3://w/a b.parquet, s3://w/d.puffin\nat x\n"


@pytest.mark.parametrize(
    ("text", "reason", "log", "becomes"),
    [
        ("IndexOutOfBoundsException: 9", Reason.UNEXPECTED, LOGGED, Reason.FILE_CORRUPT),
        ("NegativeArraySizeException: -3", Reason.UNEXPECTED, LOGGED, Reason.FILE_CORRUPT),
        ("ParquetDecodingException: a page", Reason.FILE_CORRUPT, LOGGED, Reason.FILE_CORRUPT),
        # Spark's readers log the file with any error: most say nothing of what is in it.
        ("UnsupportedOperationException: Cannot support it", Reason.UNEXPECTED, LOGGED, Reason.UNEXPECTED),
        ("ClassCastException: a long", Reason.UNEXPECTED, LOGGED, Reason.UNEXPECTED),
        ("IndexOutOfBoundsException: 9", Reason.UNEXPECTED, "", Reason.UNEXPECTED),
        ("StorageException: no answer", Reason.STORAGE_DOWN, LOGGED, Reason.STORAGE_DOWN),
    ],
)
def test_an_error_of_a_reader_names_its_files_and_is_their_fault_only_if_their_bytes_explain_it(
    text: str, reason: Reason, log: str, becomes: Reason
) -> None:
    error = naming_files(PermanentError(text, reason=reason, where="cold.t"), log)
    assert error.reason is becomes
    assert ("it could not read s3://w/a b.parquet, s3://w/d.puffin" in str(error)) == (
        log != "" and reason is not Reason.STORAGE_DOWN
    )


_DAMAGED = (
    "26/02/18 02:00:00 ERROR BaseReader: Error reading file(s): s3://w/a.parquet\n"
    "java.lang.RuntimeException: s3://w/a.parquet is not a Parquet file\n"
    "\tat org.apache.spark.InterruptibleIterator.hasNext(InterruptibleIterator.scala:37)\n"
    "Caused by: java.io.IOException: expected magic number\n\t... 12 more\n"
)
_STOPPED = "26/02/18 02:00:01 ERROR BaseReader: Error reading file(s): s3://w/b.parquet\n"


@pytest.mark.parametrize(
    "exception",
    [
        "software.amazon.awssdk.core.exception.AbortedException: Thread was interrupted (SDK Attempt Count: 1)",
        "java.util.concurrent.CancellationException",
        "java.lang.IllegalStateException: closed\n\tat a.B.c(B.java:1)\nCaused by: java.io.InterruptedIOException: t",
        "java.nio.channels.ClosedByInterruptException",
        "org.apache.spark.TaskKilledException",
    ],
)
def test_a_file_whose_reader_was_stopped_because_another_failed_is_not_named(exception: str) -> None:
    stopped = f"{_STOPPED}{exception}\n\tat org.apache.iceberg.x.Y.z(Y.java:1)\n"
    for log in (_DAMAGED + stopped, stopped + _DAMAGED):
        error = naming_files(PermanentError("RuntimeException: not Parquet", reason=Reason.FILE_CORRUPT), log)
        assert isinstance(error, UnreadableFiles)
        assert error.files == ("s3://w/a.parquet",)
        assert str(error).endswith("it could not read s3://w/a.parquet")


BAD = BadFile(DATA.path, "day=17", "data", FileFault.MISSING, 100, 1000)
FAULTS = {
    FileFault.MISSING: (BAD, Reason.FILE_MISSING, "a.parquet (missing, 100 rows)"),
    FileFault.LENGTH: (
        replace(BAD, fault=FileFault.LENGTH, bytes_found=500),
        Reason.FILE_CORRUPT,
        "a.parquet (500 bytes instead of 1 000, 100 rows)",
    ),
    FileFault.UNREADABLE: (
        replace(BAD, fault=FileFault.UNREADABLE, detail="no footer"),
        Reason.FILE_CORRUPT,
        "a.parquet (unreadable: no footer, 100 rows)",
    ),
    FileFault.COUNT: (
        replace(BAD, fault=FileFault.COUNT, rows=900, rows_found=100),
        Reason.COUNT_MISMATCH,
        "a.parquet (holds 100 rows, its manifest claims 900)",
    ),
    FileFault.LISTED_TWICE: (
        replace(BAD, fault=FileFault.LISTED_TWICE),
        Reason.COUNT_MISMATCH,
        "a.parquet (listed twice, 100 rows)",
    ),
    FileFault.SCHEMA: (
        replace(BAD, fault=FileFault.SCHEMA, detail="the required column v holds 1 null", rows_found=100),
        Reason.SCHEMA_MISMATCH,
        "a.parquet (the required column v holds 1 null)",
    ),
}


@pytest.mark.parametrize("fault", list(FileFault))
def test_each_fault_makes_the_audit_an_error_that_names_the_file(fault: FileFault) -> None:
    bad, reason, named = FAULTS[fault]
    verdict = judge_files(FilesProof(SNAPSHOT, 4, bad=(bad,)))

    assert verdict is not None
    assert (verdict.status, verdict.reason, verdict.delta, verdict.delta_pct) == (AuditStatus.ERROR, reason, None, None)
    assert named in verdict.note
    what = "do not fit the table's schema" if fault is FileFault.SCHEMA else "are not what their manifests say"
    assert f"1 of 4 files of the window {what}, with {bad.rows} rows" in verdict.note


def test_of_several_faults_the_worst_is_the_reason_and_the_first_files_are_named() -> None:
    files = [replace(BAD, path=f"{number}.parquet", fault=FileFault.COUNT, rows_found=7) for number in range(4)]
    deletes = replace(BAD, path="d.puffin", content="position_deletes", rows=5)
    verdict = judge_files(FilesProof(SNAPSHOT, 9, bad=(*files, deletes)))

    assert verdict is not None
    assert verdict.reason is Reason.FILE_MISSING
    assert "5 of 9 files" in verdict.note
    assert "with 400 rows by these manifests" in verdict.note  # deleted rows are none that are missing
    assert verdict.note.endswith("2.parquet (holds 7 rows, its manifest claims 100) and 2 more")


def test_files_without_a_fault_give_no_verdict() -> None:
    assert judge_files(FilesProof(None)) is None
    assert judge_files(FilesProof(SNAPSHOT, 3, 1, {"avro": 1})) is None


def footers_of(*numbers: int) -> dict[Footer, int]:
    return {(f"s3://w/{number}.parquet", 1000 + number, -1): number for number in numbers}


def test_a_footer_is_known_by_path_length_and_place(tmp_path: Path) -> None:
    footers = Footers(tmp_path)
    path = DATA.path
    assert footers.records([DATA.footer]) == {}
    assert not footers.path.exists()  # asking makes no file

    footers.keep({(path, 1000, -1): 100, (path, 1000, 4): 7})

    same = Footers(tmp_path)
    assert same.records([(path, 1000, -1), (path, 1000, 4)]) == {(path, 1000, -1): 100, (path, 1000, 4): 7}
    assert same.records([(path, 999, -1), (path, 1000, 5), (f"{path}x", 1000, -1)]) == {}
    assert footers.path.stat().st_mode & 0o077 == 0


def test_footers_are_bounded_and_those_unused_for_longest_go_first(tmp_path: Path) -> None:
    footers = Footers(tmp_path, most=1000)
    footers.keep(footers_of(*range(700)))
    footers.keep(footers_of(*range(700, 900)))
    footers.keep(footers_of(*range(100)))  # asked for again

    footers.keep(footers_of(*range(900, 1200)))

    left = footers.records(footers_of(*range(1200)))
    assert len(left) == 1000
    assert left.keys() >= footers_of(*range(100), *range(700, 1200)).keys()
    assert left == {footer: footer[1] - 1000 for footer in left}


@pytest.mark.parametrize("damage", ["torn", "empty", "text", "directory", "other table"])
def test_a_file_of_footers_that_is_damaged_costs_no_more_than_reading_again(tmp_path: Path, damage: str) -> None:
    footers = Footers(tmp_path)
    footers.keep(footers_of(*range(300)))
    whole = footers.path.read_bytes()
    footers.path.unlink()
    if damage == "directory":
        footers.path.mkdir()
    elif damage == "other table":
        with sqlite3.connect(footers.path) as db:
            db.execute("CREATE TABLE footers (something TEXT)")
        db.close()
    else:
        body = {"torn": whole[: len(whole) // 2], "empty": b"", "text": b"this is no database" * 100}
        footers.path.write_bytes(body[damage])

    found = footers.records(footers_of(*range(300)))
    footers.keep(footers_of(1, 2))

    assert found.items() <= footers_of(*range(300)).items()
    footers.keep(footers_of(1, 2))  # the damaged file is gone by now
    if damage != "directory":
        assert footers.records(footers_of(1, 2)) == footers_of(1, 2)
