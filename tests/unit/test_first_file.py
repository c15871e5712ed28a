"""The first configuration, without I/O: which column is proposed, what the file says, what is asked and refused."""

from __future__ import annotations

import json
import stat
import sys
from datetime import date
from pathlib import Path
from typing import Any

import click
import pytest
from click.testing import CliRunner
from hypothesis import given
from hypothesis import strategies as st

from icekeeper.adapters.iceberg.listing import parse_table
from icekeeper.adapters.postgres.embedded import programs
from icekeeper.cli.setup.answers import (
    Given,
    catalog_block,
    clickhouse_block,
    default_state_dir,
    mistake_in,
    options_of,
    postgres_block,
)
from icekeeper.cli.setup.init import init, write
from icekeeper.cli.setup.questions import Questions, password_in, properties_of
from icekeeper.core.audit.source import holds_rows, reads_elsewhere
from icekeeper.core.catalogs.listing import EventTime, ListedTable, event_time, is_chosen, unfit_name
from icekeeper.settings import load
from icekeeper.settings.first_file import FirstFile, ProposedTable
from icekeeper.settings.systems import Catalog

DAY = date(2026, 2, 18)
LOCAL = {"name": "lake", "type": "hadoop", "warehouse": "/warehouse"}
LEDGER = {"dsn": "postgresql://icekeeper@db/icekeeper"}

TS, TZ = "timestamp", "timestamptz"


BY_IT, ONLY = "the table is partitioned by it", "its only timestamp, by which the table is not partitioned"
STATE = f"{BY_IT}, but it sounds like a state of the row"


@pytest.mark.parametrize(
    ("columns", "by_time", "expected"),
    [
        ({"id": "long", "at": TZ}, ("at",), EventTime("at", BY_IT, is_sure=True)),
        ({"at": TZ, "seen": TZ}, ("seen",), EventTime("seen", f"{BY_IT}, beside at", is_sure=True)),
        ({"day": "date", "at": TS}, ("day", "at"), EventTime("day", f"{BY_IT}, beside at", is_sure=True)),
        ({"exchange_timestamp": TZ}, ("exchange_timestamp",), EventTime("exchange_timestamp", BY_IT, is_sure=True)),
        ({"created_at": TZ}, ("created_at",), EventTime("created_at", BY_IT, is_sure=True)),
        # Counted by one of these, a day's rows would be others than those that came.
        ({"id": "long", "at": TZ}, (), EventTime("at", ONLY)),
        ({"order_date": "date", "deleted_at": TZ}, (), EventTime("deleted_at", ONLY)),
        ({"expires_at": TZ}, ("expires_at",), EventTime("expires_at", STATE)),
        ({"updatedAt": TZ}, ("updatedAt",), EventTime("updatedAt", STATE)),
        ({"valid_to": TZ}, ("valid_to",), EventTime("valid_to", STATE)),
        ({"window_end": TZ}, ("window_end",), EventTime("window_end", STATE)),
        ({"at": TZ, "seen": TS}, (), EventTime(None, "several columns are timestamps: at, seen")),
        ({"id": "long", "day": "date"}, (), EventTime(None, "it has no timestamp")),
        ({"id": "long", "epoch": "long"}, ("epoch",), EventTime(None, "it has no timestamp")),
        ({}, (), EventTime(None, "it has no timestamp")),
        (
            {f"t{n}": TZ for n in range(7)},
            (),
            EventTime(None, "several columns are timestamps: t0, t1, t2, t3, t4 and 2 more"),
        ),
        *(
            ({name: TZ}, (name,), EventTime(None, f"its timestamp {name!r} has a name that the settings do not take"))
            for name in ("event time", "a`b", "a.b", "a..b", "", " at")
        ),
    ],
)
def test_the_event_time_is_what_partitions_the_table_and_no_other_column_is_sure(
    columns: dict[str, str], by_time: tuple[str, ...], expected: EventTime
) -> None:
    assert event_time(ListedTable("a.b", columns, by_time)) == expected


