"""The connection to ClickHouse's HTTP interface: queries with a deadline, and errors in the core's terms."""

from __future__ import annotations

import asyncio
import os
from collections import Counter
from collections.abc import AsyncIterator, Awaitable, Callable, Iterator, Mapping, Sequence
from contextlib import asynccontextmanager, contextmanager, suppress
from dataclasses import dataclass, field
from datetime import timedelta
from pathlib import Path
from typing import Any, TypeVar
from urllib.parse import urlsplit

import aiohttp
import clickhouse_connect
from clickhouse_connect.driver.asyncclient import AsyncClient
from clickhouse_connect.driver.exceptions import ClickHouseError

from icekeeper.adapters.clickhouse.errors import code_of, translated, unreadable_answer
from icekeeper.adapters.proxies import except_by_name
from icekeeper.core.errors import DeadlineExceeded, IcekeeperError, PermanentError, TransientError
from icekeeper.core.reasons import Reason

Rows = Sequence[Sequence[Any]]
T = TypeVar("T")

_CONNECT_TIMEOUT_S = 10
# The caller's timeout ends a query. The client's own, of 300 s by default, would end a long count before it.
_NO_READ_TIMEOUT_S = timedelta(days=30).total_seconds()
_PARQUET = b"PAR1"
# For queries that a healthy server answers at once.
PROBE_TIMEOUT = timedelta(seconds=20)
# For the first one, and for one after a pause: a service that is idle (ClickHouse Cloud) wakes up for it.
WAKE_TIMEOUT = timedelta(minutes=2)
_IDLE_AFTER_S = 120.0


@dataclass(frozen=True, slots=True)
class ClickHouseOptions:
    """`settings` are ClickHouse settings sent with every query that our user may change; they win over icekeeper's own,
    except for those that keep a count whole."""

    url: str
    database: str
    user: str = "default"
    password: str = ""
    settings: Mapping[str, str | int | float | bool] = field(default_factory=dict)

    @property
    def port(self) -> int:
        """ClickHouse's own by default, and with a path that of the proxy which has ClickHouse below it."""
        parts = urlsplit(self.url)
        of_proxy, own = (443, 8443) if parts.scheme == "https" else (80, 8123)
        return parts.port or (of_proxy if self.path else own)

    @property
    def path(self) -> str:
        """Where a proxy has this server, with a slash at both ends, or it may answer by a redirect to there."""
        path = urlsplit(self.url).path.strip("/")
        return f"/{path}/" if path else ""

    @property
    def where(self) -> str:
        """How errors name this server: never with its password."""
        parts = urlsplit(self.url)
        return f"ClickHouse {parts.scheme}://{parts.hostname}:{self.port}{self.path} (database {self.database})"


NO_CLICKHOUSE = ClickHouseOptions(url="", database="")
"""Of settings in which no table is audited, so that there is nothing to ask."""


