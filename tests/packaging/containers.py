"""Building images by buildah, and running them as a container engine would, where there is none.

buildah keeps its images below `.cache/packaging`, so that a second run finds its layers. What it can't do without an
engine (a root that is read-only, a /tmp that nothing can be started from, no capabilities) is done by the kernel's
own tools: `unshare`, `chroot`, `setpriv`. The network is the host's.
"""

from __future__ import annotations

import hashlib
import json
import os
import shutil
import signal
import subprocess
import time
from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import dataclass, field
from pathlib import Path
from subprocess import PIPE
from typing import Any
from uuid import uuid4

import psutil

from tests.packaging import debian

_STORE = debian.CACHE / "containers"
# What makes Debian's own tree into what its `-slim` images are: no manuals, now and later.
_SLIM = """FROM scratch
ADD tree.tar /
RUN printf 'path-exclude /usr/share/%s/*\\n' doc info locale man > /etc/dpkg/dpkg.cfg.d/docker \\
 && rm -rf /usr/share/doc/* /usr/share/info/* /usr/share/locale/* /usr/share/man/*
CMD ["bash"]
"""
# As engines set up a container that is asked to be as closed as it can be: docker run --read-only --tmpfs /tmp
# --cap-drop ALL --security-opt no-new-privileges.
_ENTER = """
root=$1 state=$2 config=$3 secrets=$4 hosts=$5 user=$6; shift 6
mount --make-rprivate /
mount --bind "$root" "$root"
mount -o remount,bind,ro "$root"
mount -t proc proc "$root/proc"
mount -t tmpfs -o nosuid,nodev,noexec,mode=1777,size=64m tmpfs "$root/tmp"
mount -t tmpfs -o mode=755 tmpfs "$root/dev"
for device in null zero full random urandom; do
  touch "$root/dev/$device"
  mount --bind "/dev/$device" "$root/dev/$device"
done
ln -s /proc/self/fd "$root/dev/fd"
ln -s /proc/self/fd/2 "$root/dev/stderr"
mkdir -m 1777 "$root/dev/shm"
mount -t tmpfs -o mode=755 tmpfs "$root/run"
mkdir "$root/run/secrets"
mount --bind "$secrets" "$root/run/secrets"
mount --bind "$config" "$root/etc/icekeeper"
mount --bind "$hosts" "$root/etc/hosts"
mount --bind "$state" "$root/var/lib/icekeeper"
exec chroot "$root" setpriv --reuid="$user" --regid="$user" --clear-groups --no-new-privs \
  --bounding-set=-all --inh-caps=-all env -i "$@"
"""


def buildah(*arguments: str | Path, cwd: Path | None = None) -> str:
    """What buildah prints; RuntimeError with the end of its errors where it fails."""
    temporary = _STORE / "tmp"  # where its cache mounts are
    temporary.mkdir(parents=True, exist_ok=True)
    command = ["buildah", "--root", str(_STORE / "root"), "--runroot", str(_STORE / "run"), *map(str, arguments)]
    environment = {**os.environ, "BUILDAH_ISOLATION": "chroot", "TMPDIR": str(temporary)}
    done = subprocess.run(command, capture_output=True, text=True, env=environment, cwd=cwd, check=False)
    if done.returncode != 0:
        tail = f"{done.stdout[-2000:]}\n{done.stderr[-4000:]}"
        raise RuntimeError(f"buildah {' '.join(map(str, arguments))} exited with {done.returncode}:\n{tail}")
    return done.stdout


def stand_in(name: str) -> None:
    """Puts a Debian of debootstrap where an image of that name is asked for: no registry is needed."""
    tree = debian.tree()
    made = f"localhost/debian:{hashlib.sha256((tree.name + _SLIM).encode()).hexdigest()[:16]}"
    if not buildah("images", "--quiet", "--filter", f"reference={made}"):
        context = _STORE / "stand-in"
        shutil.rmtree(context, ignore_errors=True)
        context.mkdir(parents=True)
        os.link(tree, context / "tree.tar")
        (context / "Dockerfile").write_text(_SLIM)
        buildah("build", "--format", "docker", "--tag", made, context)
        shutil.rmtree(context)
    buildah("tag", made, f"docker.io/library/{name}")


@dataclass(frozen=True)
class Image:
    """A built image: its name here, and its configuration as `docker inspect` shows it."""

    name: str
    config: Mapping[str, Any]
    size: int

    @property
    def environment(self) -> dict[str, str]:
        return dict(each.split("=", 1) for each in self.config["Env"])


def build(name: str, context: Path, *options: str) -> Image:
    """Builds a directory's Dockerfile, with the layers of the last time where nothing changed."""
    buildah("build", "--format", "docker", "--layers", "--pull-never", *options, "--tag", name, context)
    shown = json.loads(buildah("inspect", "--type", "image", name))
    (listed,) = json.loads(buildah("images", "--json", name))
    return Image(name, shown["Docker"]["config"], _bytes(listed["size"]))