@given(st.dictionaries(st.text(max_size=12), st.sampled_from([TS, TZ, "date", "long"]), max_size=4), st.data())
def test_whatever_a_table_is_like_the_file_that_names_it_is_valid(columns: dict[str, str], data: st.DataObject) -> None:
    levels = data.draw(st.lists(st.text(min_size=1, max_size=8), min_size=1, max_size=4))
    by_time = data.draw(st.lists(st.sampled_from([*columns]), max_size=2)) if columns else []
    if unfit_name("lake", tuple(levels)):
        return
    table = ListedTable(".".join(levels), columns, tuple(by_time))
    left_out = {data.draw(st.text(max_size=8)): data.draw(st.text(max_size=20))}
    file = FirstFile(LOCAL, tables=(ProposedTable.without_source(table),), left_out=left_out)

    (loaded,) = load(Path("/nowhere/icekeeper.yaml"), text=file.text(DAY)).tables
    assert (loaded.name, loaded.timestamp) == (table.name, event_time(table).column or "timestamp")


FIELDS = [
    {"id": 1, "name": "id", "type": "long"},
    {"id": 2, "name": "at", "type": TZ},
    {"id": 3, "name": "seen", "type": TZ},
    {"id": 4, "name": "place", "type": {"type": "struct", "fields": [{"id": 5, "name": "when", "type": TZ}]}},
]


def _metadata(*transforms: tuple[int, str], **more: Any) -> dict[str, Any]:
    fields = [{"source-id": source, "transform": transform} for source, transform in transforms]
    old, schema = {"spec-id": 0, "fields": []}, {"schema-id": 1, "fields": FIELDS}
    return {
        "current-schema-id": 1,
        "schemas": [{"schema-id": 0, "fields": []}, schema],
        "default-spec-id": 1,
        "partition-specs": [old, {"spec-id": 1, "fields": fields}],
    } | more


@pytest.mark.parametrize(
    ("metadata", "by_time"),
    [
        (_metadata(), ()),
        (_metadata((2, "day")), ("at",)),
        (_metadata((1, "bucket[8]"), (3, "hour")), ("seen",)),
        (_metadata((3, "month"), (2, "day")), ("at", "seen")),
        (_metadata((2, "year"), (2, "day")), ("at",)),
        (_metadata((2, "year"), (3, "month")), ("seen", "at")),
        (_metadata((2, "identity"), (3, "void")), ()),
        (_metadata((5, "day")), ()),  # a field of a struct
        ({"schema": {"fields": FIELDS}, "partition-spec": [{"source-id": 2, "transform": "day"}]}, ("at",)),
    ],
)
def test_the_current_schema_and_partitions_are_read_out_of_the_metadata(
    metadata: dict[str, Any], by_time: tuple[str, ...]
) -> None:
    table = parse_table("shop.orders", json.dumps(metadata))

    assert table == ListedTable("shop.orders", {"id": "long", "at": TZ, "seen": TZ}, by_time)


@pytest.mark.parametrize(
    ("levels", "why"),
    [
        (("shop", "orders"), None),
        (("a", "b", "größe-1"), None),
        (("orders",), "it is in no namespace"),
        (("shop", "or.ders"), "a dot, a blank or a backtick is part of its name"),
        (("my shop", "orders"), "a dot, a blank or a backtick is part of its name"),
        (("shop", "o`"), "a dot, a blank or a backtick is part of its name"),
        (("lake", "orders"), None),
        (("lakes", "eu", "orders"), None),
        (("lake", "eu", "orders"), "its namespace begins with the catalog's name, lake: give the catalog another one"),
        (("", "orders"), "a dot, a blank or a backtick is part of its name"),
    ],
)
def test_a_table_whose_name_the_settings_do_not_take_is_left_out(levels: tuple[str, ...], why: str | None) -> None:
    assert unfit_name("lake", levels) == why


