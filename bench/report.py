"""The page docs/performance.md, written from samples alone: the same file of samples gives the same page.

What a number means is computed in `compare.py` and `targets.py`; the curves are drawn in `plots.py`. What people
have to say about the numbers is in notes.md.
"""

from __future__ import annotations

from pathlib import Path

from bench import compare, formats, report_audits, report_targets
from bench.compare import Samples
from bench.plots import PLOTS
from bench.record import BINPACK, DEFAULTS, Case, Machine, Sample

NOTES = Path(__file__).with_name("notes.md")

_INTRODUCTION = """\
# Performance

icekeeper and its rivals, side by side on one machine. `make bench` wrote this page: but for the last section, no number
in it was typed. Seconds depend on the machine, ratios hardly do: each is computed within a
round, between rivals that took their turns one after the other, and the median of the rounds is shown.
"""

_RIVALS = """\
| rival | what it is |
| --- | --- |
| defaults | icekeeper in one warm session as a new user gets it: of its settings only the systems' addresses are set |
| binpack | the same with `compact.strategy: binpack` |
| third | icekeeper's third compaction in a session, where `defaults` is the first after its warm-up |
| cold | icekeeper without the warm-up of its session |
| call | the procedures called in the same warm session, with their default settings and without looking first |
| platform | a Spark process for each table and stage, with default settings |
| zamboni | iceberg-zamboni, in process, as its users would run it |
| floor | plain Arrow: objects fetched 32 at a time, read, joined, one file written; no commit |
| copy | the same files' bytes read and written as they are, 16 files at a time; nothing decoded, checked or committed |
| bare | the metadata of an expiry read, 32 objects at a time, and the same files deleted in bulk; nothing committed |
"""

_TURNS = """\
Rivals take turns within a round, and each round begins with another one. Every turn gets a fresh table; making it, and
looking at the result, is not measured, and a warm-up before the first round is not counted. CPU seconds and memory are
those of Python and the JVM, looked at 20 times a second, without the servers. In nights audits and proofs are on as by
default; a compaction alone is proven by metrics only, for content is compared for a share of a night's time.
"""

_MEMORY = """\
The highest resident memory of any turn, in MiB. Rivals that share a session share its heap: what one of them left there
is counted with the next one. Python is the benchmark's own process, with the libraries of all rivals in it; icekeeper
alone needs less. That memory stays flat over 200 nights is shown in [soak](soak.md).
"""

_SCANS = """\
A scan reads all columns of the day from the files that were written, through the proxy, and is the better of two.
"""

_WORLDS = """\
| world | what it is |
| --- | --- |
| `960` | 960 files of about 15 KB in one day's partition, from 96 commits |
| `3800` | 3,800 such files |
| `12` | a session is started, and no table touched |
| `big` | 60 files of about 6.5 MB |
| `big8` | 44 files of one row group of about 10 MiB |
| `s3` | SeaweedFS on this machine, behind a proxy that counts |
| `s3+10ms` | the same, each request delayed by 10 ms |
"""


def page(machine: Machine, samples: Samples, *, images: str = "images") -> str:
    """The whole page. `images` is where the plots are, seen from it."""
    sections = [
        _INTRODUCTION,
        report_targets.section(samples),
        _how(machine, samples),
        *(_part(part, title, samples) for part, title in _TITLES.items() if samples.cases(part)),
        report_audits.section(samples),
        _memory(samples),
        _curves(samples, images),
        _quality(samples),
        _failures(samples),
        NOTES.read_text(encoding="utf-8"),
    ]
    return "\n".join(section.rstrip() + "\n" for section in sections if section)


_TITLES = {
    "compact": "Compaction",
    "expire": "Expiry of 96 snapshots with 960 replaced files",
    "idle": "A night with nothing to do, a table",
    "night": "A whole night, a table",
    "session": "The start of a session",
    "first": "The first compaction of a session",
}


def _how(machine: Machine, samples: Samples) -> str:
    versions = ", ".join(f"{name} {version}" for name, version in machine.versions.items())
    settings = ", ".join(f"`{name}={value}`" for name, value in machine.settings.items())
    left_out = "".join(f"- {line}\n" for line in machine.left_out)
    return (
        "## How it was measured\n\n"
        f"On {machine.measured_at}, {machine.cores} cores, {machine.memory_mib / 1024:.0f} GiB of memory.\n"
        f"Load average before the last start: {machine.load:.1f}."
        + (
            f" In all {machine.minutes:.0f} minutes{_starts(machine)}.\n"
            if machine.minutes
            else " It was broken off.\n"
        )
        + f"{versions}. {settings}.\n\n"
        f"{_TURNS}\n{_parts(samples)}{_RIVALS}\n{_WORLDS}"
        + (f"\nThere was no time for all rounds, or no rival:\n\n{left_out}" if left_out else "")
    )


def _starts(machine: Machine) -> str:
    return f", in {machine.starts} starts" if machine.starts > 1 else ""


