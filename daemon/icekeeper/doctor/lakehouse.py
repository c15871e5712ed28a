"""Checks through Spark: the session, the catalog, the tables, their store, one after another in one session.

The results are judged in `versions.py`, `tables.py`, `storage.py` and `foreign.py`.
"""

from __future__ import annotations

import time
from collections.abc import Callable
from datetime import timedelta
from functools import partial
from typing import TypeVar

from icekeeper.adapters.iceberg.jvm import IcebergJvm
from icekeeper.adapters.iceberg.probe import (
    PROBE_NAME,
    StoreProbe,
    TableFacts,
    neighbours,
    probe_store,
    refused_read,
    session_facts,
    table_facts,
)
from icekeeper.core.errors import IcekeeperError
from icekeeper.core.policy import TablePolicy
from icekeeper.core.reasons import Reason
from icekeeper.doctor.check import LIMIT_S, Check, Subject, guarded, no_better, no_errors
from icekeeper.doctor.foreign import foreign_snapshots
from icekeeper.doctor.host import HostChecks
from icekeeper.doctor.jdbc import examine_jdbc, metadata_location, no_catalog
from icekeeper.doctor.reachable import unreachable
from icekeeper.doctor.storage import is_final, refused_read_check, store_checks, store_error
from icekeeper.doctor.tables import catalog_checks, not_found, table_checks
from icekeeper.doctor.versions import Runtime, fit, session_checks
from icekeeper.execution.wiring import Services, spark_options

T = TypeVar("T")

_LIMIT = timedelta(seconds=LIMIT_S)
# The first start on a machine downloads the jars; tables have a limit each.
_START_S = 600.0
_BEHIND_ENGINE = (Subject.CATALOG, Subject.TABLES, Subject.STORAGE, Subject.OTHERS)


async def examine_lakehouse(services: Services, policies: tuple[TablePolicy, ...], host: HostChecks) -> list[Check]:
    """Starts the session and checks through it, unless `host` says that none may be started."""
    if host.blocked is not None:
        behind = (subject.skipped(host.blocked) for subject in (Subject.ENGINE, *_BEHIND_ENGINE))
        return [_fit_without_session(services, host), *behind]
    unreached = await unreachable(services.settings)
    if any(check.subject is Subject.ENGINE for check in unreached):
        checks = [_fit_without_session(services, host), *unreached]
        return _completed(checks, "Spark's master can't be reached")
    checks = [*unreached, *await guarded(Subject.ENGINE, partial(_session, services), _START_S)]
    if not any(check.subject is Subject.SPARK for check in checks):
        checks.append(_fit_without_session(services, host))
    if unreached:
        return _completed(checks, "the catalog or the store can't be reached")
    # Without executors metadata can be read all the same: the driver does that.
    if not services.engine.up or not no_errors(each for each in checks if each.subject is Subject.SPARK):
        return _completed(checks, "there is no session")
    catalog = services.settings.catalog
    if absent := await guarded(Subject.CATALOG, partial(no_catalog, catalog)):
        return _completed([*checks, *absent], "there is no catalog")
    checks += await guarded(Subject.CATALOG, partial(examine_jdbc, catalog))
    if (refused := await _refused(services)) is not None:
        return _completed([*checks, refused_read_check(refused, catalog)], "the store does not let us read")
    return checks + await guarded(Subject.TABLES, partial(_tables, services, policies), _START_S)


def _completed(checks: list[Check], because: str) -> list[Check]:
    """With a line for each subject that was not checked."""
    checked = {check.subject for check in checks}
    return checks + [subject.skipped(because) for subject in _BEHIND_ENGINE if subject not in checked]


def _fit_without_session(services: Services, host: HostChecks) -> Check:
    """The versions as far as they are known: pip's Spark, and the coordinates and jars of the settings."""
    options = spark_options(services.settings)
    if options.home is not None:
        return Subject.SPARK.skipped(f"only a session knows the version of {options.home}")
    import pyspark

    named = (Runtime.of(each) for each in (*options.packages, *options.jars))
    return fit(pyspark.__version__, host.java, next((runtime for runtime in named if runtime is not None), None))


