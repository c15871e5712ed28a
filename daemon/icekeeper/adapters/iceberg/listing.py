"""What a catalog holds: its namespaces and tables, and what a first configuration needs of each table. Reads only."""

from __future__ import annotations

import json
from collections.abc import Callable, Iterable
from typing import Any

from py4j.protocol import Py4JJavaError

from icekeeper.adapters.iceberg.catalog import quoted_name
from icekeeper.adapters.iceberg.jvm import IcebergJvm
from icekeeper.adapters.iceberg.misplaced import explained
from icekeeper.adapters.iceberg.rows.readable import require_readable
from icekeeper.adapters.spark.errors import translate
from icekeeper.core.catalogs.listing import ListedTable, unfit_name
from icekeeper.core.errors import TransientError

Levels = tuple[str, ...]
# Of partition transforms, the finer ones first.
_OF_TIME = {"hour": 0, "day": 0, "month": 1, "year": 2}
# In the place of a table's name: all tables of a namespace.
ALL = "*"
# Deeper than any catalog's namespaces.
_DEEPEST = 20


def table_names(jvm: IcebergJvm, catalog: str) -> tuple[list[str], dict[str, str]]:
    """The names of all tables, and why what else is there can't be listed or named, by its name.

    Raises the JVM's error where the catalog can't be opened, or its namespaces can't be listed.
    """
    iceberg = jvm.open_catalog(catalog).icebergCatalog()
    left_out: dict[str, str] = {}

    def ask(namespace: Levels, list_those: Callable[[Any], Iterable[Any]]) -> list[Any]:
        try:
            return list(list_those(jvm.iceberg.catalog.Namespace.of(jvm.array(jvm.lang.String, namespace))))
        except Py4JJavaError as exc:
            error = translate(exc)
            # A catalog that is down, or our own deadline, leaves nothing out: it ends the listing.
            if isinstance(error, TransientError) or "interrupted" in str(error).lower():
                raise
            left_out[".".join((*namespace, ALL))] = f"it can't be listed: {error}"
            return []

    names: list[str] = []
    waiting = [_levels(each) for each in iceberg.listNamespaces()]
    known = set(waiting)
    while waiting:
        namespace = waiting.pop()
        for table in ask(namespace, iceberg.listTables):
            levels = (*namespace, str(table.name()))
            if why := unfit_name(catalog, levels):
                left_out[".".join(levels)] = why
            else:
                names.append(".".join(levels))
        for child in map(_levels, ask(namespace, iceberg.listNamespaces)):
            # A server that knows no namespaces in namespaces may answer with all of them.
            if child[: len(namespace)] == namespace and child not in known and len(child) < _DEEPEST:
                known.add(child)
                waiting.append(child)
    return sorted({*names}), left_out


def read_table(jvm: IcebergJvm, catalog: str, name: str) -> ListedTable:
    """The table's columns and partitions. PermanentError where Spark can't read such a table."""
    with explained(jvm, catalog, name):
        handle = jvm.load(quoted_name(catalog, name))
        text = jvm.metadata_json(handle)
    require_readable(jvm, name, handle)
    return parse_table(name, text)


def parse_table(name: str, text: str) -> ListedTable:
    """The same out of a metadata.json (Iceberg spec, 'Table Metadata')."""
    metadata = json.loads(text)
    schemas = metadata.get("schemas") or [metadata.get("schema", {})]
    schema = next((s for s in schemas if s.get("schema-id") == metadata.get("current-schema-id")), schemas[-1])
    specs = {spec["spec-id"]: spec["fields"] for spec in metadata.get("partition-specs", ())}
    fields = specs.get(metadata.get("default-spec-id"), metadata.get("partition-spec", ()))
    columns = {field["id"]: field for field in schema.get("fields", ())}
    partitions = sorted((_OF_TIME[f["transform"]], i) for i, f in enumerate(fields) if f["transform"] in _OF_TIME)
    sources = [columns.get(fields[index].get("source-id")) for _, index in partitions]
    return ListedTable(
        name,
        {field["name"]: field["type"] for field in columns.values() if isinstance(field["type"], str)},
        tuple(dict.fromkeys(field["name"] for field in sources if field is not None)),
    )


def _levels(namespace: Any) -> Levels:
    return tuple(map(str, namespace.levels()))
