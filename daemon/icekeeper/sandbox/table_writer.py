"""Writes one Iceberg table: small Parquet files, and the snapshots that add them, with timestamps in the past.

Registering the table is catalogs.py's. pyiceberg makes the metadata; this module does what it can't: many commits
quickly, and snapshots with a given timestamp instead of the clock's.
"""

from __future__ import annotations

import struct
import uuid
from collections.abc import Callable, Iterable, Mapping, Sequence
from dataclasses import dataclass, replace
from typing import Any, Literal

import pyarrow as pa
import pyarrow.parquet as pq
from pydantic_core import to_json
from pyiceberg.io import FileIO
from pyiceberg.io.pyarrow import parquet_path_to_id_mapping, schema_to_pyarrow
from pyiceberg.manifest import (
    DEFAULT_READ_VERSION,
    MANIFEST_LIST_FILE_SCHEMAS,
    DataFile,
    DataFileContent,
    FileFormat,
    ManifestContent,
    ManifestEntry,
    ManifestEntryStatus,
    ManifestFile,
    construct_partition_summaries,
    data_file_with_partition,
    manifest_entry_schema_with_data_file,
)
from pyiceberg.schema import Schema
from pyiceberg.table.metadata import TableMetadata
from pyiceberg.table.refs import SnapshotRefType
from pyiceberg.table.snapshots import Operation, Snapshot, Summary
from pyiceberg.table.update import AddSnapshotUpdate, SetSnapshotRefUpdate, TableUpdate
from pyiceberg.typedef import Record
from pyiceberg.types import StringType

from icekeeper.sandbox.avro import AvroFormat

Put = Callable[[str, bytes], None]

_FORMAT_VERSION: Literal[2] = 2
_METRICS = "write.metadata.metrics.column"
_MANIFEST_LIST = AvroFormat(
    "manifest_file", MANIFEST_LIST_FILE_SCHEMAS[_FORMAT_VERSION], MANIFEST_LIST_FILE_SCHEMAS[DEFAULT_READ_VERSION]
)


@dataclass(frozen=True)
class Head:
    """A table's last snapshot, with its manifests (encoded) and totals: what the next snapshot continues."""

    snapshot_id: int | None
    sequence_number: int
    timestamp_ms: int
    manifests: tuple[bytes, ...]
    records: int
    files: int
    bytes: int

    @staticmethod
    def of(metadata: TableMetadata, io: FileIO) -> Head:
        """The head of a table by its metadata; reads its manifest list."""
        snapshot = metadata.current_snapshot()
        sequence = metadata.next_sequence_number() - 1
        if snapshot is None:
            return Head(None, sequence, metadata.last_updated_ms, (), 0, 0, 0)
        live = [m for m in snapshot.manifests(io) if m.has_added_files() or m.has_existing_files()]
        summary = snapshot.summary
        totals = summary.additional_properties if summary is not None else {}
        return Head(
            snapshot.snapshot_id,
            sequence,
            max(snapshot.timestamp_ms, metadata.last_updated_ms),
            tuple(_MANIFEST_LIST.encode(manifest) for manifest in live),
            int(totals.get("total-records", 0)),
            int(totals.get("total-data-files", 0)),
            int(totals.get("total-files-size", 0)),
        )


