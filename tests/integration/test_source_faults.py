"""Answers of ClickHouse, and of proxies before it, that are no count: which may pass, and what each is called."""

from __future__ import annotations

import asyncio
import re
from collections.abc import AsyncIterator
from dataclasses import dataclass
from datetime import timedelta
from pathlib import Path

import pytest

from icekeeper.adapters.clickhouse import errors
from icekeeper.adapters.clickhouse.client import ClickHouseOptions
from icekeeper.adapters.clickhouse.counting import ClickHouse
from icekeeper.adapters.clickhouse.errors import FINAL, PASSING
from icekeeper.adapters.clickhouse.rows import RowsClickHouse
from icekeeper.core.audit.source import Source
from icekeeper.core.calendar import window_of
from icekeeper.core.errors import IcekeeperError, PermanentError, TransientError
from icekeeper.core.reasons import Reason
from icekeeper.sandbox import Sandbox
from tests.conftest import SLOT
from tests.integration.faults import Answer, FaultProxy, Request, proxied

MINUTE = timedelta(minutes=1)
SOURCE, WINDOW = Source(("few",), "ts"), window_of(SLOT)
ROWS = 3
DOWN, FAULT, DENIED = Reason.SOURCE_DOWN, Reason.SOURCE_FAULT, Reason.ACCESS_DENIED
COUNT, MINUTES = b"SELECT count()", b"GROUP BY minute"


@dataclass(frozen=True)
class Server:
    """ClickHouse behind a proxy, with a table of three rows, and our client of it."""

    proxy: FaultProxy
    source: RowsClickHouse


@pytest.fixture(scope="module")
async def server(box: Sandbox, tmp_path_factory: pytest.TempPathFactory) -> AsyncIterator[Server]:
    there = box.clickhouse
    for statement in (
        "CREATE DATABASE IF NOT EXISTS faults",
        "CREATE OR REPLACE TABLE faults.few (ts DateTime64(6, 'UTC')) ENGINE = MergeTree ORDER BY ts",
        f"INSERT INTO faults.few SELECT toDateTime64('2026-02-17 12:00:00', 6, 'UTC') FROM numbers({ROWS})",
    ):
        await asyncio.to_thread(there.execute, statement)
    async with proxied(there.url, http=True) as proxy:
        options = ClickHouseOptions(proxy.url, "faults", there.user, there.password)
        source = RowsClickHouse(options, tmp_path_factory.mktemp("rows"))
        yield Server(proxy, source)
        await source.close()


async def fault_of(server: Server, answer: Answer, question: bytes = COUNT, *, most: int = 1) -> IcekeeperError:
    """The error of a count that is answered so; afterwards the same count is right. No question is asked twice."""
    asked = 0

    async def by_minute() -> None:
        await server.source.count_by_minute(SOURCE, WINDOW, False, MINUTE)

    async def rule(request: Request) -> Answer | None:
        nonlocal asked
        if question not in request.body or b"EXPLAIN" in request.body:
            return None
        asked += 1
        return answer

    server.proxy.rule = rule
    try:
        with pytest.raises(IcekeeperError) as raised:
            await (by_minute() if question == MINUTES else server.source.count(SOURCE, WINDOW, None, MINUTE))
    finally:
        server.proxy.rule = None
    assert 1 <= asked <= most
    assert (await server.source.count(SOURCE, WINDOW, None, MINUTE)).rows == ROWS
    return raised.value


def refused(code: int, text: str = "made up") -> Answer:
    """As ClickHouse answers an error."""
    body = f"Code: {code}. DB::Exception: {text}. (NAME) (version 26.9.2.1 (official build))\n"
    return Answer(500, body.encode(), "text/plain", headers=(f"X-ClickHouse-Exception-Code: {code}",))


LONG = pytest.mark.long


@pytest.mark.parametrize(
    ("status", "reason", "passes"),
    [
        *((status, DOWN, True) for status in (500, 502, 524)),
        *(pytest.param(status, DOWN, True, marks=LONG) for status in (408, 425, 429, 503, 504, 520, 521, 529, 599)),
        (403, DENIED, False),
        *(pytest.param(status, DENIED, False, marks=LONG) for status in (401, 407)),
        (404, DOWN, False),
        pytest.param(405, DOWN, False, marks=LONG),
        *(pytest.param(status, FAULT, False, marks=LONG) for status in (400, 413, 414)),
    ],
)
async def test_a_proxys_answer_may_pass_unless_it_refuses_us(
    server: Server, status: int, reason: Reason, passes: bool
) -> None:
    page = b"<html><head><title>Made up</title></head></html>"
    error = await fault_of(server, Answer(status, page, "text/html"))
    assert (error.reason, isinstance(error, TransientError)) == (reason, passes)
    assert f"HTTP status {status}" in str(error)


