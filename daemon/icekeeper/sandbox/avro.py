"""Encodes Iceberg's manifests and manifest lists as Avro files.

pyiceberg's own writers spend 3 ms a file on headers, and a manifest list costs one encoding per manifest per commit,
which grows with the square of the commits. Here a header is built once per table and a record is encoded once.
"""

from __future__ import annotations

import io
import json
import os
import zlib
from collections.abc import Iterable, Mapping

from pyiceberg.avro.encoder import BinaryEncoder
from pyiceberg.avro.resolver import resolve_writer
from pyiceberg.schema import Schema
from pyiceberg.typedef import Record
from pyiceberg.utils.schema_conversion import AvroSchemaConversion


class AvroFormat:
    """One kind of Avro file: its schema, and records and files of it."""

    def __init__(self, name: str, file_schema: Schema, record_schema: Schema) -> None:
        self._schema_json = json.dumps(AvroSchemaConversion().iceberg_to_avro(file_schema, schema_name=name))
        self._writer = resolve_writer(record_schema=record_schema, file_schema=file_schema)

    def encode(self, record: Record) -> bytes:
        """One record's bytes, the same at any place of a file."""
        buffer = io.BytesIO()
        self._writer.write(BinaryEncoder(buffer), record)
        return buffer.getvalue()

    def file(self, records: Iterable[bytes], metadata: Mapping[str, str]) -> bytes:
        """A whole file of encoded records, in one deflated block."""
        parts = list(records)
        entries = {**metadata, "avro.schema": self._schema_json, "avro.codec": "deflate"}
        deflate = zlib.compressobj(level=1, wbits=-15)
        block = deflate.compress(b"".join(parts)) + deflate.flush()
        sync = os.urandom(16)
        header = b"".join(_bytes(key.encode()) + _bytes(value.encode()) for key, value in entries.items())
        return b"".join(
            (b"Obj\x01", _long(len(entries)), header, b"\0", sync, _long(len(parts)), _long(len(block)), block, sync)
        )


def _long(value: int) -> bytes:
    """Avro's zig-zag variable-length integer."""
    rest = (value << 1) ^ (value >> 63)
    encoded = bytearray()
    while rest & ~0x7F:
        encoded.append((rest & 0x7F) | 0x80)
        rest >>= 7
    encoded.append(rest)
    return bytes(encoded)


def _bytes(value: bytes) -> bytes:
    return _long(len(value)) + value