class TableWriter:
    """Writes files and snapshots of one table into a store; it keeps nothing between calls."""

    def __init__(self, metadata: TableMetadata, put: Put) -> None:
        location, schema, spec = metadata.location, metadata.schema(), metadata.spec()
        self._location = location
        self._schema = schema
        self._spec = spec
        self._put = put
        self.arrow_schema: pa.Schema = schema_to_pyarrow(schema, include_field_ids=True)
        self._columns = parquet_path_to_id_mapping(schema)
        self._only_counted = only_counted(schema, metadata.properties)
        self._folders: dict[tuple[Any, ...], str] = {}
        self._texts = [field.name for field in schema.fields if isinstance(field.field_type, StringType)]
        partition_type = spec.partition_type(schema)
        self._manifest = AvroFormat(
            "manifest_entry",
            *(
                manifest_entry_schema_with_data_file(version, data_file_with_partition(partition_type, version))
                for version in (_FORMAT_VERSION, DEFAULT_READ_VERSION)
            ),
        )
        self._manifest_metadata = {
            "schema": schema.model_dump_json(),
            "partition-spec": to_json(spec.fields).decode(),
            "partition-spec-id": str(spec.spec_id),
            "format-version": str(_FORMAT_VERSION),
            "content": "data",
        }

    def write_file(self, rows: pa.Table, partition: tuple[Any, ...]) -> DataFile:
        """Stores one Parquet file with rows of one partition; returns its manifest entry."""
        if not rows.schema.equals(self.arrow_schema, check_metadata=True):
            rows = rows.cast(self.arrow_schema)
        sink = pa.BufferOutputStream()
        with pq.ParquetWriter(
            sink,
            self.arrow_schema,
            compression="zstd",
            compression_level=3,
            use_dictionary=self._texts,
            store_schema=False,
            store_decimal_as_integer=True,
        ) as writer:
            writer.write_table(rows)
        body = sink.getvalue()
        record = Record(*partition)
        folder = self._folders.get(partition)
        if folder is None:
            folder = self._folders[partition] = self._spec.partition_to_path(record, self._schema)
        path = f"{self._location}/data/{folder}/{uuid.uuid4()}.parquet"
        self._put(path, memoryview(body).tobytes())
        return DataFile.from_args(
            content=DataFileContent.DATA,
            file_path=path,
            file_format=FileFormat.PARQUET,
            partition=record,
            file_size_in_bytes=len(body),
            sort_order_id=None,
            spec_id=self._spec.spec_id,
            equality_ids=None,
            key_metadata=None,
            record_count=rows.num_rows,
            **metrics_of(writer.writer.metadata, self._columns, self._only_counted),
        )

    def append(self, head: Head, files: Sequence[DataFile], timestamp_ms: int) -> tuple[Snapshot, Head]:
        """Stores the manifest and the manifest list of one append on top of `head`; it is not committed yet."""
        snapshot_id = uuid.uuid4().int >> 65
        sequence = head.sequence_number + 1
        folder = f"{self._location}/metadata"
        commit = uuid.uuid4()
        manifest_path = f"{folder}/{commit}-m0.avro"
        manifest = self._manifest.file(
            (
                self._manifest.encode(
                    ManifestEntry.from_args(status=ManifestEntryStatus.ADDED, snapshot_id=snapshot_id, data_file=file)
                )
                for file in files
            ),
            self._manifest_metadata,
        )
        self._put(manifest_path, manifest)
        described = self._describe(manifest_path, len(manifest), files, snapshot_id, sequence)
        manifests = (_MANIFEST_LIST.encode(described), *head.manifests)
        list_path = f"{folder}/snap-{snapshot_id}-0-{commit}.avro"
        parent = "null" if head.snapshot_id is None else str(head.snapshot_id)
        list_metadata = {
            "snapshot-id": str(snapshot_id),
            "parent-snapshot-id": parent,
            "sequence-number": str(sequence),
            "format-version": str(_FORMAT_VERSION),
        }
        self._put(list_path, _MANIFEST_LIST.file(manifests, list_metadata))
        added_records = sum(file.record_count for file in files)
        added_bytes = sum(file.file_size_in_bytes for file in files)
        new_head = replace(
            head,
            snapshot_id=snapshot_id,
            sequence_number=sequence,
            timestamp_ms=timestamp_ms,
            manifests=manifests,
            records=head.records + added_records,
            files=head.files + len(files),
            bytes=head.bytes + added_bytes,
        )
        numbers = {
            "added-data-files": len(files),
            "added-records": added_records,
            "added-files-size": added_bytes,
            "changed-partition-count": len({file.partition for file in files}),
            "total-records": new_head.records,
            "total-files-size": new_head.bytes,
            "total-data-files": new_head.files,
            "total-delete-files": 0,
            "total-position-deletes": 0,
            "total-equality-deletes": 0,
        }
        # Field names as in the specification: pyiceberg's Python ones are unknown to a type checker.
        fields: dict[str, Any] = {
            "snapshot-id": snapshot_id,
            "parent-snapshot-id": head.snapshot_id,
            "sequence-number": sequence,
            "timestamp-ms": timestamp_ms,
            "manifest-list": list_path,
            "schema-id": self._schema.schema_id,
            "summary": Summary(Operation.APPEND, **{name: str(number) for name, number in numbers.items()}),
        }
        snapshot = Snapshot(**fields)
        return snapshot, new_head

    def _describe(
        self, path: str, length: int, files: Sequence[DataFile], snapshot_id: int, sequence: int
    ) -> ManifestFile:
        return ManifestFile.from_args(
            manifest_path=path,
            manifest_length=length,
            partition_spec_id=self._spec.spec_id,
            content=ManifestContent.DATA,
            sequence_number=sequence,
            min_sequence_number=sequence,
            added_snapshot_id=snapshot_id,
            added_files_count=len(files),
            existing_files_count=0,
            deleted_files_count=0,
            added_rows_count=sum(file.record_count for file in files),
            existing_rows_count=0,
            deleted_rows_count=0,
            partitions=construct_partition_summaries(self._spec, self._schema, [file.partition for file in files]),
            key_metadata=None,
        )


