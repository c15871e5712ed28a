"""Reading the ledger in the background: when it is read, and what a failure costs."""

from __future__ import annotations

import asyncio

from structlog.testing import capture_logs

from icekeeper.core.errors import TransientError
from icekeeper.core.reasons import Reason
from icekeeper.status.ledger_poller import LedgerPoller


class Ledger:
    """Answers, or fails."""

    def __init__(self) -> None:
        self.away = False
        self.reads = 0
        self.answers: list[bool] = []

    async def read(self) -> None:
        self.reads += 1
        await asyncio.sleep(0)
        if self.away:
            raise TransientError("away", reason=Reason.LEDGER_DOWN)


async def test_a_scrape_reads_again_where_the_last_answer_is_old_and_a_failure_is_logged_once() -> None:
    ledger = Ledger()
    poller = LedgerPoller(ledger.read, ledger.answers.append, refresh_s=0)
    poller.refresh_if_old()
    assert ledger.reads == 0  # the startup reads first, not a scrape before it
    poller.refresh()
    await poller.settled(1)
    assert (ledger.reads, ledger.answers) == (1, [True])
    ledger.away = True
    with capture_logs() as logs:
        for _ in range(2):
            poller.refresh_if_old()
            await poller.settled(1)
    assert ledger.answers == [True, False, False]
    assert [line["event"] for line in logs] == ["ledger_not_read"]
    await poller.close()


async def test_a_scrape_soon_after_the_last_answer_reads_nothing() -> None:
    ledger = Ledger()
    poller = LedgerPoller(ledger.read, ledger.answers.append)
    poller.refresh()
    await poller.settled(1)
    for _ in range(3):
        poller.refresh_if_old()
        await poller.settled(1)
    assert ledger.reads == 1
    await poller.close()


async def test_news_during_a_read_is_read_afterwards() -> None:
    ledger = Ledger()
    poller = LedgerPoller(ledger.read, ledger.answers.append)
    for _ in range(3):
        poller.refresh()
    await asyncio.sleep(0)
    poller.refresh()
    await poller.settled(1)
    assert ledger.reads == 2
    await poller.close()


async def test_a_scrape_during_the_shutdown_reads_nothing() -> None:
    ledger = Ledger()
    poller = LedgerPoller(ledger.read, ledger.answers.append, refresh_s=0)
    poller.refresh()
    await poller.settled(1)
    await poller.close()
    poller.refresh_if_old()
    poller.refresh()
    await poller.settled(1)
    assert (ledger.reads, ledger.answers) == (1, [True])


async def test_an_answer_that_does_not_come_is_waited_for_only_so_long() -> None:
    async def hang() -> None:
        await asyncio.Event().wait()

    poller = LedgerPoller(hang, lambda answered: None)
    poller.refresh()
    await poller.settled(0)
    await poller.close()
