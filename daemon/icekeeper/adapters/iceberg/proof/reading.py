"""Files as their manifests have them, and what FileProver.java reads of their footers. What that means: files.py."""

from __future__ import annotations

import json
from collections.abc import Iterable, Sequence
from dataclasses import dataclass
from functools import partial
from typing import Any

from icekeeper.adapters.iceberg.jvm import IcebergJvm
from icekeeper.adapters.iceberg.proof.footers import Footer, Footers

# Requests to the store at a time: they wait for it, and hardly for the CPU. S3FileIO has 50 connections.
THREADS = 32
# So many paths are checked before what was read of them is kept.
BATCH = 20_000
# The formats whose footers hold the number of rows, and deletion vectors' files.
FOOTERS = frozenset({"PARQUET", "ORC", "PUFFIN"})


@dataclass(frozen=True, slots=True)
class PlannedFile:
    """A file of a scan by its manifest. `offset`: where its deletion vector begins; -1 for a whole file.

    `first` and `last`: bounds of its event times, as Iceberg counts them; None where the manifest has none.
    `schema`: what identifies the schema that it has to fit; empty where it has not. `misfit`: what does not fit by its
    manifest; `unsure`: which nulls its manifest leaves open.
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
    schema: str = ""
    misfit: str | None = None
    unsure: str | None = None

    @property
    def footer(self) -> Footer:
        """What its footer is known by, with the schema that it fits."""
        return f"{self.schema} {self.path}" if self.schema else self.path, self.bytes, self.offset

    @property
    def countable(self) -> bool:
        """Whether its rows can be counted without reading them."""
        return self.format in FOOTERS and not self.encrypted


@dataclass(frozen=True, slots=True)
class FileAnswer:
    """What the JVM found of the file with this number. `fault` is a FileFault's word, `encrypted`, or None."""

    number: int
    fault: str | None
    records: int | None
    bytes: int | None
    text: str | None


def planned_files(jvm: IcebergJvm, prover: Any) -> list[PlannedFile]:
    """The files of a prover, as they are numbered."""
    return [PlannedFile(*row) for row in json.loads(jvm.written_by(prover.describe))]


def read_footers(
    jvm: IcebergJvm,
    prover: Any,
    footers: Footers,
    planned: Sequence[PlannedFile],
    numbers: Iterable[int],
    *,
    lengths: bool,
) -> list[FileAnswer]:
    """Reads the footers of the files of these numbers, and asks the lengths of the others if `lengths`."""
    read = ",".join(map(str, numbers))
    answers: list[FileAnswer] = []
    for first in range(0, prover.paths(), BATCH):
        ask = partial(prover.prove, read, lengths, first, BATCH, THREADS)
        some = [FileAnswer(*row) for row in json.loads(jvm.written_by(ask))]
        # What was read is kept even if the next batch fails: a large window is proven by several attempts.
        read_well = ((planned[one.number], one.records) for one in some if not one.fault)
        footers.keep(
            {file.footer: records for file, records in read_well if records is not None and file.misfit is None}
        )
        answers += some
    return answers
