"""The section of docs/performance.md about targets: what was promised, what came of it, and what it took besides."""

from __future__ import annotations

from collections.abc import Iterator, Sequence

from bench import compare, formats
from bench.compare import Quantity, Samples
from bench.record import STORES, Case
from bench.targets import ALL, Judgement, Verdict, judge

_BESIDE = """\
What the same turns took of other things, ours : theirs, a table: medians of their rounds. Requests and bytes are those
that reach the store, read and written together.
"""
_QUANTITIES: tuple[tuple[str, Quantity, str], ...] = (
    ("CPU s", lambda each: each.cpu_s / each.tables, "{:,.2f}"),
    ("requests", lambda each: sum(each.requests.values()) / each.tables, "{:,.0f}"),
    ("MiB", lambda each: (each.bytes_read + each.bytes_written) / each.tables / 2**20, "{:,.1f}"),
)


def section(samples: Samples) -> str:
    judgements = list(judge(samples))
    verdicts = [each.verdict for each in judgements]
    counts = ", ".join(f"{verdicts.count(verdict)} {verdict}" for verdict in Verdict)
    today = _table([each for each in judgements if not each.target.earlier])
    earlier = _table([each for each in judgements if each.target.earlier])
    return (
        f"## Targets\n\n{today}\nPromised before, and still to be held:\n\n{earlier}\n"
        f"{counts[0].upper()}{counts[1:]}.\n{_beside(judgements, samples)}"
    )


def _table(judgements: Sequence[Judgement]) -> str:
    rows: dict[tuple[str, ...], dict[str, str]] = {}
    for each in judgements:
        target = each.target
        cells = rows.setdefault((target.what, each.case.shape, _who(each), target.limit), {})
        cells[each.case.store] = f"{formats.number(each.measured, target.unit)} {_verdict(each)}".strip()
    lines = [(*row, *(cells.get(store, "") for store in STORES)) for row, cells in rows.items()]
    return formats.table(("what", "world", "who", "target", *STORES), lines, numbers_from=3)


def _who(judgement: Judgement) -> str:
    target = judgement.target
    return f"{target.ours} against {target.theirs}" if target.theirs else target.ours


def _verdict(judgement: Judgement) -> str:
    if judgement.verdict is Verdict.MISSED and judgement.by:
        return f"**missed by {1 - judgement.by:.0%}**"
    return str(judgement.verdict)


def _beside(judgements: Sequence[Judgement], samples: Samples) -> str:
    """CPU seconds, requests and bytes beside the ratios of seconds."""
    rows = []
    pairs = dict.fromkeys(_pairs(judgements))
    for case, ours, theirs in pairs:
        both = samples.of(case, ours), samples.of(case, theirs)
        if all(both):
            numbers = [
                " : ".join(formats.median(taken, quantity, form) for taken in both) for _, quantity, form in _QUANTITIES
            ]
            numbers = [*numbers[:1], *(["", ""] if case.store == "local" else numbers[1:])]
            rows.append((case.part, case.shape, case.store, f"{ours} : {theirs}", *numbers))
    header = ("part", "world", "store", "who", *(name for name, _, _ in _QUANTITIES))
    return f"\n{_BESIDE}\n{formats.table(header, rows, numbers_from=4)}" if rows else ""


def _pairs(judgements: Sequence[Judgement]) -> Iterator[tuple[Case, str, str]]:
    for each in judgements:
        target = each.target
        if target.theirs and each.measured and each.case.part != ALL and target.quantity is compare.seconds_a_table:
            yield each.case, target.ours, target.theirs
