"""The tables of the file together: their blocks completed from the common ones, and mistakes across them."""

from __future__ import annotations

from typing import Any

from pydantic.config import JsonDict
from pydantic_core import InitErrorDetails, PydanticCustomError

from icekeeper.core.formats import counted
from icekeeper.settings.blocks import mistake
from icekeeper.settings.tables import STAGE_BLOCKS

_OFF: JsonDict = {"properties": {"enabled": {"const": False}}, "required": ["enabled"]}
# Of the JSON Schema: an enabled table is audited, as far as the table itself says so, and needs ClickHouse.
AUDIT_NEEDS_CLICKHOUSE: JsonDict = {
    "if": {
        "properties": {
            "audit": {"not": _OFF},
            "tables": {
                "contains": {
                    "properties": {
                        "source": {"not": {"type": "null"}},
                        "audit": {"not": {"anyOf": [{"enum": ["off", False]}, _OFF]}},
                        "enabled": {"not": {"const": False}},
                    },
                    "required": ["source"],
                }
            },
        },
        "required": ["tables"],
    },
    "then": {"required": ["clickhouse"], "properties": {"clickhouse": {"not": {"type": "null"}}}},
}

REPLICAS_NEED_POSTGRES: JsonDict = {
    "if": {"properties": {"replicas": {"const": True}}, "required": ["replicas"]},
    "then": {"required": ["postgres"], "properties": {"postgres": {"not": {"type": "null"}}}},
}


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


def needs_clickhouse(tables: Any, common: Any) -> list[InitErrorDetails]:
    """The mistake that tables are audited where the settings have no ClickHouse.

    `tables`: completed; `common`: the block audit.
    """
    if not isinstance(common, dict) and not _is_on(common):
        return []
    audited = [
        f"{table.get('name')} (tables[{index}].source)"
        for index, table in enumerate(tables if isinstance(tables, list | tuple) else ())
        if isinstance(table, dict) and table.get("source") is not None and _is_on(table) and _is_on(table.get("audit"))
    ]
    if not audited:
        return []
    more = f" and {counted(len(audited) - 1, 'other table')}" if audited[1:] else ""
    sentence = (
        f"the rows of {audited[0]}{more} are counted there: "
        "give clickhouse.url and clickhouse.database, or turn the audits off, "
        "by audit: {enabled: false} for all tables or audit: off for one"
    )
    needed = PydanticCustomError("needed", "{sentence}", {"sentence": sentence})
    return [InitErrorDetails(type=needed, loc=("clickhouse",), input=None)]


def _is_on(block: Any) -> bool:
    """Whether a block is neither off nor disabled, in whatever way that is written."""
    flag = block.get("enabled") if isinstance(block, dict) else block
    return str(flag).lower() not in ("off", "false", "no", "n", "f", "0")


def _counted_twice(source: Any, database: Any) -> str | None:
    """A table that a source names twice, with or without its database."""
    tables = source.get("tables") if isinstance(source, dict) else None
    names = [name for name in tables if isinstance(name, str)] if isinstance(tables, list | tuple) else []
    full = [name if "." in name else f"{database}.{name}" for name in names]
    return next((name for number, name in enumerate(names) if full[number] in full[:number]), None)
