"""Where in a window both sides differ, by the minute and down to the keys: the findings of an audit. Pure."""

from __future__ import annotations

from bisect import bisect_left
from collections import Counter
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass, replace
from datetime import UTC, datetime, timedelta
from itertools import chain, zip_longest

from icekeeper.core.audit.keys import DifferentKey, Key, shown
from icekeeper.core.audit.records import BadFile, Explanation, Finding, FindingKind
from icekeeper.core.calendar import Window
from icekeeper.core.formats import counted, iso_second, listed, span

MINUTE = timedelta(minutes=1)
# How often the platform's offload writes.
CYCLE = timedelta(minutes=15)
HOUR = timedelta(hours=1)
# Findings of a kind are told apart by these steps, by the first that makes no more of them than this.
_STEPS = (MINUTE, CYCLE, HOUR, timedelta(days=1))
MOST_FINDINGS = 50
# How many a note names.
_NAMED = 3
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

    def by(self, step: timedelta, start: datetime) -> Times:
        """The same by longer steps, which are counted from `start`."""
        clickhouse, iceberg = (_by(step, start, side) for side in (self.clickhouse, self.iceberg))
        return replace(self, clickhouse=clickhouse, iceberg=iceberg, step=step)


@dataclass(frozen=True, slots=True)
class KeysFound:
    """The keys that differ, and how many of them findings name.

    `complete`: all rows of both sides were compared, so that numbers of rows tell no more.
    """

    key: Key
    different: Sequence[DifferentKey]
    samples: int
    complete: bool = False


@dataclass(frozen=True, slots=True)
class _Part:
    """Neighbouring times that differ in the same way; `whole_cycles`: they hold all rows of each of their cycles."""

    start: datetime
    end: datetime
    rows: int
    clickhouse: int
    iceberg: int
    whole_cycles: bool = False

    @property
    def copies(self) -> int:
        """How many times Iceberg holds each of ClickHouse's rows, by the counts; 0 where they are no multiple."""
        more = self.iceberg > self.clickhouse > 0 and self.iceberg % self.clickhouse == 0
        return self.iceberg // self.clickhouse if more else 0

    def followed_by(self, other: _Part) -> _Part:
        rows, clickhouse, iceberg = (
            self.rows + other.rows,
            self.clickhouse + other.clickhouse,
            self.iceberg + other.iceberg,
        )
        return _Part(self.start, other.end, rows, clickhouse, iceberg)


def findings(window: Window, times: Times, keys: KeysFound | None, watermark: datetime | None) -> tuple[Finding, ...]:
    """The findings of a window, by kind and time. `watermark`: how far the offload has come, None where unknown."""
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
    found = [
        _explained(kind, part, times.merges, keys is not None, watermark, window)
        for kind in FindingKind
        # Of each time the larger amount.
        for part in _parts(kind, by_count.get(kind, Counter()) | by_key[kind], times, begin, window.end)
    ]
    return tuple(found if keys is None else _with_keys(found, keys))


def findings_of_files(
    window: Window, bad: Sequence[BadFile], clickhouse: Mapping[datetime, int] | None
) -> tuple[Finding, ...]:
    """The findings of a window's bad files, those that share a time as one; `clickhouse`: its rows by the minute."""
    groups: list[tuple[Window, list[BadFile]]] = []
    for part, file in sorted(((_span_of(file, window), file) for file in bad), key=lambda one: one[0].start):
        if groups and (part.start <= groups[-1][0].end or len(groups) == MOST_FINDINGS):
            before, files = groups[-1]
            groups[-1] = Window(before.start, max(before.end, part.end)), [*files, file]
        else:
            groups.append((part, [file]))
    return tuple(
        _finding_of_files(
            part,
            tuple(file.path for file in files),
            sum(file.rows for file in files if file.content == "data"),
            clickhouse,
        )
        for part, files in groups
    )


def finding_of_unreadable(window: Window, files: tuple[str, ...], clickhouse: Mapping[datetime, int] | None) -> Finding:
    """The finding of files whose rows can't be read, as far as they are known: how many rows these are is not."""
    return _finding_of_files(window, files, 0, clickhouse)


def _span_of(file: BadFile, window: Window) -> Window:
    """The minutes of the window that the file's rows may be of."""
    if file.first is None or file.last is None or file.first >= window.end or file.last < window.start:
        return window
    start, last = (instant.replace(second=0, microsecond=0) for instant in (file.first, file.last))
    return Window(max(start, window.start), min(last + MINUTE, window.end))


def _finding_of_files(
    part: Window, files: tuple[str, ...], rows: int, clickhouse: Mapping[datetime, int] | None
) -> Finding:
    held = None if clickhouse is None else _within(clickhouse, part)
    evidence = counted(len(files), "file") if files else "files that are not known"
    return Finding(
        FindingKind.FILE,
        part.start,
        part.end,
        rows,
        clickhouse=held,
        explanation=Explanation.BAD_FILE,
        evidence=evidence if held is None else f"{evidence}; ClickHouse holds {counted(held, 'row')} of that time",
        files=files[:MOST_FINDINGS],
    )


