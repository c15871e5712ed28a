"""From a YAML file and the environment to `Settings`: finding, merging, reading secret files, telling every mistake."""

from __future__ import annotations

import os
from collections.abc import Iterator, Mapping
from pathlib import Path
from typing import Any

from pydantic import ValidationError
from pydantic_settings import EnvSettingsSource, SettingsError

from daemon.core.errors import ConfigError
from daemon.settings.document import Document, KeyPath, read_text
from daemon.settings.explain import explained, nearest
from daemon.settings.model import ENV_PREFIX, Settings

SEARCHED = (Path("config/icekeeper.yaml"), Path("/etc/icekeeper/icekeeper.yaml"))
CONFIG_VARIABLE = f"{ENV_PREFIX}CONFIG"
_FILE_SUFFIX = "_file"
# The keys that X_file may give, by block; of catalog.properties it may give any.
_SECRETS = {"clickhouse": "password", "postgres": "password", "offload": "password", "http": "token"}


def find_config(given: Path | None, environ: Mapping[str, str] | None = None) -> Path:
    """The file to read: the one given, $ICEKEEPER_CONFIG, ./config/icekeeper.yaml, /etc/icekeeper/icekeeper.yaml."""
    environ = os.environ if environ is None else environ
    named = given or (Path(text) if (text := environ.get(CONFIG_VARIABLE)) else None)
    if named is not None:
        return named
    for path in SEARCHED:
        if path.is_file():
            return path
    looked = ", ".join(str(path) if path.is_absolute() else f"./{path}" for path in SEARCHED)
    raise ConfigError(
        [f"there is no configuration: give --config FILE, set {CONFIG_VARIABLE}, or create one of {looked}"]
    )


def load(path: Path) -> Settings:
    """Reads, completes and checks the file. ConfigError lists every mistake, one line each."""
    document = Document.read(path)
    overrides, variables = _from_environment()
    data = _with_secrets(document, _merged(document.data, overrides), set(variables))
    if document.problems:
        # What has no clear shape is not judged further: its mistakes would only repeat themselves.
        raise ConfigError(document.problems)
    try:
        return Settings(**data)
    except ValidationError as exc:
        raise ConfigError(explained(exc.errors(include_url=False), document, variables)) from None


def _from_environment() -> tuple[dict[str, Any], dict[KeyPath, str]]:
    """What ICEKEEPER_BLOCK__KEY variables say, and which variable each key comes from."""
    known = set(Settings.model_fields)
    variables: dict[KeyPath, str] = {}
    for name in os.environ:
        if not name.startswith(ENV_PREFIX) or name == CONFIG_VARIABLE:
            continue
        at = tuple(name.removeprefix(ENV_PREFIX).lower().split("__"))
        if at[0] not in known:
            hint = nearest(at[0], known)
            raise ConfigError([f"environment variable {name}: {at[0]} is no key that icekeeper knows; {hint}"])
        variables[at] = name
    try:
        return dict(EnvSettingsSource(Settings)()), variables
    except SettingsError as exc:
        named = ", ".join(sorted(variables.values()))
        raise ConfigError([f"environment variable: {exc}; a whole block is written as JSON (set are {named})"]) from exc


def _merged(data: Mapping[str, Any], overrides: Mapping[str, Any]) -> dict[str, Any]:
    merged = dict(data)
    for key, value in overrides.items():
        below = merged.get(key)
        merged[key] = _merged(below, value) if isinstance(below, dict) and isinstance(value, dict) else value
    return merged


def _with_secrets(document: Document, data: dict[str, Any], from_environment: set[KeyPath]) -> dict[str, Any]:
    """The data with X read from the file that X_file names: passwords, the token, any catalog property."""
    for block, at, keys, keep in _blocks_with_secrets(data):
        for key in keys:
            name = key + _FILE_SUFFIX
            file = block.get(name)
            if not isinstance(file, str) or (*at, key) in from_environment:
                continue
            if block.get(key) is not None and (*at, name) not in from_environment:
                document.complain((*at, name), f"and {key} are both given: one of them")
                continue
            try:
                # A relative path is meant beside the file that names it.
                block[key] = read_text(document.path.parent / file).strip()
            except ConfigError as exc:
                document.complain((*at, name), exc.problems[0])
                continue
            if not block[key]:
                document.complain((*at, name), f"names an empty file: {file}")
            if not keep:
                del block[name]
    return data


def _blocks_with_secrets(data: dict[str, Any]) -> Iterator[tuple[dict[str, Any], KeyPath, tuple[str, ...], bool]]:
    """Blocks (copied into `data`, to be changed), where they are, the keys to read, and if X_file stays a key."""
    for name, key in _SECRETS.items():
        if isinstance(data.get(name), dict):
            data[name] = dict(data[name])
            yield data[name], (name,), (key,), True
    catalog = data.get("catalog")
    if isinstance(catalog, dict) and isinstance(catalog.get("properties"), dict):
        properties = dict(catalog["properties"])
        data["catalog"] = {**catalog, "properties": properties}
        keys = tuple(key.removesuffix(_FILE_SUFFIX) for key in properties if key.endswith(_FILE_SUFFIX))
        yield properties, ("catalog", "properties"), keys, False
