"""Loading `Settings` from a YAML file, the environment and secret files, with every mistake in them."""

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
from icekeeper.settings.messages.pydantic_errors import mistakes_of
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
    searched = ", ".join(str(path) if path.is_absolute() else f"./{path}" for path in SEARCHED)
    raise ConfigError(
        [f"there is no configuration: give --config FILE, set {CONFIG_VARIABLE}, or create one of {searched}"]
    )


def load(path: Path, *, secrets: bool = True, text: str | None = None) -> Settings:
    """Reads, completes and checks the file. ConfigError lists every mistake, one line each.

    `secrets` False: the secret files are not read, for checking a configuration on a machine where they are not.
    `text`: what the file is to hold that is not written yet.
    """
    document, environment = Document.read(path, text), overrides(os.environ)
    origins = Origins(document, environment.variables)
    data = merged(_with_texts(document), environment.data)
    data, secret_files, mistakes = with_secrets(data, origins, read=secrets)
    mistakes += environment.mistakes
    mistakes += [Mistake(at, sentence, line) for at, sentence, line in document.mistakes]
    settings: Settings | None = None
    try:
        settings = Settings(**data)
    except ValidationError as exc:
        mistakes += mistakes_of(exc.errors(include_url=False), origins, data)
    if mistakes or settings is None:
        raise ConfigError(origins.lines(mistakes))
    settings.note_secret_files(secret_files)
    return settings


def state_dir_of(path: Path) -> tuple[Path, ConfigError | None]:
    """The state_dir of a configuration file even if that is invalid; and the error if the file can't be read."""
    data: dict[str, Any] = {}
    unreadable: ConfigError | None = None
    try:
        data = Document.read(path).data
    except ConfigError as exc:
        unreadable = exc
    given = merged(data, overrides(os.environ).data).get("state_dir")
    return Path(given if isinstance(given, str) else Settings.model_fields["state_dir"].default), unreadable


# Maps whose values are always text: YAML would read 1.10 as 1.1, 022 as 18 and 10:30 as 630.
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