@pytest.mark.parametrize(
    ("engine", "own", "elsewhere"),
    [
        *((f"{kind}MergeTree", True, False) for kind in ("", "Replacing", "ReplicatedSumming", "SharedAggregating")),
        *((engine, True, False) for engine in ("Distributed", "Log", "TinyLog", "StripeLog", "Memory")),
        *((engine, False, False) for engine in ("View", "MaterializedView", "Merge", "Buffer", "Dictionary", "Kafka")),
        *((engine, False, True) for engine in ("Iceberg", "IcebergS3", "IcebergAzure", "IcebergLocal", "DeltaLake")),
        *(
            (engine, False, True)
            for engine in ("S3", "S3Queue", "Hudi", "URL", "File", "HDFS", "Null", "DataLakeCatalog")
        ),
    ],
)
def test_only_tables_with_rows_of_their_own_are_proposed_as_sources(engine: str, own: bool, elsewhere: bool) -> None:
    assert (holds_rows(engine), reads_elsewhere(engine)) == (own, elsewhere)


@pytest.mark.parametrize(
    ("include", "exclude", "chosen"),
    [
        ((), (), True),
        (("shop.*",), (), True),
        (("hr.*", "*.orders"), (), True),
        (("hr.*",), (), False),
        (("Shop.*",), (), False),
        ((), ("*_old",), True),
        (("shop.*",), ("*.orders",), False),
    ],
)
def test_globs_choose_tables(include: tuple[str, ...], exclude: tuple[str, ...], chosen: bool) -> None:
    assert is_chosen("shop.orders", include, exclude) is chosen


def _file(**blocks: Any) -> FirstFile:
    tables = (
        ProposedTable("shop.orders", "created_at", "orders", "the table is partitioned by its time"),
        ProposedTable("shop.customers", note="it has no timestamp"),
    )
    return FirstFile(**{"catalog": LOCAL, "postgres": LEDGER, "tables": tables, **blocks})


CLICKHOUSE = {"url": "http://ch:8123", "database": "shop", "user": "default"}


@pytest.mark.parametrize(
    "file",
    [
        _file(clickhouse=CLICKHOUSE),
        _file(clickhouse=CLICKHOUSE, state_dir="/home/ann/my state: #1"),
        FirstFile(LOCAL, LEDGER),
        _file(clickhouse=CLICKHOUSE, postgres=None, state_dir="/s"),
        _file(clickhouse=CLICKHOUSE, left_out={"hr.x": "storage_down: no\n\tanswer: {}", "hr": "\x00\x1b[31m#"}),
        _file(tables=(ProposedTable("no.1", note="a note\nwith: lines\u2028 # and \x07 signs"),)),
        _file(tables=(ProposedTable("null.true", "on", None), ProposedTable("größe.2026-02-18", "{x}", None, "?"))),
        _file(catalog={**LOCAL, "properties": {"a.b": "true", "c": "010", "d": "- *x: &y #z", "e": "é"}}, tables=()),
    ],
)
def test_the_file_is_valid_and_says_what_was_answered_and_found(file: FirstFile) -> None:
    settings = load(Path("/nowhere/icekeeper.yaml"), text=file.text(DAY))

    tables = [(each.name, each.source and each.source.table, each.timestamp) for each in settings.tables]
    expected = [(each.name, each.source, each.timestamp or "timestamp") for each in file.tables]
    assert tables == (expected or [("no.tables.yet", None, "timestamp")])
    assert settings.catalog.model_dump(exclude_defaults=True) == file.catalog
    assert settings.clickhouse is None or settings.clickhouse.database == "shop"
    assert str(settings.state_dir) == (file.state_dir or "/var/lib/icekeeper")


