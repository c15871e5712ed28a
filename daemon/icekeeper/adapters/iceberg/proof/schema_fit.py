"""Whether the files that a rewrite would replace fit their table's schema. In the JVM: SchemaFit.java, FileProver.java.

Null counts come from manifests, types and field ids from footers of Parquet files; each of those is read once. An ORC
file fits only if its manifest has null counts of all required columns. Of an Avro file, for which Iceberg itself writes
none, nothing is known: it is taken to fit.
"""

from __future__ import annotations

import json
from collections import defaultdict
from collections.abc import Mapping, Sequence
from typing import Any

from icekeeper.adapters.iceberg.jvm import IcebergJvm
from icekeeper.adapters.iceberg.proof.compiled import FILE_PROVER, SCHEMA_FIT, new_instance
from icekeeper.adapters.iceberg.proof.footers import Footer, Footers
from icekeeper.adapters.iceberg.proof.reading import PlannedFile, planned_files, read_footers
from icekeeper.core.audit.records import FileFault

_PARQUET, _AVRO = "PARQUET", "AVRO"
_ENCRYPTED = "encrypted"


def schema_fit(jvm: IcebergJvm, handle: Any) -> Any:
    """A SchemaFit of the table: files are chosen with it."""
    return new_instance(jvm, SCHEMA_FIT, handle)


def unfit_files(jvm: IcebergJvm, footers: Footers, handle: Any, fit: Any) -> Mapping[str, tuple[str, ...]]:
    """The chosen files that do not fit, each with what does not, by the partition under which they were chosen.

    Raises the store's errors; a file that is missing or damaged is another matter.
    """
    prover = new_instance(jvm, FILE_PROVER, handle)
    prover.planChosen(None, fit)
    planned = planned_files(jvm, prover)
    known = footers.records(key for file in planned for key in (file.footer, _fits(file)))
    if all(_is_known(file, known) for file in planned):
        return {}
    prover = new_instance(jvm, FILE_PROVER, handle)
    prover.planChosen(handle.newScan().includeColumnStats(), fit)
    planned = planned_files(jvm, prover)
    misfits = {number: misfit for number, file in enumerate(planned) if (misfit := _by_manifest(file)) is not None}
    unseen = [number for number, file in enumerate(planned) if number not in misfits and not _is_known(file, known)]
    misfits |= _by_footers(jvm, prover, footers, planned, unseen)
    found: dict[str, list[str]] = defaultdict(list)
    for number, misfit in sorted(misfits.items()):
        found[planned[number].partition].append(f"{planned[number].path} ({misfit})")
    return {partition: tuple(files) for partition, files in found.items()}


def listed_twice(fit: Any, paths: Sequence[str]) -> Mapping[str, tuple[str, ...]]:
    """The chosen files that the manifests list more than once, by the partitions under which they were chosen.

    `paths`: of the table's files that are listed more than once, also where no other entry is chosen.
    """
    found: dict[str, list[str]] = defaultdict(list)
    for partition, path in json.loads(fit.listedTwice(json.dumps(paths))):
        found[partition].append(path)
    return {partition: tuple(files) for partition, files in found.items()}


def _is_readable(file: PlannedFile) -> bool:
    """Whether its footer says what it holds."""
    return file.format == _PARQUET and not file.encrypted


def _is_known(file: PlannedFile, known: Mapping[Footer, int]) -> bool:
    """Whether it was found to fit before: an audit looks for that in readable footers alone."""
    return _fits(file) in known or (_is_readable(file) and file.footer in known)


def _by_manifest(file: PlannedFile) -> str | None:
    """What does not fit, or may not where no footer can say."""
    return file.misfit or (None if _is_readable(file) or file.format == _AVRO else file.unsure)


def _by_footers(
    jvm: IcebergJvm, prover: Any, footers: Footers, planned: Sequence[PlannedFile], unseen: Sequence[int]
) -> dict[int, str]:
    """What does not fit of these files, and keeps which of them do."""
    readable = [number for number in unseen if _is_readable(planned[number])]
    answers = read_footers(jvm, prover, footers, planned, readable, lengths=False)
    faults = {one.number for one in answers if one.fault is not None}
    footers.keep({_fits(planned[number]): planned[number].records for number in unseen if number not in faults})
    found = {one.number: one.text or "" for one in answers if one.fault == FileFault.SCHEMA}
    encrypted = {one.number: planned[one.number].unsure for one in answers if one.fault == _ENCRYPTED}
    return found | {number: unsure for number, unsure in encrypted.items() if unsure is not None}


def _fits(file: PlannedFile) -> Footer:
    """What a file is known by that fits its schema, also by its manifest alone."""
    return f"fits {file.schema} {file.path}", file.bytes, file.offset