def _parts(samples: Samples) -> str:
    """When each part was measured, and what else the machine did then."""
    rows = []
    for part in dict.fromkeys(each.case.part for each in samples.all):
        taken = sorted((each for each in samples.all if each.case.part == part and each.measured_at), key=_begin)
        if taken:
            others = sorted(each.others for each in taken)
            seconds = sum(each.seconds for each in taken)
            rows.append(
                (
                    part,
                    f"{taken[0].measured_at} to {taken[-1].measured_at}",
                    f"{max(each.round for each in taken)}",
                    f"{seconds / 60:.1f}",
                    f"{others[len(others) // 2]:.1f} ({others[0]:.1f} to {others[-1]:.1f})",
                )
            )
    header = ("part", "turns from, to (UTC)", "rounds", "minutes in turns", "cores that other programs used")
    return formats.table(header, rows, numbers_from=2) + "\n" if rows else ""


def _begin(sample: Sample) -> str:
    return sample.measured_at


def _part(part: str, title: str, samples: Samples) -> str:
    text = f"## {title}\n"
    for case in samples.cases(part):
        text += f"\n### `{case.shape}` on {case.store}\n\n" + _rivals_of(case, samples)
    return text


def _rivals_of(case: Case, samples: Samples) -> str:
    ours = DEFAULTS
    rows = []
    for rival in samples.rivals(case):
        taken = samples.of(case, rival)
        if not taken:
            rows.append((rival, "failed", *[""] * 8))
            continue
        rows.append(
            (
                rival,
                f"{len(taken)}",
                formats.seconds(compare.spread(map(compare.seconds_a_table, taken))),
                formats.ratio(
                    compare.ratios(compare.seconds_a_table, taken, samples.of(case, ours)) if rival != ours else None
                ),
                formats.median(taken, lambda each: each.cpu_s / each.tables, "{:.1f}"),
                formats.median(taken, lambda each: each.python_peak_mib, "{:.0f}"),
                formats.median(taken, lambda each: each.jvm_peak_mib, "{:.0f}"),
                "" if case.store == "local" else formats.requests(taken),
                "" if case.store == "local" else formats.median(taken, compare.requests_a_file, "{:.2f}"),
                "" if case.store == "local" else formats.traffic(taken),
            )
        )
    seconds = ("rounds", "s (spread)", f"to {ours}", "CPU s")
    header = ("rival", *seconds, "Python MiB", "JVM MiB", "requests", "a file", "MiB read, written")
    notes = dict.fromkeys(
        f"{each.rival}: {each.note}" for each in samples.all if each.case == case and each.note and not each.failed
    )
    listed_notes = "".join(f"- {note}\n" for note in notes)
    return formats.table(header, rows, numbers_from=1) + (f"\n{listed_notes}" if listed_notes else "")


def _memory(samples: Samples) -> str:
    peaks: dict[str, list[Sample]] = {}
    for sample in samples.all:
        if not sample.failed and sample.sides is None:  # those of audits are in a table of their own
            peaks.setdefault(sample.rival, []).append(sample)
    if not peaks:
        return ""
    rows = []
    for rival, taken in peaks.items():
        most = max(taken, key=compare.memory)
        python, jvm = max(each.python_peak_mib for each in taken), max(each.jvm_peak_mib for each in taken)
        where = f"{most.case.part}, {most.case.shape}, {most.case.store}"
        rows.append((rival, f"{python:.0f}", f"{jvm:.0f}", f"{compare.memory(most):.0f}", where))
    return f"## Memory\n\n{_MEMORY}\n" + formats.table(
        ("rival", "Python", "JVM", "together", "where"), rows, numbers_from=1, numbers_to=4
    )


def _curves(samples: Samples, images: str) -> str:
    drawn = [plot for plot in PLOTS if plot.wanted(samples)]
    text = "".join(f"![{plot.title}: {plot.described(samples)}]({images}/{plot.file})\n\n" for plot in drawn)
    return f"## Curves\n\n{text}" if drawn else ""


def _quality(samples: Samples) -> str:
    rows = []
    for case in samples.cases("compact"):
        binpack = samples.of(case, BINPACK)
        for rival in samples.rivals(case):
            taken = [each for each in samples.of(case, rival) if each.output is not None and each.output.row_groups]
            if not taken or (out := taken[-1].output) is None:
                continue
            scanned = [each for each in taken if each.scans is not None]
            rows.append(
                (
                    case.shape,
                    case.store,
                    rival,
                    "copied" if out.copied else "rewritten",
                    f"{out.files}",
                    f"{out.bytes:,}",
                    formats.ratio(compare.ratios(compare.bytes_written, taken, binpack)),
                    f"{out.rows:,}",
                    f"{out.row_groups}",
                    f"{out.columns_with_bounds}",
                    formats.seconds(compare.spread(map(compare.spark_scan, scanned))),
                    formats.seconds(compare.spread(map(compare.arrow_scan, scanned))),
                )
            )
    counts = ("files", "bytes", "to binpack", "rows", "row groups", "columns with bounds")
    header = ("world", "store", "rival", "rows were", *counts, "scan in Spark, s", "in pyarrow, s")
    text = f"## What was written\n\n{_SCANS}\n"
    return text + formats.table(header, rows, numbers_from=4) if rows else ""


def _failures(samples: Samples) -> str:
    lines = [
        f"- {each.rival}, {each.case.part} `{each.case.shape}` on {each.case.store}, round {each.round}: {each.note}"
        for each in samples.failures()
    ]
    return "## Turns that failed\n\n" + "\n".join(lines) if lines else ""
