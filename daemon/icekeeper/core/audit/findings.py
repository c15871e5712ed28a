"""Where in a window both sides differ, by the minute and down to the keys: the findings of an audit. Pure."""

from __future__ import annotations

from bisect import bisect_left
from collections import Counter
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass, replace
from datetime import UTC, datetime, timedelta
from itertools import chain, islice, zip_longest

from icekeeper.core.audit.keys import DifferentKey, Key, shown
from icekeeper.core.audit.records import MOST_FINDINGS, Explanation, Finding, FindingKind
from icekeeper.core.calendar import Window
from icekeeper.core.formats import counted, iso_second, listed, span

MINUTE = timedelta(minutes=1)
# How often the platform's offload writes.
CYCLE = timedelta(minutes=15)
HOUR = timedelta(hours=1)
# Findings of a kind are told apart by these steps, by the first that makes no more of them than this.
_STEPS = (MINUTE, CYCLE, HOUR, timedelta(days=1))
# A window is told apart by no more steps than this.
_MOST_STEPS = 50_000
# Of fewer rows Iceberg may hold a multiple by chance.
_ENOUGH = 10
_EPOCH = datetime(1970, 1, 1, tzinfo=UTC)
_MICROSECOND = timedelta(microseconds=1)


@dataclass(frozen=True, slots=True)
class Times:
    """The rows of a window on both sides by their time: by the starts of the minutes, or of other `step`s, that have
    any. `merges`: ClickHouse merges rows, so that Iceberg may rightly hold more of them."""

    clickhouse: Mapping[datetime, int]
    iceberg: Mapping[datetime, int]
    merges: bool
    step: timedelta = MINUTE

    def by(self, step: timedelta, start: datetime, cut: datetime | None) -> Times:
        """The same by longer steps, which are counted from `start`; none goes across `cut`."""
        clickhouse, iceberg = (_by(step, start, side, cut) for side in (self.clickhouse, self.iceberg))
        return replace(self, clickhouse=clickhouse, iceberg=iceberg, step=step)


@dataclass(frozen=True, slots=True)
class KeysFound:
    """The keys that differ, and how many of them findings name.

    `complete`: all rows of both sides were compared, so that numbers of rows tell no more. `one_in`: only one part of
    so many of the keys was compared.
    """

    key: Key
    different: Sequence[DifferentKey]
    samples: int
    complete: bool = False
    one_in: int = 1


@dataclass(frozen=True, slots=True)
class _Part:
    """Neighbouring times that differ in the same way."""

    start: datetime
    end: datetime
    rows: int
    clickhouse: int
    iceberg: int

    @property
    def copies(self) -> int:
        """How many times Iceberg holds each of ClickHouse's rows, by the counts; 0 where they are no multiple."""
        more = self.iceberg > self.clickhouse > 0 and self.iceberg % self.clickhouse == 0
        return self.iceberg // self.clickhouse if more else 0

    def followed_by(self, other: _Part) -> _Part:
        return _Part(
            self.start,
            other.end,
            self.rows + other.rows,
            self.clickhouse + other.clickhouse,
            self.iceberg + other.iceberg,
        )

    def cycles(self, occupied: Sequence[datetime]) -> Window | None:
        """Its cycles, where these hold no other row than its own; None where they do. `occupied`: times with rows."""
        start = _EPOCH + (self.start - _EPOCH) // CYCLE * CYCLE
        end = _EPOCH - (_EPOCH - self.end) // CYCLE * CYCLE
        others = (
            bisect_left(occupied, self.start)
            - bisect_left(occupied, start)
            + (bisect_left(occupied, end) - bisect_left(occupied, self.end))
        )
        return None if others else Window(start, end)


@dataclass(frozen=True, slots=True)
class Reach:
    """How far the offload has come; `until`: the first minute that it has not come to, or is in the middle of."""

    watermark: datetime | None
    until: datetime | None

    @classmethod
    def of(cls, watermark: datetime | None, newest: datetime | None, window: Window) -> Reach:
        if watermark is None:
            return cls(None, None)
        if newest is not None and newest <= watermark:
            # Of the source's rows none is behind the newest one.
            return cls(watermark, window.end)
        minute = watermark.replace(second=0, microsecond=0)
        # A watermark on the whole minute is a candle's: the offload goes on behind that minute.
        return cls(watermark, minute + MINUTE if minute == watermark else minute)


