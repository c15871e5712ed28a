"""The ledger's SQL: statements in .sql files, migrations (migrations.py). Executing them: store.py, history.py."""

from __future__ import annotations

import re
from pathlib import Path

_PART = re.compile(
    r"\{(answered|audit_columns|judging_first|newer|of_installation|open_windows|rows_that_differ|whole_day)\}"
)


def statement(name: str) -> str:
    """The text of `name`.sql, with those of other files where it names them in braces."""
    return _PART.sub(lambda found: statement(found[1]), _text(name))


def _text(name: str) -> str:
    return Path(__file__).with_name(f"{name}.sql").read_text(encoding="utf-8")
