"""The progress of a run under way as the API shows it, from its events and the typical durations of its tasks. Pure."""

from __future__ import annotations

from datetime import datetime
from typing import Any

from icekeeper.core.enums import Stage
from icekeeper.status import run_schemas
from icekeeper.status.live import RunUnderWay, Typical


def progress_of(run: RunUnderWay, typical: Typical, now: datetime) -> run_schemas.RunUnderWay:
    """The run with its stages, tasks and remaining time."""
    opening, hand = run.opening, run.in_hand
    return run_schemas.RunUnderWay(
        run_id=opening.run_id,
        slot=opening.slot,
        trigger=opening.trigger,
        started_at=opening.started_at,
        actor=opening.actor,
        elapsed_s=(now - opening.started_at).total_seconds(),
        left_s=run.left_s(typical, now),
        in_hand=run_schemas.TaskInHand.model_validate(hand) if hand is not None else None,
        stages=tuple(_stage_progress(run, stage) for stage in Stage if any(stage is one for one, _ in run.work)),
        tasks=tuple(_task_progress(run, stage, table, typical, now) for stage, table in run.work),
    )


def _stage_progress(run: RunUnderWay, stage: Stage) -> run_schemas.StageProgress:
    ended = [task for task in run.tasks if task.stage is stage]
    return run_schemas.StageProgress(
        stage=stage,
        ended=len(ended),
        failed=sum(task.outcome == "failed" for task in ended),
        of=sum(one is stage for one, _ in run.work),
    )


def _task_progress(
    run: RunUnderWay, stage: Stage, table: str, typical: Typical, now: datetime
) -> run_schemas.TaskProgress:
    hand = run.in_hand
    ended = next((task for task in run.tasks if (task.stage, task.table) == (stage, table)), None)
    progress: dict[str, Any] = {"state": "waiting"}
    if ended is not None:
        progress = {"state": ended.outcome, "reason": ended.reason, "elapsed_s": ended.duration_s}
    elif hand is not None and (hand.stage, hand.table) == (stage, table):
        progress = {"state": "in_hand", "elapsed_s": (now - hand.since).total_seconds()}
    return run_schemas.TaskProgress(stage=stage, table=table, usual_s=typical.get((stage, table)), **progress)
