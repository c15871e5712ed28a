"""The plots of docs/performance.md, as SVG: what compaction costs each rival, and curves. Drawn from samples alone."""

from __future__ import annotations

from abc import ABC, abstractmethod
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from bench import compare
from bench.compare import Samples, Spread
from bench.record import BINPACK, CALL, COPY, DEFAULTS, FLOOR, PLATFORM, STORES, ZAMBONI, Case

# Read on a white page and on a dark one: a middle grey for what is written, and colours that the colour-blind can tell
# apart (Okabe and Ito's). The numbers are on the bars, and in the description of each plot.
INK = "#767676"
_COLOURS = {
    DEFAULTS: "#0072b2",
    BINPACK: "#56b4e9",
    CALL: "#e69f00",
    ZAMBONI: "#009e73",
    FLOOR: "#999999",
    COPY: "#cc79a7",
    PLATFORM: "#d55e00",
}


class Plot(ABC):
    """One picture: its file below docs/images, its title, and what it says for those who can't see it."""

    file: str
    title: str

    @abstractmethod
    def wanted(self, samples: Samples) -> bool:
        """Whether there is anything to draw."""

    @abstractmethod
    def described(self, samples: Samples) -> str:
        """The picture in words, with its numbers."""

    @abstractmethod
    def draw(self, axes: Any, samples: Samples) -> None: ...


@dataclass(frozen=True)
class Curve(Plot):
    """Seconds against a size that grows."""

    file: str
    title: str
    part: str
    across: str

    def points(self, samples: Samples) -> dict[str, list[tuple[float, Spread]]]:
        """By rival, where the curve goes."""
        found: dict[str, list[tuple[float, Spread]]] = {}
        for case in samples.cases(self.part):
            for rival in samples.rivals(case):
                taken = samples.of(case, rival)
                for x in sorted({each.x for each in taken}):
                    if spread := compare.spread(each.seconds for each in taken if each.x == x):
                        found.setdefault(rival, []).append((x, spread))
        return found

    def wanted(self, samples: Samples) -> bool:
        return any(len(points) > 1 for points in self.points(samples).values())

    def described(self, samples: Samples) -> str:
        return "; ".join(
            f"{rival} " + ", ".join(f"{spread.median:.2f} s at {x:g}" for x, spread in points)
            for rival, points in self.points(samples).items()
        )

    def draw(self, axes: Any, samples: Samples) -> None:
        for rival, points in self.points(samples).items():
            spreads = [spread for _, spread in points]
            medians = [spread.median for spread in spreads]
            apart = (
                [spread.median - spread.low for spread in spreads],
                [spread.high - spread.median for spread in spreads],
            )
            xs = [x for x, _ in points]
            axes.errorbar(xs, medians, yerr=apart, color=_COLOURS[rival], marker="o", capsize=3, label=rival)
        axes.set_xlabel(self.across)
        axes.set_ylabel("seconds")
        axes.set_ylim(bottom=0)
        axes.set_xlim(left=0)
        _legend(axes)


@dataclass(frozen=True)
class Bars(Plot):
    """The rivals' seconds on one shape, store by store."""

    file: str
    title: str
    part: str
    shape: str

    def medians(self, samples: Samples) -> dict[Case, dict[str, float]]:
        cases = [case for store in STORES if (case := Case(self.part, self.shape, store)) in samples.cases(self.part)]
        return {case: taken for case in cases if (taken := dict(_medians(case, samples)))}

    def wanted(self, samples: Samples) -> bool:
        return bool(self.medians(samples))

    def described(self, samples: Samples) -> str:
        return "; ".join(
            f"on {case.store} " + ", ".join(f"{rival} {seconds:.2f} s" for rival, seconds in taken.items())
            for case, taken in self.medians(samples).items()
        )

    def draw(self, axes: Any, samples: Samples) -> None:
        medians = self.medians(samples)
        rivals = [rival for rival in _COLOURS if any(rival in taken for taken in medians.values())]
        width = 0.8 / len(rivals)
        for number, rival in enumerate(rivals):
            places = [place + (number - (len(rivals) - 1) / 2) * width for place in range(len(medians))]
            heights = [taken.get(rival, 0) for taken in medians.values()]
            bars = axes.bar(places, heights, width * 0.92, label=rival, color=_COLOURS[rival])
            axes.bar_label(bars, fmt=lambda value: f"{value:.2g}" if value else "", color=INK, fontsize=7, padding=1)
        axes.set_xticks(range(len(medians)), [case.store for case in medians])
        axes.set_ylabel("seconds a table" if self.part == "night" else "seconds")
        _legend(axes)


def _medians(case: Case, samples: Samples) -> list[tuple[str, float]]:
    spreads = (
        (rival, compare.spread(map(compare.seconds_a_table, samples.of(case, rival)))) for rival in samples.rivals(case)
    )
    return [(rival, spread.median) for rival, spread in spreads if spread is not None]


PLOTS: tuple[Plot, ...] = (
    Bars("performance-compact-960.svg", "Compaction of 960 small files", "compact", "960"),
    Bars("performance-compact-3800.svg", "Compaction of 3,800 small files", "compact", "3800"),
    Bars("performance-compact-big.svg", "Compaction of 60 files of 6.5 MB", "compact", "big"),
    Bars("performance-compact-big8.svg", "Compaction of row groups of 10 MiB", "compact", "big8"),
    Bars("performance-night.svg", "A whole night, a table", "night", "960"),
    Curve("performance-files.svg", "Compaction against files, S3", "files", "files"),
    Curve("performance-snapshots.svg", "Expiry against snapshots, S3", "snapshots", "snapshots"),
    Curve("performance-tables.svg", "A night over small tables against their number, S3", "tables", "tables"),
)


def draw(samples: Samples, folder: Path) -> list[Path]:
    """Writes what there is to draw; the same samples give the same bytes. Needs matplotlib where that is anything."""
    wanted = [plot for plot in PLOTS if plot.wanted(samples)]
    if not wanted:
        return []
    from matplotlib import rc_context  # only who draws needs it
    from matplotlib.figure import Figure

    folder.mkdir(parents=True, exist_ok=True)
    written = []
    style = {"svg.hashsalt": "icekeeper", "svg.fonttype": "none", "font.family": "sans-serif", "font.size": 9}
    for plot in wanted:
        with rc_context(style):
            figure = Figure(figsize=(7, 3.4), layout="constrained")
            axes = figure.subplots()
            plot.draw(axes, samples)
            _plain(axes)
            axes.set_title(plot.title, color=INK, loc="left", fontsize=10)
            path = folder / plot.file
            # No date and no background: the same bytes each time, and it lies on any page.
            metadata = {"Date": None, "Title": plot.title, "Description": plot.described(samples)}
            figure.savefig(path, format="svg", transparent=True, metadata=metadata)
        written.append(path)
    return written


def _legend(axes: Any) -> None:
    for text in axes.legend(frameon=False, fontsize=8).get_texts():
        text.set_color(INK)


def _plain(axes: Any) -> None:
    for side in ("top", "right"):
        axes.spines[side].set_visible(False)
    for side in ("left", "bottom"):
        axes.spines[side].set_color(INK)
    axes.tick_params(colors=INK)
    axes.xaxis.label.set_color(INK)
    axes.yaxis.label.set_color(INK)
    axes.grid(axis="y", color=INK, alpha=0.25, linewidth=0.5)
    axes.set_axisbelow(True)
