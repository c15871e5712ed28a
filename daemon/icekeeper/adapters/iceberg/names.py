"""Names as Spark SQL takes them."""

from __future__ import annotations


def quoted(identifier: str) -> str:
    """An identifier for Spark SQL; a backtick inside is doubled."""
    return "`" + identifier.replace("`", "``") + "`"


def quoted_name(catalog: str, table: str) -> str:
    """A table's name with its catalog; `table` has its namespace before it."""
    return ".".join(map(quoted, (catalog, *table.split("."))))
