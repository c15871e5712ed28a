"""What the catalog's and the tables' facts mean for a night: pure rules. `lakehouse.py` reads the facts."""

from __future__ import annotations

import difflib
import re
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import replace
from datetime import UTC, datetime

from icekeeper.adapters.iceberg.probe import TableFacts
from icekeeper.core.enums import Proof
from icekeeper.core.formats import counted, listed
from icekeeper.core.policy import TablePolicy
from icekeeper.core.reasons import Reason
from icekeeper.core.tables.expiry import due_snapshots, expired_snapshots
from icekeeper.core.tables.restraints import by_mismatch
from icekeeper.core.tables.state import MAIN, MISMATCH_TAG, Ref
from icekeeper.doctor.check import Check, Subject
from icekeeper.settings.systems import Catalog

DELETE_AFTER_COMMIT = "write.metadata.delete-after-commit.enabled"
_FORMAT = "write.format.default"
_VERSIONS_MAX = "write.metadata.previous-versions-max"
_OBJECT_STORES = ("s3", "s3a", "s3n", "gs", "abfs", "abfss", "wasb", "wasbs", "oss")
_EPOCH = datetime.fromtimestamp(0, UTC)
_INSTANTS = ("timestamp", "date")


def not_found(table: str, neighbours: Sequence[str]) -> Check:
    """A table that the catalog does not have; `neighbours` are those that are there."""
    near = difflib.get_close_matches(table, neighbours, n=3, cutoff=0.6)
    if near:
        advice = f"Did you mean {' or '.join(near)}? Correct tables[].name."
    elif neighbours:
        advice = f"There is {listed(neighbours, 8)}. Correct tables[].name."
    else:
        advice = (
            "Its namespace is empty, or does not exist: compare catalog.name and catalog.warehouse with those "
            "of the job that writes the table. In a JDBC catalog the name is part of the key, and another name hides "
            "every table."
        )
    return Subject.TABLES.failure(f"there is no table {table}", advice)


def catalog_checks(catalog: Catalog, loaded: int, wanted: int) -> list[Check]:
    """The catalog has answered; some kinds of catalog are a danger by themselves."""
    text = f"the {catalog.type} catalog {catalog.name} answers, {loaded} of {counted(wanted, 'table')} could be read"
    scheme = (catalog.warehouse or "").partition(":")[0]
    if catalog.type != "hadoop" or scheme == "hdfs":
        return [Subject.CATALOG.passed(text)]
    if scheme in _OBJECT_STORES:
        danger = f"{text}; on an object store two writers silently lose commits, for it has no atomic rename"
        advice = "Move the tables to a REST or JDBC catalog before anything but one process writes to them."
    else:
        danger = f"{text}; on a local file system commits of two processes at once are silently lost"
        advice = (
            "Let nothing but the offload and icekeeper write, which waits while the offload's status says that it "
            "writes, or move the tables to a REST or JDBC catalog (docs/operations.md, Hadoop catalogs)."
        )
    return [Subject.CATALOG.warning(danger, advice)]


def table_checks(
    catalog: str, tables: Iterable[TableFacts], policies: Mapping[str, TablePolicy], now: datetime
) -> list[Check]:
    """What in the tables themselves prevents a night's work, or will."""
    tables = tuple(tables)
    bad = [check for facts in tables for check in _of_table(catalog, facts, policies[facts.table], now)]
    bad += _unlimited_metadata(catalog, tables)
    if bad:
        return bad
    formats = " and ".join(map(str, sorted({facts.format_version for facts in tables})))
    text = f"{counted(len(tables), 'table')} of format version {formats}: nothing hinders a night"
    return [Subject.TABLES.passed(text)]


