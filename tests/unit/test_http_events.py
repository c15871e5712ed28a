"""Server-sent events on a real socket: who listens hears all, who comes back misses nothing, who is slow goes."""

from __future__ import annotations

import asyncio
import json
import time
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from dataclasses import dataclass

import aiohttp
from aiohttp import web

from icekeeper.core.enums import Stage
from icekeeper.core.events import RunEnded, RunStarted, TaskProgressed, TaskStarted
from icekeeper.http.events import MOST_LISTENERS, EventStream
from tests.unit.reports import OPENING, REPORT, TABLE
from tests.unit.serving import Place, serving

STARTED = RunStarted(OPENING, ((Stage.COMPACT, TABLE),))
TASK = TaskStarted(Stage.COMPACT, TABLE, 1, 1)


@dataclass(frozen=True)
class Heard:
    """One event, or a comment."""

    id: int | None
    event: str | None
    data: object


@asynccontextmanager
async def streaming(stream: EventStream) -> AsyncIterator[tuple[Place, aiohttp.ClientSession]]:
    def add(app: web.Application) -> None:
        app.router.add_get("/api/v1/events", stream.serve, allow_head=False)

    async with serving(add) as served:
        yield served


class Listener:
    """Reads messages one by one; made, it has heard that it listens."""

    def __init__(self, answer: aiohttp.ClientResponse) -> None:
        self._answer = answer

    @classmethod
    @asynccontextmanager
    async def of(cls, client: aiohttp.ClientSession, last: int | str | None = None) -> AsyncIterator[Listener]:
        headers = {} if last is None else {"Last-Event-ID": str(last)}
        async with client.get("/api/v1/events", headers=headers) as answer:
            assert answer.status == 200
            assert answer.content_type == "text/event-stream"
            listener = cls(answer)
            assert await listener.lines() == ["retry: 3000"]
            yield listener

    async def lines(self) -> list[str]:
        """A message's lines; empty where the stream has ended."""
        found: list[str] = []
        async with asyncio.timeout(10):
            while line := await self._answer.content.readline():
                if line == b"\n":
                    return found
                found.append(line.decode().rstrip("\n"))
        return found

    async def next(self) -> Heard | None:
        if not (lines := await self.lines()):
            return None
        fields = dict(line.split(": ", 1) for line in lines if not line.startswith(":"))
        number = int(fields["id"]) if "id" in fields else None
        return Heard(number, fields.get("event"), json.loads(fields["data"]) if "data" in fields else lines)


async def test_events_arrive_as_they_happen_with_their_numbers() -> None:
    stream = EventStream()
    async with streaming(stream) as (_, client), Listener.of(client) as one, Listener.of(client) as two:
        for event in (STARTED, TASK, RunEnded(REPORT)):
            stream.observe(event)
        for listener in (one, two):
            heard = [await listener.next() for _ in range(3)]
            assert [(each.id, each.event) for each in heard if each] == [
                (1, "run_started"),
                (2, "task_started"),
                (3, "run_ended"),
            ]
        first = heard[0]
        assert first is not None
        assert isinstance(first.data, dict)
        assert first.data["opening"]["run_id"] == str(OPENING.run_id)


async def test_a_listener_that_comes_back_gets_what_it_missed_and_nothing_twice() -> None:
    stream = EventStream(number=1000)
    for number in range(5):
        stream.observe(TaskProgressed(Stage.COMPACT, TABLE, str(number)))
    async with streaming(stream) as (_, client), Listener.of(client, last=1003) as listener:
        stream.observe(TASK)
        assert [(await listener.next() or Heard(None, None, None)).id for _ in range(3)] == [1004, 1005, 1006]
    # A daemon that was restarted begins above all that the one before had given.
    again = EventStream(number=5000)
    again.observe(STARTED)
    async with streaming(again) as (_, client), Listener.of(client, last=1006) as listener:
        assert (await listener.next() or Heard(None, None, None)).id == 5001


async def test_who_says_nothing_or_nonsense_of_the_past_hears_from_now_on() -> None:
    stream = EventStream()
    stream.observe(STARTED)
    async with streaming(stream) as (_, client):
        for last in (None, "nonsense", "-1", "9" * 30, "\u0663"):
            async with Listener.of(client, last=last) as listener:
                stream.observe(TASK)
                assert (await listener.next() or Heard(None, None, None)).event == "task_started"


async def test_while_nothing_happens_there_is_a_sign_of_life() -> None:
    async with streaming(EventStream(alive_s=0.02)) as (_, client), Listener.of(client) as listener:
        assert await listener.lines() == [": still here"]
        assert await listener.lines() == [": still here"]


async def test_listeners_are_so_many_and_one_that_goes_makes_room() -> None:
    stream = EventStream()  # a page that is left is told of by no sign of life for long
    async with streaming(stream) as (_, client):
        listening = [await client.get("/api/v1/events") for _ in range(MOST_LISTENERS)]
        async with client.get("/api/v1/events") as answer:
            assert (answer.status, answer.content_type) == (503, "application/problem+json")
            assert "Retry-After" in answer.headers
        listening[0].close()
        async with asyncio.timeout(10):
            while (again := await client.get("/api/v1/events")).status == 503:
                again.close()
        for one in (*listening, again):
            one.close()


async def test_one_that_reads_nothing_is_dropped_and_holds_up_no_other() -> None:
    """Its place is free again, also where the kernel's buffers are full and nothing more can be sent to it."""
    stream = EventStream(slowest_s=0.2)
    big = TaskProgressed(Stage.COMPACT, TABLE, "x" * 100_000)
    async with streaming(stream) as (place, client), Listener.of(client) as quick, asyncio.timeout(30):
        reader, writer = await asyncio.open_connection("127.0.0.1", place.port, limit=2**10)
        writer.write(b"GET /api/v1/events HTTP/1.1\r\nHost: localhost\r\n\r\n")
        assert await reader.readline() == b"HTTP/1.1 200 OK\r\n"
        assert stream.listeners == 2
        while stream.listeners == 2:
            began = time.monotonic()
            stream.observe(big)
            assert time.monotonic() - began < 5
            assert await quick.next() is not None
        stream.observe(STARTED)
        assert (await quick.next() or Heard(None, None, None)).event == "run_started"
        writer.close()


async def test_one_that_falls_far_behind_is_let_go_and_comes_back_for_the_rest() -> None:
    stream = EventStream()
    async with streaming(stream) as (_, client), Listener.of(client) as listener:
        stream.observe(STARTED)
        assert (await listener.next() or Heard(None, None, None)).id == 1
        for _ in range(401):  # at once: nothing is sent meanwhile
            stream.observe(TASK)
        assert await listener.next() is None
        async with Listener.of(client, last=1) as again:
            assert [(await again.next() or Heard(None, None, None)).id for _ in range(401)] == list(range(2, 403))


async def test_a_stop_ends_every_stream_at_once_and_lets_none_in() -> None:
    stream = EventStream()
    async with streaming(stream) as (_, client), Listener.of(client) as listener:
        stream.close()
        assert await listener.next() is None
        async with client.get("/api/v1/events") as answer:
            assert answer.status == 503
        began = time.monotonic()
    assert time.monotonic() - began < 10
