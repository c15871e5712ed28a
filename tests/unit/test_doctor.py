"""What the doctor makes of the answers: versions, memory, addresses, TTLs, clocks, rights. No system is needed."""

from __future__ import annotations

import asyncio
import io
import json
from collections.abc import Mapping
from datetime import UTC, datetime, timedelta
from pathlib import Path
from typing import Any

import pytest
from rich.console import Console

from icekeeper.adapters.clickhouse.counting import SourceTable
from icekeeper.adapters.iceberg.probe import SessionFacts, StoreProbe, TableFacts, parse_facts
from icekeeper.adapters.postgres.pooler import Pooler
from icekeeper.cli.output.doctor import checks_document, show_checks
from icekeeper.core.errors import IcekeeperError, PermanentError, TransientError
from icekeeper.core.policy import TablePolicy
from icekeeper.core.reasons import Reason
from icekeeper.core.tables.state import MISMATCH_TAG
from icekeeper.doctor import Check, Level, Subject
from icekeeper.doctor.check import guarded, no_errors
from icekeeper.doctor.clocks import clock_checks
from icekeeper.doctor.foreign import foreign_snapshots
from icekeeper.doctor.host import heap_check, python_check, room_check, spool_check
from icekeeper.doctor.jdbc import dsn
from icekeeper.doctor.ledger import lacking_rights, pooler_checks
from icekeeper.doctor.reachable import addresses
from icekeeper.doctor.source import count_refused, source_checks, unknown_ttls, version_check, why_unknown
from icekeeper.doctor.storage import is_final, store_checks, store_error
from icekeeper.doctor.tables import catalog_checks, not_found, table_checks
from icekeeper.doctor.versions import Runtime, fit, session_checks
from icekeeper.settings import Settings

GIB = 1024**3
NOW = datetime(2026, 2, 18, 2, tzinfo=UTC)
RUNTIME = "org.apache.iceberg:iceberg-spark-runtime-{}:1.12.0"
TABLE: dict[str, Any] = {"name": "cold.trades", "source": "trades", "timestamp": "ts", "source_ttl": "7d"}


def settings(**blocks: Any) -> Settings:
    document: dict[str, Any] = {
        "catalog": {"name": "k2", "type": "rest", "uri": "http://catalog:8181"},
        "clickhouse": {"url": "http://clickhouse:8123", "database": "k2"},
        "postgres": {"dsn": "postgresql://icekeeper@postgres/icekeeper"},
        "tables": [TABLE],
    }
    return Settings(**{**document, **blocks})


def policy(**changes: Any) -> TablePolicy:
    (made,) = settings(tables=[{**TABLE, **changes}]).policies()
    return made


# --- versions


@pytest.mark.parametrize(
    ("spark", "java", "runtime", "level", "words"),
    [
        ("4.1.4", 17, "4.1_2.13", Level.OK, "Spark 4.1.4, Iceberg 1.12.0"),
        ("4.1.1", 21, "4.1_2.13", Level.OK, ""),
        ("3.5.9", 17, "3.5_2.12", Level.OK, ""),
        ("3.5.9", 17, "4.1_2.13", Level.ERROR, "they do not fit"),
        ("4.1.4", 17, "3.5_2.12", Level.ERROR, "they do not fit"),
        ("4.2.0", 17, "4.1_2.13", Level.ERROR, "they do not fit"),
        ("4.2.0", 17, None, Level.ERROR, "no Iceberg runtime for this Spark"),
        ("4.1.0", 17, "4.1_2.13", Level.WARNING, "SPARK-54753"),
        ("4.0.1", 17, "4.0_2.13", Level.WARNING, "SPARK-54753"),
        ("4.0.3", 17, "4.0_2.13", Level.WARNING, "no runtime for Spark 4.0"),
        ("3.5.9", 21, "3.5_2.12", Level.WARNING, "knows Java 8, 11, 17"),
        ("4.1.4", 17, None, Level.OK, "Spark 4.1.4"),
    ],
)
def test_versions_that_fit_and_that_do_not(
    spark: str, java: int, runtime: str | None, level: Level, words: str
) -> None:
    check = fit(spark, java, Runtime.of(RUNTIME.format(runtime)) if runtime else None)
    assert (check.subject, check.level) == (Subject.SPARK, level)
    assert words in check.text
    assert bool(check.advice) == (level is not Level.OK)


