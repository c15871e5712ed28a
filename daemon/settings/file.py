"""From a YAML file to `Settings`, with errors that name file, line, key, value and what is allowed; all at once."""

from __future__ import annotations

import difflib
import os
import re
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import yaml
from pydantic import BaseModel, ValidationError
from pydantic_core import ErrorDetails

from daemon.core.errors import ConfigError
from daemon.settings.model import STAGE_BLOCKS, Settings

SEARCHED = (Path("config/icekeeper.yaml"), Path("/etc/icekeeper/icekeeper.yaml"))
_SECRET_KEY = re.compile(r"password|secret|token|credential|access-key|private", re.IGNORECASE)
_HIDDEN = "***"
_FILE_SUFFIX = "_file"

# Where a value stands in the document: ("tables", 0, "name").
KeyPath = tuple[str | int, ...]


def find_config(given: Path | None, environ: Mapping[str, str] | None = None) -> Path:
    """The file to read: the one given, $ICEKEEPER_CONFIG, ./config/icekeeper.yaml, /etc/icekeeper/icekeeper.yaml."""
    named = given or (Path(text) if (text := (environ or os.environ).get("ICEKEEPER_CONFIG")) else None)
    if named is not None:
        return named
    for path in SEARCHED:
        if path.is_file():
            return path
    looked = ", ".join(f"./{path}" if not path.is_absolute() else str(path) for path in SEARCHED)
    raise ConfigError(
        [f"there is no configuration: give --config FILE, set ICEKEEPER_CONFIG, or create one of {looked}"]
    )


def load(path: Path) -> Settings:
    """Reads, completes and checks the file. ConfigError lists every mistake, one line each."""
    document = _Document.read(path)
    data = document.with_secrets()
    if document.problems:
        # What has no clear shape is not judged further: its mistakes would only repeat themselves.
        raise ConfigError(document.problems)
    try:
        return Settings(**data)
    except ValidationError as exc:
        problems = [document.explain(error) for error in exc.errors(include_url=False)]
        raise ConfigError(list(dict.fromkeys(problem for problem in problems if problem))) from None


def schema() -> dict[str, Any]:
    """The JSON Schema of the file, for editors."""
    document = Settings.model_json_schema()
    audit = document["$defs"]["Table"]["properties"]["audit"]
    audit["anyOf"] = [{"$ref": audit.pop("$ref")}, {"enum": ["off", False]}]
    document["$schema"] = "https://json-schema.org/draft/2020-12/schema"
    return document


def shown(settings: Settings) -> dict[str, Any]:
    """The settings in force as the file would have them, every secret hidden."""
    hidden: dict[str, Any] = _hide(settings.model_dump(mode="json", exclude_none=True))
    return hidden


def _hide(value: Any) -> Any:
    if isinstance(value, dict):
        return {
            key: _HIDDEN
            if isinstance(item, str) and item and _SECRET_KEY.search(key) and not key.endswith(_FILE_SUFFIX)
            else _hide(item)
            for key, item in value.items()
        }
    if isinstance(value, list):
        return [_hide(item) for item in value]
    return value


