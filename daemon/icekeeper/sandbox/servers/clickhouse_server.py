"""ClickHouse's HTTP interface in front of ONE chdb engine: a program (clickhouse.py runs it), not a module to import.

Enough of it for clickhouse-connect, curl and this sandbox; no cancelling, no sessions that outlive a request, no
compressed answers. Each request gets an engine session of its own, so that settings and the database can't leak into
the next. chdb takes one engine path per process, so each engine has a process of its own.
"""

from __future__ import annotations

import argparse
import asyncio
import base64
import gzip
import hmac
import json
import os
import re
import time
import uuid
from collections.abc import Callable, Mapping
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from aiohttp import web
from chdb import session as chdb_session

# Query-string names that the HTTP interface itself takes; every other name is a setting of the query.
_INTERFACE_PARAMETERS = (
    "query query_id database user password quota_key session_id session_timeout session_check close_session "
    "default_format compress decompress buffer_size wait_end_of_query stacktrace client_protocol_version role "
    "http_response_headers"
)
_NO_SETTINGS = frozenset(_INTERFACE_PARAMETERS.split())
# From ClickHouse's exceptionCodeToHTTPStatus; other codes are 500.
_HTTP_STATUS = {
    **dict.fromkeys((6, 26, 27, 38, 41, 43, 44, 53, 62, 69, 70, 72, 131, 386, 456, 457), 400),
    **dict.fromkeys((46, 47, 50, 56, 60, 63, 73, 78, 81, 115, 116, 336), 404),
    159: 408,
    48: 501,
    192: 403,
    193: 403,
    194: 401,
    516: 403,
}
_INSERT_WITH_DATA = re.compile(rb"\s*(INSERT\s+INTO\s.*?)\s+FORMAT\s+(\w+)[ \t]*;?(?:\r?\n|\s|$)", re.I | re.S)
_ENGINE_THREADS = 4
# Says py.typed and has no annotations.
_open_session: Callable[[str], Any] = chdb_session.Session


@dataclass(frozen=True)
class Answer:
    """The engine's result: the formatted rows, and the values of the summary header."""

    body: bytes
    summary: Mapping[str, str]


@dataclass(frozen=True)
class Question:
    """One request, parsed."""

    sql: bytes
    database: str
    output_format: str
    parameters: Mapping[str, str]
    settings: Mapping[str, str]


class EngineError(Exception):
    """The engine refused; the message is ClickHouse's own, `Code: 60. DB::Exception: ...`."""

    @property
    def code(self) -> int:
        found = re.match(r"Code: (\d+)", str(self))
        return int(found[1]) if found else 1001


class Engine:
    """The chdb engine of this process."""

    def __init__(self, path: Path) -> None:
        self._path = str(path)
        # One session stays open for the process's life: closing the last one would shut down the engine.
        self._keeper = _open_session(self._path)
        self.version = self._keeper.query("SELECT version()", "TSVRaw").bytes().decode().strip()
        self.timezone = self._keeper.query("SELECT timezone()", "TSVRaw").bytes().decode().strip()

    def ask(self, question: Question) -> Answer:
        """Runs one query in a session of its own. Raises EngineError."""
        started = time.monotonic()
        session = _open_session(self._path)
        try:
            session.query(f"USE {_quoted(question.database, '`')}")
            if question.settings:
                pairs = ", ".join(f"{name} = {_quoted(value, chr(39))}" for name, value in question.settings.items())
                session.query(f"SET {pairs}")
            insert = _INSERT_WITH_DATA.match(question.sql)
            if insert and not re.search(rb"\b(SELECT|VALUES)\b", insert[1], re.I):
                with session.send_insert(insert[1].decode(), insert[2].decode()) as stream:
                    stream.append(question.sql[insert.end() :])
                    written = stream.finish().rows_written
                return Answer(b"", _summary(started, written_rows=written))
            result = session.query(
                question.sql.decode(), question.output_format, params=dict(question.parameters) or None
            )
            return Answer(result.bytes() or b"", _summary(started, result.rows_read(), result.bytes_read()))
        except RuntimeError as error:  # chdb raises plain ones, and subclasses
            raise EngineError(str(error)) from error
        finally:
            session.close()

    def close(self) -> None:
        self._keeper.close()


def _quoted(text: str, quote: str) -> str:
    return quote + text.replace("\\", "\\\\").replace(quote, "\\" + quote) + quote


def _summary(started: float, read_rows: int = 0, read_bytes: int = 0, written_rows: int = 0) -> dict[str, str]:
    return {
        "read_rows": str(read_rows),
        "read_bytes": str(read_bytes),
        "written_rows": str(written_rows),
        "written_bytes": "0",
        "total_rows_to_read": str(read_rows),
        "result_rows": "0",
        "result_bytes": "0",
        "elapsed_ns": str(int((time.monotonic() - started) * 1e9)),
    }