def findings(
    window: Window,
    times: Times,
    keys: KeysFound | None,
    watermark: datetime | None,
    newest: datetime | None = None,
) -> tuple[Finding, ...]:
    """The findings of a window, by kind and time.

    `watermark`: how far the offload has come, `newest`: the event time of the source's newest row of the window; None
    where they are not known.
    """
    begin = window.start.replace(minute=0, second=0, microsecond=0)
    by_key = {kind: _by(times.step, begin, _minutes_of(kind, keys)) for kind in FindingKind}
    more = Counter(times.iceberg)
    more.subtract(times.clickhouse)
    by_count: dict[FindingKind, Counter[datetime]] = {}
    # With keys a row whose time is another is one that has changed, and none that is missing there and surplus here.
    if keys is None or not keys.complete:
        by_count[FindingKind.MISSING] = -more
    if by_count and not times.merges:
        by_count[FindingKind.EXTRA] = +more - by_key[FindingKind.DUPLICATE]
    reach = Reach.of(watermark, newest, window)
    found: list[Finding] = []
    for kind in FindingKind:
        # Where some keys were not compared: of each time the larger number, by counts or by keys.
        amounts = by_count.get(kind, Counter()) | by_key[kind]
        if not amounts:
            continue
        parts = _parts(kind, amounts, times, begin, window.end, reach)
        occupied = sorted({*times.clickhouse, *times.iceberg, *amounts})
        found += (_explained(kind, part, part.cycles(occupied), times, keys, reach, window) for part in parts)
    return tuple(found if keys is None else _with_keys(found, keys))


def missing_rows(found: Iterable[Finding]) -> int:
    """How many rows are missing at least, whatever Iceberg holds more elsewhere."""
    return sum(finding.rows for finding in found if finding.kind is FindingKind.MISSING)


def by_hour(rows: Mapping[datetime, int]) -> Mapping[datetime, int]:
    """Rows of minutes as rows of hours."""
    return _by(HOUR, _EPOCH, rows)


def findings_note(found: Sequence[Finding], most: int = 1) -> str:
    """What was found in a clause: so many of the largest, each with one of its keys; empty where nothing was."""
    largest = sorted(found, key=lambda finding: -finding.rows)
    return listed(map(_in_words, largest), most=most)


def _in_words(finding: Finding) -> str:
    rows = counted(finding.rows, "row")
    if finding.kind is FindingKind.MISSING and finding.clickhouse and finding.clickhouse >= finding.rows:
        rows = f"{finding.rows} of {counted(finding.clickhouse, 'row')}"
    what = f"{finding.kind} {span(finding.start, finding.end)}: {rows}"
    why = f" ({finding.explanation})" if finding.explanation else ""
    keys = ["/".join("NULL" if value is None else value for value in key) for key in finding.sample_keys[:1]]
    return f"{what}{why}{', such as ' if keys else ''}{''.join(keys)}"


# --- parts of a window


def _minutes_of(kind: FindingKind, keys: KeysFound | None) -> Counter[datetime]:
    """How many rows of keys differ in this way, by the minute."""
    found = Counter[datetime]()
    for different in keys.different if keys else ():
        if different.kind is kind:
            found[(_EPOCH + different.at * _MICROSECOND).replace(second=0, microsecond=0)] += different.rows
    return found


def _by(
    step: timedelta, start: datetime, rows: Mapping[datetime, int], cut: datetime | None = None
) -> Counter[datetime]:
    longer = Counter[datetime]()
    for at, count in rows.items():
        place = start + (at - start) // step * step
        longer[max(place, cut) if cut is not None and at >= cut else place] += count
    return longer


def _parts(
    kind: FindingKind,
    amounts: Mapping[datetime, int],
    times: Times,
    start: datetime,
    end: datetime,
    reach: Reach,
) -> list[_Part]:
    """The parts of a window in which so many rows differ, in order; no more than MOST_FINDINGS."""
    parts: list[_Part] = []
    # Rows of longer steps can't be told apart at the watermark.
    cut = reach.until if times.step == MINUTE else None
    steps = [step for step in _STEPS if step >= times.step and (end - start) / step <= _MOST_STEPS]
    for step in (*steps, end - start):
        parts = _joined(kind, _by(step, start, amounts, cut), times.by(step, start, cut), start, cut)
        if len(parts) <= MOST_FINDINGS:
            break
    return parts