SERVER_STOPS = (236, 763)
PASSES = (394, 198, 209, 210, 279, 999, 202, 439, 745)
MORE_PASS = (3, 32, 40, 95, 96, 107, 203, 225, 242, 246, 254, 369, 410, 425, 499, 519, 733, 738, 1000, 1001, 1002, 4711)


@pytest.mark.parametrize(
    ("code", "reason"),
    [
        (SERVER_STOPS[0], DOWN),
        pytest.param(SERVER_STOPS[1], DOWN, marks=LONG),
        *((code, FAULT) for code in PASSES[:2]),
        *(pytest.param(code, FAULT, marks=LONG) for code in (*PASSES[2:], *MORE_PASS)),
        (241, Reason.SOURCE_OUT_OF_MEMORY),
        pytest.param(776, Reason.SOURCE_OUT_OF_MEMORY, marks=LONG),
        (159, Reason.DEADLINE),
    ],
)
async def test_a_servers_error_may_pass_unless_it_is_known_to_be_final(
    server: Server, code: int, reason: Reason
) -> None:
    error = await fault_of(server, refused(code))
    assert isinstance(error, TransientError)
    assert error.reason is reason


@pytest.mark.parametrize(
    ("code", "reason"),
    [
        (60, Reason.SOURCE_TABLE_NOT_FOUND),
        (497, DENIED),
        (720, DENIED),
        (201, Reason.SOURCE_LIMITED),
        (158, Reason.SOURCE_LIMITED),
        pytest.param(307, Reason.SOURCE_LIMITED, marks=LONG),
        pytest.param(396, Reason.SOURCE_LIMITED, marks=LONG),
        pytest.param(719, Reason.SOURCE_LIMITED, marks=LONG),
        (41, Reason.SOURCE_TYPE),
        pytest.param(349, Reason.SOURCE_TYPE, marks=LONG),
        pytest.param(20, Reason.UNEXPECTED, marks=LONG),
        pytest.param(43, Reason.SOURCE_TYPE, marks=LONG),
        (62, Reason.UNEXPECTED),
        pytest.param(115, Reason.UNEXPECTED, marks=LONG),
    ],
)
async def test_sql_types_rights_and_limits_are_final(server: Server, code: int, reason: Reason) -> None:
    error = await fault_of(server, refused(code))
    assert isinstance(error, PermanentError)
    assert error.reason is reason
    if reason is Reason.SOURCE_LIMITED:
        assert "quota" in reason.advice


async def test_a_code_whose_header_a_proxy_has_taken_away_is_read_from_the_text(server: Server) -> None:
    for text in (b"Code: 497. DB::Exception: No rights.", b"Code: 497, e.displayText() = DB::Exception: No rights."):
        error = await fault_of(server, Answer(502, text))
        assert (type(error), error.reason) == (PermanentError, DENIED)


async def test_a_connection_that_closes_without_a_word_may_be_asked_once_more(server: Server) -> None:
    error = await fault_of(server, Answer(0), most=2)
    assert (type(error), error.reason) == (TransientError, DOWN)