def only_counted(schema: Schema, properties: Mapping[str, str]) -> frozenset[int]:
    """The fields whose metrics are to be counts without bounds."""
    named = (field for field in schema.fields if properties.get(f"{_METRICS}.{field.name}") == "counts")
    return frozenset(field.field_id for field in named)


def metrics_of(
    footer: pq.FileMetaData, columns: Mapping[str, int], without_bounds: frozenset[int] = frozenset()
) -> dict[str, Any]:
    """A one-row-group file's metrics as a manifest has them, by field id (`columns`: Parquet path to field id).

    The same as pyiceberg's data_file_statistics_from_parquet_metadata with `write.metadata.metrics.default=full`, in a
    sixth of its time. Bounds of nested fields are left out, as Iceberg does.
    """
    group = footer.row_group(0)
    sizes, values, nulls = {}, {}, {}
    lower: dict[int, bytes] = {}
    upper: dict[int, bytes] = {}
    for index in range(group.num_columns):
        column = group.column(index)
        path = column.path_in_schema
        field = columns[path]
        statistics = column.statistics
        sizes[field] = column.total_compressed_size
        values[field] = column.num_values
        nulls[field] = statistics.null_count
        if statistics.has_min_max and "." not in path and field not in without_bounds:
            kind = "DECIMAL" if statistics.logical_type.type == "DECIMAL" else statistics.physical_type
            lower[field] = _bound(kind, statistics.min_raw)
            upper[field] = _bound(kind, statistics.max_raw)
    first = group.column(0)
    start = first.dictionary_page_offset if first.has_dictionary_page else first.data_page_offset
    return {
        "column_sizes": sizes,
        "value_counts": values,
        "null_value_counts": nulls,
        "nan_value_counts": {},
        "lower_bounds": lower,
        "upper_bounds": upper,
        "split_offsets": [start],
    }


def _bound(kind: str, value: Any) -> bytes:
    """Iceberg's single-value serialization (table spec, appendix D) of a value in Parquet's footer."""
    if kind == "DECIMAL":  # as few bytes as hold it
        number = value if isinstance(value, int) else int.from_bytes(value, "big", signed=True)
        return number.to_bytes(((number if number >= 0 else ~number).bit_length() + 8) // 8, "big", signed=True)
    if kind == "INT64":
        return struct.pack("<q", value)
    if kind == "INT32":
        return struct.pack("<i", value)
    if kind == "BOOLEAN":
        return b"\x01" if value else b"\x00"
    return bytes(value)


def updates_for(snapshots: Iterable[Snapshot]) -> tuple[TableUpdate, ...]:
    """The updates that put these snapshots, one on top of the other, on the table's main branch."""
    updates: list[TableUpdate] = []
    for snapshot in snapshots:
        updates.append(AddSnapshotUpdate(snapshot=snapshot))
        fields: dict[str, Any] = {"ref-name": "main", "snapshot-id": snapshot.snapshot_id}
        updates.append(SetSnapshotRefUpdate(type=SnapshotRefType.BRANCH, **fields))
    return tuple(updates)
