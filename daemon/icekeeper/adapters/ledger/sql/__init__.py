"""The ledger's SQL: statements in .sql files, migrations (migrations.py). Executing them: store.py, history.py."""

from __future__ import annotations

import re
from pathlib import Path

_EXPRESSION = re.compile(r"\{(answered|rows_that_differ)\}")


def statement(name: str) -> str:
    """The text of `name`.sql, with the expressions in answered.sql and rows_that_differ.sql where it names them."""
    return _EXPRESSION.sub(lambda found: _text(found[1]), _text(name))


def _text(name: str) -> str:
    return Path(__file__).with_name(f"{name}.sql").read_text(encoding="utf-8")
