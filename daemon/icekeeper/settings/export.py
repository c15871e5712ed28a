"""The settings for people and editors: those in force with secrets hidden, and the JSON Schema of the file."""

from __future__ import annotations

import warnings
from typing import Any

from pydantic import BaseModel

from icekeeper.core.secrets import HIDDEN, hide_in_text, is_secret
from icekeeper.settings.model import Settings
from icekeeper.settings.tables import STAGE_BLOCKS


def redacted(settings: Settings) -> dict[str, Any]:
    """The settings as the file would have them, every secret hidden."""
    hidden: dict[str, Any] = _hide(settings.model_dump(mode="json", exclude_none=True))
    return hidden


def schema() -> dict[str, Any]:
    """The JSON Schema of the file (draft 2020-12), for editors."""
    document = Settings.model_json_schema()
    models = {model.__name__: model for model in _models(Settings)}
    for name, definition in document["$defs"].items():
        _write_defaults(definition, models[name])
    _write_defaults(document, Settings)
    # `audit: off` is short for {enabled: false}.
    for stage in STAGE_BLOCKS:
        block = document["$defs"]["Table"]["properties"][stage]
        block["anyOf"] = [{"$ref": block.pop("$ref")}, {"enum": ["off", False]}]
    # `source: trades` is short for {table: trades}.
    source = document["$defs"]["Table"]["properties"]["source"]
    source["anyOf"].append({**document["$defs"]["Source"]["properties"]["table"]["anyOf"][0]})
    document["$schema"] = "https://json-schema.org/draft/2020-12/schema"
    return document


def _write_defaults(definition: dict[str, Any], model: type[BaseModel]) -> None:
    """Writes defaults in the file's syntax: pydantic's own would be PT10M and 134217728."""
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")  # the required keys are left out on purpose
        defaults = model.model_construct().model_dump(mode="json")
    for key, described in definition["properties"].items():
        if "$ref" in described:
            # A block's keys have defaults of their own, and those of a table come from the common block.
            described.pop("default", None)
        elif "default" in described and key in defaults:
            described["default"] = defaults[key]


def _models(model: type[BaseModel]) -> list[type[BaseModel]]:
    found = [model]
    for field in model.model_fields.values():
        for annotation in (field.annotation, *getattr(field.annotation, "__args__", ())):
            if isinstance(annotation, type) and issubclass(annotation, BaseModel):
                found += _models(annotation)
    return found


def _hide(value: Any, key: str = "") -> Any:
    if isinstance(value, dict):
        return {name: _hide(item, name) for name, item in value.items()}
    if isinstance(value, list):
        return [_hide(item, key) for item in value]
    if isinstance(value, str) and value:
        return HIDDEN if is_secret(key) and not key.endswith("_file") else hide_in_text(value)
    return value
