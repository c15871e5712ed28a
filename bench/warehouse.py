"""Where the tables of the benchmark are: a JDBC catalog for each store, over a directory or a bucket.

A table is built once, as a base. Who is to change it gets a copy: the same metadata under another name, which costs one
row in the catalog. Afterwards the store is put back: what was written goes, and what was deleted returns.
"""

from __future__ import annotations

import http.client
import itertools
import os
import uuid
from abc import abstractmethod
from collections.abc import Mapping, Sequence
from concurrent.futures import ThreadPoolExecutor
from contextlib import AbstractContextManager, closing, nullcontext
from dataclasses import dataclass
from functools import cached_property
from pathlib import Path
from typing import Any
from urllib.parse import quote, urlsplit

from pyarrow.fs import FileSystem, LocalFileSystem, S3FileSystem
from pyiceberg.catalog.sql import SqlCatalog
from pyiceberg.manifest import DataFile
from pyiceberg.table import Table

from bench.worlds import SHAPE, Body
from icekeeper.sandbox.catalogs import JdbcCatalog, empty_table
from icekeeper.sandbox.servers.postgres import Postgres
from icekeeper.sandbox.servers.s3 import REGION, S3
from icekeeper.sandbox.table_shapes import NAMESPACE
from icekeeper.sandbox.table_writer import Head, Put, TableWriter, updates_for

_HOUR_MS = 3_600_000
_READS = 8


@dataclass(frozen=True, slots=True, eq=False)
class Base:
    """A table that copies are made of. `kept` says where on this disk the bytes of each of its objects are.

    `freed` are the data files that no snapshot refers to once its old ones have expired.
    """

    location: str
    metadata_location: str
    kept: Mapping[str, Path]
    live: frozenset[str]
    freed: frozenset[str]
    rows: int


class Warehouse(JdbcCatalog):
    """A store with its catalog. The benchmark itself reaches the store past the proxy that counts."""

    def __init__(self, name: str, s3: S3, postgres: Postgres, database: str, keep: Path) -> None:
        super().__init__(name, s3, postgres, database)
        self._keep = keep
        self._bodies: dict[str, Path] = {}
        self._numbers = itertools.count(1)

    @abstractmethod
    def client_catalog(self) -> SqlCatalog:
        """The catalog as a rival has it that speaks pyiceberg: through the proxy. Who asked for it closes it."""

    @abstractmethod
    def arrow(self) -> FileSystem:
        """The store as a rival has it that speaks Arrow: through the proxy."""

    @abstractmethod
    def _place(self, body: Path, uri: str, put: Put) -> None:
        """Stores a file of this disk as an object."""

    @abstractmethod
    def _objects(self, location: str) -> set[str]:
        """All objects below a table's location."""

    def _uri(self, path: str) -> str:
        """What `_objects` calls a file that a manifest names."""
        return path

    @abstractmethod
    def _delete(self, uri: str) -> None: ...

    @abstractmethod
    def _read(self, uri: str) -> bytes: ...

    # --- tables

    def table(self, name: str) -> Table:
        """A table as it is now."""
        return self.pyiceberg().load_table((NAMESPACE, name))

    def create(self, name: str, first_ms: int) -> None:
        """Makes an empty table whose first commit is to come at that moment."""
        metadata = empty_table(SHAPE, f"{self._warehouse}/{NAMESPACE}/{name}", first_ms - _HOUR_MS)
        location = f"{metadata.location}/metadata/00000-{uuid.uuid4()}.metadata.json"
        with self.uploads() as put:
            put(location, metadata.model_dump_json().encode())
        self.pyiceberg().register_table((NAMESPACE, name), location)

    def append(self, name: str, commits: Sequence[Sequence[Body]], first_ms: int = 0) -> None:
        """Appends commits a second apart, from the given moment on if the table has none that is younger."""
        table = self.table(name)
        metadata, snapshots = table.metadata, []
        head = Head.of(metadata, table.io)
        with self.uploads() as put:
            writer = TableWriter(metadata, put)
            for number, bodies in enumerate(commits):
                files = [self._added(metadata.location, body, put) for body in bodies]
                at = max(first_ms + 1000 * number, head.timestamp_ms + 1)
                snapshot, head = writer.append(head, files, at)
                snapshots.append(snapshot)
        self.pyiceberg().commit_table(table, (), updates_for(snapshots))

    def _added(self, location: str, body: Body, put: Put) -> DataFile:
        uri = f"{location}/data/{body.folder}/{uuid.uuid4()}.parquet"
        self._place(body.path, uri, put)
        self._bodies[uri] = body.path
        return body.at(uri)

    def as_base(self, name: str) -> Base:
        """The table as it is now, kept so that whatever is deleted of it can be put back."""
        table = self.table(name)
        live = frozenset(self._uri(task.file.file_path) for task in table.scan().plan_files())
        there = self._objects(table.metadata.location)
        kept = {uri: self._bodies.pop(uri) for uri in there & self._bodies.keys()}
        others = sorted(there - kept.keys())
        with ThreadPoolExecutor(_READS) as pool:
            kept.update(zip(others, pool.map(self._fetched, others), strict=True))
        freed = frozenset(uri for uri in kept if uri.endswith(".parquet")) - live
        return Base(table.metadata.location, table.metadata_location, kept, live, freed, table.scan().count())

    def _fetched(self, uri: str) -> Path:
        """A copy of an object on this disk."""
        path = self._keep / uuid.uuid4().hex
        path.write_bytes(self._read(uri))
        return path

    def copy(self, base: Base) -> str:
        """A table with the base's metadata; its name."""
        name = f"t{next(self._numbers)}"
        self.pyiceberg().register_table((NAMESPACE, name), base.metadata_location)
        return name

    def drop(self, name: str) -> None:
        """Forgets a table; its objects stay."""
        self.pyiceberg().drop_table((NAMESPACE, name))

    def left_of(self, base: Base) -> frozenset[str]:
        """Which of the files that an expiry frees are still there."""
        return base.freed & self._objects(base.location)

    def gone_of(self, base: Base) -> frozenset[str]:
        """Which of the base's objects are no longer there."""
        return frozenset(base.kept) - self._objects(base.location)

    def restore(self, base: Base) -> None:
        """Makes the store as it was when the base was built."""
        there = self._objects(base.location)
        for uri in there - base.kept.keys():
            self._delete(uri)
        with self.uploads() as put:
            for uri in base.kept.keys() - there:
                self._place(base.kept[uri], uri, put)