async def test_a_proxy_that_refuses_us_is_named_without_its_password(
    box: Sandbox, monkeypatch: pytest.MonkeyPatch
) -> None:
    async def refuse(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        await reader.readuntil(b"\r\n\r\n")
        writer.write(b"HTTP/1.1 407 Proxy Authentication Required\r\nContent-Length: 0\r\n\r\n")
        await writer.drain()
        writer.close()

    listening = await asyncio.start_server(refuse, "127.0.0.1", 0)
    port = listening.sockets[0].getsockname()[1]
    for name in ("http_proxy", "https_proxy", "no_proxy", "NO_PROXY"):
        monkeypatch.delenv(name, raising=False)
    for name in ("HTTP_PROXY", "HTTPS_PROXY"):
        monkeypatch.setenv(name, f"http://me:geheim@127.0.0.1:{port}")
    for url in ("https://ch.example.com", "http://ch.example.com"):
        source = ClickHouse(ClickHouseOptions(url, "faults"))
        with pytest.raises(PermanentError, match="the proxy on the way refused us") as raised:
            await source.now()
        await source.close()
        assert raised.value.reason is DENIED
        assert "geheim" not in str(raised.value)
    listening.close()


def block(name: str = "count()", rows: int = ROWS) -> bytes:
    """One block of ClickHouse's Native format: a row of one UInt64 column."""
    return b"\1\1" + bytes([len(name)]) + name.encode() + b"\6UInt64" + rows.to_bytes(8, "little")


def raw(body: bytes, *headers: str) -> Answer:
    """An answer of these very bytes, which may end too early."""
    lines = ("HTTP/1.1 200 OK", "Content-Type: application/octet-stream", *headers, "", "")
    return Answer(200, raw="\r\n".join(lines).encode() + body)


OURS = "X-ClickHouse-Query-Id: made-up"
TAG = "abcdefghijklmnop"


def in_the_middle(code: int) -> bytes:
    return block() + f"Code: {code}. DB::Exception: Made up: While executing X. (NAME) (version 26.9)\n".encode()


def tagged(code: int) -> bytes:
    """As servers from 25.11 on end an answer by an exception."""
    text = f"Code: {code}. DB::Exception: Made up. (NAME)\n"
    tail = f"__exception__\r\n{TAG}\r\n{text}{len(text)} {TAG}\r\n__exception__\r\n"
    return block() + f"{tail}".encode()


@pytest.mark.parametrize(
    ("answer", "question", "reason", "says"),
    [
        (Answer(200), COUNT, FAULT, "no row, and nothing in it shows that ClickHouse gave it"),
        (Answer(200, headers=(OURS,)), COUNT, FAULT, "the answer has no row"),
        (Answer(200), MINUTES, FAULT, "no row, and nothing in it shows that ClickHouse gave it"),
        (Answer(200, b"<html><body>Sign in</body></html>", "text/html"), COUNT, None, ""),
        (Answer(200, b"\0" * 100), COUNT, None, ""),
        (raw(block()[:-4], "Content-Length: 27", OURS), COUNT, None, "closed"),
        (raw(block()[:9], OURS, "Connection: close"), COUNT, None, "few: "),
        (raw(b"18\r\n" + block()[:9], OURS, "Transfer-Encoding: chunked"), COUNT, None, "closed"),
        (raw(b"", "Content-Length: 27", OURS), COUNT, None, "closed"),
        (raw(b"28\xb5\x2f\xfd", OURS, "Content-Encoding: zstd", "Connection: close"), COUNT, None, ""),
        (raw(in_the_middle(394), OURS, "Connection: close"), COUNT, FAULT, "Made up"),
        (raw(in_the_middle(236), OURS, "Connection: close"), MINUTES, DOWN, "Made up"),
        (raw(in_the_middle(241), OURS, "Connection: close"), COUNT, Reason.SOURCE_OUT_OF_MEMORY, "Made up"),
        (raw(in_the_middle(158), OURS, "Connection: close"), COUNT, Reason.SOURCE_LIMITED, "Made up"),
        (raw(tagged(210), OURS, f"X-ClickHouse-Exception-Tag: {TAG}"), COUNT, FAULT, "Made up"),
        (raw(tagged(158), OURS, f"X-ClickHouse-Exception-Tag: {TAG}"), COUNT, Reason.SOURCE_LIMITED, "Made up"),
    ],
)
async def test_an_answer_that_is_no_whole_count_is_never_one(
    server: Server, answer: Answer, question: bytes, reason: Reason | None, says: str
) -> None:
    error = await fault_of(server, answer, question)
    assert says in str(error)
    assert error.reason is reason or (reason is None and error.reason in (DOWN, FAULT))
    assert isinstance(error, TransientError) == (error.reason is not Reason.SOURCE_LIMITED)


@pytest.mark.parametrize("body", [b"", b"PAR1", b"PAR1 and no end", b"PAR1...PAR1Code: 394. DB::Exception: Made up.\n"])
async def test_rows_of_a_repair_that_were_cut_on_their_way_are_not_used(server: Server, body: bytes) -> None:
    async def rule(request: Request) -> Answer | None:
        return Answer(200, body, headers=(OURS,)) if b"FORMAT Parquet" in request.body else None

    server.proxy.rule = rule
    try:
        with pytest.raises(TransientError, match="the answer was cut") as raised:
            async with server.source.exported(SOURCE, WINDOW, False, (), MINUTE):
                raise AssertionError("no file is given out")
    finally:
        server.proxy.rule = None
    assert raised.value.reason is FAULT


async def test_a_count_may_take_as_long_as_its_audit(server: Server) -> None:
    # Not waited for: the client would give up a count that has read nothing for so long.
    await server.source.count(SOURCE, WINDOW, None, MINUTE)
    client = server.source._client._client
    assert client is not None
    assert client._timeout.sock_read is not None
    assert client._timeout.sock_read > timedelta(days=1).total_seconds()


def test_every_code_that_is_judged_is_one_of_the_engines_by_its_name(box: Sandbox) -> None:
    named = dict(re.findall(r"\b(\d+) ([A-Z][A-Z_0-9]+)\b", Path(errors.__file__).read_text()))
    asked = "SELECT number, errorCodeToName(number) FROM numbers(1100) WHERE errorCodeToName(number) != ''"
    known = dict(line.split("\t") for line in box.clickhouse.execute(asked).decode().splitlines())
    assert {int(code) for code in named} == {*FINAL, *PASSING}
    # Some were names of older servers.
    assert [known[code] for code in named if code in known] == [named[code] for code in named if code in known]
    assert len(named.keys() & known.keys()) > 150
