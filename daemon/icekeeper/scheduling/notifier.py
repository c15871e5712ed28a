"""Sends notifications about nights: checks each run that ended once, and sends until each target has taken its message.

Which runs are worth a message, and its text: core/notifications.py. Messages wait in the spool, so that a stop neither
waits for them nor loses them. Whom they are for: targets.py. Sending one: adapters/apprise.py.
"""

from __future__ import annotations

import asyncio
from collections.abc import Callable, Mapping, Sequence
from datetime import datetime, timedelta
from typing import Literal

import structlog

from icekeeper.adapters.spool.notifications import EndedRun, WaitingNotification
from icekeeper.adapters.spool.spool import Spool
from icekeeper.adapters.waiting import wait_for_event
from icekeeper.core.audit.days import newly_empty
from icekeeper.core.enums import RunOutcome, TaskOutcome, Trigger
from icekeeper.core.errors import IcekeeperError
from icekeeper.core.history import PastRun
from icekeeper.core.notifications import (
    Holds,
    KnownSlot,
    Notification,
    Occasion,
    answered_by_later,
    bad_nights,
    closed_before,
    failure,
    held,
    missed,
    newly_held,
    occasion_of,
    recovery,
    source_empty,
    with_others,
)
from icekeeper.core.run_history import TASKS_KEPT, RunHistory
from icekeeper.night.ports import Clock, Sleep
from icekeeper.scheduling.targets import SEND_S, Target, TargetConfig, configured_targets, open_target, renamed_targets
from icekeeper.settings import Settings

log = structlog.get_logger(__name__)

Result = Literal["delivered", "failed"]
RESULTS: tuple[Result, ...] = ("delivered", "failed")

# Runs that end together, like slots that were missed, go into one message.
SETTLE_S = 3.0
# A command that runs beside the daemon writes its runs to the same file, and can't wake the notifier.
POLL_S = 60.0
FIRST_RETRY = timedelta(seconds=30)
LAST_RETRY = timedelta(minutes=30)
# Older news is in the history.
GIVE_UP = timedelta(hours=24)