def _of_table(catalog: str, facts: TableFacts, policy: TablePolicy, now: datetime) -> Iterable[Check]:
    name = _sql_name(catalog, facts.table)
    if not facts.state.gc_enabled:
        yield Subject.TABLES.warning(
            f"{facts.table}: gc.enabled is false, so no snapshot of it expires",
            f"If its files belong to it alone: ALTER TABLE {name} SET TBLPROPERTIES ('gc.enabled'='true');",
        )
    if facts.state.unsupported:
        yield Subject.TABLES.failure(f"{facts.table}: {facts.state.unsupported}", Reason.TABLE_UNSUPPORTED.advice)
    kind = facts.columns.get(policy.timestamp)
    if policy.audit is not None and (kind is None or not kind.startswith(_INSTANTS)):
        near = difflib.get_close_matches(policy.timestamp, facts.columns, n=3)
        instants = [column for column, type_ in facts.columns.items() if type_.startswith(_INSTANTS)]
        found = f"is {kind}, no instant" if kind is not None else "is not there"
        yield Subject.TABLES.failure(
            f"{facts.table}: the column {policy.timestamp} {found}, so it can't be audited",
            f"Correct tables[].timestamp: there is {listed(near or instants) or 'none that would do'}.",
        )
    if (
        policy.audit is not None
        and policy.audit.proof is Proof.FILES
        and facts.properties.get(_FORMAT, "").lower() == "avro"
    ):
        yield Subject.TABLES.warning(
            f"{facts.table}: its files are Avro, and only the length of Avro files is proven: no day is certified",
            "Set tables[].audit.proof to rows, which reads every value, or write Parquet or ORC.",
        )
    if (wrong := by_mismatch(facts.state, _newest(facts))) is not None:
        yield Subject.TABLES.warning(f"{facts.table}: {wrong.note}", wrong.reason.advice)
    yield from _writers(facts, policy, now)
    held = _held_by_refs(facts, policy)
    if held:
        names = [ref.name for ref in facts.state.refs if not _is_kept(ref)]
        yield Subject.TABLES.warning(
            f"{facts.table}: {listed(names)} keep {counted(held, 'snapshot')} that would expire otherwise",
            f"Drop those that are not needed: ALTER TABLE {name} DROP TAG (or BRANCH) `{names[0]}`;",
        )


def _writers(facts: TableFacts, policy: TablePolicy, now: datetime) -> Iterable[Check]:
    """What the next expiry keeps for the states of writers, and which states it takes."""
    due = due_snapshots(policy.expire, facts.state, now, now)
    if due.loses:
        advice = "If it is to come back: let it commit, or raise expire.writer_state_max before the next night."
        yield Subject.TABLES.warning(f"{facts.table}: {due.loses}", advice)
    if due.stays:
        yield Subject.TABLES.warning(f"{facts.table}: {due.stays}", Reason.WRITER_STATE.advice)


def _is_kept(ref: Ref) -> bool:
    """Whether it is no operator's to drop: the main branch, and icekeeper's own tags, which `ack` removes."""
    return ref.name == MAIN or ref.name.startswith(MISMATCH_TAG)


def _newest(facts: TableFacts) -> datetime:
    """When the table was written last: its own present."""
    return max((snapshot.committed_at for snapshot in facts.state.history), default=_EPOCH)


def _held_by_refs(facts: TableFacts, policy: TablePolicy) -> int:
    """How many old snapshots stay only because a branch or a tag refers to them."""
    if not facts.state.history or not policy.expire.enabled:
        return 0
    now = _newest(facts)
    kept = tuple(ref for ref in facts.state.refs if _is_kept(ref))
    cutoff, last = now - policy.expire.older_than, policy.expire.retain_last
    without_refs = expired_snapshots(replace(facts.state, refs=kept), cutoff, last, now)
    return len(without_refs) - len(expired_snapshots(facts.state, cutoff, last, now))


def _unlimited_metadata(catalog: str, tables: Iterable[TableFacts]) -> list[Check]:
    """Every commit writes a metadata file; without this property none is ever removed."""
    off = [facts for facts in tables if facts.properties.get(DELETE_AFTER_COMMIT, "false").lower() != "true"]
    if not off:
        return []
    log = max(facts.metadata_log for facts in off)
    kept = listed(sorted({facts.properties.get(_VERSIONS_MAX, "100") for facts in off}))
    text = (
        f"metadata files of {counted(len(off), 'table')} are kept for ever ({DELETE_AFTER_COMMIT} is not true; up to "
        f"{log} are listed as previous ones, {_VERSIONS_MAX} is {kept}): {listed(facts.table for facts in off)}"
    )
    names = (_sql_name(catalog, facts.table) for facts in off)
    statements = (f"ALTER TABLE {name} SET TBLPROPERTIES ('{DELETE_AFTER_COMMIT}'='true');" for name in names)
    return [Subject.TABLES.warning(text, "\n".join(("Run in Spark SQL:", *statements)))]


def _sql_name(catalog: str, table: str) -> str:
    """The name as Spark SQL takes it, in backticks only where it has to be."""
    parts = (catalog, *table.split("."))
    return ".".join(part if re.fullmatch(r"\w+", part) else f"`{part}`" for part in parts)
