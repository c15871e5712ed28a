"""The plainest copy: the bytes of a table's files read and written as they are, as many at a time as icekeeper does."""

from __future__ import annotations

import asyncio
import uuid
from concurrent.futures import ThreadPoolExecutor

from pyarrow.fs import FileSystem

from bench.record import Output
from bench.rivals import ALL_TABLES, Job
from bench.warehouse import path_in_store

# The readers of icekeeper's own copies of row groups.
_AT_ONCE = 16


class Copy:
    """The least time in which these bytes can be fetched from this store and put back. It commits nothing."""

    name = "copy"
    parts = frozenset({"compact"})
    frees_late = False
    most_tables = ALL_TABLES
    note = "nothing is decoded, checked or committed, and there are as many files as before"

    async def do(self, job: Job) -> Output | None:
        store = job.warehouse.arrow()
        uris = [uri for base in job.bases for uri in sorted(base.live)]

        def copy(uri: str) -> int:
            return _copy(store, uri)

        with ThreadPoolExecutor(_AT_ONCE) as pool:
            sizes = await asyncio.gather(*(asyncio.get_running_loop().run_in_executor(pool, copy, uri) for uri in uris))
        rows = sum(base.rows for base in job.bases)
        return Output(files=len(uris), bytes=sum(sizes), rows=rows, row_groups=0, columns_with_bounds=0)


def _copy(store: FileSystem, uri: str) -> int:
    """Copies an object within its folder; how many bytes it has."""
    path = path_in_store(uri)
    with store.open_input_stream(path) as stream:
        body = stream.read_buffer()
    with store.open_output_stream(f"{path.rpartition('/')[0]}/{uuid.uuid4()}.parquet") as stream:
        stream.write(body)
    return int(body.size)
