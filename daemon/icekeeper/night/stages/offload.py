"""Asks whether the offload writes, where a catalog takes one writer at a time, and waits. The rule: core/offload.py."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from datetime import datetime, timedelta

from icekeeper.core.errors import TransientError
from icekeeper.core.offload import OffloadRhythm, Writing, left_over, writing
from icekeeper.core.policy import TablePolicy
from icekeeper.core.reasons import Reason
from icekeeper.night.lakehouse import BeforeCommit
from icekeeper.night.ports import RunPorts

# How often the offload's status is read while its cycle is waited for.
POLL = timedelta(seconds=10)


@dataclass(frozen=True, slots=True)
class Answer:
    """What has to be waited for, if anything; what to say of a status `running` that is left over (empty: none is)."""

    writing: Writing | None = None
    left_over: str = ""


class OffloadGuard:
    """Guards the commits of one stage; `waited` is how long it has waited already, of the rhythm's `wait`."""

    def __init__(self, ports: RunPorts, rhythm: OffloadRhythm) -> None:
        self.waited = timedelta(0)
        self._ports = ports
        self._rhythm = rhythm

    async def ask(self, policy: TablePolicy) -> Answer:
        """What the offload is at, where the catalog takes one writer. Raises like `OffloadStatus.state`."""
        if not _is_guarded(policy) or policy.source is None:
            return Answer()
        state, now = await self._ports.offload.state(policy.source), self._ports.clock()
        return Answer(writing(state, now, self._rhythm), left_over(state, now, self._rhythm))

    async def require_idle(self, policy: TablePolicy) -> str:
        """TransientError `offload_running` where it writes. Returns what to say of a status that is left over."""
        answer = await self.ask(policy)
        if answer.writing is not None:
            raise TransientError(f"waits for {answer.writing.what}", reason=Reason.OFFLOAD_RUNNING, where=policy.name)
        return answer.left_over

    def before_commit(self, policy: TablePolicy, say: Callable[[str], None], until: datetime) -> BeforeCommit | None:
        """What a commit to this table awaits in its last instant; `offload_running` where it waits in vain.

        Not longer than to `until`, the deadline of the attempt: the work that waits is done already.
        """
        if not _is_guarded(policy):
            return None

        async def wait() -> None:
            while (found := (await self.ask(policy)).writing) is not None:
                say(f"its commit waits for {found.what}")
                if not await self.pause(found, until):
                    text = f"its commit waited for {found.what}"
                    raise TransientError(text, reason=Reason.OFFLOAD_RUNNING, where=policy.name)

        return wait

    async def pause(self, found: Writing, until: datetime | None) -> bool:
        """Sleeps until the offload is to be asked again. False at once where `until` or the stage's wait is over."""
        now, left = self._ports.clock(), self._rhythm.wait - self.waited
        ends = [now + POLL, now + left, *(end for end in (found.until, until) if end is not None)]
        rest = min(ends) - now
        if left <= timedelta(0) or (until is not None and until <= now):
            return False
        rest = max(rest, timedelta(seconds=1))  # not in a busy loop where a clock stands or the end is near
        await self._ports.sleep(rest.total_seconds())
        # Counted by what was slept: a clock may be set meanwhile.
        self.waited += rest
        return True


def _is_guarded(policy: TablePolicy) -> bool:
    return policy.single_writer and policy.source is not None