def _bytes(shown: str) -> int:
    number, unit = shown.split()
    return int(float(number) * 1000 ** ["B", "KB", "MB", "GB"].index(unit))


@contextmanager
def unpacked(image: Image) -> Iterator[Path]:
    """The image's files, in a container of buildah's that is gone afterwards."""
    container = f"test-{uuid4().hex[:8]}"
    buildah("from", "--pull-never", "--name", container, image.name)
    try:
        root = Path(buildah("mount", container).strip())
        (root / "etc/hosts").touch()  # engines bind theirs there
        yield root
    finally:
        buildah("rm", container)


@dataclass(frozen=True)
class Running:
    """A container under way: `first` is its process 1, as the host sees it."""

    outer: subprocess.Popen[bytes]
    first: psutil.Process

    def stop(self, timeout: float) -> int:
        """Sends its first process SIGTERM, as engines do; the exit code."""
        self.first.send_signal(signal.SIGTERM)
        return self.outer.wait(timeout)


@dataclass(frozen=True)
class Container:
    """A way to run an image's program, closed up, with these directories mounted into it."""

    image: Image
    root: Path
    state: Path
    config: Path
    secrets: Path
    environment: Mapping[str, str] = field(default_factory=dict)

    @property
    def user(self) -> str:
        user: str = self.image.config["User"].partition(":")[0]
        return user

    def command(self, *arguments: str) -> list[str]:
        """What starts it, in namespaces of its own: tini is process 1 there."""
        hosts = self.state.parent / "hosts"
        hosts.write_text("127.0.0.1 localhost\n127.0.0.1 icekeeper\n")
        mounted = (self.root, self.state, self.config, self.secrets, hosts)
        inside = [*self._environment(), *self.image.config["Entrypoint"], *(arguments or self.image.config["Cmd"])]
        enter = ["unshare", "--mount", "--uts", "--pid", "--fork", "sh", "-ec"]
        return [*enter, f"hostname icekeeper\n{_ENTER}", "container", *map(str, mounted), self.user, *inside]

    def run(self, *arguments: str, timeout: float = 300) -> subprocess.CompletedProcess[str]:
        """Runs a command of the image to its end."""
        command = self.command(*arguments)
        with subprocess.Popen(command, stdout=PIPE, stderr=PIPE, text=True, env=_HOST) as outer:
            try:
                out, errors = outer.communicate(timeout=timeout)
            finally:
                _end(outer)
        return subprocess.CompletedProcess(command, outer.returncode, out, errors)

    @contextmanager
    def running(self, log: Path) -> Iterator[Running]:
        """The image's own command under way; nothing of it is left when the block ends."""
        with (
            log.open("wb") as output,
            subprocess.Popen(self.command(), stdout=output, stderr=output, env=_HOST) as outer,
        ):
            try:
                yield Running(outer, _first(outer))
            finally:
                _end(outer)

    def healthy(self, running: Running) -> bool:
        """Runs the image's health check inside, as an engine does."""
        kind, *check = self.image.config["Healthcheck"]["Test"]
        assert kind == "CMD"
        enter = ["nsenter", f"--target={running.first.pid}", "--mount", "--pid", "--root", "--wd=/"]
        drop = ["setpriv", f"--reuid={self.user}", f"--regid={self.user}", "--clear-groups", "--no-new-privs"]
        command = [*enter, *drop, "env", "-i", *self._environment(), *check]
        return subprocess.run(command, capture_output=True, timeout=30, check=False, env=_HOST).returncode == 0

    def _environment(self) -> Sequence[str]:
        return [f"{name}={value}" for name, value in {**self.image.environment, **self.environment}.items()]


# Tools of the host are found where its root user has them.
_HOST = {"PATH": "/usr/local/sbin:/usr/local/bin:/usr/sbin:/usr/bin:/sbin:/bin"}


def _first(outer: subprocess.Popen[bytes]) -> psutil.Process:
    """The process that unshare forks, once it has become what the image starts."""
    process = psutil.Process(outer.pid)
    while outer.poll() is None:
        for child in process.children():
            if child.name() == "tini":
                return child
        time.sleep(0.05)
    raise AssertionError(f"the container ended at once with {outer.returncode}")


def _end(outer: subprocess.Popen[Any]) -> None:
    """Kills a container: with its first process the kernel ends all others.

    `unshare --kill-child` does not: the kernel forgets that wish when setpriv changes the user.
    """
    if outer.poll() is None:
        for child in psutil.Process(outer.pid).children():
            child.kill()
        outer.kill()
        outer.wait()
