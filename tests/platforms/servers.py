"""Servers that only these nights need: Debian's MariaDB and nginx, and a REST catalog whose tokens live a minute."""

from __future__ import annotations

import asyncio
import base64
import os
import secrets
import ssl
import subprocess
import tempfile
import threading
import time
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass, field
from pathlib import Path

import pytest
from aiohttp import ClientSession, web
from yarl import URL

from icekeeper.sandbox.servers.process import free_ports, port_answers
from icekeeper.sandbox.servers.s3 import S3
from tests.debian import program
from tests.packaging.debian import install
from tests.process.program import wait_for

LOOPBACK = "127.0.0.1"
# The name for which certificates are made.
HOST = "localhost"
TOKEN_LIFE_S = 60


def _ended(process: subprocess.Popen[bytes]) -> None:
    process.terminate()
    try:
        process.wait(timeout=20)
    except subprocess.TimeoutExpired:
        process.kill()
        process.wait()


# --- certificates


@dataclass(frozen=True)
class Certificate:
    """One for HOST that no public authority has signed, and its key."""

    file: Path
    key: Path

    @classmethod
    def make(cls, directory: Path) -> Certificate:
        made = cls(directory / "intranet.pem", directory / "intranet.key")
        command = ["openssl", "req", "-x509", "-newkey", "ec", "-pkeyopt", "ec_paramgen_curve:P-256", "-nodes"]
        command += ["-keyout", str(made.key), "-out", str(made.file), "-days", "2", "-subj", f"/CN={HOST}"]
        subprocess.run([*command, "-addext", f"subjectAltName=DNS:{HOST}"], check=True, capture_output=True)
        return made

    def server(self) -> ssl.SSLContext:
        context = ssl.create_default_context(ssl.Purpose.CLIENT_AUTH)
        context.load_cert_chain(self.file, self.key)
        return context

    def client(self) -> ssl.SSLContext:
        return ssl.create_default_context(cafile=str(self.file))


# --- MariaDB


@dataclass(frozen=True)
class MariaDb:
    """A server with a database `iceberg`, and a user of it."""

    port: int
    socket: Path
    user = "iceberg"
    password = "a-password-of-the-catalog"

    def execute(self, sql: str, database: str = "iceberg") -> str:
        """What statements answer, a line a row."""
        command = ["mariadb", "--no-defaults", f"--socket={self.socket}", "--batch", "--skip-column-names", database]
        done = subprocess.run(command, input=sql, capture_output=True, text=True, check=False)
        assert done.returncode == 0, done.stderr
        return done.stdout.strip()


@contextmanager
def mariadb() -> Iterator[MariaDb]:
    """Debian's server, installed as root where it is missing. Where it can't be the test is skipped, in CI it fails."""
    try:
        install("mariadb-server-core", "mariadb-client-core")
    except RuntimeError as exc:
        (pytest.fail if os.environ.get("CI") else pytest.skip)(str(exc))
    with tempfile.TemporaryDirectory(prefix="mariadb-") as place:
        directory, (port,) = Path(place), free_ports(1)
        data, server = directory / "data", MariaDb(port, directory / "socket")
        made = subprocess.run(
            ["mariadb-install-db", "--no-defaults", f"--datadir={data}", "--user=root", "--skip-test-db"],
            capture_output=True, text=True, check=False,
        )  # fmt: skip
        assert made.returncode == 0, made.stdout + made.stderr
        command = ["mariadbd", "--no-defaults", f"--datadir={data}", f"--socket={server.socket}", "--user=root"]
        command += [f"--port={port}", f"--bind-address={LOOPBACK}", f"--pid-file={directory}/pid"]
        with (directory / "log").open("wb") as log:
            process = subprocess.Popen(command, stdout=log, stderr=log)
        try:
            wait_for("MariaDB", lambda: server.socket.exists() and port_answers(port))
            server.execute(
                f"CREATE DATABASE iceberg; CREATE USER {server.user}@'%' IDENTIFIED BY '{server.password}'; "
                f"GRANT ALL ON iceberg.* TO {server.user}@'%';",
                "mysql",
            )
            yield server
        finally:
            _ended(process)


# --- a reverse proxy


@contextmanager
def nginx(sites: str) -> Iterator[None]:
    """Debian's nginx with these `server` blocks."""
    binary = program("nginx", "nginx")
    with tempfile.TemporaryDirectory(prefix="nginx-") as place:
        scratch = "".join(
            f"{name}_temp_path {place}/{name};\n" for name in ("client_body", "proxy", "fastcgi", "uwsgi", "scgi")
        )
        path = Path(place, "nginx.conf")
        path.write_text(
            f"user root;\ndaemon off;\npid {place}/pid;\nerror_log {place}/error.log;\nevents {{}}\n"
            f"http {{\naccess_log off;\n{scratch}{sites}\n}}\n"
        )
        with Path(place, "output").open("wb") as output:
            process = subprocess.Popen(
                [binary, "-p", place, "-e", f"{place}/error.log", "-c", path], stdout=output, stderr=output
            )
        try:
            wait_for("nginx", lambda: Path(place, "pid").exists() or process.poll() is not None)
            assert process.poll() is None, Path(place, "error.log").read_text()
            yield
        finally:
            _ended(process)


