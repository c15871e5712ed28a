"""How samples are written into a page: tables, medians, spreads."""

from __future__ import annotations

from collections.abc import Iterable, Sequence

from bench import compare
from bench.compare import Spread
from bench.record import Sample


def table(header: Sequence[str], rows: Iterable[Sequence[str]], *, numbers_from: int, numbers_to: int = 99) -> str:
    rule = ["---:" if numbers_from <= number < numbers_to else "---" for number in range(len(header))]
    return "".join(f"| {' | '.join(line)} |\n" for line in (header, rule, *rows))


def digits_of(value: float) -> str:
    """Three digits that count, no more: the fourth is noise."""
    return f"{value:,.0f}" if value >= 100 else f"{value:.1f}" if value >= 10 else f"{value:.2f}"


def seconds(spread: Spread | None) -> str:
    if spread is None:
        return ""
    digits = (lambda value: f"{value:.3f}") if spread.median < 1 else digits_of
    return with_range(spread, digits(spread.median), digits(spread.low), digits(spread.high))


def number(spread: Spread | None, unit: str) -> str:
    if spread is None:
        return ""
    unit = "x" if unit == "x" else f" {unit}"
    return with_range(spread, digits_of(spread.median) + unit, digits_of(spread.low), digits_of(spread.high))


def ratio(spread: Spread | None) -> str:
    return "" if spread is None else f"{digits_of(spread.median)}x"


def with_range(spread: Spread, median: str, low: str, high: str) -> str:
    return median if spread.rounds == 1 else f"{median} ({low} to {high})"


def median(taken: Iterable[Sample], quantity: compare.Quantity, form: str) -> str:
    spread = compare.spread(map(quantity, taken))
    return "" if spread is None else form.format(spread.median)


def requests(taken: Sequence[Sample]) -> str:
    """The middle round's by kind, the most frequent first."""
    kinds = {kind for each in taken for kind in each.requests}
    medians = {kind: compare.spread(float(each.requests.get(kind, 0)) for each in taken) for kind in kinds}
    counts = sorted(((spread.median, kind) for kind, spread in medians.items() if spread), reverse=True)
    return ", ".join(f"{count:.0f} {kind}" for count, kind in counts if count)


def traffic(taken: Sequence[Sample]) -> str:
    read = compare.spread(each.bytes_read / 2**20 for each in taken)
    written = compare.spread(each.bytes_written / 2**20 for each in taken)
    return f"{read.median:.1f}, {written.median:.1f}" if read and written else ""