def _within(rows: Mapping[datetime, int], part: Window) -> int:
    start = part.start.replace(second=0, microsecond=0)
    return sum(count for minute, count in rows.items() if start <= minute < part.end)


def by_hour(rows: Mapping[datetime, int]) -> Mapping[datetime, int]:
    """Rows of minutes as rows of hours."""
    hours = Counter[datetime]()
    for minute, count in rows.items():
        hours[minute.replace(minute=0)] += count
    return hours


def findings_note(found: Sequence[Finding]) -> str:
    """What was found in a clause: the largest findings, each with one of its keys; empty where nothing was."""
    largest = sorted(found, key=lambda finding: -finding.rows)
    return listed(map(_in_words, largest), most=_NAMED)


def _in_words(finding: Finding) -> str:
    rows = counted(finding.rows, "row")
    if finding.kind is FindingKind.MISSING and finding.clickhouse:
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


def _by(step: timedelta, start: datetime, rows: Mapping[datetime, int]) -> Counter[datetime]:
    longer = Counter[datetime]()
    for at, count in rows.items():
        longer[start + (at - start) // step * step] += count
    return longer


def _parts(
    kind: FindingKind, amounts: Mapping[datetime, int], times: Times, start: datetime, end: datetime
) -> list[_Part]:
    """The parts of a window in which so many rows differ, in order; no more than MOST_FINDINGS."""
    parts: list[_Part] = []
    for step in (*(step for step in _STEPS if step >= times.step), end - start):
        parts = _joined(kind, _by(step, start, amounts), times.by(step, start))
        if len(parts) <= MOST_FINDINGS:
            break
    occupied = sorted({*times.clickhouse, *times.iceberg, *amounts})
    return [_widened(part, occupied) for part in parts]


def _joined(kind: FindingKind, amounts: Mapping[datetime, int], times: Times) -> list[_Part]:
    """Neighbours that differ in the same way as one part; a time without any row is nobody's neighbour."""
    parts: list[_Part] = []
    last: int | None = None
    for at in sorted({*amounts, *times.clickhouse, *times.iceberg}):
        rows = amounts.get(at, 0)
        part = _Part(at, at + times.step, rows, times.clickhouse.get(at, 0), times.iceberg.get(at, 0))
        # Of what is missing: whether any row is there; of what is more: how often each row is there.
        way = None if not rows else min(part.iceberg, 1) if kind is FindingKind.MISSING else part.copies
        if way is not None:
            parts.append(parts.pop().followed_by(part) if way == last else part)
        last = way
    return parts


def _widened(part: _Part, occupied: Sequence[datetime]) -> _Part:
    """Up to the ends of its cycles, where these hold no other row than the part's."""
    start = _EPOCH + (part.start - _EPOCH) // CYCLE * CYCLE
    end = _EPOCH - (_EPOCH - part.end) // CYCLE * CYCLE
    alone = bisect_left(occupied, part.start) == bisect_left(occupied, start) and (
        bisect_left(occupied, part.end) == bisect_left(occupied, end)
    )
    return replace(part, start=start, end=end, whole_cycles=True) if alone else part


# --- what explains them


def _explained(
    kind: FindingKind, part: _Part, merges: bool, keyed: bool, watermark: datetime | None, window: Window
) -> Finding:
    explanation, evidence = None, ""
    if kind is FindingKind.MISSING:
        explanation, evidence = _why_missing(part, watermark)
    elif part.whole_cycles and part.copies and not merges and (kind is FindingKind.DUPLICATE or not keyed):
        kind, explanation = FindingKind.DUPLICATE, Explanation.WRITTEN_TWICE
        evidence = f"Iceberg holds {part.copies} times ClickHouse's {counted(part.clickhouse, 'row')}"
    elif kind is FindingKind.EXTRA and merges:
        explanation, evidence = Explanation.MERGED_IN_SOURCE, "ClickHouse was counted with FINAL"
    start, end = max(part.start, window.start), min(part.end, window.end)
    return Finding(kind, start, end, part.rows, part.clickhouse, part.iceberg, explanation, evidence)


def _why_missing(part: _Part, watermark: datetime | None) -> tuple[Explanation | None, str]:
    if watermark is not None and watermark.replace(second=0, microsecond=0) <= part.start:
        return Explanation.NOT_OFFLOADED, f"the offload's watermark is {iso_second(watermark)}"
    if part.whole_cycles and not part.iceberg:
        return Explanation.CYCLE_LOST, f"Iceberg holds none of {counted(part.clickhouse, 'row')}"
    if watermark is not None:
        return Explanation.BEHIND_WATERMARK, f"the offload's watermark is {iso_second(watermark)}"
    return None, ""


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
    for place, key in list(in_turn)[: keys.samples]:
        named[place].append(shown(keys.key, key.text))
    for finding, texts in zip(found, named, strict=True):
        yield replace(finding, sample_keys=tuple(texts))
