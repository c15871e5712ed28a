"""The ledger's SQL: statements in .sql files, migrations (migrations.py). Executing them: store.py, history.py."""

from __future__ import annotations

from pathlib import Path


def statement(name: str) -> str:
    """The text of `name`.sql, with the condition in answered.sql in place of {answered}."""
    text = _text(name)
    return text.replace("{answered}", _text("answered")) if "{answered}" in text else text


def _text(name: str) -> str:
    return Path(__file__).with_name(f"{name}.sql").read_text(encoding="utf-8")