class S3Warehouse(Warehouse):
    """Files on S3; the clients' endpoint is the proxy."""

    def __init__(self, name: str, s3: S3, postgres: Postgres, database: str, keep: Path, endpoint: str) -> None:
        super().__init__(name, s3, postgres, database, keep)
        self.endpoint = endpoint

    @cached_property
    def _files(self) -> S3FileSystem:
        return self._s3.filesystem()

    def settings(self) -> dict[str, Any]:
        document = super().settings()
        document["properties"]["s3.endpoint"] = self.endpoint
        return document

    def client_catalog(self) -> SqlCatalog:
        catalog = self._connect()
        catalog.properties["s3.endpoint"] = self.endpoint
        return catalog

    def arrow(self) -> FileSystem:
        return S3FileSystem(
            access_key=self._s3.access_key,
            secret_key=self._s3.secret_key,
            endpoint_override=self.endpoint,
            region=REGION,
            allow_delayed_open=True,  # a small object goes up in one request
        )

    def _place(self, body: Path, uri: str, put: Put) -> None:
        put(uri, body.read_bytes())

    def _objects(self, location: str) -> set[str]:
        bucket = f"s3://{self._s3.bucket}/"
        return {bucket + key for key in self._s3.list(location.removeprefix(bucket) + "/")}

    def _delete(self, uri: str) -> None:
        path = "/" + quote(uri.removeprefix("s3://"))
        with closing(http.client.HTTPConnection(urlsplit(self._s3.endpoint).netloc, timeout=60)) as connection:
            connection.request("DELETE", path, headers=self._s3.signed("DELETE", path))
            connection.getresponse().read()

    def _read(self, uri: str) -> bytes:
        with self._files.open_input_stream(uri.removeprefix("s3://")) as stream:
            return bytes(stream.readall())


class LocalWarehouse(Warehouse):
    """Files in a directory of this disk."""

    def __init__(self, name: str, s3: S3, postgres: Postgres, database: str, keep: Path, directory: Path) -> None:
        super().__init__(name, s3, postgres, database, keep)
        self._directory = directory

    @property
    def _warehouse(self) -> str:
        return f"file://{self._directory}"

    def settings(self) -> dict[str, Any]:
        document = super().settings()
        properties = document["properties"]
        document["properties"] = {key: properties[key] for key in properties if key.startswith("jdbc.")}
        return document

    def client_catalog(self) -> SqlCatalog:
        return self._connect()

    def arrow(self) -> FileSystem:
        return LocalFileSystem()

    def uploads(self) -> AbstractContextManager[Put]:
        return nullcontext(self._put)

    def _put(self, uri: str, body: bytes) -> None:
        path = _path(uri)
        path.parent.mkdir(parents=True, exist_ok=True)
        path.write_bytes(body)

    def _place(self, body: Path, uri: str, put: Put) -> None:
        path = _path(uri)
        path.parent.mkdir(parents=True, exist_ok=True)
        os.link(body, path)

    def _objects(self, location: str) -> set[str]:
        return {f"file://{path}" for path in _path(location).rglob("*") if path.is_file()}

    def _uri(self, path: str) -> str:
        return f"file://{_path(path)}"

    def _delete(self, uri: str) -> None:
        _path(uri).unlink()

    def _read(self, uri: str) -> bytes:
        return _path(uri).read_bytes()


def path_in_store(uri: str) -> str:
    """Of an object, as a warehouse's `arrow` has it."""
    return str(_path(uri)) if uri.startswith("file:") else uri.partition("://")[2]


def _path(uri: str) -> Path:
    # Hadoop writes file:/x where others write file:///x.
    return Path("/", uri.removeprefix("file:").lstrip("/"))
