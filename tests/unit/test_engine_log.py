"""The engine's output during a task that failed is attached to it, and to no other."""

from __future__ import annotations

import json
from dataclasses import replace
from typing import Any

from rich.console import Console

from icekeeper.adapters.records import from_json, to_json
from icekeeper.cli.output.listings import show_run
from icekeeper.core.enums import Stage, TaskOutcome
from icekeeper.core.errors import PermanentError
from icekeeper.core.reasons import Reason
from icekeeper.core.runs import StageResult
from icekeeper.night.task import Task
from tests.unit.builders import SLOT, result, table_policy
from tests.unit.fakes import World, fails, permanent

POLICY = table_policy()


class FakeLog:
    """An engine's log."""

    def __init__(self) -> None:
        self.lines = ["of another task"]

    def mark(self) -> int:
        return len(self.lines)

    def since(self, mark: int) -> str:
        return "\n".join(self.lines[mark:])


def world_with(log: FakeLog) -> World:
    world = World()
    world.add(POLICY)
    world.ports = replace(world.ports, engine_log=log)
    return world


async def test_the_tail_of_a_failed_task_is_the_output_since_it_began() -> None:
    log = FakeLog()
    world = world_with(log)
    lost = fails(permanent(Reason.STORAGE_DOWN))
    logged = replace(lost, first=lambda: log.lines.append("ERROR lost"))
    world.lakehouse.script("compact", POLICY.name, logged)
    end = await Task(Stage.COMPACT, POLICY, world.context()).run()
    assert end.result.outcome is TaskOutcome.FAILED
    assert end.result.engine_log == "ERROR lost"
    world.lakehouse.script("compact", POLICY.name, lost)
    quiet = await Task(Stage.COMPACT, POLICY, world.context()).run()
    assert quiet.result.outcome is TaskOutcome.FAILED
    assert quiet.result.engine_log is None, "there was no output during this one"


async def test_a_task_that_did_its_work_has_none() -> None:
    world = world_with(FakeLog())
    end = await Task(Stage.COMPACT, POLICY, world.context()).run()
    assert end.result.outcome is TaskOutcome.DONE
    assert end.result.engine_log is None


def test_a_task_that_never_began_has_none() -> None:
    world = world_with(FakeLog())
    end = Task(Stage.COMPACT, POLICY, world.context()).fail(PermanentError("not tried"))
    assert end.result.engine_log is None


def test_a_record_of_before_has_none_and_one_of_now_keeps_it() -> None:
    now = StageResult(Stage.COMPACT, "cold.a", TaskOutcome.FAILED, None, "", 1, SLOT, 1.0, engine_log="ERROR lost")
    assert from_json(StageResult, to_json(now)) == now
    before = json.loads(to_json(result(TaskOutcome.FAILED)))
    del before["engine_log"]
    assert from_json(StageResult, json.dumps(before)).engine_log is None


def test_a_person_sees_the_end_of_it() -> None:
    task: dict[str, Any] = {"stage": "compact", "table": "cold.a", "outcome": "failed", "reason": None, "attempts": 1}
    task |= {"duration_s": 1.0, "note": "", "error": "lost", "engine_log": "\n".join(f"line {n}" for n in range(40))}
    run = {"run_id": "1", "slot": SLOT, "trigger": "schedule", "outcome": "partial", "audits": [], "logs": []}
    console = Console(width=200)
    with console.capture() as capture:
        show_run(console, {**run, "tasks": [task]})
    assert "what Spark said during compact of cold.a:" in capture.get()
    assert "line 39" in capture.get()
    assert "line 29" not in capture.get()
