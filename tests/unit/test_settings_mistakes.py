"""For every kind of mistake in a configuration exactly the messages that it must give: settings_mistakes/*.txt.

A row is a fragment of a file, or variables of the environment, and below it the messages, each with its line.
The file that is judged is GOOD without the blocks that the fragment has, and then the fragment: that begins in line 5,
or in line 4 where it takes a block's place. `...` stands for the keys that the block has in GOOD, {dir} for the file's
directory, in which the files of SECRET_FILES are.
"""

from __future__ import annotations

import os
import re
from collections.abc import Iterator
from dataclasses import dataclass
from datetime import date
from pathlib import Path
from typing import Any

import pytest
import yaml

from icekeeper.core.errors import ConfigError
from icekeeper.settings import Settings, load
from icekeeper.settings.messages.known_keys import keys_at, kind_of
from icekeeper.settings.messages.warnings import warnings
from icekeeper.settings.tables import STAGE_BLOCKS

TABLES = Path(__file__).with_name("settings_mistakes")
GOOD = {
    "catalog": "catalog: {name: k2, type: glue}",
    "clickhouse": 'clickhouse: {url: "http://ch:8123", database: k2}',
    "postgres": 'postgres: {dsn: "postgresql://pg/i"}',
    "tables": "tables: [{name: cold.a, source: a}]",
}
GIVEN = {
    "catalog": "name: k2, type: glue",
    "clickhouse": 'url: "http://ch:8123", database: k2',
    "postgres": 'dsn: "postgresql://pg/i"',
    "tables": "name: cold.a",
}
SECRET_FILES = {
    "secret": b"geheim\n",
    "empty": b" \n",
    "lines": b"geheim\nand more\n",
    "binary": b"\xff\xfe",
    "large": b"x" * 70_000,
}
SAID = "    => "


@dataclass(frozen=True)
class Row:
    """Where it stands, what the file and the environment say, and the messages."""

    place: str
    lines: tuple[str, ...]
    variables: tuple[str, ...]
    messages: tuple[str, ...]

    def text(self) -> str:
        blocks = [line.partition(":")[0] for line in self.lines]
        kept = [text for block, text in GOOD.items() if block not in blocks]
        own = [line.replace("...", GIVEN.get(block, "...")) for line, block in zip(self.lines, blocks, strict=True)]
        return "\n".join([*kept, *own]).replace("<TAB>", "\t").replace("<BEL>", "\a") + "\n"


def rows() -> Iterator[Row]:
    for table in sorted(TABLES.glob("*.txt")):
        fragment: list[str] = []
        messages: list[str] = []
        numbered = list(enumerate(table.read_text().splitlines(), 1))
        for (number, line), (_, following) in zip(numbered, [*numbered[1:], (0, "")], strict=True):
            if line.startswith(SAID):
                messages.append(line.removeprefix(SAID))
            elif line and not line.startswith("# "):
                fragment.append(line)
            if messages and not following.startswith(SAID):
                variables = tuple(each for each in fragment if each.startswith("ICEKEEPER_"))
                lines = tuple(each for each in fragment if not each.startswith("ICEKEEPER_"))
                yield Row(f"{table.stem}:{number}", lines, variables, tuple(messages))
                fragment, messages = [], []
        assert not fragment, f"{table.name} ends without a message"


ROWS = list(rows())


@pytest.fixture
def file(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    for name in [name for name in os.environ if name.startswith("ICEKEEPER_")]:
        monkeypatch.delenv(name)
    for name, content in SECRET_FILES.items():
        (tmp_path / name).write_bytes(content)
    (tmp_path / "directory").mkdir()
    (tmp_path / "loop").symlink_to(tmp_path / "loop")
    return tmp_path / "icekeeper.yaml"


@pytest.mark.parametrize("row", ROWS, ids=lambda row: f"{row.place} {(*row.variables, *row.lines)[0]}")
def test_a_mistake_gives_exactly_its_messages(row: Row, file: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    file.write_text(row.text())
    for variable in row.variables:
        name, _, value = variable.partition("=")
        monkeypatch.setenv(name, value)
    with pytest.raises(ConfigError) as caught:
        load(file)
    problems = caught.value.problems
    messages = [line.removeprefix(f"{file}:").replace(str(file.parent), "{dir}") for line in problems]
    assert messages == list(row.messages)
    assert not any("geheim" in message for message in messages)


def test_what_the_rows_are_made_of_is_no_mistake_itself(file: Path) -> None:
    file.write_text("\n".join(GOOD.values()))
    assert len(load(file).policies()) == 1


ODD: list[Any] = [
    None,
    True,
    0,
    -1,
    10**400,
    float("nan"),
    "",
    " ",
    "x" * 5000,
    "²",
    "http://[",
    b"x",
    date(2026, 1, 1),
]
ODD += [[], [None], [[]], [{}], {}, {"x": None}, {"x_file": []}]


@pytest.mark.parametrize("odd", ODD, ids=lambda odd: repr(odd)[:20])
def test_whatever_stands_in_a_file_is_judged_in_our_words(odd: Any, file: Path) -> None:
    good = yaml.safe_load("\n".join(GOOD.values()))
    for block in Settings.model_fields:
        inner = dict.fromkeys(keys_at((block,)), odd)
        for value in (odd, inner, [inner], [{"name": "cold.a", **dict.fromkeys(STAGE_BLOCKS, inner)}]):
            file.write_text(yaml.safe_dump({**good, block: value}, allow_unicode=True))
            problems = problems_of(file)
            assert len(problems) == len(set(problems))
            assert not [line for line in problems if re.search("Input should|Value error|valid ", line)]
            assert all(line.startswith(f"{file}") and len(line) < 600 for line in problems)


def problems_of(file: Path) -> list[str]:
    try:
        warnings(load(file), memory=(1, "the container"))
    except ConfigError as exc:
        return exc.problems
    return []


KEYS = [
    (block, key)
    for block, field in Settings.model_fields.items()
    for key in (keys_at((block,)) if kind_of(field.annotation) != "plain" else ("",))
]


@pytest.mark.parametrize(("block", "key"), KEYS, ids=[".".join(key) for key in KEYS])
def test_every_key_of_the_file_is_in_a_row(block: str, key: str) -> None:
    named = re.compile(rf"\d+: {block}(\[\d+\])?{key and rf'[.]{key}'}\b")
    assert any(named.match(message) for row in ROWS for message in row.messages), "it is to be given wrongly, too"
