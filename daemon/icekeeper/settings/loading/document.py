"""A YAML file as plain data with the line of every key, and its mistakes of syntax. The keys: settings/model.py."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import yaml

from icekeeper.core.errors import ConfigError

# The path of a value in the document: ("tables", 0, "name").
KeyPath = tuple[str | int, ...]

# Far more than any configuration has: beyond it is a mistake, or an alias that expands exponentially.
_MAX_NODES = 20_000
_MAX_DEPTH = 30
# What PyYAML's constructors raise for a text that does not fit its tag.
_UNREADABLE = (yaml.YAMLError, TypeError, ValueError, KeyError, AttributeError)


class Document:
    """The data of a file.

    `mistakes` are those of syntax: path, sentence, line. The values at `unclear` paths could not be read; the blocks in
    `partial` miss some keys. `written` holds the original text of scalars that are not strings.
    """

    def __init__(self, path: Path) -> None:
        self.path = path
        self.data: dict[str, Any] = {}
        self.mistakes: list[tuple[KeyPath, str, int]] = []
        self.unclear: set[KeyPath] = set()
        self.partial: set[KeyPath] = set()
        self.written: dict[KeyPath, str] = {}
        self._lines: dict[KeyPath, int] = {}
        self._nodes = 0

    @classmethod
    def read(cls, path: Path, text: str | None = None) -> Document:
        """`text`: of a file that is not written yet. ConfigError where it can't be read or is no YAML mapping."""
        document = cls(path)
        root = _parsed(path, read_text(path) if text is None else text)
        if root is None:
            raise ConfigError([f"{path}: the file is empty"])
        if not isinstance(root, yaml.MappingNode):
            raise ConfigError([f"{path}:1: the file has to be a mapping of keys to values"])
        document.data = document._build_mapping(root, ())
        return document

    def line(self, at: KeyPath) -> int | None:
        """The line of a key, None where the file does not have it."""
        return self._lines.get(at)

    def nearest_line(self, at: KeyPath) -> int | None:
        """The line of a key, or of the nearest one above it that is in the file."""
        found = (self._lines.get(at[:length]) for length in range(len(at), 0, -1))
        return next((line for line in found if line is not None), None)

    def place(self, line: int | None) -> str:
        """`file:line`, as editors jump to it."""
        return f"{self.path}:{line}" if line else str(self.path)

    def _build(self, node: yaml.Node, at: KeyPath) -> Any:
        line = node.start_mark.line + 1
        self._nodes += 1
        if self._nodes > _MAX_NODES or len(at) > _MAX_DEPTH:
            raise ConfigError([f"{self.path}:{line}: nested too deep, or more than {_MAX_NODES} values"])
        if isinstance(node, yaml.MappingNode):
            return self._build_mapping(node, at)
        if isinstance(node, yaml.SequenceNode):
            for index, item in enumerate(node.value):
                self._lines[(*at, index)] = item.start_mark.line + 1
            return [self._build(item, (*at, index)) for index, item in enumerate(node.value)]
        try:
            value = _plain(node)
        except _UNREADABLE:  # the error's text may hold the value, which may be a secret
            sentence = f"{dotted(at)} has a value that YAML can't read: put it in quotes if it is meant as text"
            self.mistakes.append((at, sentence, line))
            self.unclear.add(at)
            return None
        if not isinstance(value, str):
            self.written[at] = str(node.value)
        return value

    def _build_mapping(self, node: yaml.MappingNode, at: KeyPath) -> dict[str, Any]:
        mapping: dict[str, Any] = {}
        block = f"{dotted(at)} has" if at else "there is"
        for key_node, value_node in node.value:
            line = key_node.start_mark.line + 1
            if not isinstance(key_node, yaml.ScalarNode):
                self.mistakes.append((at, f"{block} a key that is not plain text", line))
                continue
            key = str(key_node.value)
            if key == "<<":
                sentence = f"{block} a merge key (<<), which is not supported: write its keys out"
                self.mistakes.append((at, sentence, line))
                self.partial.add(at)
                continue
            inner = (*at, key)
            earlier = mapping.get(key)
            if key in mapping:
                sentence = f"{dotted(inner)} is there twice; it stands in line {self._lines[inner]} already"
                self.mistakes.append((inner, sentence, line))
                self.written.pop(inner, None)
            self._lines[inner] = line
            value = self._build(value_node, inner)
            if isinstance(earlier, dict) and isinstance(value, dict):
                # Both halves of a duplicate block are checked: the file is refused in any case.
                value = {**earlier, **value}
            mapping[key] = value
        return mapping


def _plain(node: yaml.Node) -> Any:
    value = yaml.SafeLoader("").construct_object(node)
    if isinstance(value, bytes):
        raise TypeError("!!binary is nothing that a setting can be")
    return value


def read_text(path: Path) -> str:
    """The text of a file, ConfigError where it can't be read."""
    try:
        return path.read_text(encoding="utf-8")
    except OSError as exc:
        raise ConfigError([f"{path}: can't be read: {exc.strerror}"]) from exc
    except UnicodeDecodeError as exc:
        raise ConfigError([f"{path}: can't be read: it is not UTF-8 text"]) from exc


def dotted(at: KeyPath) -> str:
    """A path as text: tables[0].name."""
    text = ""
    for step in at:
        key = step if step != "" else "''"
        text += f"[{key}]" if isinstance(key, int) else f".{key}" if text else key
    return text


def _parsed(path: Path, text: str) -> yaml.Node | None:
    try:
        return yaml.compose(text, Loader=yaml.SafeLoader)
    except yaml.MarkedYAMLError as exc:
        line = exc.problem_mark.line + 1 if exc.problem_mark else 1
        raise ConfigError([f"{path}:{line}: not YAML: {_explained(exc, line)}"]) from exc
    except yaml.reader.ReaderError as exc:
        line = text.count("\n", 0, exc.position) + 1
        raise ConfigError([f"{path}:{line}: not YAML: it holds a character that no text has"]) from exc
    except RecursionError as exc:
        raise ConfigError([f"{path}: nested too deep"]) from exc


# Our sentences for those of PyYAML, by a phrase of theirs, where they are unclear or quote the file (perhaps a secret).
_SENTENCES = {
    "undefined alias": "a value that begins with * is an alias, and nothing has that name: text is put in quotes",
    "occurrence": "two values begin with the same &anchor: text is put in quotes",
    r"'\t'": "a tab; YAML is indented with spaces",
    "cannot start any token": "text that begins with @, %, ` or another sign is put in quotes",
    "scanning a tag": "text that begins with ! is put in quotes",
    "block scalar": "text that begins with | or > is put in quotes",
    "mapping values": "a key where none can be: wrong indentation, or text with a colon that wants quotes",
    "another document": "the file holds more than one document (---)",
}


def _explained(error: yaml.MarkedYAMLError, line: int) -> str:
    problem = f"{error.problem or 'it can not be read'} {error.context or ''}"
    for phrase, sentence in _SENTENCES.items():
        if phrase in problem:
            return sentence
    begun = error.context_mark.line + 1 if error.context_mark else line
    where = f" (what is open here began in line {begun})" if begun != line else ""
    return f"{error.problem}{where}"
