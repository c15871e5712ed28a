"""spark.log: it holds everything from a pipe, its size is bounded, and its last lines can be attached to a task."""

from __future__ import annotations

import os
from collections.abc import Iterator
from pathlib import Path

import pytest

from icekeeper.adapters.spark import log as spark_log
from icekeeper.adapters.spark.log import OLDER_FILES, TAIL_CHARACTERS, TAIL_LINES, SparkLog


class Jvm:
    """One end of a pipe; the log has the other."""

    def __init__(self, log: SparkLog) -> None:
        reading, self._writing = os.pipe()
        log.follow(os.fdopen(reading, "rb", buffering=0))
        self.up = True

    def say(self, text: str) -> None:
        os.write(self._writing, text.encode())

    def leave(self) -> None:
        if self.up:
            os.close(self._writing)
        self.up = False


@pytest.fixture
def log(tmp_path: Path) -> SparkLog:
    return SparkLog(tmp_path / "spark.log")


@pytest.fixture
def jvm(log: SparkLog) -> Iterator[Jvm]:
    made = Jvm(log)
    yield made
    made.leave()


def test_output_is_there_the_moment_it_is_asked_for(log: SparkLog, jvm: Jvm) -> None:
    jvm.say("before\n")
    mark = log.mark()
    assert log.since(mark) == ""
    jvm.say("ERROR TaskSetManager: lost\n")
    assert log.since(mark) == "ERROR TaskSetManager: lost"
    assert log.path.read_text() == "before\nERROR TaskSetManager: lost\n"


def test_only_the_last_lines_are_returned_and_no_secret(log: SparkLog, jvm: Jvm) -> None:
    mark = log.mark()
    for number in range(500):
        jvm.say(f"line {number} s3.secret-access-key=geheim\n")
    tail = log.since(mark)
    assert len(tail.splitlines()) == TAIL_LINES
    assert tail.endswith("line 499 s3.secret-access-key=***")
    jvm.say("x" * 50_000)
    assert len(log.since(mark)) == TAIL_CHARACTERS


def test_the_words_of_a_jvm_that_died_and_of_the_next_one_follow_each_other(log: SparkLog, jvm: Jvm) -> None:
    mark = log.mark()
    jvm.say("OutOfMemoryError\n")
    jvm.leave()
    assert log.since(mark) == "OutOfMemoryError"
    second = Jvm(log)
    second.say("up\n")
    assert log.since(mark) == "OutOfMemoryError\nup"
    second.leave()


def test_a_log_that_runs_away_stays_bounded_and_its_end_is_kept(
    log: SparkLog, jvm: Jvm, monkeypatch: pytest.MonkeyPatch, tmp_path: Path
) -> None:
    monkeypatch.setattr(spark_log, "LARGEST", 10_000)
    for number in range(200):
        jvm.say(f"{number:04} {'x' * 994}\n")
        log.mark()
    files = {file.name: file.stat().st_size for file in tmp_path.iterdir()}
    assert set(files) <= {"spark.log", *(f"spark.log.{number}" for number in range(1, OLDER_FILES + 1))}
    assert files["spark.log.4"]
    assert max(files.values()) <= 10_000
    assert "0199 x" in log.path.read_text()
    assert "0189 x" in (tmp_path / "spark.log.1").read_text()


def test_a_file_that_was_renamed_is_created_again(log: SparkLog, jvm: Jvm, tmp_path: Path) -> None:
    jvm.say("one\n")
    log.mark()
    log.path.rename(tmp_path / "elsewhere")
    jvm.say("two\n")
    log.mark()
    assert log.path.read_text() == "two\n"


def test_a_full_disk_does_not_block_the_jvm(tmp_path: Path) -> None:
    log = SparkLog(tmp_path / "no such directory" / "spark.log")
    jvm = Jvm(log)
    mark = log.mark()
    for _ in range(300):  # more than a pipe holds
        jvm.say("x" * 999 + "\n")
        log.mark()
    assert log.since(mark)
    jvm.leave()
