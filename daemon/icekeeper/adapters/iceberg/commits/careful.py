"""Tables of a REST catalog whose commits are not undone where they may have landed. How: CarefulOperations.java."""

from __future__ import annotations

from pathlib import Path
from typing import Any

from icekeeper.adapters.iceberg.jvm import IcebergJvm
from icekeeper.adapters.iceberg.proof.compiled import new_instance

_OPERATIONS = "org.apache.iceberg.rest.RESTTableOperations"
_FOLDER = Path(__file__).parent


def careful(jvm: IcebergJvm, table: Any) -> Any:
    """The table for a commit; other catalogs' operations settle themselves whether a commit landed."""
    if not is_rest(jvm, table):
        return table
    operations = new_instance(jvm, "CarefulOperations", table.operations(), folder=_FOLDER)
    return jvm.iceberg.BaseTable(operations, table.name())


def is_rest(jvm: IcebergJvm, table: Any) -> bool:
    """Whether the table's metadata comes from a REST catalog, perhaps with credentials of its own."""
    return bool(jvm.java_class(_OPERATIONS).isInstance(table.operations()))
