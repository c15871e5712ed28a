"""What has to be there before a command starts a run of its own: the run lock, the ledger, space, Spark."""

from __future__ import annotations

import re
import shutil
from pathlib import Path

from icekeeper.adapters.ledger.sql.migrations import pending
from icekeeper.adapters.spark.engine import SparkEngine
from icekeeper.adapters.spool.spool import Spool
from icekeeper.cli.output import console
from icekeeper.core.errors import IcekeeperError, PermanentError, TransientError
from icekeeper.core.reasons import Reason
from icekeeper.execution.lock import run_lock
from icekeeper.execution.wiring import Services

# Spark copies its jars there when it starts.
_LEAST_SPACE = 200 * 1024**2
# What Spark's package resolver (Ivy) says of jars that it can't get.
_NOT_FETCHED = re.compile(r"unresolved dependency|download failed|Server access error")


async def require_start(services: Services) -> None:
    """Raises where a run can't begin, or its results would be refused; what is cheap to ask is asked first.

    Where Spark does not start, that is said at once: within the run it is found by each task, and tried again.
    """
    settings = services.settings
    with run_lock(settings.state_dir):  # the run takes it again: until then Spark has to be there
        pass
    try:
        missing = await pending(settings.postgres.dsn, settings.postgres.secret())
    except TransientError as exc:
        if not await _ledger_was_there(settings.state_dir):  # then it is rather a mistake in the settings
            raise
        # Maintenance goes on without it: what it should know waits in the spool.
        say = console.stderr().print
        say(
            f"icekeeper: {exc}. The run goes on; its records wait in {settings.state_dir}", markup=False, soft_wrap=True
        )
        missing = []
    if missing:
        raise PermanentError(
            f"the ledger's tables are missing or old ({', '.join(missing)}): run `icekeeper migrate`",
            reason=Reason.LEDGER_DOWN,
        )
    trouble = _full(settings.state_dir) or await _not_started(services.engine)
    if trouble is not None:
        console.stderr().print(f"icekeeper: {trouble}", markup=False, soft_wrap=True)


async def _ledger_was_there(state_dir: Path) -> bool:
    """Whether anything that was recorded here has ever reached PostgreSQL."""
    spool = await Spool.open(state_dir)
    try:
        return await spool.has_shipped()
    finally:
        await spool.close()


def _full(state_dir: Path) -> str | None:
    free, least = shutil.disk_usage(state_dir).free // 1024**2, _LEAST_SPACE // 1024**2
    if free >= least:
        return None
    there = f"state_dir {state_dir} has {free} MiB free, and Spark needs {least} there to start"
    return f"{there}: free space in its file system, or set state_dir to another"


async def _not_started(engine: SparkEngine) -> str | None:
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
