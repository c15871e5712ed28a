"""Asking the ledger behind those who must not wait: when it is asked, and what a failure costs."""

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
        self.asked = 0
        self.told: list[bool] = []

    async def ask(self) -> None:
        self.asked += 1
        await asyncio.sleep(0)
        if self.away:
            raise TransientError("away", reason=Reason.LEDGER_DOWN)


async def test_a_scrape_asks_where_the_last_answer_is_old_and_a_failure_is_said_once() -> None:
    ledger = Ledger()
    view = LedgerPoller(ledger.ask, ledger.told.append, refresh_s=0)
    view.look()
    assert ledger.asked == 0  # the start asks, not a scrape before it
    view.refresh()
    await view.answered(1)
    assert (ledger.asked, ledger.told) == (1, [True])
    ledger.away = True
    with capture_logs() as logs:
        for _ in range(2):
            view.look()
            await view.answered(1)
    assert ledger.told == [True, False, False]
    assert [line["event"] for line in logs] == ["ledger_not_read"]
    await view.close()


async def test_a_scrape_soon_after_the_last_answer_asks_nobody() -> None:
    ledger = Ledger()
    view = LedgerPoller(ledger.ask, ledger.told.append)
    view.refresh()
    await view.answered(1)
    for _ in range(3):
        view.look()
        await view.answered(1)
    assert ledger.asked == 1
    await view.close()


async def test_who_knows_of_something_new_while_a_question_is_under_way_is_answered_once_more() -> None:
    ledger = Ledger()
    view = LedgerPoller(ledger.ask, ledger.told.append)
    for _ in range(3):
        view.refresh()
    await asyncio.sleep(0)
    view.refresh()
    await view.answered(1)
    assert ledger.asked == 2
    await view.close()


async def test_a_scrape_during_the_stop_asks_nobody() -> None:
    ledger = Ledger()
    view = LedgerPoller(ledger.ask, ledger.told.append, refresh_s=0)
    view.refresh()
    await view.answered(1)
    await view.close()
    view.look()
    view.refresh()
    await view.answered(1)
    assert (ledger.asked, ledger.told) == (1, [True])


async def test_an_answer_that_does_not_come_is_waited_for_only_so_long() -> None:
    async def hang() -> None:
        await asyncio.Event().wait()

    view = LedgerPoller(hang, lambda well: None)
    view.refresh()
    await view.answered(0)
    await view.close()
