"""PostgreSQL over TLS, with a private authority and with client certificates.

The embedded server is built without OpenSSL: a proxy ends TLS before it, and answers PostgreSQL's SSLRequest.
"""

from __future__ import annotations

import asyncio
import re
import ssl
import subprocess
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager, suppress
from dataclasses import dataclass
from functools import partial
from pathlib import Path
from urllib.parse import urlsplit
from uuid import uuid4

import pytest

from icekeeper.adapters.ledger.sql.migrations import migrate, pending
from icekeeper.adapters.postgres.lease import Lease
from icekeeper.adapters.postgres.pool import Postgres, Target, translated
from icekeeper.core.errors import IcekeeperError, TransientError
from icekeeper.core.reasons import Reason
from icekeeper.sandbox import Sandbox
from tests.integration.installations import sole

# The body of a message that asks for TLS (PostgreSQL's protocol, 'SSLRequest').
SSL_REQUEST = b"\x00\x00\x00\x08\x04\xd2\x16\x2f"


@dataclass(frozen=True)
class Case:
    """What follows `?` in the DSN, where `{d}` has the certificates; a pattern of what is said where it is refused."""

    options: str
    said: str = ""
    host: str = "localhost"
    demands: bool = False


FULL = "sslmode=verify-full&sslrootcert={d}/ca.pem"
CLIENT = "&sslcert={d}/client.pem&sslkey={d}/client.key"
CASES = {
    "its authority is told": Case(FULL),
    "only its authority is checked": Case("sslmode=verify-ca&sslrootcert={d}/ca.pem", host="127.0.0.1"),
    "nothing is checked": Case("sslmode=require"),
    "its authority is not known": Case("sslmode=verify-full&sslrootcert={d}/other.pem", "certificate verify failed"),
    "it is of another name": Case(FULL, "is not valid for '127.0.0.1'", host="127.0.0.1"),
    "a client's certificate": Case(FULL + CLIENT, demands=True),
    # Since TLS 1.3 a server says so when the client takes itself for connected, and may hang up before it is heard.
    "no client's certificate": Case(FULL, "(?i)certificate required|connection|eof|broken pipe", demands=True),
}


@pytest.fixture(scope="module")
def certificates(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Two authorities; what one of them has signed for `localhost`, and for a client."""
    folder = tmp_path_factory.mktemp("certificates")

    def openssl(*arguments: str) -> None:
        subprocess.run(("openssl", *arguments), cwd=folder, check=True, capture_output=True)

    key = ("-newkey", "ec", "-pkeyopt", "ec_paramgen_curve:prime256v1", "-nodes", "-days", "2")
    for name in ("ca", "other"):
        openssl("req", "-x509", *key, "-subj", f"/CN={name}", "-keyout", f"{name}.key", "-out", f"{name}.pem")
    for name, subject, more in (
        ("server", "localhost", ("-addext", "subjectAltName=DNS:localhost")),
        ("client", "icekeeper", ()),
    ):
        signed = ("-CA", "ca.pem", "-CAkey", "ca.key", *more)
        files = ("-keyout", f"{name}.key", "-out", f"{name}.pem")
        leaf = ("-addext", "basicConstraints=critical,CA:FALSE")
        openssl("req", "-x509", *key, *signed, "-subj", f"/CN={subject}", *leaf, *files)
    return folder


@asynccontextmanager
async def ending_tls(port: int, certificates: Path, *, demands: bool) -> AsyncIterator[int]:
    """The port of a server that passes on to `port` what comes over TLS, and refuses all else."""
    context = ssl.SSLContext(ssl.PROTOCOL_TLS_SERVER)
    context.load_cert_chain(certificates / "server.pem", certificates / "server.key")
    if demands:
        context.load_verify_locations(certificates / "ca.pem")
        context.verify_mode = ssl.CERT_REQUIRED

    async def copy(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        with suppress(OSError):
            while data := await reader.read(65536):
                writer.write(data)
                await writer.drain()
        writer.close()

    async def serve(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        with suppress(OSError, asyncio.IncompleteReadError):
            if await reader.readexactly(len(SSL_REQUEST)) == SSL_REQUEST:
                writer.write(b"S")
                await writer.start_tls(context)
                there, back = await asyncio.open_connection("127.0.0.1", port)
                await asyncio.gather(copy(reader, back), copy(there, writer))
        writer.close()

    server = await asyncio.start_server(serve, "127.0.0.1", 0)
    try:
        yield server.sockets[0].getsockname()[1]
    finally:
        server.close()


def test_a_connection_that_is_cut_is_no_matter_of_certificates() -> None:
    """As where a server restarts in the middle of a query."""
    after_close = ssl.SSLError(1, "application data after close notify")
    after_close.reason = "APPLICATION_DATA_AFTER_CLOSE_NOTIFY"
    wrong_key = ssl.SSLError(1, "key values mismatch")
    target = Target.of("postgresql://here/there")
    for error, is_cut in (
        (ssl.SSLEOFError(8, "unexpected eof while reading"), True),
        (ssl.SSLZeroReturnError(6, "closed"), True),
        (after_close, True),
        (ssl.SSLCertVerificationError(1, "certificate verify failed"), False),
        (wrong_key, False),
    ):
        told = translated(error, target)
        assert (type(told), told.reason) == (TransientError, Reason.LEDGER_DOWN)
        assert ("Check sslmode" not in str(told), "does not answer" in str(told)) == (is_cut, is_cut)


@pytest.mark.parametrize("name", CASES)
async def test_a_ledger_is_kept_over_tls_or_refused_for_what_does_not_fit(
    box: Sandbox, certificates: Path, name: str
) -> None:
    case, database = CASES[name], f"tls{uuid4().hex[:8]}"
    box.postgres.create_database(database)
    real = urlsplit(box.postgres.dsn(database))
    assert real.port is not None
    async with ending_tls(real.port, certificates, demands=case.demands) as port:
        options = case.options.format(d=certificates)
        dsn = f"postgresql://{real.username}@{case.host}:{port}/{database}?{options}"
        postgres = Postgres(dsn, box.postgres.password)
        lease = Lease(dsn, box.postgres.password, host="here", installation=sole(postgres).settled)
        try:
            if case.said:
                for work in (postgres.ping, partial(migrate, dsn, box.postgres.password), lease.try_acquire):
                    with pytest.raises(IcekeeperError) as refused:
                        await work()
                    assert refused.value.reason is Reason.LEDGER_DOWN
                    assert re.search(case.said, str(refused.value))
                return
            assert (await migrate(dsn, box.postgres.password))[0] == "0001_ledger"
            assert await pending(dsn, box.postgres.password) == []
            await postgres.ping()
            assert await lease.try_acquire()
        finally:
            await lease.release()
            await postgres.close()