def test_each_line_that_the_file_offers_is_valid_without_its_sign() -> None:
    lines = _file(clickhouse=CLICKHOUSE, postgres=None).text(DAY).splitlines()
    offered = [number for number, line in enumerate(lines) if line.startswith("# ") and ": {" in line]
    offered += [number for number, line in enumerate(lines) if line.startswith(("# mode:", "# notify:"))]
    assert len(offered) == 7
    for number in offered:
        changed = [*lines[:number], lines[number].removeprefix("# "), *lines[number + 1 :]]
        load(Path("/nowhere/icekeeper.yaml"), secrets=False, text="\n".join(changed))
    everything = [line.removeprefix("# ") if number in offered else line for number, line in enumerate(lines)]
    settings = load(Path("/nowhere/icekeeper.yaml"), secrets=False, text="\n".join(everything))
    assert (settings.mode, settings.schedule.cron) == ("observe", "0 2 * * *")


# --- what is asked


def _silent(place: Path = Path("/nowhere")) -> Questions:
    return Questions(terminal=False, secrets=place)


@pytest.mark.parametrize(
    ("given", "missing"),
    [
        (Given(), "--type"),
        (Given(kind="jdbc"), "--name, --uri, --warehouse"),
        (Given(kind="jdbc", name="a", warehouse="s3://b"), "--uri"),
        (Given(kind="rest"), "--uri"),
        (Given(kind="hive"), "--uri"),
        (Given(kind="hadoop"), "--warehouse"),
    ],
)
def test_without_a_terminal_a_missing_answer_is_an_error_that_names_the_option(given: Given, missing: str) -> None:
    with pytest.raises(click.UsageError) as caught:
        catalog_block(_silent(), given)

    assert caught.value.message == f"without a terminal these have to be given: {missing}"