# --- a REST catalog with OAuth2


@dataclass
class Door:
    """SeaweedFS's REST catalog behind a server that signs clients in by OAuth2, with tokens that live a minute.

    They are refused afterwards (401), as is everything without one.
    """

    s3: S3
    client = "icekeeper"
    secret = "a-secret-of-the-client"
    port: int = field(default_factory=lambda: free_ports(1)[0])
    # When each token ends, and by which grant it was asked for.
    tokens: dict[str, float] = field(default_factory=dict)
    grants: list[str] = field(default_factory=list)
    # The token that came with each commit that was let in.
    commits: list[str] = field(default_factory=list)
    refused: int = 0
    connections: set[asyncio.BaseTransport] = field(default_factory=set)

    @property
    def uri(self) -> str:
        return f"https://{HOST}:{self.port}"

    def application(self) -> web.Application:
        application = web.Application(client_max_size=1 << 26)
        application.on_response_prepare.append(self._note)
        application.router.add_post("/v1/oauth/tokens", self._sign_in)
        application.router.add_route("*", "/{path:.*}", self._pass)
        return application

    async def _note(self, request: web.Request, _response: web.StreamResponse) -> None:
        if request.transport is not None:
            self.connections.add(request.transport)

    async def _sign_in(self, request: web.Request) -> web.Response:
        """RFC 6749's client credentials, and RFC 8693's exchange of a token that is still good."""
        form = await request.post()
        given = form.get("client_id"), form.get("client_secret")
        if (basic := request.headers.get("Authorization", "")).startswith("Basic "):
            name, _, secret = base64.b64decode(basic[6:]).decode().partition(":")
            given = name, secret
        subject = str(form.get("subject_token", ""))
        if given != (self.client, self.secret) and self.tokens.get(subject, 0.0) < time.monotonic():
            return web.json_response({"error": "invalid_client"}, status=401)
        token = secrets.token_urlsafe(16)
        self.tokens[token] = time.monotonic() + TOKEN_LIFE_S
        self.grants.append(str(form["grant_type"]))
        issued = "urn:ietf:params:oauth:token-type:access_token"
        return web.json_response(
            {"access_token": token, "token_type": "bearer", "expires_in": TOKEN_LIFE_S, "issued_token_type": issued}
        )

    async def _pass(self, request: web.Request) -> web.Response:
        token = request.headers.get("Authorization", "").removeprefix("Bearer ")
        if self.tokens.get(token, 0.0) < time.monotonic():
            self.refused += 1
            error = {"message": "the token has expired", "type": "NotAuthorizedException", "code": 401}
            return web.json_response({"error": error}, status=401)
        async with ClientSession() as session:
            login = {"grant_type": "client_credentials", "client_id": self.s3.access_key}
            login["client_secret"] = self.s3.secret_key
            async with session.post(f"{self.s3.rest_uri}/v1/oauth/tokens", data=login) as answer:
                own = (await answer.json())["access_token"]
            headers = {name: value for name, value in request.headers.items() if name not in ("Host", "Authorization")}
            headers["Authorization"] = f"Bearer {own}"
            url = URL(self.s3.rest_uri + request.raw_path, encoded=True)
            async with session.request(request.method, url, data=await request.read(), headers=headers) as answer:
                if request.method == "POST" and "/tables/" in request.path and answer.status == 200:
                    self.commits.append(token)
                body = await answer.read()
                return web.Response(body=body, status=answer.status, content_type=answer.content_type)


@contextmanager
def door(s3: S3, certificate: Certificate) -> Iterator[Door]:
    """Such a server, in a thread of its own."""
    made, loop = Door(s3), asyncio.new_event_loop()
    runner = web.AppRunner(made.application())

    async def start() -> None:
        await runner.setup()
        await web.TCPSite(runner, HOST, made.port, ssl_context=certificate.server()).start()

    async def stop() -> None:
        await runner.cleanup()
        # A client that is killed never answers the end of TLS: its connection would outlive the loop.
        for connection in made.connections:
            connection.abort()  # type: ignore[attr-defined]
        await asyncio.sleep(0)

    loop.run_until_complete(start())
    thread = threading.Thread(target=loop.run_forever)
    thread.start()
    try:
        yield made
    finally:
        asyncio.run_coroutine_threadsafe(stop(), loop).result()
        loop.call_soon_threadsafe(loop.stop)
        thread.join()
        loop.close()
