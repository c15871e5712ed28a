"""A Debian that is booted on this host: a real systemd as process 1 of a container, on the host's network."""

from __future__ import annotations

import subprocess
import tempfile
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from pathlib import Path

import psutil
from filelock import FileLock

from tests.packaging import debian
from tests.process.program import wait_for

# Two at a time would share the cgroup that systemd-nspawn puts them in, and end each other's services.
_ONE_AT_A_TIME = Path(tempfile.gettempdir()) / "icekeeper-machine.lock"
_BOOT_S, _POWEROFF_S = 120.0, 60.0


class Machine:
    """A booted system. `root` is its root directory as this host sees it."""

    def __init__(self, root: Path, leader: int) -> None:
        self.root = root
        self._leader = leader

    def run(
        self, *command: str, check: bool = True, timeout: float = 120.0, environ: Mapping[str, str] | None = None
    ) -> subprocess.CompletedProcess[str]:
        """Runs a command as root to its end; AssertionError with all it said where it fails, unless `check` is off."""
        variables = {"PATH": "/usr/local/sbin:/usr/sbin:/usr/bin:/sbin:/bin", "LANG": "C.UTF-8", "HOME": "/root"}
        into = ["nsenter", f"--target={self._leader}", "--mount", "--uts", "--ipc", "--pid", "--cgroup", "--"]
        done = subprocess.run(
            [*into, *command],
            stdin=subprocess.DEVNULL,
            capture_output=True,
            text=True,
            timeout=timeout,
            check=False,
            env={**variables, **(environ or {})},
        )
        if check:
            assert done.returncode == 0, f"{command} exited {done.returncode}:\n{done.stdout}{done.stderr}"
        return done

    def sh(
        self, script: str, *, check: bool = True, timeout: float = 600.0, environ: Mapping[str, str] | None = None
    ) -> subprocess.CompletedProcess[str]:
        """Types commands where the release is unpacked; the first that fails ends them."""
        return self.run("sh", "-ec", f"cd {SOURCE}\n{script}", check=check, timeout=timeout, environ=environ)

    def write(self, path: str, text: str, mode: int = 0o644) -> None:
        """A file of root's."""
        file = self.path(path)
        file.parent.mkdir(parents=True, exist_ok=True)
        file.write_text(text)
        file.chmod(mode)

    def path(self, path: str) -> Path:
        """A path of the machine as this host sees it. Not below /run and /tmp, which are mounted inside."""
        return self.root / path.lstrip("/")

    def kill(self, signal: str, pid: int) -> bool:
        """Sends a signal, "0" to find out whether there is such a process; False where there is none."""
        # The shell's own: a minimal Debian has no such program.
        return self.run("sh", "-c", f"kill -{signal} {pid}", check=False).returncode == 0

    def processes_of(self, user: str) -> list[str]:
        """The command lines of all processes of a user."""
        uid = int(self.run("id", "-u", user).stdout)
        family: list[psutil.Process] = psutil.Process(self._leader).children(recursive=True)
        return [" ".join(member.cmdline()) for member in family if member.uids().real == uid]

    def property(self, name: str, unit: str = "icekeeper") -> str:
        """One property of a unit, as systemd knows it now."""
        return self.run("systemctl", "show", "--property", name, "--value", unit).stdout.strip()


# Where the release is unpacked.
SOURCE = "/usr/src/icekeeper"


@contextmanager
def booted(tree: Path, binds: Mapping[Path, str]) -> Iterator[Machine]:
    """Unpacks a tree and boots it, with directories of this host bound into it; nothing of it is left afterwards."""
    debian.install("systemd-container", "util-linux")
    with FileLock(_ONE_AT_A_TIME), tempfile.TemporaryDirectory(prefix="icekeeper-machine-") as directory:
        root = Path(directory) / "root"
        root.mkdir()
        subprocess.run(["tar", "--extract", "--numeric-owner", f"--file={tree}", f"--directory={root}"], check=True)
        # What an installation of Debian makes and debootstrap doesn't. Spark's Python side looks localhost up.
        (root / "etc" / "hostname").write_text("machine\n")
        (root / "etc" / "hosts").write_text("127.0.0.1 localhost machine\n::1 localhost\n")
        command = [
            "systemd-nspawn",
            f"--directory={root}",
            "--boot",
            # There may be no systemd on this host that would keep it in its books.
            "--register=no",
            "--keep-unit",
            "--console=pipe",
            *(f"--bind={where}:{to}" for where, to in binds.items()),
        ]
        console = Path(directory) / "console"
        with console.open("wb") as output:
            nspawn = subprocess.Popen(command, stdin=subprocess.DEVNULL, stdout=output, stderr=output)
        try:
            yield _up(nspawn, root, console)
        finally:
            _end(nspawn)


def _up(nspawn: subprocess.Popen[bytes], root: Path, console: Path) -> Machine:
    def leader() -> int | None:
        if nspawn.poll() is not None:
            raise AssertionError(f"systemd-nspawn exited {nspawn.returncode}: {console.read_text(errors='replace')}")
        # Before it becomes process 1 it is still called systemd-nspawn.
        return next((child.pid for child in _children(nspawn) if child.name() == "systemd"), None)

    machine = Machine(root, wait_for("the system's process 1", leader, _BOOT_S))

    def settled() -> str | None:
        # Nothing, or "offline", while there is nobody to ask yet.
        answer = machine.run("systemctl", "is-system-running", check=False).stdout.strip()
        return answer if answer in ("running", "degraded", "maintenance") else None

    state = wait_for("the system to be up", settled, _BOOT_S)
    failed = machine.run("systemctl", "--failed", "--no-legend", check=False).stdout
    assert state == "running", f"{state}: {failed}"
    return machine


def _end(nspawn: subprocess.Popen[bytes]) -> None:
    """Asks it to power off; where that takes too long, kills its process 1, with which the kernel ends all others."""
    leaders = _children(nspawn)
    nspawn.terminate()  # it passes that on as a wish to power off
    try:
        nspawn.wait(_POWEROFF_S)
    except subprocess.TimeoutExpired:
        for leader in leaders:
            leader.kill()
        nspawn.kill()
        nspawn.wait()


def _children(process: subprocess.Popen[bytes]) -> list[psutil.Process]:
    try:
        found: list[psutil.Process] = psutil.Process(process.pid).children(recursive=False)
    except psutil.NoSuchProcess:
        return []
    return found
