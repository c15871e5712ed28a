"""The control socket: serves the HTTP API to commands on this host, without a token. Its client: client.py."""

from __future__ import annotations

import socket
import struct
from collections.abc import Callable
from pathlib import Path

from aiohttp import web

from icekeeper.adapters.users import clean_name, user_name
from icekeeper.http.identity import acting
from icekeeper.http.problems import Handler, problems

SOCKET = "control.sock"
# The name of the user who gives a command: behind sudo another one than that of its process.
ACTOR_HEADER = "X-Icekeeper-Actor"
# How long requests under way may still take when it is closed.
_CLOSE_S = 1.0


class ControlSocket:
    """A Unix socket in state_dir. Only the daemon's user can open it: its mode is the credential."""

    def __init__(self, add_api: Callable[[web.Application], None]) -> None:
        """`add_api` adds the routes of the API."""
        self._add_api = add_api
        self._runner: web.AppRunner | None = None
        self._path: Path | None = None

    async def start(self, state_dir: Path) -> None:
        """OSError where the socket can't be made."""
        path = state_dir / SOCKET
        path.unlink(missing_ok=True)  # of a daemon that died: the holder of the daemon's lock is the only one
        app = web.Application(middlewares=[problems, _named])
        self._add_api(app)
        # A command that has left waits for no answer: the run that it ordered must not begin after that.
        runner = web.AppRunner(app, access_log=None, shutdown_timeout=_CLOSE_S, handler_cancellation=True)
        await runner.setup()
        await web.UnixSite(runner, path).start()
        path.chmod(0o600)
        self._runner, self._path = runner, path

    async def stop(self) -> None:
        """Closes the socket and removes its file: a command that comes now finds no daemon."""
        if self._runner is not None:
            await self._runner.cleanup()
            self._runner = None
        if self._path is not None:
            self._path.unlink(missing_ok=True)


@web.middleware
async def _named(request: web.Request, handler: Handler) -> web.StreamResponse:
    """Names who orders. Whoever may open the socket may do all that the daemon may, so that their word is enough."""
    with acting(clean_name(request.headers.get(ACTOR_HEADER)) or _peer(request)):
        return await handler(request)


def _peer(request: web.Request) -> str:
    """The user of the process at the other end."""
    connection = None if request.transport is None else request.transport.get_extra_info("socket")
    if connection is None:  # it has left
        return "unknown"
    _, uid, _ = struct.unpack("3i", connection.getsockopt(socket.SOL_SOCKET, socket.SO_PEERCRED, struct.calcsize("3i")))
    return user_name(uid)
