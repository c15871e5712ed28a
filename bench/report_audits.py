"""The section of docs/performance.md about audits of one day: what each way takes of both sides."""

from __future__ import annotations

from bench import compare, formats
from bench.compare import Quantity, Samples
from bench.plan import AUDIT
from bench.record import Sample, Sides

_AUDITS = """\
One table with a day in 100 files, the same rows in ClickHouse (a MergeTree): an integer, a symbol, an event time and
two decimals. `key` is the integer and the symbol, `compare` the decimals, by the proof `files` with all files known.
Reading is a count in each engine that reads these columns and computes nothing. What ClickHouse reads is counted
uncompressed; its queries are those that read rows, and all statements also those for types and settings.
"""


def _sides(sample: Sample) -> Sides:
    """Of a sample of an audit."""
    assert sample.sides is not None
    return sample.sides


_COLUMNS: tuple[tuple[str, Quantity, str], ...] = (
    ("CPU s: Python", lambda each: each.cpu_s - _sides(each).jvm_cpu_s, "{:.1f}"),
    ("Spark", lambda each: _sides(each).jvm_cpu_s, "{:.1f}"),
    ("ClickHouse", lambda each: _sides(each).clickhouse_cpu_s, "{:.2f}"),
    ("MiB read: Spark", lambda each: each.bytes_read / 2**20, "{:,.0f}"),
    ("ClickHouse", lambda each: _sides(each).clickhouse_bytes / 2**20, "{:,.0f}"),
    ("memory, MiB: Python", lambda each: each.python_peak_mib, "{:,.0f}"),
    ("Spark", lambda each: each.jvm_peak_mib, "{:,.0f}"),
    ("ClickHouse", lambda each: _sides(each).clickhouse_peak_mib, "{:,.0f}"),
    ("queries: Spark", lambda each: _sides(each).spark_queries, "{:.0f}"),
    ("ClickHouse", lambda each: _sides(each).clickhouse_queries, "{:.0f}"),
    ("all statements", lambda each: _sides(each).clickhouse_statements, "{:.0f}"),
)


def section(samples: Samples) -> str:
    """The part `audit`, whose rivals are ways to audit one day; empty where it was not played."""
    text = ""
    header = ("audit", "rounds", "s", *(name for name, _, _ in _COLUMNS), "requests")
    for case in samples.cases(AUDIT):
        rows = []
        for way in samples.rivals(case):
            taken = samples.of(case, way)
            cells = ["failed", *[""] * (len(header) - 2)]
            if taken:
                cells = [f"{len(taken)}", formats.seconds(compare.spread(map(compare.seconds_a_table, taken)))]
                cells += [formats.median(taken, quantity, form) for _, quantity, form in _COLUMNS]
                cells.append(formats.requests(taken))
            rows.append((way, *cells))
        text += f"## The audit of a day of {int(case.shape):,} rows, on {case.store}\n\n{_AUDITS}\n"
        text += formats.table(header, rows, numbers_from=1)
    return text