class Notifier:
    """Runs beside the nights and never delays them: it reads what they recorded."""

    def __init__(
        self,
        spool: Spool,
        settings: Callable[[], Settings],
        clock: Clock,
        sleep: Sleep,
        count: Callable[[Result], None],
        history: Callable[[], RunHistory] = RunHistory,
        opened: Callable[[str], Target] = open_target,
    ) -> None:
        """`settings` is called for each pass, as a reload may change them; `count` for each final result.

        `history` returns that of the last nights as far as it is known: with replicas, also other hosts'.
        """
        self._spool = spool
        self._queue = spool.notifications
        self._settings = settings
        self._clock = clock
        self._sleep = sleep
        self._count = count
        self._history = history
        self._opened = opened
        # Since when the oldest undelivered message waits, as of the last pass: a scrape must not read the disk.
        self.oldest: datetime | None = None
        self._targets: dict[str, Target] = {}
        # Messages whose result could not be written to the spool, by number: they must not be sent again.
        self._unsettled: dict[int, Result] = {}
        self._renamed = False
        self._woken = asyncio.Event()
        spool.outbox.on_put(self._woken.set)

    async def run(self) -> None:
        """Never returns: sends what is recorded, and retries what was not accepted."""
        failing = False
        while True:
            self._woken.clear()
            try:
                await self.judge()
                await self.deliver()
                wait = await self._until_due()
                failing = False
            except IcekeeperError as exc:
                wait = POLL_S
                if not failing:
                    log.error("notifications_stopped", error=str(exc), advice=exc.reason.advice)
                failing = True
            except Exception:  # a bug must not end the daemon: it is logged and tried again
                log.exception("notifications_failed")
                wait = POLL_S
            await wait_for_event(self._woken, wait, self._sleep)
            await self._sleep(SETTLE_S)

    # --- queueing

    async def judge(self) -> None:
        """Checks the runs that ended since the last pass, and queues their messages."""
        ended = await self._queue.unprocessed_runs()
        if not ended:
            return
        now, page = self._clock(), self._settings().http.base_url
        fresh = [run for run in ended if now - run.ended_at < GIVE_UP]
        slots = await self._queue.slots()
        messages = [message for run in fresh for message in await self._messages(run, slots, page)]
        answered = answered_by_later(slots)
        lost = [run for run in fresh if run.outcome is RunOutcome.MISSED and run.slot not in answered]
        if lost and (runs := [past for run in lost if (past := await self._past(run)) is not None]):
            messages.append(missed(sorted(runs, key=lambda run: run.slot), page))
        targets = configured_targets(self._settings()).values()
        # Of two messages about a run, a target gets the first one that it asks for.
        queued = {message: [one.name for one in targets if message.occasion in one.on] for message in messages}
        await self._queue.queue([run.run_id for run in ended], queued, now)

    async def _messages(self, run: EndedRun, slots: Sequence[KnownSlot], page: str) -> list[Notification]:
        """The run's own message, if its end is worth one, and those of holds and empty sources, nights in a row."""
        message, stages, tables = (
            await self._message(run, slots, page),
            await self._newly_held(run),
            await self._newly_empty(run),
        )
        others = [held(run.run_id, run.slot, stages, page)] if stages else []
        if tables:
            others.append(source_empty(run.run_id, run.slot, tables, page))
        if message is None or not others:
            return others if message is None else [message]
        return [with_others(message, others), *others]

    async def _newly_held(self, run: EndedRun) -> Holds:
        # An interrupted run is resumed, and of a missed one there are no tasks.
        if run.trigger is Trigger.MANUAL or run.outcome in (RunOutcome.INTERRUPTED, RunOutcome.MISSED):
            return {}
        of_slot = await self._spool.slot_runs(run.slot)
        if not any(task.outcome is TaskOutcome.HELD for past in of_slot for task in past.tasks):
            return {}
        begun = of_slot[0].started_at
        of_host = await self._queue.tasks_until(run.slot, begun - TASKS_KEPT, begun)
        history = self._history()
        return newly_held(run.slot, [*of_host, *history.tasks], history.not_held)

    async def _newly_empty(self, run: EndedRun) -> Mapping[str, int]:
        if run.trigger is Trigger.MANUAL or run.outcome in (RunOutcome.INTERRUPTED, RunOutcome.MISSED):
            return {}
        of_slot = await self._spool.slot_runs(run.slot)
        return newly_empty([audit for past in of_slot for audit in past.audits], self._history().days)

    async def _message(self, run: EndedRun, slots: Sequence[KnownSlot], page: str) -> Notification | None:
        if run.outcome is RunOutcome.MISSED:
            return None  # one message for all of them
        earlier = closed_before(run.slot, slots)
        occasion = occasion_of(run.trigger, run.outcome, earlier)
        past = None if occasion is None else await self._past(run)
        if occasion is None or past is None:
            return None
        if occasion is not Occasion.RECOVERED:
            return failure(past, await self._spool.slot_runs(run.slot), occasion, page)
        bad = bad_nights(earlier)
        return recovery(past, bad, await self._spool.slot_runs(bad[-1].slot), page)

    async def _past(self, run: EndedRun) -> PastRun | None:
        return next((past for past in await self._spool.slot_runs(run.slot) if past.run_id == run.run_id), None)

    # --- sending

    async def deliver(self) -> None:
        """Sends what is due: to each target its messages one by one, to all targets at the same time."""
        if not self._renamed:
            await self._queue.rename(renamed_targets(self._settings()))
            self._renamed = True
        due: dict[str, list[WaitingNotification]] = {}
        for waiting in await self._queue.due(self._clock()):
            due.setdefault(waiting.target, []).append(waiting)
        targets = configured_targets(self._settings())
        sending = (self._deliver_to(targets.get(name), messages) for name, messages in due.items())
        # Waits for all: a send that is left behind would run beside the next pass, which sends the same message.
        ends = await asyncio.gather(*sending, return_exceptions=True)
        self.oldest = await self._queue.oldest(besides=self._unsettled)
        for end in ends:
            if isinstance(end, BaseException):
                raise end

    async def _deliver_to(self, target: TargetConfig | None, messages: Sequence[WaitingNotification]) -> None:
        unwritten: IcekeeperError | None = None
        for waiting in messages:
            try:
                if waiting.number in self._unsettled:
                    await self._settle(waiting, self._unsettled[waiting.number])
                else:
                    await self._deliver_one(target, waiting)
            except IcekeeperError as exc:  # the disk's: no reason to keep back the messages behind it
                unwritten = unwritten or exc
        if unwritten is not None:
            raise unwritten

    async def _deliver_one(self, target: TargetConfig | None, waiting: WaitingNotification) -> None:
        message = waiting.notification
        about = {"target": waiting.target, "about": str(message.run_id), "on": message.occasion}
        if target is None:
            log.warning("notification_dropped", why="its target is no longer configured", **about)
            await self._settle(waiting, "failed")
            return
        try:
            await self._target(target.url).send(message.title, message.body, message.occasion, SEND_S)
        except IcekeeperError as exc:
            await self._try_later(waiting, str(exc), about)
        else:
            log.info("notification_delivered", attempt=waiting.attempts + 1, **about)
            await self._settle(waiting, "delivered")

    async def _try_later(self, waiting: WaitingNotification, why: str, about: Mapping[str, str]) -> None:
        now = self._clock()
        due_at = now + min(FIRST_RETRY * 2 ** min(waiting.attempts, 10), LAST_RETRY)
        if due_at - waiting.queued_at >= GIVE_UP:
            log.error("notification_given_up", error=why, attempts=waiting.attempts + 1, **about)
            await self._settle(waiting, "failed")
            return
        if waiting.attempts == 0:  # logged once: it is tried some fifty times
            log.warning("notification_not_delivered", error=why, next_attempt=due_at.isoformat(), **about)
        await self._queue.postpone(waiting.number, due_at)

    async def _settle(self, waiting: WaitingNotification, result: Result) -> None:
        self._unsettled[waiting.number] = result
        await self._queue.settle(waiting.number, result)
        del self._unsettled[waiting.number]
        self._count(result)

    def _target(self, url: str) -> Target:
        """The same object for the same URL: it knows of an attempt that still hangs."""
        if url not in self._targets:
            self._targets[url] = self._opened(url)
        return self._targets[url]

    async def _until_due(self) -> float:
        due_at: datetime | None = await self._queue.next_due()
        if due_at is None:
            return POLL_S
        return min(POLL_S, max(0.0, (due_at - self._clock()).total_seconds()))
