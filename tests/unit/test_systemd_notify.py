"""What systemd hears of us, on a real socket of the kind that it listens on."""

from __future__ import annotations

import socket
import time
from collections.abc import Iterator
from contextlib import suppress
from pathlib import Path
from uuid import uuid4

import pytest

from icekeeper.service.systemd import Systemd


@pytest.fixture(params=["a path", "an abstract name"])
def manager(request: pytest.FixtureRequest, tmp_path: Path) -> Iterator[tuple[socket.socket, str]]:
    """The socket that systemd would listen on, and how it would name that in NOTIFY_SOCKET."""
    name = str(tmp_path / "notify") if request.param == "a path" else f"@icekeeper-{uuid4()}"
    with socket.socket(socket.AF_UNIX, socket.SOCK_DGRAM) as listening:
        listening.bind(name.replace("@", "\0"))
        listening.settimeout(5)
        yield listening, name


def test_each_message_is_one_datagram(manager: tuple[socket.socket, str]) -> None:
    listening, name = manager
    systemd = Systemd.from_environment({"NOTIFY_SOCKET": name})
    systemd.ready()
    systemd.ready("waits for 02:00")
    systemd.status("compacts cold.silver_trades")
    systemd.alive()
    systemd.stopping("stops the run in hand")
    systemd.stopping()
    assert [listening.recv(4096).decode() for _ in range(6)] == [
        "READY=1",
        "READY=1\nSTATUS=waits for 02:00",
        "STATUS=compacts cold.silver_trades",
        "WATCHDOG=1",
        "STOPPING=1\nSTATUS=stops the run in hand",
        "STOPPING=1",
    ]


def test_a_reload_says_when_it_began_in_the_same_datagram(manager: tuple[socket.socket, str]) -> None:
    listening, name = manager
    before = time.clock_gettime_ns(time.CLOCK_MONOTONIC) // 1000
    Systemd.from_environment({"NOTIFY_SOCKET": name}).reloading()
    after = time.clock_gettime_ns(time.CLOCK_MONOTONIC) // 1000
    first, second = listening.recv(4096).decode().split("\n")
    assert first == "RELOADING=1"
    assert before <= int(second.removeprefix("MONOTONIC_USEC=")) <= after


def test_a_status_is_one_line_whatever_stands_in_it(manager: tuple[socket.socket, str]) -> None:
    listening, name = manager
    systemd = Systemd.from_environment({"NOTIFY_SOCKET": name})
    systemd.status("no such file:\nWATCHDOG=trigger\r\n  a table \udcff  ")
    assert listening.recv(4096).decode() == "STATUS=no such file: WATCHDOG=trigger a table ?"
    systemd.status("")
    assert listening.recv(4096).decode() == "STATUS="


@pytest.mark.parametrize(
    "environ",
    [
        {},
        {"NOTIFY_SOCKET": ""},
        {"NOTIFY_SOCKET": "@"},
        {"NOTIFY_SOCKET": "/"},
        {"NOTIFY_SOCKET": "/nowhere/notify"},
        {"NOTIFY_SOCKET": "/no\0path"},
        {"NOTIFY_SOCKET": "/" + 200 * "x"},
        {"NOTIFY_SOCKET": "@no-one-listens-here"},
        {"NOTIFY_SOCKET": "vsock:2:1234"},
        {"NOTIFY_SOCKET": "relative"},
    ],
)
def test_where_no_manager_listens_nothing_happens(environ: dict[str, str]) -> None:
    systemd = Systemd.from_environment(environ)
    systemd.ready("up")
    systemd.reloading()
    systemd.status("busy")
    systemd.alive()
    systemd.stopping("down")


def test_a_manager_that_no_longer_reads_blocks_nothing(tmp_path: Path) -> None:
    with socket.socket(socket.AF_UNIX, socket.SOCK_DGRAM) as deaf:
        deaf.bind(str(tmp_path / "notify"))
        with socket.socket(socket.AF_UNIX, socket.SOCK_DGRAM) as filling:
            filling.setblocking(False)
            with suppress(BlockingIOError):
                while True:
                    filling.sendto(b"X=1", str(tmp_path / "notify"))
        began = time.monotonic()
        Systemd.from_environment({"NOTIFY_SOCKET": str(tmp_path / "notify")}).alive()
        assert time.monotonic() - began < 5
