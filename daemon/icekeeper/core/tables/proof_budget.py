"""How much time may go into comparing the content of rewrites: a share of the time that rewrites take. No clock."""

from __future__ import annotations

from datetime import timedelta
from decimal import Decimal

_NOTHING = timedelta(0)
# A comparison takes at least and at most so many times as long as the rewrite did, whatever was measured.
_LEAST, _MOST = 0.05, 10.0
# More is not saved: a night shall not be spent on comparing.
_MOST_SAVED = timedelta(hours=1)


class ProofBudget:
    """One process's: what its rewrites earn and no comparison has spent is saved for the nights that follow.

    Before the first comparison it is assumed to take as long as the rewrite did; then, as those before it have taken.
    """

    def __init__(self) -> None:
        self.saved = _NOTHING
        self._times = 1.0
        self._dearest = _NOTHING

    def earn(self, worked: timedelta, percent: Decimal) -> None:
        """Adds the share of a rewrite that took so long."""
        self.saved = min(_MOST_SAVED, self.saved + worked * float(percent / 100))

    def available(self, *, in_turn: bool) -> timedelta:
        """How much a comparison may take. A table that is not in turn leaves enough for one that is."""
        return max(_NOTHING, self.saved if in_turn else self.saved - self._dearest)

    def estimate(self, rewriting: timedelta) -> timedelta:
        """How long the comparison takes of what was rewritten in this time."""
        return rewriting * self._times

    def spend(self, taken: timedelta, rewriting: timedelta, *, finished: bool) -> None:
        """Takes away what a comparison has taken, and learns from it. One that did not finish would have taken more."""
        self.saved -= taken
        self._dearest = max(self._dearest, taken)
        if rewriting <= _NOTHING:  # of a rewrite that was found after its answer was lost, no time is known
            return
        times = taken / rewriting
        if not finished:  # how long it took to stop says little
            times = 2 * max(self._times, min(times, 2 * self._times))
        self._times = min(_MOST, max(_LEAST, (self._times + times) / 2 if finished else times))