@pytest.mark.parametrize(
    ("given", "block"),
    [
        (Given("rest", uri="http://c:8181"), {"name": "lake", "type": "rest", "uri": "http://c:8181"}),
        (Given("REST", uri="http://c:8181"), {"name": "lake", "type": "rest", "uri": "http://c:8181"}),
        (Given("glue"), {"name": "lake", "type": "glue"}),
        (
            Given("glue", "g", warehouse="s3://b/p", properties=("client.region=eu-west-1",)),
            {
                "name": "g",
                "type": "glue",
                "warehouse": "s3://b/p",
                "properties": {"client.region": "eu-west-1"},
            },
        ),
        (
            Given("jdbc", "p", "jdbc:mariadb://h/d", "s3://b/p", ("s3.endpoint=http://m:9000", "jdbc.user=u")),
            {
                "name": "p",
                "type": "jdbc",
                "uri": "jdbc:mariadb://h/d",
                "warehouse": "s3://b/p",
                "properties": {
                    "s3.endpoint": "http://m:9000",
                    "jdbc.user": "u",
                    "io-impl": "org.apache.iceberg.aws.s3.S3FileIO",
                    "s3.path-style-access": "true",
                    "client.region": "us-east-1",
                },
            },
        ),
        (
            Given("hive", uri="thrift://m:9083", warehouse="gs://b/p"),
            {
                "name": "lake",
                "type": "hive",
                "uri": "thrift://m:9083",
                "warehouse": "gs://b/p",
                "properties": {"io-impl": "org.apache.iceberg.gcp.gcs.GCSFileIO"},
            },
        ),
        (
            Given("hadoop", warehouse="s3a://b/p", properties=("hadoop.fs.s3a.endpoint=http://m:9000",)),
            {
                "name": "lake",
                "type": "hadoop",
                "warehouse": "s3a://b/p",
                "properties": {
                    "hadoop.fs.s3a.endpoint": "http://m:9000",
                    "hadoop.fs.s3a.path.style.access": "true",
                    "hadoop.fs.s3a.endpoint.region": "us-east-1",
                },
            },
        ),
        (Given("hadoop", warehouse="/w"), {"name": "lake", "type": "hadoop", "warehouse": "/w"}),
    ],
)
def test_options_make_the_block_of_each_kind_of_catalog(
    given: Given, block: dict[str, Any], monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.delenv("AWS_REGION", raising=False)
    monkeypatch.delenv("AWS_DEFAULT_REGION", raising=False)

    assert catalog_block(_silent(), given) == block
    Catalog(**block)


@pytest.mark.parametrize(
    ("given", "complaint"),
    [
        (Given("rest", uri="catalog:8181"), "--uri: the uri of a rest catalog is written like http://catalog:8181"),
        (Given("rest", "a b", "http://c"), "--name: a catalog's name is made of letters"),
        (Given("jdbc", "a", "postgresql://h/d", "/w"), "--uri: the uri of a jdbc catalog is written like jdbc:"),
        (Given("jdbc", "a", "jdbc:mysql://u:pw@h/d", "/w"), "--uri: it holds a password"),
        (Given("jdbc", "a", "jdbc:postgresql://h/d?user=u&password=pw", "/w"), "--uri: it holds a password"),
        (Given("jdbc", "a", "jdbc:sqlite:/nowhere/c.db", "/w"), "--uri: there is no such file"),
        (Given("jdbc", "a", "jdbc:sqlite:c.db", "/w"), "--uri: the path has to begin with /, like /"),
        (Given("hadoop", warehouse="s3://b/p"), "--warehouse: Hadoop opens S3 by s3a://"),
        (Given("hadoop", warehouse="/w\x1b[0m"), "--warehouse: it holds a character that can't be printed"),
        (Given("nessie"), "--type nessie: there are rest, jdbc, hadoop, hive, glue"),
        (Given("custom"), "--type custom: there are rest, jdbc, hadoop, hive, glue"),
        (Given("glue", properties=("client.region",)), "--property client.region: it is written NAME=VALUE"),
    ],
)
def test_a_bad_option_is_refused_before_anything_is_reached(given: Given, complaint: str) -> None:
    with pytest.raises(click.UsageError) as caught:
        catalog_block(_silent(), given)

    assert caught.value.message.startswith(complaint)


@pytest.mark.parametrize(
    "text",
    [
        "jdbc.password=abc123",
        "token=eyJhbGciOi.eyJzdWIiOi.x",
        "credential=id:secret",
        "s3.access-key-id=AKIA0000",
        "s3.secret-access-key=x1y2z3",
        "adls.auth.shared-key.account.key=x1y2z3",
        "hadoop.fs.s3a.secret.key=x1y2z3",
        "jdbc.password=;abc",
        "jdbc.password=none",
        "token=,x",
        "s3.secret-access-key=&abc",
        "http.proxy=http://u:s3cr3t@proxy:3128",
        "jdbc.url=jdbc:postgresql://u:s3cr3t@h/d",
        "uri.other=jdbc:sqlserver://h;user=u;password=s3cr3t",
        "header.Cookie=s3cr3t",
        "hadoop.fs.azure.sas.fixed.token.x=s3cr3t",
        "fs.azure.sas.container.account=s3cr3t",
    ],
)
def test_a_secret_is_refused_and_the_option_for_its_file_is_named(text: str) -> None:
    name = text.partition("=")[0]
    with pytest.raises(click.UsageError, match=f"--property {name}_file=THE_FILE") as caught:
        properties_of([text])

    assert text.partition("=")[2] not in caught.value.message


def test_properties_that_are_no_secrets_are_taken_and_a_secrets_file_becomes_an_absolute_path() -> None:
    found = properties_of(["token-refresh-enabled=false", "s3.endpoint=http://m?a=b", "token_file=secrets/t"])

    assert found == {
        "token-refresh-enabled": "false",
        "s3.endpoint": "http://m?a=b",
        "token_file": str(Path.cwd() / "secrets" / "t"),
    }


@pytest.mark.parametrize(
    ("typed", "block", "secrets"),
    [
        (
            "rest\n\nc:8181\nhttp://c:8181\nmain\noauth2\nid:s3cr3t\n\nPRINCIPAL_ROLE:ALL\n\n",
            {
                "name": "lake",
                "type": "rest",
                "uri": "http://c:8181",
                "warehouse": "main",
                "properties": {"credential_file": "secrets/credential", "scope": "PRINCIPAL_ROLE:ALL"},
            },
            {"credential": "id:s3cr3t"},
        ),
        (
            "jdbc\n\nprod\njdbc:postgresql://h/d\ns3://b/p\nann\npw 1\nhttp://m:9000\nkey\nhush\n",
            {
                "name": "prod",
                "type": "jdbc",
                "uri": "jdbc:postgresql://h/d",
                "warehouse": "s3://b/p",
                "properties": {
                    "jdbc.user": "ann",
                    "jdbc.password_file": "secrets/jdbc.password",
                    "io-impl": "org.apache.iceberg.aws.s3.S3FileIO",
                    "s3.endpoint": "http://m:9000",
                    "s3.path-style-access": "true",
                    "client.region": "us-east-1",
                    "s3.access-key-id_file": "secrets/s3.access-key-id",
                    "s3.secret-access-key_file": "secrets/s3.secret-access-key",
                },
            },
            {"jdbc.password": "pw 1", "s3.access-key-id": "key", "s3.secret-access-key": "hush"},
        ),
        ("floppy\nhadoop\n\n\n/w\n", {"name": "lake", "type": "hadoop", "warehouse": "/w"}, {}),
    ],
)
def test_on_a_terminal_it_asks_again_after_a_bad_answer_and_keeps_secrets_in_files_of_their_own(
    typed: str, block: dict[str, Any], secrets: dict[str, str], tmp_path: Path
) -> None:
    questions = Questions(terminal=True, secrets=tmp_path / "secrets")
    with CliRunner().isolation(input=typed):
        assert catalog_block(questions, Given()) == block
        assert sys.stdin.read() == ""
    assert not (tmp_path / "secrets").exists()  # before it is known that the answers are any good
    questions.keep()

    kept = {file.name: file.read_text() for file in (tmp_path / "secrets").glob("*")}
    assert kept == {name: f"{value}\n" for name, value in secrets.items()}
    modes = {stat.S_IMODE(file.stat().st_mode) for file in (tmp_path / "secrets").glob("*")}
    assert modes <= {0o600}


def test_a_secret_that_is_kept_already_need_not_be_typed_again(tmp_path: Path) -> None:
    questions = Questions(terminal=True, secrets=tmp_path)
    (tmp_path / "token").write_text("before\n")
    (tmp_path / "token").chmod(0o644)
    with CliRunner().isolation(input="\nafter\n"):
        assert questions.secret("token", "Token") == {"token_file": f"{tmp_path.name}/token"}
        assert (tmp_path / "token").read_text() == "before\n"
        assert questions.secret("token", "Token") == {"token_file": f"{tmp_path.name}/token"}
    block = {"type": "rest", "properties": {"token_file": f"{tmp_path.name}/token", "x_file": "/y"}}
    assert questions.revealed(block) == {"type": "rest", "properties": {"token": "after", "x_file": "/y"}}
    assert options_of(FirstFile({"name": "l", **block}), tmp_path, questions.typed)[-2:] == ["--property", "x_file=/y"]
    assert (tmp_path / "token").read_text() == "before\n"
    questions.keep()
    assert (tmp_path / "token").read_text() == "after\n"
    assert stat.S_IMODE((tmp_path / "token").stat().st_mode) == 0o600


def test_clickhouse_and_postgresql_are_asked_for_only_where_they_are_wanted(monkeypatch: pytest.MonkeyPatch) -> None:
    assert clickhouse_block(_silent(), Given()) is None
    given = Given(clickhouse="https://ch:8443", clickhouse_password_file=Path("/run/ch"), postgres="postgresql://a@h/d")
    assert clickhouse_block(_silent(), given) == {
        "url": "https://ch:8443",
        "database": "default",
        "user": "default",
        "password_file": "/run/ch",
    }
    assert postgres_block(_silent(), given) == {"dsn": "postgresql://a@h/d"}
    with pytest.raises(click.UsageError, match="--postgres"):
        postgres_block(_silent(), Given(postgres="postgresql://a:pw@h/d"))
    assert postgres_block(_silent(), Given()) is None
    monkeypatch.setattr(programs, "directory", lambda: None)  # without the extra
    with pytest.raises(click.UsageError, match="have to be given: --postgres"):
        postgres_block(_silent(), Given())
    with pytest.raises(click.UsageError, match="--clickhouse"):
        clickhouse_block(_silent(), Given(clickhouse="ch:8123"))


def test_files_go_to_the_users_own_place_where_the_systems_is_not_theirs(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("os.geteuid", lambda: 1000)
    monkeypatch.setattr("os.access", lambda *a: False)
    assert default_state_dir({"XDG_STATE_HOME": "/x"}) == "/x/icekeeper"
    home = str(Path.home() / ".local" / "state" / "icekeeper")
    assert default_state_dir({}) == default_state_dir({"XDG_STATE_HOME": "relative"}) == home
    monkeypatch.setattr("os.access", lambda *a: True)
    assert default_state_dir({"XDG_STATE_HOME": "/x"}) is None


def test_answers_can_be_given_again_as_options(tmp_path: Path) -> None:
    catalog = {
        "name": "prod",
        "type": "jdbc",
        "uri": "jdbc:postgresql://h/d",
        "warehouse": "s3://b/p q",
        "properties": {"jdbc.user": "ann", "jdbc.password_file": "secrets/jdbc.password", "io-impl": "a.b.C"},
    }
    clickhouse = {"url": "http://ch:8123", "database": "d", "user": "u", "password_file": "secrets/clickhouse-password"}
    file = FirstFile(catalog, clickhouse=clickhouse, postgres={"dsn": "postgresql://a@h/d", "password_file": "/p"})

    options = options_of(file, tmp_path)

    command = init.make_context("init", [*options])
    given = Given(**{name: value for name, value in command.params.items() if name in Given.__dataclass_fields__})
    secrets = tmp_path / "secrets"
    properties = {"jdbc.user": "ann", "jdbc.password_file": f"{secrets}/jdbc.password", "io-impl": "a.b.C"}
    assert catalog_block(_silent(), given) == {**catalog, "properties": properties}
    assert clickhouse_block(_silent(), given) == {**clickhouse, "password_file": f"{secrets}/clickhouse-password"}
    assert postgres_block(_silent(), given) == file.postgres


@pytest.mark.parametrize(
    "text",
    [
        "postgresql://postgres:@/db",
        "hdfs://nn:8020/user/me@corp/wh",
        "jdbc:postgresql://h:5432/db?user=me@corp",
        "jdbc:postgresql://h/db?user=ann&password=",
        "http://h:8123/x@y",
        "jdbc:mysql://ann@h/d?sslMode=REQUIRED&passwordCharacterEncoding.type=x",
        "s3://b/p",
        "",
    ],
)
def test_an_address_without_a_password_is_not_taken_for_one_with_it(text: str) -> None:
    assert not password_in(text)


def test_a_mistake_elsewhere_in_a_block_is_not_the_answers() -> None:
    assert mistake_in(Catalog, {"name": "ok", "type": "jdbc"}, "name") is None
    assert mistake_in(Catalog, {"name": "not ok", "type": "jdbc"}, "name") is not None


# --- the file


def test_the_file_is_written_whole_and_over_another_one_only_by_force(tmp_path: Path) -> None:
    path = tmp_path / "new" / "icekeeper.yaml"
    write(path, "first\n", force=False)
    path.chmod(0o640)

    with pytest.raises(click.UsageError, match="--force"):
        write(path, "second\n", force=False)
    assert path.read_text() == "first\n"

    link = tmp_path / "link.yaml"
    link.symlink_to(path)
    write(link, "third\n", force=True)
    assert (path.read_text(), stat.S_IMODE(path.stat().st_mode), link.is_symlink()) == ("third\n", 0o640, True)
    assert [file.name for file in path.parent.iterdir()] == ["icekeeper.yaml"]