@pytest.mark.parametrize(
    ("text", "expected"),
    [
        (
            "file:/root/.ivy2/jars/org.apache.iceberg_iceberg-spark-runtime-4.1_2.13-1.12.0.jar",
            ("4.1", "2.13", "1.12.0"),
        ),
        ("/opt/spark/jars/iceberg-spark-runtime-3.5_2.12-1.4.2.jar", ("3.5", "2.12", "1.4.2")),
        ("org.apache.iceberg:iceberg-spark-runtime-3.5_2.12:1.10.0", ("3.5", "2.12", "1.10.0")),
        ("/opt/spark/jars/lakehouse-all.jar", None),
    ],
)
def test_the_spark_of_a_jar_is_read_from_its_name(text: str, expected: tuple[str, ...] | None) -> None:
    found = Runtime.of(text)
    assert (None if found is None else (found.spark, found.scala, found.iceberg)) == expected


def facts(**changes: Any) -> SessionFacts:
    jar = "file:/x/iceberg-spark-runtime-4.1_2.13-1.12.0.jar"
    plain: dict[str, Any] = {"spark": "4.1.4", "java": 17, "heap": 2 * GIB, "master": "local[2]", "executors": None}
    return SessionFacts(**{**plain, "iceberg": "1.12.0", "jar": jar, "has_planner": True, **changes})


@pytest.mark.parametrize(
    ("changes", "part", "level", "words"),
    [
        ({}, Subject.ENGINE, Level.OK, "started in 6.0 s and has 2048 MiB of heap"),
        ({"heap": GIB}, Subject.ENGINE, Level.WARNING, "2g was asked for"),
        ({"executors": 0, "master": "spark://m:7077"}, Subject.ENGINE, Level.ERROR, "no job would ever begin"),
        ({"executors": 2, "master": "spark://m:7077"}, Subject.ENGINE, Level.OK, "and 2 executors"),
        ({"iceberg": None, "jar": None}, Subject.SPARK, Level.ERROR, "no Iceberg on its class path"),
        ({"iceberg": "1.4.2", "has_planner": False}, Subject.SPARK, Level.ERROR, "1.4.2 is too old"),
        ({"jar": "/x/lakehouse-all.jar"}, Subject.SPARK, Level.OK, "Iceberg 1.12.0"),
    ],
)
def test_what_a_running_session_shows(changes: dict[str, Any], part: Subject, level: Level, words: str) -> None:
    (check,) = [each for each in session_checks(facts(**changes), 6.0, "2g") if each.subject is part]
    assert check.level is level
    assert words in check.text


def test_a_python_that_is_too_old_is_an_error() -> None:
    assert python_check((3, 10, 4)).level is Level.ERROR
    assert python_check((3, 13, 0)).level is Level.OK


# --- memory


@pytest.mark.parametrize(
    ("heap", "room", "whose", "level", "words"),
    [
        ("2g", 4 * GIB, "the container", Level.OK, "the container has 4 GiB"),
        ("2g", 16 * GIB, "this machine", Level.OK, "this machine has 16 GiB"),
        ("3g", 4 * GIB, "the container", Level.ERROR, "kill it in the middle of a night"),
        ("2500m", 4 * GIB, "the container", Level.WARNING, "little left"),
        ("8g", 4 * GIB, "this machine", Level.ERROR, "this machine has 4 GiB"),
    ],
)
def test_the_heap_is_held_against_what_there_is(heap: str, room: int, whose: str, level: Level, words: str) -> None:
    check = heap_check(heap, room, whose)
    assert check.level is level
    assert words in check.text


