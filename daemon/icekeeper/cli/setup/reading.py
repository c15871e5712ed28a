"""What `init` reads: the catalog's tables through Spark, as a night reads them, and whether ClickHouse has sources."""

from __future__ import annotations

import re
from collections import Counter
from collections.abc import Callable, Sequence
from dataclasses import replace
from datetime import timedelta
from functools import partial
from typing import TypeVar

from icekeeper.adapters.iceberg.jvm import IcebergJvm
from icekeeper.adapters.iceberg.listing import ALL, read_table, table_names
from icekeeper.cli.preconditions import start_problem
from icekeeper.core.audit.source import Source, holds_rows
from icekeeper.core.calendar import window_of
from icekeeper.core.catalogs.listing import ListedTable, Listing, event_time, is_chosen
from icekeeper.core.errors import IcekeeperError, PermanentError, TransientError
from icekeeper.core.formats import listed
from icekeeper.core.reasons import Reason
from icekeeper.doctor.jdbc import catalog_names
from icekeeper.doctor.reachable import unreachable
from icekeeper.doctor.storage import is_final
from icekeeper.execution.wiring import Services
from icekeeper.settings.first_file import ProposedTable

T = TypeVar("T")

_LIST_TIMEOUT = timedelta(minutes=5)
_READ_TIMEOUT = timedelta(minutes=1)
_HOPELESS = (Reason.SOURCE_DOWN, Reason.DEADLINE)
_MOST_NAMED = 8
_GLOB = re.compile(r"[*?[]")


async def start(services: Services) -> None:
    """Starts Spark. Raises where it does not start, or where nothing listens at an address that it will need."""
    for check in await unreachable(services.settings):  # before a JVM tries for a minute
        raise TransientError(f"{check.text}. {check.advice}", reason=Reason.CATALOG_DOWN)
    if (problem := await start_problem(services.engine)) is not None:
        raise TransientError(problem, reason=Reason.ENGINE_DOWN)


async def read_catalog(
    services: Services, include: tuple[str, ...], exclude: tuple[str, ...], note: Callable[[str], None]
) -> Listing:
    """The chosen tables. Raises where the catalog or its store can't be reached, or where there is no table to name."""
    name = services.settings.catalog.name
    note(f"listing the tables of {name}")
    names, left_out = [*include], dict[str, str]()
    if not include or any(_GLOB.search(each) for each in include):  # else a user need not be allowed to list
        names, left_out = await _ask(services, partial(table_names, catalog=name), name, _LIST_TIMEOUT)
    chosen = [table for table in names if is_chosen(table, include, exclude)]
    if not chosen:
        raise PermanentError(await _nothing(services, names, left_out), reason=Reason.TABLE_NOT_FOUND)
    # Those of a namespace that can't be listed might have been chosen.
    left_out = {
        table: why for table, why in left_out.items() if table.endswith(f".{ALL}") or is_chosen(table, include, exclude)
    }
    tables: list[ListedTable] = []
    for number, table in enumerate(chosen, start=1):
        note(f"reading {table} ({number} of {len(chosen)})")
        try:
            tables.append(await _ask(services, partial(read_table, catalog=name, name=table), table, _READ_TIMEOUT))
        except IcekeeperError as exc:
            # A catalog that fails in between must not become a file with half of its tables.
            if is_final(exc) or isinstance(exc, TransientError):
                raise
            left_out[table] = f"{exc.reason}: {exc}"
    if not tables:
        table, why = next(iter(left_out.items()))
        raise PermanentError(f"none of {len(chosen)} tables could be read; of {table}: {why}{_advice(why)}")
    return Listing(tuple(tables), left_out)


def _advice(why: str) -> str:
    """What may help where no table's files can be opened, as the place of a Hive catalog's is not known."""
    if "No FileSystem for scheme" not in why:
        return ""
    return ". Give --warehouse with that scheme, or --property io-impl=org.apache.iceberg.aws.s3.S3FileIO"


async def _nothing(services: Services, names: list[str], left_out: dict[str, str]) -> str:
    """Why there is no table to name."""
    catalog = services.settings.catalog
    if names:
        return f"--include and --exclude leave none of its tables: there is {listed(names, _MOST_NAMED)}"
    if left_out:
        return "; ".join(f"{name}: {why}" for name, why in left_out.items())
    text = f"the catalog {catalog.name} answers, and has no table that may be seen"
    if catalog.type == "jdbc":
        others = listed(await catalog_names(catalog), _MOST_NAMED)
        there = f": that database has {others}" if others else ""
        text += f". In a JDBC catalog the name is part of every table's key, give the one that its writers use{there}"
    return text


async def propose(
    services: Services, tables: Sequence[ListedTable], note: Callable[[str], None]
) -> list[ProposedTable]:
    """How the file names the tables, with their sources where ClickHouse is among the settings. Raises where that
    can't be asked."""
    clickhouse = services.settings.clickhouse
    if clickhouse is None:
        return [ProposedTable.without_source(table) for table in tables]
    note("comparing the tables with ClickHouse's")
    await services.source.server()
    namesakes = Counter(_source_of(table) for table in tables)
    return [await _with_source(services, clickhouse.database, table, namesakes[_source_of(table)]) for table in tables]


def _source_of(table: ListedTable) -> str:
    return table.name.rpartition(".")[2]


async def _with_source(services: Services, database: str, table: ListedTable, namesakes: int) -> ProposedTable:
    """With the table of ClickHouse that has the same name, where a day's rows can be counted there and are its own."""
    proposed, source = ProposedTable.without_source(table), _source_of(table)
    why = await _no_source(services, table, source)
    if why is None and namesakes > 1 and table.name != f"{database}.{source}":
        why = f"{namesakes} tables of the catalog have that name"
    if why is None:
        return replace(proposed, source=source)
    return replace(proposed, note=f"not audited against ClickHouse's {source}: {why}")


async def _no_source(services: Services, table: ListedTable, source: str) -> str | None:
    """Why a table of ClickHouse is not taken for the source of a table, without an operator's word; None if it is."""
    found, clickhouse = event_time(table), services.source
    try:
        described = await clickhouse.describe(source)
        if described is None:
            return "there is no such table"
        if not holds_rows(described.engine):
            return f"it is of engine {described.engine}, and may read the lake itself"
        if found.column is None or not found.is_sure:
            return found.why
        asked = Source((source,), found.column)
        await clickhouse.rehearse(asked, None, window_of(services.ports.clock()))
        types = await clickhouse.column_types(asked, [found.column])
    except IcekeeperError as exc:
        if exc.reason in _HOPELESS:
            raise
        return str(exc)
    nullable = found.column in types and "Nullable(" in types[found.column].words
    return f"{found.column} may be NULL there, and such rows are in no day" if nullable else None


async def _ask(services: Services, read: Callable[[IcebergJvm], T], where: str, timeout: timedelta) -> T:
    return await services.engine.run(lambda spark: read(IcebergJvm(spark)), timeout=timeout, where=where)