class _Document:
    """A YAML document with the line of every key, and the mistakes found while reading it."""

    def __init__(self, path: Path) -> None:
        self.path = path
        self.data: dict[str, Any] = {}
        self.problems: list[str] = []
        self._lines: dict[KeyPath, int] = {}

    @classmethod
    def read(cls, path: Path) -> _Document:
        document = cls(path)
        try:
            text = path.read_text()
        except (OSError, UnicodeDecodeError) as exc:
            reason = exc.strerror if isinstance(exc, OSError) else "it is not UTF-8 text"
            raise ConfigError([f"{path}: can't be read: {reason}"]) from exc
        try:
            root = yaml.compose(text, Loader=yaml.SafeLoader)
        except yaml.MarkedYAMLError as exc:
            line = exc.problem_mark.line + 1 if exc.problem_mark else 1
            raise ConfigError([f"{path}:{line}: not YAML: {exc.problem}"]) from exc
        if root is None:
            raise ConfigError([f"{path}: the file is empty"])
        if not isinstance(root, yaml.MappingNode):
            raise ConfigError([f"{path}:1: the file has to be a mapping of keys to values"])
        document.data = document._build(root, ())
        return document

    def _build(self, node: yaml.Node, at: KeyPath) -> Any:
        if isinstance(node, yaml.MappingNode):
            mapping: dict[str, Any] = {}
            for key_node, value_node in node.value:
                key = str(key_node.value)
                line = key_node.start_mark.line + 1
                if key in mapping:
                    first = self._lines[(*at, key)]
                    self._complain((*at, key), f"is there twice; it stands in line {first} already", line)
                self._lines.setdefault((*at, key), line)
                mapping[key] = self._build(value_node, (*at, key))
            return mapping
        if isinstance(node, yaml.SequenceNode):
            for index, item in enumerate(node.value):
                self._lines[(*at, index)] = item.start_mark.line + 1
            return [self._build(item, (*at, index)) for index, item in enumerate(node.value)]
        return yaml.SafeLoader("").construct_object(node)

    def with_secrets(self) -> dict[str, Any]:
        """The data with X read from the file that X_file names: passwords, the token, any catalog property."""
        data = dict(self.data)
        for block, keys in (
            ("clickhouse", ("password",)),
            ("postgres", ("password",)),
            ("offload", ("password",)),
            ("http", ("token",)),
        ):
            if isinstance(data.get(block), dict):
                data[block] = self._read_secrets(data[block], (block,), keys, keep=True)
        catalog = data.get("catalog")
        if isinstance(catalog, dict) and isinstance(catalog.get("properties"), dict):
            names = tuple(key.removesuffix(_FILE_SUFFIX) for key in catalog["properties"] if key.endswith(_FILE_SUFFIX))
            properties = self._read_secrets(catalog["properties"], ("catalog", "properties"), names, keep=False)
            data["catalog"] = {**catalog, "properties": properties}
        return data

    def _read_secrets(self, block: dict[str, Any], at: KeyPath, keys: tuple[str, ...], *, keep: bool) -> dict[str, Any]:
        read = dict(block)
        for key in keys:
            name = key + _FILE_SUFFIX
            if not isinstance(file := block.get(name), str):
                continue
            if block.get(key) is not None:
                self._complain((*at, name), f"and {key} are both given: one of them")
                continue
            if not keep:
                del read[name]
            path = self.path.parent / file  # a relative one is meant beside the file that names it
            try:
                read[key] = path.read_text().strip()
            except (OSError, UnicodeDecodeError) as exc:
                why = exc.strerror if isinstance(exc, OSError) else "it is not UTF-8 text"
                self._complain((*at, name), f"{path} can't be read: {why}")
        return read

    def _complain(self, at: KeyPath, what: str, line: int | None = None) -> None:
        self.problems.append(f"{self._place(at, line)}: {_dotted(at)} {what}")

    def _place(self, at: KeyPath, line: int | None = None) -> str:
        while line is None and at:
            line = self._lines.get(at)
            at = at[:-1]
        return f"{self.path}:{line}" if line else str(self.path)

    def explain(self, error: ErrorDetails) -> str | None:
        """One line for one mistake; None where it only repeats another one."""
        at: KeyPath = tuple(part for part in error["loc"] if not _is_tag(part))
        if at[:1] == ("tables",) and len(at) >= 3 and at[2] in STAGE_BLOCKS and at not in self._lines:
            return None  # the common block's mistake, seen again through a table
        message = error["msg"].removeprefix("Value error, ")
        kind = error["type"]
        where = self._origin(at, kind)
        if kind == "missing":
            return f"{where}: {_dotted(at)} is missing"
        if kind == "extra_forbidden":
            return f"{where}: {_dotted(at)} is no key that icekeeper knows{_nearest(at)}"
        if kind == "too_short" and error["input"]:
            return None  # its items were wrong, and that is said for each of them
        if not at or isinstance(error["input"], dict | list):
            return f"{where}: {_dotted(at)}{': ' if at else ''}{message}"
        value = _HIDDEN if _SECRET_KEY.search(str(at[-1])) else repr(error["input"])
        return f"{where}: {_dotted(at)}: {value} is not allowed: {message}"

    def _origin(self, at: KeyPath, kind: str) -> str:
        variable = "ICEKEEPER_" + "__".join(str(part) for part in at).upper()
        if kind != "missing" and variable in {name.upper() for name in os.environ}:
            return f"environment variable {variable}"
        return self._place(at)


def _is_tag(part: str | int) -> bool:
    """pydantic puts the branch of a union into the path of an error; no such key is in the file."""
    return isinstance(part, str) and (part in {"bool", "int", "float", "str"} or "[" in part)


def _dotted(at: KeyPath) -> str:
    text = ""
    for part in at:
        text += f"[{part}]" if isinstance(part, int) else f".{part}" if text else part
    return text


def _nearest(at: KeyPath) -> str:
    """The known key that an unknown one was perhaps meant to be."""
    known = _keys_at(at[:-1])
    close = difflib.get_close_matches(str(at[-1]), known, n=1)
    return f"; did you mean {close[0]}?" if close else f"; here it knows {', '.join(sorted(known))}"


def _keys_at(at: KeyPath) -> list[str]:
    model: type[BaseModel] = Settings
    for part in at:
        if isinstance(part, int):
            continue
        inner = _model_in(model.model_fields[part].annotation)
        if inner is None:
            return []
        model = inner
    return list(model.model_fields)


def _model_in(annotation: Any) -> type[BaseModel] | None:
    if isinstance(annotation, type) and issubclass(annotation, BaseModel):
        return annotation
    for argument in getattr(annotation, "__args__", ()):
        if (found := _model_in(argument)) is not None:
            return found
    return None
