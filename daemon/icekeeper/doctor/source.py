"""Checks of ClickHouse: connection, whether each source can be counted with our rights, its TTL."""

from __future__ import annotations

import re
from collections.abc import Mapping
from datetime import timedelta

from icekeeper.adapters.clickhouse.counting import SourceTable
from icekeeper.adapters.clickhouse.exact import counts_final
from icekeeper.adapters.clickhouse.ttl import UnknownTtlError, ttl_of
from icekeeper.core.audit.keys import why_unfit
from icekeeper.core.audit.source import Source, reads_elsewhere
from icekeeper.core.calendar import window_of
from icekeeper.core.errors import IcekeeperError
from icekeeper.core.formats import counted, listed
from icekeeper.core.policy import TablePolicy
from icekeeper.core.reasons import Reason
from icekeeper.doctor.check import PERMISSIONS, Check, Subject, no_better, no_errors, to_run
from icekeeper.execution.wiring import Services
from icekeeper.settings.systems import ClickHouse
from icekeeper.settings.tables import SHORTEST_TTL

# The first version with `session_timezone`.
_OLDEST = (23, 6)
_NEEDED_GRANT = re.compile(r"SELECT\([^()]+\) ON [^\s,;]+[^\s,;.]")
_HOPELESS = frozenset({Reason.SOURCE_DOWN, Reason.DEADLINE})


async def examine_source(services: Services, policies: tuple[TablePolicy, ...]) -> list[Check]:
    """The server, then every audited source; after one that hangs the others are skipped."""
    settings, source = services.settings.clickhouse, services.source
    audited = [
        (policy, policy.source.only(table), table)
        for policy in policies
        if policy.audit is not None and policy.source is not None
        for table in policy.source.tables
    ]
    if settings is not None and not any(policy.source is not None for policy in services.settings.policies()):
        text = "not asked, because no table has a source: no night is audited, though the block clickhouse is there"
        return [Subject.CLICKHOUSE.warning(text, "Give the tables their source, or remove the block.")]
    if settings is None or not audited:
        return [Subject.CLICKHOUSE.passed("not asked, because no table is audited against a source")]
    try:
        server = await source.server()
    except IcekeeperError as exc:
        return [_unreachable(exc, settings.user)]
    checks = [version_check(server.version, f"{settings.url} answers as user {server.user}")]
    countable: list[str] = []
    unknown: dict[str, str] = {}
    for number, (policy, one, table) in enumerate(audited, start=1):
        try:
            described = await source.describe(table)
            bad = await _countable(services, settings, policy, one, described)
        except IcekeeperError as exc:
            checks.append(Subject.CLICKHOUSE.failure_of(exc, _readonly(str(exc))))
            if exc.reason in _HOPELESS:
                checks += no_better(Subject.CLICKHOUSE, len(audited) - number)
                break
            continue
        checks += bad
        if no_errors(bad) and described is not None:
            final = ", FINAL" if counts_final(described.engine, _final(policy)) else ""
            countable.append(f"{table} ({described.engine}{final})")
            if policy.source_ttl == "auto" and (why := why_unknown(described)):
                unknown[table] = why
    if unknown:
        checks.append(unknown_ttls(unknown))
    if countable:
        text = f"{counted(len(countable), 'source')} can be counted: {listed(countable, 10)}"
        checks.append(Subject.CLICKHOUSE.passed(text))
    return checks


def _unreachable(error: IcekeeperError, user: str) -> Check:
    denied = error.reason is Reason.ACCESS_DENIED
    advice = f"Correct clickhouse.user ({user}) and its password." if denied else ""
    return Subject.CLICKHOUSE.failure_of(error, _readonly(str(error)) or advice)


def _readonly(text: str) -> str:
    if "readonly" not in text:
        return ""
    return f"icekeeper sends settings with every query: give the user's profile readonly = 2, not 1 ({PERMISSIONS})."


def version_check(version: str, answers: str) -> Check:
    """Whether the server has what a count needs."""
    numbers = tuple(int(part) for part in re.findall(r"\d+", version)[:2])
    text = f"{answers}, version {version}"
    if numbers < _OLDEST:
        oldest = ".".join(map(str, _OLDEST))
        text += ": it has no session_timezone, so its own time zone has to be UTC, and it may not merge rows in a count"
        return Subject.CLICKHOUSE.warning(text, f"Update ClickHouse to {oldest} or newer.")
    return Subject.CLICKHOUSE.passed(text)


async def _countable(
    services: Services, settings: ClickHouse, policy: TablePolicy, source: Source, described: SourceTable | None
) -> list[Check]:
    """What prevents counting one table of a source; DeadlineExceeded and the like are raised."""
    database, _, table = str(source).rpartition(".")
    name = f"{database or settings.database}.{table}"
    try:
        await services.source.rehearse(source, _final(policy), window_of(services.ports.clock()))
    except IcekeeperError as exc:
        if exc.reason in _HOPELESS:
            raise
        return [count_refused(exc, name, source.timestamp, settings.user)]
    if described is None:
        grant = f"GRANT SELECT ON system.tables TO {settings.user};"
        text = f"{name} can be counted, but system.tables does not show it, so its engine is not known"
        return [Subject.CLICKHOUSE.failure(text, to_run("an administrator", grant))]
    unfit = await _unfit_for_keys(services, policy, source)
    refused = [Subject.CLICKHOUSE.failure(f"{name}: {text}", Reason.KEY_TYPE.advice) for text in unfit]
    return [*refused, *source_checks(name, described, policy), *await _nullable(services, name, source)]


