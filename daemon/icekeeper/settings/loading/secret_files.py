"""Secrets in files: a key X_file names the file that holds the value of X. Only this module reads them."""

from __future__ import annotations

from collections.abc import Iterator
from itertools import chain
from pathlib import Path
from typing import Any

from icekeeper.core.secrets import HIDDEN
from icekeeper.settings.loading.document import KeyPath, dotted
from icekeeper.settings.messages.mistakes import Mistake, Origins

_SUFFIX = "_file"
# The keys that may have an X_file, by block; of catalog.properties any key may.
_SECRETS = {
    "clickhouse": ("password",),
    "postgres": ("password",),
    "offload": ("password",),
    "http": ("token", "read_token"),
}
# The same, of each block of a list.
_LISTED_SECRETS = {"notify": "url"}
_PROPERTIES = ("catalog", "properties")
# A larger file is the wrong one; and /dev/zero has no end.
_LARGEST = 64 * 1024
_EXPECTED = "it has to be a text file that holds the secret alone"


def with_secrets(
    data: dict[str, Any], origins: Origins, *, read: bool
) -> tuple[dict[str, Any], dict[KeyPath, Path], list[Mistake]]:
    """The data with every X that has an X_file, the file of each, and the mistakes in those files.

    `read` False: each X becomes a placeholder, for machines without the files.
    """
    files: dict[KeyPath, Path] = {}
    mistakes: list[Mistake] = []
    for block, at, key in _named(data):
        name = (*at, key + _SUFFIX)
        file = block[key + _SUFFIX]
        if at == _PROPERTIES:
            del block[key + _SUFFIX]  # no property of Spark's
        # A variable of the environment wins over the file, whichever of the two forms it takes.
        if (*at, key) in origins.variables:
            continue
        if not isinstance(file, str) or not file.strip():
            if file is not None:
                mistakes.append(Mistake(name, f"{dotted(name)}: it has to be the path of a file"))
                block.pop(key + _SUFFIX, None)
                _add_placeholder(block, at, key)
            continue
        if block.get(key) is not None and name not in origins.variables:
            mistakes.append(Mistake(name, f"{dotted(name)}: {key} is given as well: one of the two has to go"))
            continue
        # A relative path starts at the configuration file's directory.
        files[(*at, key)] = path = origins.document.path.parent / file
        try:
            block[key] = _secret(path, key) if read else HIDDEN
        except ValueError as exc:
            mistakes.append(Mistake(name, f"{dotted(name)}: {exc}"))
            _add_placeholder(block, at, key)
    return data, files, mistakes


def _add_placeholder(block: dict[str, Any], at: KeyPath, key: str) -> None:
    """A placeholder for a required secret whose file is unusable: it must not be reported as missing as well."""
    if at[0] in _LISTED_SECRETS:
        block.setdefault(key, HIDDEN)


def _secret(path: Path, key: str) -> str:
    """ValueError says what is wrong with the file, without quoting its content."""
    try:
        with path.open("rb") as file:
            content = file.read(_LARGEST + 1)
    except OSError as exc:
        raise ValueError(f"{path} can't be read: {exc.strerror}; {_EXPECTED}") from exc
    except ValueError as exc:  # a zero byte
        raise ValueError(f"no file can have this name; {_EXPECTED}") from exc
    if len(content) > _LARGEST:
        raise ValueError(f"{path} is larger than {_LARGEST // 1024} KiB; {_EXPECTED}")
    try:
        secret = content.decode().strip()
    except UnicodeDecodeError as exc:
        raise ValueError(f"{path} is not UTF-8 text; {_EXPECTED}") from exc
    if not secret:
        raise ValueError(f"{path} is empty; {_EXPECTED}")
    if key in {*chain(*_SECRETS.values()), *_LISTED_SECRETS.values()} and len(secret.splitlines()) > 1:
        raise ValueError(f"{path} holds several lines; {_EXPECTED}")
    return secret


def _named(data: dict[str, Any]) -> Iterator[tuple[dict[str, Any], KeyPath, str]]:
    """Every X_file: its block (copied into `data`, to be changed), the block's path, and X."""
    for name, keys in _SECRETS.items():
        for key in keys:
            if isinstance(data.get(name), dict) and key + _SUFFIX in data[name]:
                data[name] = dict(data[name])
                yield data[name], (name,), key
    for name, key in _LISTED_SECRETS.items():
        if isinstance(data.get(name), list):
            data[name] = [dict(block) if isinstance(block, dict) else block for block in data[name]]
            for index, block in enumerate(data[name]):
                if isinstance(block, dict) and key + _SUFFIX in block:
                    yield block, (name, index), key
    catalog = data.get("catalog")
    if isinstance(catalog, dict) and isinstance(catalog.get("properties"), dict):
        properties = dict(catalog["properties"])
        data["catalog"] = {**catalog, "properties": properties}
        for name in catalog["properties"]:
            if name.endswith(_SUFFIX):
                yield properties, _PROPERTIES, name.removesuffix(_SUFFIX)
