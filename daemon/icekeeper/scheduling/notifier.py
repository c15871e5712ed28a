"""Tells people of nights: judges every run that ended, once, and sends what is worth it until it is taken.

What is worth it and what it says: core/notices.py. What waits lies in the spool's file, so that a stop holds up nothing
and loses nothing. Sending: adapters/apprise.py.
"""

from __future__ import annotations

import asyncio
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from datetime import datetime, timedelta
from typing import Literal, Protocol

import structlog

from icekeeper.adapters.spool.notifications import EndedRun, NotificationQueue, WaitingNotice
from icekeeper.adapters.spool.spool import Spool
from icekeeper.adapters.waking import woken
from icekeeper.core.enums import RunOutcome
from icekeeper.core.errors import IcekeeperError
from icekeeper.core.history import PastRun
from icekeeper.core.notices import (
    KnownSlot,
    Notice,
    Occasion,
    answered_by_later,
    closed_before,
    failure,
    missed,
    occasion_of,
    recovery,
    trouble,
)
from icekeeper.night.ports import Clock, Sleep
from icekeeper.settings import Settings

log = structlog.get_logger(__name__)

Result = Literal["delivered", "failed"]
RESULTS: tuple[Result, ...] = ("delivered", "failed")

# How long a service may take to take a message.
SEND_S = 30.0
# What ends together (slots that were missed) is told together.
SETTLE_S = 3.0
# A command that runs beside the daemon puts its runs into the same file, and can't wake it.
LOOK_S = 60.0
FIRST_RETRY = timedelta(seconds=30)
LAST_RETRY = timedelta(minutes=30)
# Older news is none: it is in the history.
GIVE_UP = timedelta(hours=24)


class Sender(Protocol):
    """Where messages go to: adapters.receivers.AppriseTarget."""

    async def send(self, title: str, body: str, kind: str, timeout_s: float) -> None:
        """Returns when it was taken. IcekeeperError says why not, without the URL."""


@dataclass(frozen=True, slots=True)
class Address:
    """A receiver of the settings. `name` is the file that holds its URL, or its place in the list: it can be said."""

    name: str
    url: str
    on: frozenset[Occasion]


def addresses(settings: Settings) -> dict[str, Address]:
    """Whom the settings name, by name; one that is named twice is told once."""
    found: dict[str, Address] = {}
    for index, block in enumerate(settings.notify):
        if block.url is None:  # refused when the file was read
            continue
        name = str(block.url_file) if block.url_file is not None else f"notify[{index}]"
        on = frozenset(map(Occasion, block.on)) | (found[name].on if name in found else frozenset())
        found[name] = Address(name, block.url.get_secret_value(), on)
    return found


def open_receiver(url: str) -> Sender:
    """By Apprise: loaded when the first message goes out, as it takes a while and most daemons never need it."""
    from icekeeper.adapters.apprise import AppriseTarget

    return AppriseTarget(url)