async def _nullable(services: Services, name: str, source: Source) -> list[Check]:
    """A warning where rows may have no event time."""
    types = await services.source.column_types(source, [source.timestamp])
    if source.timestamp not in types or "Nullable(" not in types[source.timestamp].words:
        return []
    text = f"{name}: the event time {source.timestamp} is {types[source.timestamp].words}"
    advice = "Rows without it are in no day's audit: name a column that every row has as the timestamp."
    return [Subject.CLICKHOUSE.warning(text, advice)]


async def _unfit_for_keys(services: Services, policy: TablePolicy, source: Source) -> list[str]:
    """Why columns of audit.key and audit.compare can't be compared, as far as ClickHouse shows it."""
    if policy.keys is None:
        return []
    names = [source.column(name) for name in (*policy.keys.columns, *policy.keys.compare)]
    types = await services.source.column_types(source, names)
    return [text for name in names if (text := why_unfit("ClickHouse", name, types.get(name))) is not None]


def _final(policy: TablePolicy) -> bool | None:
    return None if policy.audit is None else policy.audit.final


def count_refused(error: IcekeeperError, table: str, timestamp: str, user: str) -> Check:
    """A count that ClickHouse refused to plan: what is missing."""
    text = str(error)
    if readonly := _readonly(text):
        return Subject.CLICKHOUSE.failure_of(error, readonly)
    if error.reason is Reason.ACCESS_DENIED:
        # A condition may read other columns, too: ClickHouse names what is needed.
        needed = _NEEDED_GRANT.search(text)
        grant = needed[0] if needed else f"SELECT({timestamp}) ON {table}"
        return Subject.CLICKHOUSE.failure_of(error, to_run("an administrator", f"GRANT {grant} TO {user};"))
    return Subject.CLICKHOUSE.failure_of(error)


def source_checks(table: str, described: SourceTable, policy: TablePolicy) -> list[Check]:
    """What the engine and the TTL mean for an audit."""
    judged = (judge(table, described, policy) for judge in (_engine, _ttl))
    return [check for check in judged if check is not None]


def _engine(table: str, described: SourceTable, policy: TablePolicy) -> Check | None:
    if reads_elsewhere(described.engine):
        text = f"{table} is a table of engine {described.engine}, which has no rows in ClickHouse"
        advice = (
            "If it reads the Iceberg table, each audit compares that with itself: give the tables that are offloaded."
        )
        return Subject.CLICKHOUSE.warning(text, advice)
    if described.engine != "Distributed" or not counts_final(described.engine, _final(policy)):
        return None
    text = f"{table} is Distributed: ClickHouse merges rows of one key within a shard only when it counts"
    advice = (
        "If rows of one key lie on several shards, change the sharding key, or set final: false in the audit block."
    )
    return Subject.CLICKHOUSE.warning(text, advice)


def _ttl(table: str, described: SourceTable, policy: TablePolicy) -> Check | None:
    """A TTL that the settings contradict, or that leaves a night no whole day to count."""
    try:
        ttl = ttl_of(described.definition)
    except UnknownTtlError:
        return None
    if ttl is None:
        return None
    configured, drops = policy.source_ttl, f"{table}: ClickHouse drops rows after {_days(ttl.least)}"
    advice = (
        f"Set source_ttl: {max(ttl.least.days, 2)}d for this table, or leave it out: it is read from ClickHouse then."
    )
    if configured == "none":
        advice += " As it is, an older day would look as if nothing were lost."
        return Subject.CLICKHOUSE.warning(f"{drops}, and source_ttl says none", advice)
    if isinstance(configured, timedelta) and not ttl.least <= configured <= ttl.most:
        return Subject.CLICKHOUSE.warning(f"{drops}, and source_ttl says {_days(configured)}", advice)
    if ttl.least < SHORTEST_TTL:
        advice = "Let ClickHouse keep them for 2 days or more: a night counts the day before it."
        return Subject.CLICKHOUSE.warning(f"{drops}, before the day is counted", advice)
    return None


def why_unknown(described: SourceTable) -> str:
    """Why the table's TTL can't be found out; empty where it can."""
    try:
        ttl_of(described.definition)
    except UnknownTtlError as exc:
        return str(exc)
    return ""


def unknown_ttls(sources: Mapping[str, str]) -> Check:
    """Sources whose TTL `auto` can't find out, each with why."""
    named = listed((f"{name} ({why})" for name, why in sources.items()), 10)
    text = f"when ClickHouse drops rows is not known of {counted(len(sources), 'source')}: {named}"
    advice = "Set source_ttl for these tables; none: nothing drops rows by their age."
    return Subject.CLICKHOUSE.warning(text, advice)


def _days(span: timedelta) -> str:
    return f"{span / timedelta(days=1):g} days"