def _joined(
    kind: FindingKind, amounts: Mapping[datetime, int], times: Times, start: datetime, cut: datetime | None
) -> list[_Part]:
    """Neighbours that differ in the same way as one part; a time without any row separates none.

    `cut`: where the offload has come to, which no part goes across.
    """
    parts: list[_Part] = []
    before: object = None
    for at in sorted({*amounts, *times.clickhouse, *times.iceberg}):
        rows = amounts.get(at, 0)
        end = start + ((at - start) // times.step + 1) * times.step
        if cut is not None and at < cut < end:
            end = cut
        part = _Part(at, end, rows, times.clickhouse.get(at, 0), times.iceberg.get(at, 0))
        way = _way(kind, part, cut) if rows else None
        if way is not None:
            parts.append(parts.pop().followed_by(part) if way == before else part)
        before = way
    return parts


def _way(kind: FindingKind, part: _Part, offloaded: datetime | None) -> tuple[bool, int]:
    """Of what is missing: whether it was to be offloaded, and whether any row is there; else how often each row is."""
    if kind is FindingKind.MISSING:
        return offloaded is not None and part.start >= offloaded, min(part.iceberg, 1)
    return False, part.copies


# --- what explains them


def _explained(
    kind: FindingKind,
    part: _Part,
    cycles: Window | None,
    times: Times,
    keys: KeysFound | None,
    reach: Reach,
    window: Window,
) -> Finding:
    explanation, evidence = None, ""
    if kind is FindingKind.MISSING:
        explanation, evidence = _why_missing(part, cycles, reach)
    elif kind is FindingKind.EXTRA and times.merges:
        explanation, evidence = Explanation.MERGED_IN_SOURCE, "ClickHouse merges rows of this table"
    elif cycles is not None and not times.merges and _are_copies(kind, part, keys):
        kind, explanation = FindingKind.DUPLICATE, Explanation.WRITTEN_TWICE
        evidence = f"Iceberg holds {part.copies} times ClickHouse's {counted(part.clickhouse, 'row')}"
    if keys is not None and keys.one_in > 1:
        sampled = f"one {keys.one_in}th of the keys was compared"
        evidence = f"{evidence}; {sampled}" if evidence else sampled
    part_of = cycles or Window(part.start, part.end)
    start, end = max(part_of.start, window.start), min(part_of.end, window.end)
    return Finding(kind, start, end, part.rows, part.clickhouse, part.iceberg, explanation, evidence)


def _are_copies(kind: FindingKind, part: _Part, keys: KeysFound | None) -> bool:
    """Whether rows are there more often, and no others: by their keys, else by enough rows that it is no chance."""
    if part.rows != (part.copies - 1) * part.clickhouse:
        return False
    if kind is FindingKind.DUPLICATE:
        return True
    complete = keys is not None and keys.complete
    return kind is FindingKind.EXTRA and not complete and part.clickhouse >= _ENOUGH


def _why_missing(part: _Part, cycles: Window | None, reach: Reach) -> tuple[Explanation | None, str]:
    evidence = "" if reach.watermark is None else f"the offload's watermark is {iso_second(reach.watermark)}"
    if reach.until is not None and reach.until <= part.start:
        return Explanation.NOT_OFFLOADED, evidence
    if reach.until is not None and reach.until < part.end:
        return None, evidence
    if cycles is not None and not part.iceberg:
        return Explanation.CYCLE_LOST, f"Iceberg holds none of {counted(part.clickhouse, 'row')}"
    return (None, "") if reach.watermark is None else (Explanation.BEHIND_WATERMARK, evidence)


def _with_keys(found: Sequence[Finding], keys: KeysFound) -> Iterable[Finding]:
    """The findings with some of their keys, each with as many as the others where it has enough."""
    by_time = {kind: sorted((k for k in keys.different if k.kind is kind), key=lambda k: k.at) for kind in FindingKind}
    times = {kind: [each.at for each in of_kind] for kind, of_kind in by_time.items()}

    def some(finding: Finding) -> list[DifferentKey]:
        first, end = (
            bisect_left(times[finding.kind], (instant - _EPOCH) // _MICROSECOND)
            for instant in (finding.start, finding.end)
        )
        return by_time[finding.kind][first : min(end, first + keys.samples)]

    candidates = [[(place, key) for key in some(finding)] for place, finding in enumerate(found)]
    in_turn = (each for each in chain.from_iterable(zip_longest(*candidates)) if each is not None)
    named: list[list[tuple[str | None, ...]]] = [[] for _ in found]
    for place, key in islice(in_turn, keys.samples):
        named[place].append(shown(keys.key, key.text))
    for finding, texts in zip(found, named, strict=True):
        yield replace(finding, sample_keys=tuple(texts))
