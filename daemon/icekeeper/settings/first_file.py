"""The text of a first configuration file, from answers and from what the catalog lists. Reads and writes nothing."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field
from datetime import date
from textwrap import indent
from typing import Any

import yaml

from icekeeper.core.catalogs.listing import ListedTable, event_time

# For a file that is checked before the catalog's tables are known.
_NO_TABLES = "tables: [{name: no.tables.yet}]\n"
_OPTIONAL = """\
# What is not here has a default. Remove the # of a line to change it; `icekeeper config show` prints all of them, and
# `icekeeper config schema` makes an editor explain and complete them.
#
# schedule: {cron: "0 2 * * *", timezone: UTC}    # when a night begins
# compact: {target_file_size: 128MiB, min_input_files: 5}
# audit: {warning_pct: 0}                         # by default an audit is ok that lacks 1 % of a day's rows or less
# expire: {older_than: 7d, retain_last: 3}        # snapshots that are older go; the last ones stay
# http: {listen: "127.0.0.1:9420"}                # the page, its API and /metrics
# notify: [{url_file: secrets/notify-url}]        # whom to tell of bad nights, by an Apprise URL in that file
"""
_OWN_POSTGRES = """\
# postgres: {dsn: "postgresql://icekeeper@host/icekeeper"}   # a server for the ledger, which is embedded in state_dir
"""
_ABOUT_MODE = (
    "observe: nights plan and audit, and change no table. Make it `maintain` when `icekeeper plan` is what you want."
)
_ABOUT_POSTGRES = "Where runs, findings and logs are kept. `icekeeper migrate` makes the tables."
_ABOUT_CLICKHOUSE = (
    "Where the audited tables are offloaded from: each night their rows of the day before are counted on both sides."
)
_ABOUT_STATE = "Locks, records on their way to the ledger, logs of runs, Spark's scratch files."
_ABOUT_TABLES = (
    "A night works on them in this order. A table with a source, in ClickHouse, is audited by its timestamp."
)


@dataclass(frozen=True, slots=True)
class ProposedTable:
    """A table as the file is to name it. `note`: why there is no source or timestamp, or how that was found."""

    name: str
    timestamp: str | None = None
    source: str | None = None
    note: str = ""

    @classmethod
    def without_source(cls, table: ListedTable) -> ProposedTable:
        found = event_time(table)
        return cls(table.name, timestamp=found.column, note=found.why)


@dataclass(frozen=True, slots=True)
class FirstFile:
    """What the file says. The blocks are as the settings have them; None: the default, or that there is none."""

    catalog: Mapping[str, Any]
    postgres: Mapping[str, Any] | None = None
    clickhouse: Mapping[str, Any] | None = None
    state_dir: str | None = None
    tables: tuple[ProposedTable, ...] = ()
    left_out: Mapping[str, str] = field(default_factory=dict)

    def text(self, written: date) -> str:
        """The file. Without tables it holds one that does not exist, as a file needs one to be valid."""
        parts = [
            _comment(
                f"icekeeper's settings for the catalog {self.catalog['name']}. Written by `icekeeper init`, {written}.",
                "A key X_file reads X from a file; a relative path is meant beside this one. A variable of the",
                "environment, ICEKEEPER_BLOCK__KEY, wins over the key of a block.",
            ),
            _block("mode", "observe", _ABOUT_MODE),
            _block("catalog", self.catalog),
            _block("clickhouse", self.clickhouse, _ABOUT_CLICKHOUSE),
            _block("postgres", self.postgres, _ABOUT_POSTGRES),
            _block("state_dir", self.state_dir, _ABOUT_STATE),
            _OPTIONAL + ("" if self.postgres is not None else _OWN_POSTGRES),
            self._tables(),
        ]
        return "\n".join(part for part in parts if part)

    def _tables(self) -> str:
        if not self.tables:
            return _NO_TABLES
        lines = [_comment(_ABOUT_TABLES), "tables:\n", *map(_table, self.tables)]
        if self.left_out:
            reasons = (f"  {name}: {why}" for name, why in sorted(self.left_out.items()))
            lines.append(indent(_comment("Left out:", *reasons), "  "))
        return "".join(lines)


def _table(table: ProposedTable) -> str:
    given = {"name": table.name, "source": table.source, "timestamp": table.timestamp}
    lines = _dumped({key: value for key, value in given.items() if value is not None}).splitlines()
    note = f"  {_comment(table.note)}" if table.note else "\n"
    return f"  - {lines[0]}{note}" + "".join(f"    {line}\n" for line in lines[1:])


def _block(key: str, content: object, about: str = "") -> str:
    if content is None:
        return ""
    return (_comment(about) if about else "") + _dumped({key: content})


def _dumped(content: object) -> str:
    return yaml.safe_dump(content, sort_keys=False, allow_unicode=True, width=10**6)


def _comment(*lines: str) -> str:
    return "".join(f"# {_one_line(line)}\n" for line in lines)


def _one_line(text: str) -> str:
    """An error's text may have several lines, and characters that YAML does not take."""
    begin = text[: len(text) - len(text.lstrip(" "))]
    return begin + " ".join("".join(each if each.isprintable() else " " for each in text).split())
