"""Checks before a command starts a run of its own: the run lock, the ledger, disk space, Spark."""

from __future__ import annotations

import re
import shutil
from pathlib import Path

from icekeeper.adapters.ledger.sql.migrations import pending
from icekeeper.adapters.spark.engine import SparkEngine
from icekeeper.adapters.spool.spool import Spool
from icekeeper.cli.output import console
from icekeeper.core.errors import IcekeeperError, PermanentError, TransientError
from icekeeper.core.formats import size
from icekeeper.core.reasons import Reason
from icekeeper.execution.lock import run_lock
from icekeeper.execution.wiring import Services

# Spark copies its jars there when it starts.
_LEAST_SPACE = 200 * 1024**2
# Messages of Spark's package resolver (Ivy) about jars that it can't download.
_NOT_FETCHED = re.compile(r"unresolved dependency|download failed|Server access error")


async def require_start(services: Services) -> None:
    """Raises where a run can't begin, or where PostgreSQL would refuse its results; cheap checks come first.

    Where Spark does not start, or has no space to, a warning is printed: each task of the run tries again.
    """
    settings = services.settings
    with run_lock(settings.state_dir):  # the run takes it again: until then Spark has to be there
        pass
    try:
        if settings.postgres is None:
            await services.postgres.ping()  # that starts it, and brings its tables up to date
            missing = []
        else:
            missing = await pending(settings.postgres.dsn, settings.postgres.secret())
    except TransientError as exc:
        if not await _ledger_was_reached(settings.state_dir):  # then it is rather a mistake in the settings
            raise
        # Maintenance goes on without it: its records wait in the spool.
        _warn(f"{exc}. The run goes on; its records wait in {settings.state_dir}")
        missing = []
    if missing:
        raise PermanentError(
            f"the ledger's tables are missing or old ({', '.join(missing)}): run `icekeeper migrate`",
            reason=Reason.LEDGER_DOWN,
        )
    problem = _space_problem(settings.state_dir) or await start_problem(services.engine)
    if problem is not None:
        _warn(problem)


def _warn(text: str) -> None:
    console.stderr().print(f"icekeeper: {text}", markup=False, soft_wrap=True)


async def _ledger_was_reached(state_dir: Path) -> bool:
    """Whether any record of this state directory has ever reached PostgreSQL."""
    spool = await Spool.open(state_dir)
    try:
        return await spool.outbox.has_shipped()
    finally:
        await spool.close()


def _space_problem(state_dir: Path) -> str | None:
    free = shutil.disk_usage(state_dir).free
    if free >= _LEAST_SPACE:
        return None
    text = f"state_dir {state_dir} has {size(free)} free, and Spark needs {size(_LEAST_SPACE)} there to start"
    return f"{text}: free space in its file system, or set state_dir to another"


async def start_problem(engine: SparkEngine) -> str | None:
    """Why the session does not start; None once it is up."""
    try:
        with console.stderr().status("starting Spark; the first start fetches its jars"):
            await engine.start()
    except IcekeeperError as exc:
        if _NOT_FETCHED.search(str(exc)) is None:
            return str(exc)
        return (
            "Spark's jars could not be fetched: let this host reach a Maven repository, or put the "
            f"jars on this host and name them in spark.jars. {exc}"
        )
    return None