def _decoded(body: bytes, encoding: str) -> bytes:
    """Undoes the request's Content-Encoding (aiohttp's own decoding is off)."""
    if encoding == "gzip":
        return gzip.decompress(body)
    if encoding == "lz4":
        import lz4.frame  # type: ignore[import-untyped]  # no annotations; comes with clickhouse-connect

        return bytes(lz4.frame.decompress(body))
    if encoding == "zstd":
        import zstandard

        return zstandard.ZstdDecompressor().decompressobj().decompress(body)
    if encoding:
        raise EngineError(
            f"Code: 377. DB::Exception: Unknown content encoding: {encoding}. (UNKNOWN_COMPRESSION_METHOD)"
        )
    return body


class Server:
    """The HTTP side."""

    def __init__(self, engine: Engine, user: str, password: str) -> None:
        self._engine = engine
        self._user = user
        self._password = password
        # chdb sessions run side by side; the loop stays free to answer /ping while they work.
        self._threads = ThreadPoolExecutor(_ENGINE_THREADS)

    def application(self) -> web.Application:
        application = web.Application(client_max_size=1 << 30, handler_args={"auto_decompress": False})
        application.router.add_get("/ping", self._ping)
        application.router.add_route("*", "/", self._query)
        return application

    async def _ping(self, _request: web.Request) -> web.Response:
        return web.Response(text="Ok.\n")

    def _login(self, request: web.Request) -> tuple[str, str]:
        header = request.headers.get("Authorization", "")
        if header.startswith("Basic "):
            user, _, password = base64.b64decode(header[6:]).decode().partition(":")
            return user, password
        user = request.headers.get("X-ClickHouse-User") or request.query.get("user") or "default"
        return user, request.headers.get("X-ClickHouse-Key") or request.query.get("password") or ""

    def _check_login(self, request: web.Request) -> None:
        user, password = self._login(request)
        if not (user == self._user and hmac.compare_digest(password.encode(), self._password.encode())):
            raise EngineError(
                f"Code: 516. DB::Exception: {user}: Authentication failed: password is incorrect, "
                "or there is no user with such name. (AUTHENTICATION_FAILED)"
            )

    async def _question(self, request: web.Request) -> Question:
        parameters = {name[6:]: value for name, value in request.query.items() if name.startswith("param_")}
        settings = {
            name: value
            for name, value in request.query.items()
            if name not in _NO_SETTINGS and not name.startswith("param_")
        }
        for name in settings:
            if not re.fullmatch(r"\w+", name):
                raise EngineError(f"Code: 115. DB::Exception: Unknown setting '{name}'. (UNKNOWN_SETTING)")
        body = await request.read()
        if request.content_type == "multipart/form-data":
            raise EngineError("Code: 48. DB::Exception: The sandbox takes no multipart forms. (NOT_IMPLEMENTED)")
        body = _decoded(body, request.headers.get("Content-Encoding", ""))
        query = request.query.get("query", "").encode()
        database = request.query.get("database") or request.headers.get("X-ClickHouse-Database") or "default"
        output_format = request.query.get("default_format") or request.headers.get("X-ClickHouse-Format")
        return Question(
            sql=b"\n".join(part for part in (query, body) if part),
            database=database,
            output_format=output_format or "TabSeparated",
            parameters=parameters,
            settings=settings,
        )

    async def _query(self, request: web.Request) -> web.Response:
        headers = {
            "X-ClickHouse-Server-Display-Name": "sandbox",
            "X-ClickHouse-Query-Id": request.query.get("query_id") or str(uuid.uuid4()),
            "X-ClickHouse-Timezone": self._engine.timezone,
        }
        try:
            self._check_login(request)
            if request.method == "GET" and not request.query.get("query"):
                return web.Response(text="Ok.\n")
            question = await self._question(request)
            loop = asyncio.get_running_loop()
            answer = await loop.run_in_executor(self._threads, self._engine.ask, question)
        except EngineError as error:
            return web.Response(
                status=_HTTP_STATUS.get(error.code, 500),
                text=f"{error} (version {self._engine.version} (official build))\n",
                headers={**headers, "X-ClickHouse-Exception-Code": str(error.code)},
            )
        return web.Response(
            body=answer.body,
            headers={
                **headers,
                "X-ClickHouse-Summary": json.dumps(answer.summary),
                "X-ClickHouse-Format": question.output_format,
                "X-ClickHouse-Timezone": question.settings.get("session_timezone") or self._engine.timezone,
            },
            content_type="text/plain",
            charset="UTF-8",
        )


def main() -> None:
    """Serves until SIGTERM. The password comes in $SANDBOX_CLICKHOUSE_PASSWORD: a command line is for all to read."""
    parser = argparse.ArgumentParser(description="ClickHouse's HTTP interface in front of chdb")
    parser.add_argument("--path", type=Path, required=True)
    parser.add_argument("--port", type=int, required=True)
    parser.add_argument("--user", required=True)
    arguments = parser.parse_args()
    engine = Engine(arguments.path)
    server = Server(engine, arguments.user, os.environ.pop("SANDBOX_CLICKHOUSE_PASSWORD"))
    web.run_app(
        server.application(), host="127.0.0.1", port=arguments.port, print=None, access_log=None, shutdown_timeout=0.5
    )
    engine.close()
    # A query that still runs in an engine thread would keep the interpreter alive until it ends.
    os._exit(0)


if __name__ == "__main__":
    main()
