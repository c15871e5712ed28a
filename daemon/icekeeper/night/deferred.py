"""The tasks of a stage that gave way to the offload, until they are tried again. Running them is run.py's."""

from __future__ import annotations

from dataclasses import dataclass

from icekeeper.core.errors import IcekeeperError
from icekeeper.core.offload import Writing
from icekeeper.night.stages.offload import OffloadGuard
from icekeeper.night.task import Task


@dataclass(frozen=True, slots=True)
class NextTask:
    """A deferred task with its position in the run, and what it still waits for (None: it can go on)."""

    position: int
    task: Task
    waits_for: Writing | None


class DeferredTasks:
    """In the order in which they gave way."""

    def __init__(self) -> None:
        self._tasks: list[tuple[int, Task]] = []

    def __len__(self) -> int:
        return len(self._tasks)

    def add(self, position: int, task: Task) -> None:
        self._tasks.append((position, task))

    def remove(self, task: Task) -> None:
        self._tasks = [each for each in self._tasks if each[1] is not task]

    def all(self) -> tuple[Task, ...]:
        return tuple(task for _, task in self._tasks)

    async def next(self, guard: OffloadGuard) -> NextTask | None:
        """The first task that can go on; where all still wait, the first of them. None where there is none."""
        first: NextTask | None = None
        for position, task in self._tasks:
            try:
                found = (await guard.ask(task.policy)).writing
            except IcekeeperError:
                found = None  # its next attempt asks again, and ends by that error
            if found is None:
                return NextTask(position, task, None)
            first = first or NextTask(position, task, found)
        return first
