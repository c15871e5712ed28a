"""The ledger's SQL: statements in .sql files, migrations (migrations.py). Who runs the statements: ledger.py."""

from __future__ import annotations

from pathlib import Path


def statement(name: str) -> str:
    """The text of `name`.sql."""
    return Path(__file__).with_name(f"{name}.sql").read_text(encoding="utf-8")
