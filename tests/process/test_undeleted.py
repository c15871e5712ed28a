"""A store that refuses to delete, and a daemon that is killed and started again: the files are gone in the end."""

from __future__ import annotations

import asyncio
import os
import re
import signal
from functools import partial
from pathlib import Path
from typing import Any

import pytest
import yaml

from icekeeper.sandbox import Sandbox, WorldSpec
from tests.conftest import COINBASE, SLOT, write_settings
from tests.integration.faults import Answer, Request, proxied
from tests.process.program import document, fetch, icekeeper, metrics, running, wait_for

LEFT = f'icekeeper_table_undeleted_files{{table="{COINBASE}"}}'


async def throttled(request: Request) -> Answer | None:
    """Nothing of a bulk delete is done, and every second key is refused."""
    if request.method != "POST" or "delete" not in request.target:
        return None
    refused = re.findall(rb"<Key>.*?</Key>", request.body)[::2]
    said = b"".join(b"<Error>%s<Code>SlowDown</Code></Error>" % key for key in refused)
    return Answer(200, b"<DeleteResult>%s</DeleteResult>" % said, "application/xml")


@pytest.mark.long
async def test_what_could_not_be_deleted_outlives_the_daemon_and_is_shown_until_it_is_gone(
    box: Sandbox, tmp_path: Path
) -> None:
    spec = WorldSpec(now=SLOT, days=0.5, tables=(COINBASE,), commits_per_day=8, rows_per_file=5, symbols=6)
    world = await asyncio.to_thread(box.world, spec)
    async with proxied(box.s3.endpoint, http=True) as store:

        def behind_the_proxy(settings: dict[str, Any]) -> None:
            settings["catalog"]["properties"]["s3.endpoint"] = store.url
            settings["expire"] = {"retries": 0}

        config = write_settings(world, tmp_path / "icekeeper.yaml", tmp_path / "state", behind_the_proxy)
        base = "http://" + yaml.safe_load(config.read_text())["http"]["listen"]

        def expired(outcome: str) -> dict[str, Any]:
            command = partial(icekeeper, "expire", "--slot", SLOT.isoformat(), "--json", config=config, timeout=300)
            done = command()
            while done.returncode == 4:  # a daemon that has just started settles first what a killed one has left
                assert "another run is under way" in done.stderr
                done = command()
            (task,) = document(done)["tasks"]
            assert task["outcome"] == outcome, task
            return dict(task)

        def play() -> None:
            assert icekeeper("migrate", config=config).returncode == 0
            with running("serve", config=config, log=tmp_path / "stderr") as daemon:
                wait_for("/livez", lambda: fetch(f"{base}/livez"))
                assert metrics(base)[LEFT] == 0
                store.rule = throttled
                assert expired("failed")["reason"] == "not_verified"
                os.kill(daemon.pid, signal.SIGKILL)
            kept = [
                path.partition("://")[2].partition("/")[2] for path in paths().read_text().splitlines() if "://" in path
            ]
            assert set(kept) <= set(box.s3.list(f"{world.name}/"))

            with running("serve", config=config, log=tmp_path / "stderr"):
                wait_for("the metric", lambda: metrics(base).get(LEFT) == len(kept))
                assert expired("failed")["reason"] == "not_verified"
                status = document(icekeeper("status", "--json", config=config))
                assert f"{COINBASE}: {len(kept)} files of expired snapshots could not be deleted." in str(status)
                assert "of expired snapshots could not be deleted." in str(fetch(f"{base}/"))
                store.rule = None
                assert f"tried again to delete {len(kept)} files" in expired("done")["note"]
                wait_for("the metric", lambda: metrics(base).get(LEFT) == 0)
            assert not set(kept) & set(box.s3.list(f"{world.name}/"))

        def paths() -> Path:
            (file,) = (tmp_path / "state" / "undeleted").iterdir()
            return file

        await asyncio.to_thread(play)