class Notifier:
    """Runs beside the nights, and never holds them up: it reads what they have recorded."""

    def __init__(
        self,
        spool: Spool,
        settings: Callable[[], Settings],
        clock: Clock,
        sleep: Sleep,
        count: Callable[[Result], None],
        opened: Callable[[str], Sender] = open_receiver,
    ) -> None:
        """`settings` are asked for each pass, as a reload may change them. `count`: a message came to its end."""
        self._spool = spool
        self._box: NotificationQueue = spool.notices
        self._settings = settings
        self._clock = clock
        self._sleep = sleep
        self._count = count
        self._opened = opened
        # Since when the oldest message that nobody has taken waits, as of the last pass: a scrape asks no disk.
        self.oldest: datetime | None = None
        self._senders: dict[str, Sender] = {}
        # What came to its end and could not be written down, by number: it must not be sent again.
        self._unsettled: dict[int, Result] = {}
        self._woken = asyncio.Event()
        spool.on_put(self._woken.set)

    async def run(self) -> None:
        """Tells for ever: what was recorded, and again and again what was not taken."""
        failing = False
        while True:
            self._woken.clear()
            try:
                await self.judge()
                await self.deliver()
                wait = await self._until_due()
                failing = False
            except IcekeeperError as exc:
                wait = LOOK_S
                if not failing:
                    log.error("notifications_stopped", error=str(exc), advice=exc.reason.advice)
                failing = True
            except Exception:  # a mistake of ours must not end the daemon: it is told and tried again
                log.exception("notifications_failed")
                wait = LOOK_S
            await woken(self._woken, wait, self._sleep)
            await self._sleep(SETTLE_S)

    # --- what is to be told

    async def judge(self) -> None:
        """Looks at the runs that ended since it last did, and queues what is to be told."""
        unseen = await self._box.unseen()
        if not unseen:
            return
        now, page = self._clock(), self._settings().http.base_url
        fresh = [run for run in unseen if now - run.ended_at < GIVE_UP]
        slots = await self._box.slots()
        notices = [notice for run in fresh if (notice := await self._judged(run, slots, page)) is not None]
        answered = answered_by_later(slots)
        lost = [run for run in fresh if run.outcome is RunOutcome.MISSED and run.slot not in answered]
        if lost and (runs := [past for run in lost if (past := await self._past(run)) is not None]):
            notices.append(missed(sorted(runs, key=lambda run: run.slot), page))
        whom = addresses(self._settings())
        told = {notice: [one.name for one in whom.values() if notice.occasion in one.on] for notice in notices}
        await self._box.queue([run.run_id for run in unseen], told, now)

    async def _judged(self, run: EndedRun, slots: Sequence[KnownSlot], page: str) -> Notice | None:
        if run.outcome is RunOutcome.MISSED:
            return None  # all of them together
        earlier = closed_before(run.slot, slots)
        occasion = occasion_of(run.trigger, run.outcome, earlier)
        past = None if occasion is None else await self._past(run)
        if occasion is None or past is None:
            return None
        if occasion is not Occasion.RECOVERED:
            return failure(past, await self._spool.slot_runs(run.slot), occasion, page)
        bad = trouble(earlier)
        return recovery(past, bad, await self._spool.slot_runs(bad[-1].slot), page)

    async def _past(self, run: EndedRun) -> PastRun | None:
        return next((past for past in await self._spool.slot_runs(run.slot) if past.run_id == run.run_id), None)

    # --- telling it

    async def deliver(self) -> None:
        """Sends what is due: each receiver its messages one by one, and none waits for another."""
        due: dict[str, list[WaitingNotice]] = {}
        for waiting in await self._box.due(self._clock()):
            due.setdefault(waiting.receiver, []).append(waiting)
        whom = addresses(self._settings())
        sending = (self._deliver_to(whom.get(name), messages) for name, messages in due.items())
        # To the end of all of them: a send that is left behind would run beside the next pass, which sends it too.
        ends = await asyncio.gather(*sending, return_exceptions=True)
        self.oldest = await self._box.oldest(besides=self._unsettled)
        for end in ends:
            if isinstance(end, BaseException):
                raise end

    async def _deliver_to(self, address: Address | None, messages: Sequence[WaitingNotice]) -> None:
        unwritten: IcekeeperError | None = None
        for waiting in messages:
            try:
                if waiting.number in self._unsettled:
                    await self._settle(waiting, self._unsettled[waiting.number])
                else:
                    await self._deliver_one(address, waiting)
            except IcekeeperError as exc:  # the disk's: no reason to keep the news behind it from anybody
                unwritten = unwritten or exc
        if unwritten is not None:
            raise unwritten

    async def _deliver_one(self, address: Address | None, waiting: WaitingNotice) -> None:
        notice = waiting.notice
        about = {"receiver": waiting.receiver, "about": str(notice.run_id), "on": notice.occasion}
        if address is None:
            log.warning("notification_dropped", why="its receiver is configured no longer", **about)
            await self._settle(waiting, "failed")
            return
        try:
            await self._sender(address).send(notice.title, notice.body, notice.occasion, SEND_S)
        except IcekeeperError as exc:
            await self._try_later(waiting, str(exc), about)
        else:
            log.info("notification_delivered", attempt=waiting.attempts + 1, **about)
            await self._settle(waiting, "delivered")

    async def _try_later(self, waiting: WaitingNotice, why: str, about: Mapping[str, str]) -> None:
        now = self._clock()
        due_at = now + min(FIRST_RETRY * 2 ** min(waiting.attempts, 10), LAST_RETRY)
        if due_at - waiting.queued_at >= GIVE_UP:
            log.error("notification_given_up", error=why, attempts=waiting.attempts + 1, **about)
            await self._settle(waiting, "failed")
            return
        if waiting.attempts == 0:  # said once: it is tried some fifty times
            log.warning("notification_not_delivered", error=why, next_attempt=due_at.isoformat(), **about)
        await self._box.postpone(waiting.number, due_at)

    async def _settle(self, waiting: WaitingNotice, result: Result) -> None:
        self._unsettled[waiting.number] = result
        await self._box.settle(waiting.number, result)
        del self._unsettled[waiting.number]
        self._count(result)

    def _sender(self, address: Address) -> Sender:
        """The same for the same URL, so that it knows of an attempt that still hangs."""
        if address.url not in self._senders:
            self._senders[address.url] = self._opened(address.url)
        return self._senders[address.url]

    # --- when

    async def _until_due(self) -> float:
        due_at: datetime | None = await self._box.next_due()
        if due_at is None:
            return LOOK_S
        return min(LOOK_S, max(0.0, (due_at - self._clock()).total_seconds()))


@dataclass(frozen=True, slots=True)
class Tried:
    """What became of a test message; `error` None: it was taken."""

    receiver: str
    service: str
    error: str | None


async def try_all(settings: Settings) -> tuple[Tried, ...]:
    """Sends a message that says that it is a test to every receiver, whatever it is told otherwise."""
    from icekeeper.settings.values.apprise_urls import scheme_of

    title, page = "icekeeper: a test", settings.http.base_url
    body = f"This is a test. Links will begin with {page} (http.url)."

    async def one(address: Address) -> Tried:
        error = None
        try:
            await open_receiver(address.url).send(title, body, "test", SEND_S)
        except IcekeeperError as exc:
            error = str(exc)
        return Tried(address.name, scheme_of(address.url), error)

    return tuple(await asyncio.gather(*map(one, addresses(settings).values())))