async def _session(services: Services) -> list[Check]:
    engine, began, was_up = services.engine, time.monotonic(), services.engine.up
    await engine.start()
    took = None if was_up else time.monotonic() - began
    facts = await engine.run(session_facts, timeout=_LIMIT)
    return session_checks(facts, took, services.settings.spark.driver_memory)


async def _refused(services: Services) -> IcekeeperError | None:
    """Whether the store refuses to let a table's metadata be read. Not known (None) where we can't name its FileIO."""
    catalog = services.settings.catalog
    io, warehouse = catalog.properties.get("io-impl", ""), catalog.warehouse or ""
    if catalog.type == "rest" or not io.endswith(".S3FileIO") or not warehouse.startswith("s3"):
        return None
    real = await metadata_location(catalog)
    path = real or f"{warehouse.rstrip('/')}/{PROBE_NAME}"
    read = partial(refused_read, io=io, properties=catalog.spark_properties(), path=path)
    try:
        error = await _ask(services, read, path)
    except IcekeeperError as exc:
        return exc
    # Without the right to list, S3 answers `forbidden` for an object that is missing.
    return error if error is not None and (real is not None or is_final(error)) else None


async def _tables(services: Services, policies: tuple[TablePolicy, ...]) -> list[Check]:
    catalog = services.settings.catalog
    checks: list[Check] = []
    loaded: list[TableFacts] = []
    try:
        await _ask(services, lambda jvm: jvm.open_catalog(catalog.name), catalog.name)
    except IcekeeperError as exc:
        return _completed([store_error(exc, catalog, Subject.CATALOG)], "the catalog can't be opened")
    for number, policy in enumerate(policies, start=1):
        read = partial(
            table_facts, catalog=catalog.name, table=policy.name, target_file_size=policy.compact.target_file_size
        )
        try:
            loaded.append(await _ask(services, read, policy.name))
        except IcekeeperError as exc:
            if exc.reason is Reason.TABLE_NOT_FOUND:
                checks.append(not_found(policy.name, await _neighbours(services, policy.name)))
                continue
            checks.append(store_error(exc, catalog))
            if is_final(exc):
                checks += no_better(Subject.TABLES, len(policies) - number)
                return _completed(checks, f"{policy.name} could not be read")
    if not loaded:
        return _completed(checks, "no table could be read")
    checks += catalog_checks(catalog, len(loaded), len(policies))
    now = services.ports.clock()
    checks += table_checks(catalog.name, loaded, {policy.name: policy for policy in policies}, now)
    checks += foreign_snapshots(loaded, now)
    return checks + await _store(services, loaded)


async def _neighbours(services: Services, table: str) -> list[str]:
    """What else is in the table's namespace; it is no error if that can't be listed."""
    read = partial(neighbours, catalog=services.settings.catalog.name, namespace=table.rpartition(".")[0])
    try:
        return await _ask(services, read, table)
    except IcekeeperError:
        return []


async def _store(services: Services, tables: list[TableFacts]) -> list[Check]:
    catalog = services.settings.catalog
    probes: list[StoreProbe] = []
    for facts in tables:
        try:
            probe = await _ask(services, partial(probe_store, catalog=catalog.name, table=facts.table), facts.table)
        except IcekeeperError as exc:
            # It hangs, or the JVM is gone: the next table would fail, too.
            by_hand = f"If there is a file {PROBE_NAME}-... among the table's data, remove it by hand."
            advice = f"{exc.reason.advice} {by_hand}"
            return [*store_checks(probes, catalog.warehouse), Subject.STORAGE.failure_of(exc, advice)]
        probes.append(probe)
    return store_checks(probes, catalog.warehouse)


async def _ask(services: Services, read: Callable[[IcebergJvm], T], where: str) -> T:
    return await services.engine.run(lambda spark: read(IcebergJvm(spark)), timeout=_LIMIT, where=where)
