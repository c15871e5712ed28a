"""Messages over real HTTP, by the real Apprise, to a server that fails, hangs, drips, or takes them."""

from __future__ import annotations

import asyncio
import socket
import time
from collections.abc import AsyncIterator, Awaitable, Callable
from contextlib import asynccontextmanager, suppress
from typing import Any

import pytest
import structlog
from aiohttp import web

from icekeeper.adapters.apprise import AppriseTarget
from icekeeper.core.errors import TransientError
from icekeeper.execution import logging as logs
from icekeeper.scheduling.targets import send_test
from icekeeper.settings import Settings
from icekeeper.settings.values.apprise_urls import is_understood
from tests.unit.test_changes import BASE

Answer = Callable[[web.Request], Awaitable[web.StreamResponse]]


@asynccontextmanager
async def serving(answer: Answer) -> AsyncIterator[str]:
    """A web server on a free port; `host:port`."""
    app = web.Application()
    app.router.add_post("/{path:.*}", answer)
    runner = web.AppRunner(app, shutdown_timeout=0.1)
    await runner.setup()
    listening = socket.create_server(("127.0.0.1", 0))
    await web.SockSite(runner, listening).start()
    try:
        yield f"127.0.0.1:{listening.getsockname()[1]}"
    finally:
        await runner.cleanup()


async def test_a_message_arrives_as_it_was_written() -> None:
    came: list[Any] = []

    async def take(request: web.Request) -> web.Response:
        came.append((request.path, await request.json()))
        return web.Response()

    async with serving(take) as address:
        body = "one\n  two *stars* _lines_ <b> :smile: \\n ä"
        await AppriseTarget(f"json://{address}/hook").send("title", body, "failed", 10)
    ((path, message),) = came
    assert path == "/hook"
    assert (message["title"], message["message"], message["type"]) == ("title", body, "failure")


async def test_a_service_that_refuses_it_is_named_without_the_url() -> None:
    async def refuse(request: web.Request) -> web.Response:
        return web.Response(status=500)

    async with serving(refuse) as address:
        with pytest.raises(TransientError, match="500") as caught:
            await AppriseTarget(f"json://me:geheim@{address}/token-of-mine").send("t", "b", "failed", 10)
    assert "geheim" not in str(caught.value)
    assert "token-of-mine" not in str(caught.value)


async def test_an_absent_target_is_reported_at_once_however_quiet_the_log_is() -> None:
    logs.configure("error", "json", None)
    structlog.reset_defaults()
    with socket.create_server(("127.0.0.1", 0)) as closed:
        port = closed.getsockname()[1]
    with pytest.raises(TransientError, match="onnection"):
        await AppriseTarget(f"json://127.0.0.1:{port}/geheim").send("t", "b", "failed", 10)


async def test_one_that_never_ends_its_answer_is_left_and_not_asked_twice_at_a_time() -> None:
    asked = 0

    async def drip(request: web.Request) -> web.StreamResponse:
        nonlocal asked
        asked += 1
        response = web.StreamResponse()
        await response.prepare(request)
        with suppress(ConnectionError):
            for _ in range(100):
                await response.write(b".")
                await asyncio.sleep(0.1)
        return response

    async with serving(drip) as address:
        receiver = AppriseTarget(f"json://{address}/")
        began = time.monotonic()
        with pytest.raises(TransientError, match="no answer within 1 s"):
            await receiver.send("t", "b", "failed", 1)
        with pytest.raises(TransientError, match="still waits"):
            await receiver.send("t", "b", "failed", 1)
        assert time.monotonic() - began < 5
    assert asked == 1


async def test_a_test_message_goes_to_each_and_says_who_did_not_take_it() -> None:
    async def take_or_not(request: web.Request) -> web.Response:
        return web.Response(status=200 if request.path == "/good" else 403)

    async with serving(take_or_not) as address:
        notify = [{"url": f"json://{address}/good", "on": []}, {"url": f"json://{address}/geheim"}]
        good, bad = await send_test(Settings.model_validate({**BASE, "notify": notify}))
    assert (good.service, good.error) == ("json", None)
    assert good.target.startswith("json-")
    assert bad.target.startswith("json-")
    assert good.target != bad.target
    assert bad.error is not None
    assert "403" in bad.error
    assert "geheim" not in bad.error


def test_what_apprise_understands() -> None:
    assert is_understood("mailto://me:secret@example.com")
    assert is_understood("https://hooks.slack.com/services/T1JJ3T3L2/A1BRTD4JD/TIiajkdnlazkcOXrIdevi7FQ")
    assert not is_understood("slack://nobody")
    assert not is_understood("")