def test_the_heap_that_is_advised_fits() -> None:
    advised = heap_check("3g", 4 * GIB, "the container").advice.partition("at most ")[2].partition(",")[0]
    assert heap_check(advised, 4 * GIB, "the container").level is not Level.ERROR


def test_where_no_heap_fits_none_is_advised() -> None:
    assert heap_check("2g", GIB, "this machine").advice == "Give this machine more memory."


def test_no_session_is_started_into_a_container_that_is_full() -> None:
    assert room_check(None) is None
    assert room_check(GIB) is None
    assert room_check(GIB // 4) is not None


# --- addresses


@pytest.mark.parametrize(
    ("catalog", "spark", "expected"),
    [
        ({}, {}, [("catalog.uri", "catalog", 8181)]),
        ({"uri": "https://catalog/api"}, {}, [("catalog.uri", "catalog", 443)]),
        (
            {"type": "jdbc", "uri": "jdbc:postgresql://db/lake?ssl=true", "warehouse": "s3://w/x"},
            {},
            [("catalog.uri", "db", 5432)],
        ),
        ({"type": "jdbc", "uri": "jdbc:postgresql://a:1,b:2/lake", "warehouse": "s3://w/x"}, {}, []),
        ({"type": "jdbc", "uri": "jdbc:sqlite:/x.db", "warehouse": "/w"}, {}, []),
        ({"type": "hive", "uri": "thrift://metastore"}, {}, [("catalog.uri", "metastore", 9083)]),
        (
            {"type": "hadoop", "uri": None, "warehouse": "/w"},
            {"master": "spark://m:7077"},
            [("spark.master", "m", 7077)],
        ),
        (
            {"properties": {"s3.endpoint": "http://minio:9000"}},
            {},
            [("catalog.uri", "catalog", 8181), ("catalog.properties.s3.endpoint", "minio", 9000)],
        ),
        (
            {"properties": {"s3.endpoint": "http://minio:9000", "http-client.apache.proxy-endpoint": "http://p:3128"}},
            {},
            [("catalog.uri", "catalog", 8181)],
        ),
    ],
)
def test_the_addresses_that_the_settings_name(
    catalog: dict[str, Any], spark: dict[str, Any], expected: list[tuple[str, str, int]]
) -> None:
    block = {"name": "k2", "type": "rest", "uri": "http://catalog:8181", **catalog}
    made = settings(catalog={key: value for key, value in block.items() if value is not None}, spark=spark)
    assert [(each.key, each.host, each.port) for each in addresses(made)] == expected


def test_a_jdbc_catalog_in_postgresql_can_be_asked_for_rights_and_no_other() -> None:
    properties = {"jdbc.user": "me@home", "jdbc.password": "p"}
    jdbc = {"name": "k2", "type": "jdbc", "uri": "jdbc:postgresql://db:1/lake", "warehouse": "s3://w/x"}
    assert dsn(settings(catalog={**jdbc, "properties": properties}).catalog) == (
        "postgresql://me%40home@db:1/lake",
        "p",
    )
    assert dsn(settings(catalog={**jdbc, "uri": "jdbc:sqlite:/x.db"}).catalog) is None
    assert dsn(settings().catalog) is None


# --- tables


def metadata(**changes: Any) -> str:
    plain: dict[str, Any] = {
        "format-version": 2,
        "location": "s3://w/cold/trades",
        "current-schema-id": 1,
        "schemas": [
            {"schema-id": 0, "fields": []},
            {
                "schema-id": 1,
                "fields": [{"name": "ts", "type": "timestamptz"}, {"name": "tags", "type": {"type": "list"}}],
            },
        ],
        "properties": {"write.metadata.delete-after-commit.enabled": "true"},
        "metadata-log": [{}, {}],
        **changes,
    }
    return json.dumps(plain)


def table(**changes: Any) -> TableFacts:
    return parse_facts("cold.trades", metadata(**changes), 128 * 1024**2)


def snapshots(*days_old: float, summary: Mapping[str, str] | None = None) -> list[dict[str, Any]]:
    """A line of snapshots, oldest first, numbered from 1."""
    return [
        {
            "snapshot-id": number,
            "parent-snapshot-id": number - 1 or None,
            "timestamp-ms": int((NOW - timedelta(days=days)).timestamp() * 1000),
            "summary": {"operation": "append", **(summary or {})},
        }
        for number, days in enumerate(days_old, start=1)
    ]


def branch(snapshot: int) -> dict[str, Any]:
    return {"type": "branch", "snapshot-id": snapshot}


def judged(facts: TableFacts, **changes: Any) -> list[Check]:
    one = policy(**changes)
    return table_checks("k2", [facts], {one.name: one}, NOW)


def test_a_table_that_nothing_hinders() -> None:
    (check,) = judged(table())
    assert (check.level, check.text) == (Level.OK, "1 table of format version 2: nothing hinders a night")


def test_a_table_whose_metadata_files_are_never_deleted_gets_its_statement() -> None:
    (check,) = judged(table(properties={"write.metadata.previous-versions-max": "50"}))
    assert check.level is Level.WARNING
    assert "up to 2 are listed as previous ones, write.metadata.previous-versions-max is 50" in check.text
    statement = "ALTER TABLE k2.cold.trades SET TBLPROPERTIES ('write.metadata.delete-after-commit.enabled'='true');"
    assert check.advice.splitlines() == ["Run in Spark SQL:", statement]


@pytest.mark.parametrize(("column", "words"), [("tz", "is not there"), ("tags", "is list, no instant")])
def test_an_event_time_column_that_is_none(column: str, words: str) -> None:
    (check,) = judged(table(), timestamp=column)
    assert check.level is Level.ERROR
    assert words in check.text
    assert "ts" in check.advice
    assert judged(table(), timestamp=column, audit="off")[0].level is Level.OK


def test_a_tag_of_before_a_wrong_rewrite_is_a_warning_of_its_own_until_its_age_ends_it() -> None:
    log = snapshots(30, 20, 10, 0.3, 0.2, 0.1)

    def with_age(days: int) -> list[Check]:
        tag = {"type": "tag", "snapshot-id": 2, "max-ref-age-ms": days * 86_400_000}
        refs = {"main": branch(6), f"{MISMATCH_TAG}some-run": tag}
        return judged(table(**{"snapshots": log, "current-snapshot-id": 6, "refs": refs}))

    (check,) = with_age(25)
    assert (check.level, check.advice) == (Level.WARNING, Reason.REWRITE_MISMATCH.advice)
    assert "a rewrite was found wrong: the tag icekeeper-before-some-run keeps snapshot 2" in check.text
    assert with_age(15)[0].level is Level.OK


def test_a_tag_that_keeps_old_snapshots_is_named_and_a_young_one_is_not() -> None:
    log = snapshots(30, 20, 10, 0.3, 0.2, 0.1)
    main = {"main": branch(6)}
    assert judged(table(**{"snapshots": log, "current-snapshot-id": 6, "refs": main}))[0].level is Level.OK
    tagged = {**main, "before_cutover": {"type": "tag", "snapshot-id": 2}}
    (check,) = judged(table(**{"snapshots": log, "current-snapshot-id": 6, "refs": tagged}))
    assert "before_cutover keep 1 snapshot that would expire otherwise" in check.text
    young = {**main, "today": {"type": "tag", "snapshot-id": 5}}
    assert judged(table(**{"snapshots": log, "current-snapshot-id": 6, "refs": young}))[0].level is Level.OK


def test_what_a_writer_that_has_stopped_keeps_is_named_and_what_it_loses() -> None:
    def days_ago(*days: float) -> list[str]:
        log = snapshots(*days, 4, 3, 2, 1)
        log[1]["summary"]["kafka.connect.offsets.c.sink"] = "{}"
        checks = judged(table(**{"snapshots": log, "current-snapshot-id": 6, "refs": {"main": branch(6)}}))
        return [check.text for check in checks if check.level is Level.WARNING]

    state = "kafka.connect.offsets.c.sink (2026-01-2"
    (kept,) = days_ago(22, 21)
    assert kept.startswith(f"cold.trades: 1 due snapshot kept, by which a writer finds its state: {state}"), kept
    (lost,) = days_ago(32, 31)
    assert "the last state of a writer goes, which then starts over or writes again" in lost
    assert days_ago(6, 5) == []


@pytest.mark.parametrize(
    ("there", "words"),
    [
        (["cold.silver_trades", "cold.trade"], "Did you mean cold.trade"),
        (["cold.x", "cold.y"], "There is cold.x, cold.y"),
        ([], "another name hides every table"),
    ],
)
def test_a_missing_table_is_compared_with_what_is_there(there: list[str], words: str) -> None:
    assert words in not_found("cold.trades", there).advice


@pytest.mark.parametrize(
    ("warehouse", "level", "words"),
    [
        ("/mnt/lake", Level.WARNING, "local file system"),
        ("s3a://lake/w", Level.WARNING, "no atomic rename"),
        ("hdfs://name/w", Level.OK, "answers"),
    ],
)
def test_a_hadoop_catalog_is_as_safe_as_its_file_system(warehouse: str, level: Level, words: str) -> None:
    catalog = settings(catalog={"name": "k2", "type": "hadoop", "warehouse": warehouse}).catalog
    (check,) = catalog_checks(catalog, 1, 1)
    assert check.level is level
    assert words in check.text


def test_recent_foreign_replacements_are_listed_by_engine() -> None:
    spark = {"operation": "replace", "engine-name": "spark", "engine-version": "3.5.0", "spark.app.id": "local-7"}
    theirs = table(snapshots=snapshots(0.5, summary=spark))
    (check,) = foreign_snapshots([theirs], NOW)
    assert check.text.startswith("another job (spark 3.5.0, application local-7) has rewritten cold.trades")
    unsigned = table(snapshots=snapshots(0.5, summary={"operation": "replace"}))
    assert "another job (unsigned)" in foreign_snapshots([unsigned], NOW)[0].text
    ours = table(snapshots=snapshots(0.5, summary={**spark, "icekeeper.run-id": "x"}))
    old = table(snapshots=snapshots(2, summary=spark))
    assert foreign_snapshots([ours, old, table(snapshots=snapshots(0.1))], NOW) == []


# --- the store


def probe(**errors: IcekeeperError) -> StoreProbe:
    return StoreProbe("cold.trades", "S3FileIO", "s3://w/lake/cold/trades/data/probe", errors)


def denied(text: str = "S3Exception: Access Denied (Service: S3, Status Code: 403)") -> PermanentError:
    return PermanentError(text, reason=Reason.ACCESS_DENIED)


@pytest.mark.parametrize(
    ("errors", "level", "words"),
    [
        ({}, Level.OK, ""),
        ({"read": denied()}, Level.ERROR, "Allow s3:GetObject on arn:aws:s3:::w/lake/* ("),
        ({"write": denied()}, Level.ERROR, "Allow s3:PutObject on arn:aws:s3:::w/lake/* ("),
        ({"bulk_delete": denied(), "delete": denied()}, Level.ERROR, "Allow s3:DeleteObject on arn:aws:s3:::w/lake/*"),
        ({"bulk_delete": TransientError("MissingContentMD5")}, Level.ERROR, "an old MinIO"),
        ({"check": denied()}, Level.ERROR, "Allow s3:ListBucket on arn:aws:s3:::w ("),
        ({"list": denied()}, Level.WARNING, "Allow s3:ListBucket on arn:aws:s3:::w ("),
        (
            {"write": denied(), "check": denied()},
            Level.ERROR,
            "Allow s3:PutObject on arn:aws:s3:::w/lake/* and s3:ListBucket on arn:aws:s3:::w (",
        ),
        (
            {"write": TransientError("gone", reason=Reason.STORAGE_DOWN)},
            Level.ERROR,
            "The object store does not answer",
        ),
    ],
)
def test_each_refusal_of_the_store_names_the_action(
    errors: dict[str, IcekeeperError], level: Level, words: str
) -> None:
    (check,) = store_checks([probe(**errors)], "s3://w/lake")
    assert check.level is level
    assert words in check.advice


def test_tables_with_the_same_failures_share_a_check() -> None:
    checks = store_checks([probe(), probe(write=denied()), probe(), probe(write=denied())], "s3://w/lake")
    assert [check.level for check in checks] == [Level.OK, Level.ERROR]


def test_a_probe_that_could_not_be_removed_is_named_with_its_path() -> None:
    left = StoreProbe("cold.trades", "S3FileIO", "s3://w/p", {}, left=True, kept=True)
    check = next(each for each in store_checks([left], None) if each.level is Level.ERROR)
    assert "Remove s3://w/p by hand" in check.advice


def test_on_a_file_system_the_user_is_advised_and_no_action_of_s3() -> None:
    local = StoreProbe("cold.trades", "HadoopFileIO", "/lake/cold/trades/data/probe", {"write": denied("Permission")})
    (check,) = store_checks([local], "/lake")
    assert "icekeeper's user to read and write below /lake" in check.advice


@pytest.mark.parametrize(
    ("error", "part", "words", "final"),
    [
        (
            denied("SignatureDoesNotMatch (Service: S3, Status Code: 403)"),
            Subject.STORAGE,
            "s3.secret-access-key",
            True,
        ),
        (denied(), Subject.STORAGE, "s3:GetObject", False),
        (denied("PSQLException: password authentication failed"), Subject.CATALOG, "jdbc.password", True),
        (TransientError("x", reason=Reason.STORAGE_DOWN), Subject.STORAGE, "s3.endpoint", True),
        (TransientError("x", reason=Reason.CATALOG_DOWN), Subject.CATALOG, "catalog.uri", True),
        (TransientError("x", reason=Reason.ENGINE_DOWN), Subject.ENGINE, "spark.log", True),
        (PermanentError("x"), Subject.TABLES, "", False),
    ],
)
def test_a_table_that_can_not_be_read_tells_which_part_is_to_blame(
    error: IcekeeperError, part: Subject, words: str, final: bool
) -> None:
    jdbc = {"name": "k2", "type": "jdbc", "uri": "jdbc:postgresql://db/l", "warehouse": "s3://w/lake"}
    keys = ("jdbc.user", "jdbc.password", "s3.access-key-id", "s3.secret-access-key")
    check = store_error(error, settings(catalog={**jdbc, "properties": dict.fromkeys(keys, "x")}).catalog)
    assert check.subject is part
    assert words in check.advice
    assert is_final(error) is final


# --- ClickHouse

BY_DAY = "MergeTree ORDER BY ts TTL ts + toIntervalDay"


@pytest.mark.parametrize(
    ("described", "changes", "level", "words"),
    [
        (SourceTable("MergeTree", "MergeTree ORDER BY ts TTL ts + toIntervalDay(7)"), {}, None, ""),
        (SourceTable("MergeTree", "MergeTree ORDER BY ts"), {}, None, ""),
        (SourceTable("MergeTree", f"{BY_DAY}(3)"), {}, Level.WARNING, "Set source_ttl: 3d"),
        (SourceTable("MergeTree", f"{BY_DAY}(3)"), {"source_ttl": "auto"}, None, ""),
        (SourceTable("MergeTree", f"{BY_DAY}(1)"), {"source_ttl": "auto"}, Level.WARNING, "2 days or more"),
        (SourceTable("MergeTree", f"{BY_DAY}(7)"), {"source_ttl": "none"}, Level.WARNING, "7d"),
        (SourceTable("MergeTree", f"{BY_DAY}(if(a, 1, 2))"), {"source_ttl": "none"}, None, ""),
        (
            SourceTable("MergeTree", "MergeTree ORDER BY ts TTL ts + toIntervalYear(1)"),
            {"source_ttl": "366d"},
            None,
            "",
        ),
        (SourceTable("MergeTree", ""), {}, None, ""),
        (SourceTable("Distributed", ""), {}, Level.WARNING, "sharding key"),
        (SourceTable("Distributed", ""), {"audit": {"final": False}}, None, ""),
        (SourceTable("ReplicatedCollapsingMergeTree", ""), {}, None, ""),
        (SourceTable("MaterializedView", ""), {}, None, ""),
        (SourceTable("View", ""), {}, None, ""),
        (SourceTable("IcebergS3", ""), {}, Level.WARNING, "compares that with itself"),
        (SourceTable("DeltaLake", ""), {}, Level.WARNING, "compares that with itself"),
        (SourceTable("S3", ""), {}, Level.WARNING, "compares that with itself"),
        (SourceTable("Null", ""), {}, Level.WARNING, "compares that with itself"),
        (SourceTable("ReplicatedReplacingMergeTree", ""), {}, None, ""),
    ],
)
def test_what_a_source_means_for_its_audit(
    described: SourceTable, changes: dict[str, Any], level: Level | None, words: str
) -> None:
    checks = source_checks("k2.trades", described, policy(**changes))
    assert [check.level for check in checks] == ([] if level is None else [level])
    assert all(words in check.advice for check in checks)


@pytest.mark.parametrize(
    ("definition", "why"),
    [
        (f"{BY_DAY}(7)", ""),
        ("MergeTree ORDER BY ts", ""),
        ("Distributed('cluster', 'k2', 'trades')", "a Distributed has none of its own"),
        (f"{BY_DAY}(days)", "its rule is not understood: ts + toIntervalDay ( days )"),
        ("", "its definition can't be read"),
    ],
)
def test_a_ttl_that_can_not_be_found_out_is_a_warning_once(definition: str, why: str) -> None:
    assert why_unknown(SourceTable("MergeTree", definition)) == why
    check = unknown_ttls({"k2.a": "a View has none of its own", "k2.b": "its definition can't be read"})
    assert (check.level, check.subject) == (Level.WARNING, Subject.CLICKHOUSE)
    assert "2 sources: k2.a (a View has none of its own), k2.b (its definition can't be read)" in check.text
    assert "Set source_ttl" in check.advice


def test_a_count_that_is_refused_names_the_grant_or_the_setting() -> None:
    no_right = PermanentError("Not enough privileges", reason=Reason.ACCESS_DENIED)
    assert count_refused(no_right, "k2.t", "ts", "ice").advice.endswith("GRANT SELECT(ts) ON k2.t TO ice;")
    named = "it's necessary to have the grant SELECT(ts, deleted) ON k2.t. (ACCESS_DENIED)"
    no_rights = PermanentError(named, reason=Reason.ACCESS_DENIED)
    assert count_refused(no_rights, "k2.t", "ts", "ice").advice.endswith("GRANT SELECT(ts, deleted) ON k2.t TO ice;")
    readonly = PermanentError("Cannot modify 'x' setting in readonly mode", reason=Reason.ACCESS_DENIED)
    assert "readonly = 2" in count_refused(readonly, "k2.t", "ts", "ice").advice


def test_a_clickhouse_without_session_timezone_is_old() -> None:
    assert version_check("23.5.3.24", "x").level is Level.WARNING
    assert version_check("23.6.1.1524", "x").level is Level.OK
    assert version_check("26.9.2.1", "x").level is Level.OK


# --- PostgreSQL, the clock


@pytest.mark.parametrize(
    ("pooler", "timeout", "replicas", "levels"),
    [
        (Pooler(bouncer=False, shares=False), "30s", False, []),
        (Pooler(bouncer=True, shares=False), "30s", False, [Level.OK]),
        (Pooler(bouncer=True, shares=False), "0", False, [Level.WARNING]),
        (Pooler(bouncer=True, shares=True), "30s", False, [Level.WARNING]),
        (Pooler(bouncer=False, shares=True), "30s", False, [Level.WARNING]),
        (Pooler(bouncer=True, shares=True), "30s", True, [Level.ERROR]),
    ],
)
def test_what_a_pooler_costs(pooler: Pooler, timeout: str, replicas: bool, levels: list[Level]) -> None:
    assert [check.level for check in pooler_checks(pooler, timeout, replicas=replicas)] == levels


def test_missing_grants_are_printed_ready_to_paste() -> None:
    check = lacking_rights(["GRANT SELECT ON a TO b", "GRANT USAGE ON SCHEMA s TO b"])
    assert check.advice.splitlines()[1:] == ["GRANT SELECT ON a TO b;", "GRANT USAGE ON SCHEMA s TO b;"]


def test_one_clock_that_agrees_makes_the_other_one_wrong() -> None:
    limit, off, good = timedelta(minutes=5), timedelta(minutes=10), timedelta(seconds=1)
    assert [f.level for f in clock_checks({"ClickHouse": off, "PostgreSQL": good}, limit)] == [
        Level.WARNING,
        Level.OK,
    ]
    assert [f.level for f in clock_checks({"ClickHouse": off, "PostgreSQL": -off}, limit)] == [Level.ERROR] * 2
    assert "skipped" in clock_checks({}, limit)[0].text


# --- the doctor itself


async def test_a_check_that_is_refused_hangs_or_breaks_is_an_error() -> None:
    async def refuses() -> list[Check]:
        raise PermanentError("no", reason=Reason.ACCESS_DENIED)

    async def hangs() -> list[Check]:
        await asyncio.sleep(60)
        return []

    async def breaks() -> list[Check]:
        raise KeyError("x")

    (refused,), (hung,), (broken,) = [await guarded(Subject.CLOCK, each, 0.05) for each in (refuses, hangs, breaks)]
    assert (refused.level, refused.advice) == (Level.ERROR, Reason.ACCESS_DENIED.advice)
    assert "no answer within 0.05 s" in hung.text
    assert "the check broke: KeyError" in broken.text


def test_checks_are_shown_with_what_to_do_below_and_a_closing_line() -> None:
    checks = [
        Subject.PYTHON.passed("Python [3.13]"),
        Subject.TABLES.warning("odd", "First line.\nSecond line."),
        Subject.STORAGE.skipped("it rains"),
        Subject.CLOCK.failure("bad", "Do it."),
    ]
    text = io.StringIO()
    show_checks(Console(file=text, width=200), checks)
    assert text.getvalue().splitlines() == [
        "OK    python      Python [3.13]",
        "WARN  tables      odd",
        "      First line.",
        "      Second line.",
        "WARN  storage     skipped, because it rains",
        "      Put that right first, then check again.",
        "FAIL  clock       bad",
        "      Do it.",
        "",
        "1 fine, 2 warnings, 1 error",
    ]


def test_the_document_is_stable_for_scripts() -> None:
    checks = [Subject.CLOCK.failure("bad", "Do it.")]
    assert checks_document(checks) == {
        "ok": False,
        "checks": [{"part": "clock", "level": "error", "text": "bad", "advice": "Do it."}],
    }
    assert no_errors([])
    assert not no_errors(checks)


def test_a_damaged_spool_that_was_put_aside_is_named(tmp_path: Path) -> None:
    (tmp_path / "spool.db").touch()
    assert spool_check(tmp_path) == []
    (tmp_path / "spool.db.corrupt-20260218T020000Z").touch()
    (check,) = spool_check(tmp_path)
    assert (check.level, "corrupt-20260218" in check.text) == (Level.WARNING, True)
    assert "icekeeper history" in check.advice