class Client:
    """One user's access to one server. It connects with the first query, and again after a failure."""

    def __init__(self, options: ClickHouseOptions) -> None:
        self.options = options
        self._client: AsyncClient | None = None
        self._connecting = asyncio.Lock()
        self._users: Counter[AsyncClient] = Counter()
        self._answered_at: float | None = None  # by the loop's clock

    async def close(self) -> None:
        client, self._client = self._client, None
        if client is not None:
            await client.close()

    async def probe(
        self,
        query: str,
        parameters: Mapping[str, Any],
        what: str,
        settings: Mapping[str, str] | None = None,
    ) -> Rows:
        """A query that a healthy server answers at once: one that hangs is down, and no count is begun on it."""
        timeout = PROBE_TIMEOUT if self._is_awake() else WAKE_TIMEOUT
        try:
            return await self.query(query, parameters, timeout, what, settings)
        except DeadlineExceeded as exc:
            self._note_answer()  # it has had its time to wake up
            text = f"hangs: no answer about {what} within {timeout.total_seconds():g} s"
            raise TransientError(text, reason=Reason.SOURCE_DOWN, where=exc.where) from exc

    @asynccontextmanager
    async def within(self, timeout: timedelta, source: str) -> AsyncIterator[None]:
        """Ends several questions together, as one. DeadlineExceeded after the timeout."""
        seconds = timeout.total_seconds()
        try:
            async with asyncio.timeout(seconds):
                yield
        except TimeoutError as exc:
            raise DeadlineExceeded(f"no count of {source} within {seconds:.0f} s", where=self.options.where) from exc

    def _is_awake(self) -> bool:
        at = self._answered_at
        return at is not None and asyncio.get_running_loop().time() - at < _IDLE_AFTER_S

    def _note_answer(self) -> None:
        self._answered_at = asyncio.get_running_loop().time()

    async def query(
        self,
        query: str,
        parameters: Mapping[str, Any],
        timeout: timedelta,
        source: str,
        settings: Mapping[str, str] | None = None,
        *,
        may_be_empty: bool = False,
    ) -> Rows:
        """The rows of the answer. `settings` win over those of the options.

        TransientError `source_fault` where there is no row, unless that can be a right answer (`may_be_empty`) and
        ClickHouse gave it: what is between may answer 200 and nothing.
        """

        async def ask(client: AsyncClient, sent: dict[str, Any]) -> Rows:
            result = await client.query(query, parameters=dict(parameters), settings=sent)
            if result.result_rows or (may_be_empty and result.summary.get("query_id")):
                return result.result_rows
            by = "" if result.summary.get("query_id") else ", and nothing in it shows that ClickHouse gave it"
            text = f"{source}: the answer has no row{by}"
            raise TransientError(text, reason=Reason.SOURCE_FAULT, where=self.options.where)

        return await self._asked(ask, timeout, source, settings)

    async def save(
        self,
        query: str,
        parameters: Mapping[str, Any],
        timeout: timedelta,
        source: str,
        path: Path,
        settings: Mapping[str, str],
        of_format: Mapping[str, str],
    ) -> None:
        """Writes the answer to a new file, as Parquet; `of_format`: settings that are sent where they may be set."""

        async def ask(client: AsyncClient, sent: dict[str, Any]) -> None:
            sent |= {name: value for name, value in of_format.items() if _may_set(client, {name: value})}
            answer = await client.raw_stream(query, parameters=dict(parameters), settings=sent, fmt="Parquet")
            async with answer as chunks:
                with writing_to(path.parent):
                    file = path.open("xb")
                with file:
                    async for chunk in chunks:
                        with writing_to(path.parent):
                            await asyncio.to_thread(file.write, chunk)
                    with writing_to(path.parent):
                        await asyncio.to_thread(file.flush)
                if not await asyncio.to_thread(_is_parquet, path):
                    text = f"{source}: the answer was cut, or is an error that came after its beginning"
                    raise TransientError(text, reason=Reason.SOURCE_FAULT, where=self.options.where)

        await self._asked(ask, timeout, source, settings)

    async def _asked(
        self,
        ask: Callable[[AsyncClient, dict[str, Any]], Awaitable[T]],
        timeout: timedelta,
        source: str,
        settings: Mapping[str, str] | None,
    ) -> T:
        """What `ask` has the server answer, within the timeout and with the settings that it takes."""
        if not self.options.url:
            raise PermanentError(f"{source} can't be counted: the settings have no block clickhouse")
        seconds = max(1, round(timeout.total_seconds()))
        # A zone-less DateTime64 is read in the session's time zone, which is the server's by default.
        ours = {
            "session_timezone": "UTC",
            "max_execution_time": seconds,
            # Proxies close connections that are silent, many after 60 s; more than 100 headers are none.
            "http_headers_progress_interval_ms": max(30_000, seconds * 10),
        }
        try:
            async with asyncio.timeout(timeout.total_seconds()), self._connection(settings or {}) as client:
                known = client.server_settings
                # Ours only where the server knows them, which an older one may not; the user's are for it to judge.
                sent = {name: value for name, value in ours.items() if name in known} | dict(self.options.settings)
                free = {name: value for name, value in sent.items() if name not in known or not known[name].readonly}
                # Those that keep a count whole are sent in any case: refused is better than left out.
                answer = await ask(client, free | dict(settings or {}))
                self._note_answer()
                return answer
        except TimeoutError as exc:
            raise DeadlineExceeded(f"no count of {source} within {seconds} s", where=self.options.where) from exc
        except (ClickHouseError, aiohttp.ClientError, OSError) as exc:
            if code_of(exc) is not None:
                self._note_answer()
            raise translated(exc, source, self.options.user, self.options.where) from exc
        except (IcekeeperError, TypeError, AttributeError, NameError, AssertionError):
            raise  # the latter are bugs of ours
        except Exception as exc:  # whatever reading an answer that is none, or is cut, has raised
            raise unreadable_answer(exc, source, self.options.where) from exc

    @asynccontextmanager
    async def _connection(self, settings: Mapping[str, str]) -> AsyncIterator[AsyncClient]:
        """The shared connection. After a failed query it is not given out again; its last user closes it.

        It has read at its beginning what the user may set: where these settings say otherwise that has changed since.
        """
        # Two queries at once must not open two connections: one would stay open.
        async with self._connecting:
            old = self._client
            if old is not None and not _may_set(old, settings):
                self._client = None
                if not self._users[old]:
                    await old.close()
            if self._client is None:
                self._client = await self._connect()
            client = self._client
        self._users[client] += 1
        try:
            yield client
        except BaseException:
            if self._client is client:
                self._client = None
            raise
        finally:
            self._users[client] -= 1
            if not self._users[client]:
                del self._users[client]
                if client is not self._client:
                    with suppress(ClickHouseError, aiohttp.ClientError, OSError):
                        await client.close()

    async def _connect(self) -> AsyncClient:
        options = self.options
        parts = urlsplit(options.url)
        except_by_name(parts.hostname or "", options.port, os.environ)
        return await clickhouse_connect.get_async_client(
            host=parts.hostname,
            port=options.port,
            secure=parts.scheme == "https",
            proxy_path=options.path,
            username=options.user,
            password=options.password,
            database=options.database,
            connect_timeout=_CONNECT_TIMEOUT_S,
            send_receive_timeout=_NO_READ_TIMEOUT_S,
            # The audit has retries of its own, with a delay in which a server comes back. (A connection that is closed
            # without an answer is asked once more all the same.)
            query_retries=0,
            # A session would serialize queries on the server, and a count needs none.
            autogenerate_session_id=False,
            client_name="icekeeper",
        )


@contextmanager
def writing_to(directory: Path) -> Iterator[None]:
    """TransientError `disk_low` where the directory can't be written to."""
    try:
        yield
    except OSError as exc:
        raise TransientError(f"{directory} can't be written: {exc.strerror}", reason=Reason.DISK_LOW) from exc


def _may_set(client: AsyncClient, settings: Mapping[str, str]) -> bool:
    known = client.server_settings
    return all(name in known and not known[name].readonly for name in settings)


def _is_parquet(path: Path) -> bool:
    """Whether a file begins and ends as Parquet: the magic number, the footer's length, the magic number."""
    size = path.stat().st_size
    if size < 3 * len(_PARQUET):
        return False
    with path.open("rb") as file:
        begins = file.read(len(_PARQUET))
        file.seek(-len(_PARQUET), os.SEEK_END)
        return begins == file.read() == _PARQUET
