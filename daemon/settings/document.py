"""A YAML file as plain data with the line of every key, and what is wrong with its shape. Keys mean nothing here."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import yaml

from daemon.core.errors import ConfigError

# Where a value stands in the document: ("tables", 0, "name").
KeyPath = tuple[str | int, ...]

# No configuration comes near: what does is a mistake, or an alias that multiplies itself.
_MAX_NODES = 20_000
_MAX_DEPTH = 30


class Document:
    """What a file says. `problems` are mistakes of its shape, one line each."""

    def __init__(self, path: Path) -> None:
        self.path = path
        self.data: dict[str, Any] = {}
        self.problems: list[str] = []
        self._lines: dict[KeyPath, int] = {}
        self._nodes = 0

    @classmethod
    def read(cls, path: Path) -> Document:
        """ConfigError where the file can't be read or is no YAML mapping."""
        document = cls(path)
        root = _parsed(path, read_text(path))
        if root is None:
            raise ConfigError([f"{path}: the file is empty"])
        if not isinstance(root, yaml.MappingNode):
            raise ConfigError([f"{path}:1: the file has to be a mapping of keys to values"])
        document.data = document._build(root, ())
        return document

    def place(self, at: KeyPath, line: int | None = None) -> str:
        """`file:line` of a key, or of the nearest one above it that is in the file."""
        while line is None and at:
            line = self._lines.get(at)
            at = at[:-1]
        return f"{self.path}:{line}" if line else str(self.path)

    def has(self, at: KeyPath) -> bool:
        return at in self._lines

    def complain(self, at: KeyPath, what: str, line: int | None = None) -> None:
        """Notes a mistake."""
        self.problems.append(f"{self.place(at, line)}: {dotted(at)} {what}")

    def _build(self, node: yaml.Node, at: KeyPath) -> Any:
        self._nodes += 1
        if self._nodes > _MAX_NODES or len(at) > _MAX_DEPTH:
            line = node.start_mark.line + 1
            raise ConfigError([f"{self.path}:{line}: nested too deep, or more than {_MAX_NODES} values"])
        if isinstance(node, yaml.MappingNode):
            return self._build_mapping(node, at)
        if isinstance(node, yaml.SequenceNode):
            for index, item in enumerate(node.value):
                self._lines[(*at, index)] = item.start_mark.line + 1
            return [self._build(item, (*at, index)) for index, item in enumerate(node.value)]
        try:
            return yaml.SafeLoader("").construct_object(node)
        except (yaml.YAMLError, ValueError) as exc:
            said = exc.problem if isinstance(exc, yaml.MarkedYAMLError) else str(exc)
            self.complain(at, f"has a value that can't be read: {said}", node.start_mark.line + 1)
            return None

    def _build_mapping(self, node: yaml.MappingNode, at: KeyPath) -> dict[str, Any]:
        mapping: dict[str, Any] = {}
        for key_node, value_node in node.value:
            line = key_node.start_mark.line + 1
            if not isinstance(key_node, yaml.ScalarNode):
                self.complain(at, "has a key that is not plain text", line)
                continue
            key = str(key_node.value)
            if key == "<<":
                self.complain(at, "uses a merge key (<<), which is not supported: write its keys out", line)
                continue
            if key in mapping:
                first = self._lines[(*at, key)]
                self.complain((*at, key), f"is there twice; it stands in line {first} already", line)
            self._lines.setdefault((*at, key), line)
            mapping[key] = self._build(value_node, (*at, key))
        return mapping


def read_text(path: Path) -> str:
    """The text of a file, ConfigError where it can't be read."""
    try:
        return path.read_text(encoding="utf-8")
    except OSError as exc:
        raise ConfigError([f"{path}: can't be read: {exc.strerror}"]) from exc
    except UnicodeDecodeError as exc:
        raise ConfigError([f"{path}: can't be read: it is not UTF-8 text"]) from exc


def dotted(at: KeyPath) -> str:
    """A path as people write it: tables[0].name."""
    text = ""
    for part in at:
        text += f"[{part}]" if isinstance(part, int) else f".{part}" if text else part
    return text


def _parsed(path: Path, text: str) -> yaml.Node | None:
    try:
        return yaml.compose(text, Loader=yaml.SafeLoader)
    except yaml.MarkedYAMLError as exc:
        line = exc.problem_mark.line + 1 if exc.problem_mark else 1
        raise ConfigError([f"{path}:{line}: not YAML: {exc.problem}"]) from exc
    except yaml.YAMLError as exc:
        raise ConfigError([f"{path}: not YAML: {str(exc).splitlines()[0]}"]) from exc
    except RecursionError as exc:
        raise ConfigError([f"{path}: nested too deep"]) from exc
