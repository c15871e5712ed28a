"""The bare expiry: the metadata that one has to read, and the deletes of the files that one frees. It commits nothing.

What there is to read and to delete is known before anything is timed, and the store is spoken to directly.
"""

from __future__ import annotations

import asyncio
import base64
import hashlib
from collections.abc import AsyncIterator, Iterable, Iterator, Sequence
from concurrent.futures import ThreadPoolExecutor
from contextlib import asynccontextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import Protocol
from urllib.parse import quote
from xml.sax.saxutils import escape

import aiohttp
from pyiceberg.table import Table

from bench.record import Output
from bench.rivals import ALL_TABLES, Job, RivalFailed
from bench.warehouse import Base, S3Warehouse, Warehouse
from bench.worlds import CUT_OFF, RETAIN_LAST
from icekeeper.sandbox.servers.s3 import S3

# As many reads side by side, and names in a bulk delete, as icekeeper's own.
_READS = 32
_NAMES = 250


@dataclass(frozen=True, slots=True)
class Expiry:
    """The objects that an expiry of a table reads, in waves (one wave names the objects of the next), and deletes."""

    reads: tuple[tuple[str, ...], ...]
    deletes: tuple[str, ...]


class Bare:
    """`learn` is to be called before `do` is timed."""

    name = "bare"
    parts = frozenset({"expire"})
    frees_late = False
    most_tables = ALL_TABLES
    note = "it knows beforehand what to read and to delete, and commits nothing"

    def __init__(self, s3: S3) -> None:
        self._s3 = s3
        self._expiries: dict[Base, Expiry] = {}

    async def learn(self, job: Job) -> None:
        """Finds out what an expiry of the job's tables is about."""
        for table, base in zip(job.tables, job.bases, strict=True):
            if base not in self._expiries:
                self._expiries[base] = await asyncio.to_thread(_expiry_of, job.warehouse.table(table), base)

    async def do(self, job: Job) -> Output | None:
        async with _client(job.warehouse, self._s3) as client:
            for base in job.bases:
                expiry = self._expiries[base]
                for wave in expiry.reads:
                    await client.read(wave)
                await client.delete(expiry.deletes)
        rows = sum(base.rows for base in job.bases)
        return Output(files=sum(len(base.live) for base in job.bases), bytes=0, rows=rows, row_groups=0,
                      columns_with_bounds=0)  # fmt: skip


def _expiry_of(table: Table, base: Base) -> Expiry:
    """By the table's metadata, read past the proxy."""
    snapshots = sorted(table.metadata.snapshots, key=lambda each: each.timestamp_ms)
    cut_off_ms = CUT_OFF.timestamp() * 1000
    expired = [each for each in snapshots[:-RETAIN_LAST] if each.timestamp_ms < cut_off_ms]
    if not expired:
        raise RivalFailed("there is no snapshot that an expiry would name")
    manifests = {
        each.snapshot_id: {manifest.manifest_path for manifest in each.manifests(table.io)} for each in snapshots
    }
    gone = {each.snapshot_id for each in expired}
    kept = set().union(*(paths for snapshot, paths in manifests.items() if snapshot not in gone))
    every = set().union(*manifests.values())
    return Expiry(
        reads=(
            (table.metadata_location,),
            tuple(each.manifest_list for each in snapshots),
            tuple(sorted(every)),
        ),
        deletes=(*sorted(base.freed), *sorted(every - kept), *(each.manifest_list for each in expired)),
    )


class _Client(Protocol):
    async def read(self, uris: Sequence[str]) -> None: ...
    async def delete(self, uris: Sequence[str]) -> None: ...


@asynccontextmanager
async def _client(warehouse: Warehouse, s3: S3) -> AsyncIterator[_Client]:
    if not isinstance(warehouse, S3Warehouse):
        with ThreadPoolExecutor(_READS) as pool:
            yield _Directory(pool)
        return
    async with aiohttp.ClientSession(
        warehouse.endpoint, connector=aiohttp.TCPConnector(limit=_READS), raise_for_status=True
    ) as session:
        yield _Bucket(session, s3)


class _Directory:
    def __init__(self, pool: ThreadPoolExecutor) -> None:
        self._pool = pool

    async def read(self, uris: Sequence[str]) -> None:
        await asyncio.to_thread(lambda: list(self._pool.map(lambda uri: _file(uri).read_bytes(), uris)))

    async def delete(self, uris: Sequence[str]) -> None:
        await asyncio.to_thread(lambda: list(self._pool.map(lambda uri: _file(uri).unlink(), uris)))


class _Bucket:
    def __init__(self, session: aiohttp.ClientSession, s3: S3) -> None:
        self._session = session
        self._s3 = s3
        self._host = s3.endpoint.partition("://")[2]

    async def read(self, uris: Sequence[str]) -> None:
        await asyncio.gather(*(self._get(uri) for uri in uris))

    async def delete(self, uris: Sequence[str]) -> None:
        await asyncio.gather(*(self._delete(names) for names in _batches(uris)))

    async def _get(self, uri: str) -> None:
        path = "/" + quote(uri.removeprefix("s3://"))
        async with self._session.get(path, headers=self._headers("GET", path)) as answer:
            await answer.read()

    async def _delete(self, uris: Iterable[str]) -> None:
        keys = [uri.removeprefix(f"s3://{self._s3.bucket}/") for uri in uris]
        objects = "".join(f"<Object><Key>{escape(key)}</Key></Object>" for key in keys)
        body = f"<Delete><Quiet>true</Quiet>{objects}</Delete>".encode()
        path = f"/{self._s3.bucket}"
        headers = self._headers("POST", path, "delete=")
        headers["Content-MD5"] = base64.b64encode(hashlib.md5(body, usedforsecurity=False).digest()).decode()
        async with self._session.post(f"{path}?delete=", data=body, headers=headers) as answer:
            if b"<Error>" in (text := await answer.read()):
                raise RivalFailed(f"the store did not delete all: {text[:300]!r}")

    def _headers(self, method: str, path: str, query: str = "") -> dict[str, str]:
        """The signature is for the server behind the proxy."""
        return {"Host": self._host, **self._s3.signed(method, path, query=query)}


def _batches(uris: Sequence[str]) -> Iterator[Sequence[str]]:
    return (uris[start : start + _NAMES] for start in range(0, len(uris), _NAMES))


def _file(uri: str) -> Path:
    return Path("/", uri.removeprefix("file:").lstrip("/"))
