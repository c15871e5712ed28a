"""The ledger's SQL: statements in .sql files, migrations (migrations.py). Executing them: store.py, history.py."""

from __future__ import annotations

import re
from pathlib import Path

_PART = re.compile(r"\{(answered|rows_that_differ|open_windows)\}")


def statement(name: str) -> str:
    """The text of `name`.sql, with those of other files where it names them in braces."""
    return _PART.sub(lambda found: statement(found[1]), _text(name))


def _text(name: str) -> str:
    return Path(__file__).with_name(f"{name}.sql").read_text(encoding="utf-8")
