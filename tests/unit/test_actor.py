"""Who ordered a run: whom a trusted proxy names, or the user of a command, through the real servers into the run."""

from __future__ import annotations

import os
from collections.abc import AsyncIterator
from pathlib import Path

import aiohttp
import pytest
from multidict import CIMultiDict
from structlog.contextvars import merge_contextvars
from structlog.testing import capture_logs

from icekeeper.adapters.users import clean_name, operator_name, user_name
from icekeeper.control.server import ACTOR_HEADER, SOCKET
from icekeeper.core.events import RunStarted
from icekeeper.http.access import Access, Rules
from icekeeper.http.identity import TrustedProxies
from icekeeper.night.order import StopRequest
from icekeeper.scheduling.orders import RunRequest
from tests.unit.builders import SLOT
from tests.unit.serving import TOKEN, serving
from tests.unit.test_orders import BEARER, Place, a_place, socket_of

US = user_name(os.geteuid())
LONG = "a" * 300
BODY = {"slot": SLOT.isoformat()}
SSO = "X-Forwarded-User"
TRUSTED, OTHERS = ("127.0.0.0/8",), ("10.0.0.0/8",)


@pytest.fixture
async def place(tmp_path: Path) -> AsyncIterator[Place]:
    async with a_place(tmp_path) as place:
        yield place


def _actor(place: Place) -> str | None:
    (begun,) = [event for event in place.events if isinstance(event, RunStarted)]
    return begun.opening.actor


@pytest.mark.parametrize(
    ("networks", "headers", "actor"),
    [
        (TRUSTED, [(SSO, "ann")], "ann"),
        (TRUSTED, [(SSO, "Änn Müller <ann@example.com>")], "Änn Müller <ann@example.com>"),
        (TRUSTED, [(SSO, "\tann\u202e \u200b")], "ann"),
        (TRUSTED, [(SSO, LONG)], LONG[:200]),
        (TRUSTED, [(SSO, " \t")], None),
        (TRUSTED, [(SSO, "ann"), (SSO, "eve")], None),
        (TRUSTED, [("X-User", "ann")], None),
        (TRUSTED, [(ACTOR_HEADER, "root")], None),
        (TRUSTED, [], None),
        (OTHERS, [(SSO, "ann")], None),
        (OTHERS, [(SSO, "ann"), ("X-Forwarded-For", "10.0.0.1")], None),
        ((), [(SSO, "ann"), (ACTOR_HEADER, "root")], None),
    ],
)
async def test_over_http_only_a_trusted_proxy_names_who_ordered_a_run(
    place: Place, networks: tuple[str, ...], headers: list[tuple[str, str]], actor: str | None
) -> None:
    access = Access(lambda: Rules(TOKEN, proxies=TrustedProxies(networks, SSO)), lambda: 0.0)
    sent = CIMultiDict([*BEARER.items(), *headers])
    async with (
        serving(lambda app: place.api.add_to(app, access), access=access) as (_, client),
        client.post("/api/v1/runs", json=BODY, headers=sent) as answer,
    ):
        assert answer.status == 202, await answer.text()
    assert _actor(place) == actor


@pytest.mark.parametrize(
    ("headers", "actor"),
    [
        ({}, US),
        ({ACTOR_HEADER: "ann"}, "ann"),
        ({ACTOR_HEADER: " "}, US),
        ({ACTOR_HEADER: "\u202eann\t"}, "ann"),
        ({ACTOR_HEADER: LONG}, LONG[:200]),
        ({SSO: "eve"}, US),
    ],
)
async def test_over_the_socket_it_is_the_user_of_the_command_else_of_its_process(
    place: Place, headers: dict[str, str], actor: str
) -> None:
    async with socket_of(place):
        connector = aiohttp.UnixConnector(path=str(place.state_dir / SOCKET))
        async with (
            aiohttp.ClientSession(connector=connector) as client,
            client.post("http://daemon/api/v1/runs", json=BODY, headers=headers) as answer,
        ):
            assert answer.status == 202, await answer.text()
    assert _actor(place) == actor


@pytest.mark.parametrize(
    ("sudo", "asked", "actor"),
    [
        (None, None, US),
        ("ann", None, "ann"),
        ("ann\r\nX-Evil: 1", None, "annX-Evil: 1"),
        ("\udcff", None, US),
        ("ann", "bob", "bob"),
    ],
)
async def test_a_command_beside_the_daemon_names_who_gave_it(
    place: Place, sudo: str | None, asked: str | None, actor: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    _sudo(monkeypatch, sudo)
    async with socket_of(place) as client:
        await client.run(RunRequest(SLOT, actor=asked), lambda event: None, StopRequest())
    assert _actor(place) == actor


@pytest.mark.parametrize(("sudo", "actor"), [(None, US), ("ann", "ann"), (LONG, LONG[:200]), ("\n", US)])
def test_behind_sudo_the_operator_is_who_called_it(
    sudo: str | None, actor: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    _sudo(monkeypatch, sudo)
    monkeypatch.setenv("LOGNAME", US)

    assert operator_name() == actor
    assert clean_name(None) is None


async def test_who_cancels_a_run_is_named_in_its_log(place: Place, monkeypatch: pytest.MonkeyPatch) -> None:
    _sudo(monkeypatch, "ann")
    let = place.hold()
    run = await place.orders.begin(RunRequest(SLOT))
    with capture_logs(processors=[merge_contextvars]) as lines:
        async with socket_of(place) as client:
            await client.cancel(run.run_id)
            await run.end
    let.set()

    (line,) = [line for line in lines if line["event"] == "run_cancel_ordered"]
    assert (line["actor"], line["run_id"], line["by_operator"]) == ("ann", str(run.run_id), True)


def _sudo(monkeypatch: pytest.MonkeyPatch, name: str | None) -> None:
    monkeypatch.delenv("SUDO_USER", raising=False)
    if name is not None:
        monkeypatch.setenv("SUDO_USER", name)
