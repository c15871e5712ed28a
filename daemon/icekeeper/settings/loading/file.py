"""From a YAML file and the environment to `Settings`: finding the file, putting the parts together, every mistake."""

from __future__ import annotations

import os
from collections.abc import Mapping
from datetime import date
from pathlib import Path
from typing import Any

from pydantic import ValidationError

from icekeeper.core.errors import ConfigError
from icekeeper.settings.loading.document import Document
from icekeeper.settings.loading.environment import CONFIG_VARIABLE, merged, overrides
from icekeeper.settings.loading.secret_files import with_secrets
from icekeeper.settings.messages.mistakes import Mistake, Origins
from icekeeper.settings.messages.pydantic_errors import explained
from icekeeper.settings.model import Settings

SEARCHED = (Path("config/icekeeper.yaml"), Path("/etc/icekeeper/icekeeper.yaml"))


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


def load(path: Path, *, secrets: bool = True) -> Settings:
    """Reads, completes and checks the file. ConfigError lists every mistake, one line each.

    `secrets` False: the secret files are not read, for checking a configuration on a machine where they are not.
    """
    document, environment = Document.read(path), overrides(os.environ)
    origins = Origins(document, environment.variables)
    data = merged(_with_texts(document), environment.data)
    data, mistakes = with_secrets(data, origins, read=secrets)
    mistakes += environment.mistakes
    mistakes += [Mistake(at, sentence, line) for at, sentence, line in document.mistakes]
    settings: Settings | None = None
    try:
        settings = Settings(**data)
    except ValidationError as exc:
        mistakes += explained(exc.errors(include_url=False), origins, data)
    if mistakes or settings is None:
        raise ConfigError(origins.told(mistakes))
    return settings


def state_dir_of(path: Path) -> tuple[Path, ConfigError | None]:
    """Where the daemon of a file keeps its state, whatever is wrong with that; and why it can't be read, if so."""
    data: dict[str, Any] = {}
    unreadable: ConfigError | None = None
    try:
        data = Document.read(path).data
    except ConfigError as exc:
        unreadable = exc
    said = merged(data, overrides(os.environ).data).get("state_dir")
    return Path(said if isinstance(said, str) else Settings.model_fields["state_dir"].default), unreadable


# Maps whose values are text whatever they look like: YAML would make 1.1 of 1.10, 18 of 022 and 630 of 10:30.
_TEXTS = (("spark", "conf"), ("catalog", "properties"))


def _with_texts(document: Document) -> dict[str, Any]:
    data = dict(document.data)
    for block, key in _TEXTS:
        values = data[block].get(key) if isinstance(data.get(block), dict) else None
        if isinstance(values, dict):
            texts = {name: _as_written(document, (block, key, name), value) for name, value in values.items()}
            data[block] = {**data[block], key: texts}
    return data


def _as_written(document: Document, at: tuple[str, ...], value: object) -> object:
    if isinstance(value, bool) or not isinstance(value, int | float | date):
        return value
    return document.written.get(at, value)
