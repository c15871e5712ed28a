"""The tables of the file together: their blocks completed from the common ones, and mistakes across them."""

from __future__ import annotations

from typing import Any

from pydantic_core import InitErrorDetails, PydanticCustomError

from icekeeper.settings.tables import STAGE_BLOCKS, mistake


def completed(tables: Any, blocks: dict[str, Any]) -> Any:
    """The tables of the file, their compact, expire and audit blocks completed from the common blocks."""
    if not isinstance(tables, list | tuple):
        return tables
    return [_completed(table, blocks) if isinstance(table, dict) else table for table in tables]


def _completed(table: dict[str, Any], blocks: dict[str, Any]) -> dict[str, Any]:
    filled = dict(table)
    for block in STAGE_BLOCKS:
        common, own = blocks.get(block, {}), table.get(block, {})
        if isinstance(common, dict) and isinstance(own, dict):
            filled[block] = {**common, **own}
    return filled


def table_mistakes(tables: Any, catalog: Any, database: Any) -> list[InitErrorDetails]:
    """Mistakes across tables: checked on the raw data, because single tables may be invalid.

    `catalog`: its name; `database`: clickhouse.database.
    """
    if not isinstance(tables, list | tuple):
        return []
    found: list[InitErrorDetails] = []
    first: dict[str, int] = {}
    for index, table in enumerate(tables):
        name = table.get("name") if isinstance(table, dict) else None
        if isinstance(table, dict) and (again := _counted_twice(table.get("source"), database)):
            sentence = f"{again} is listed twice: its rows would be counted twice"
            found.append(mistake(("tables", index, "source", "tables"), table["source"]["tables"], sentence))
        if not isinstance(name, str):
            continue
        if name in first:
            twice = PydanticCustomError("listed_twice", "it is listed twice", {"first": first[name]})
            found.append(InitErrorDetails(type=twice, loc=("tables", index, "name"), input=name))
        elif isinstance(catalog, str) and name.startswith(f"{catalog}.") and name.count(".") > 1:
            short = name.removeprefix(f"{catalog}.")
            found.append(mistake(("tables", index, "name"), name, f"it is named without its catalog: {short}"))
        first.setdefault(name, index)
        audit = table.get("audit")
        if isinstance(audit, dict) and audit.get("key") and table.get("source") is None:
            sentence = "a key is compared with ClickHouse's rows, and the table has no source"
            found.append(mistake(("tables", index, "audit", "key"), audit["key"], sentence))
    if tables and all(isinstance(table, dict) and table.get("enabled") is False for table in tables):
        found.append(mistake(("tables",), tables, "none of them is enabled: there is nothing to do"))
    return found


def _counted_twice(source: Any, database: Any) -> str | None:
    """A table that a source names twice, with or without its database."""
    tables = source.get("tables") if isinstance(source, dict) else None
    names = [name for name in tables if isinstance(name, str)] if isinstance(tables, list | tuple) else []
    full = [name if "." in name else f"{database}.{name}" for name in names]
    return next((name for number, name in enumerate(names) if full[number] in full[:number]), None)
