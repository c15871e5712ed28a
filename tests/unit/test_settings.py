"""Settings from a file: defaults, overrides, secrets, and for every kind of mistake the message that it must give."""

from __future__ import annotations

from datetime import timedelta
from decimal import Decimal
from pathlib import Path
from typing import Any

import pytest

from daemon.core.errors import ConfigError
from daemon.settings import Settings, find_config, load, schema, shown

GOOD = """\
catalog: {name: k2, type: jdbc, uri: "jdbc:postgresql://pg/iceberg", warehouse: "s3://w", properties: {
  s3.path-style-access: true}}
clickhouse: {url: "http://clickhouse:8123", database: k2}
postgres: {dsn: "postgresql://icekeeper@pg/icekeeper"}
tables:
  - {name: cold.a, source: a, timestamp: ts, layer: bronze, source_ttl: 7d}
"""


@pytest.fixture(autouse=True)
def clean_environment(monkeypatch: pytest.MonkeyPatch) -> None:
    import os

    for name in list(os.environ):
        if name.startswith("ICEKEEPER_"):
            monkeypatch.delenv(name)


@pytest.fixture
def file(tmp_path: Path) -> Path:
    path = tmp_path / "icekeeper.yaml"
    path.write_text(GOOD)
    return path


def read(path: Path, text: str) -> Settings:
    path.write_text(text)
    return load(path)


def mistakes(path: Path, text: str) -> str:
    with pytest.raises(ConfigError) as caught:
        read(path, text)
    return "\n".join(caught.value.problems)


def test_only_what_has_no_default_must_be_given(file: Path) -> None:
    settings = load(file)
    (policy,) = settings.policies()
    assert policy.source_ttl == timedelta(days=7)
    assert policy.compact.target_file_size == 134_217_728
    assert policy.compact.limits.timeout == timedelta(minutes=10)
    assert policy.expire.limits.timeout == timedelta(minutes=5)
    assert policy.expire.limits.retry_delay == timedelta(minutes=1)
    assert (policy.expire.older_than, policy.expire.retain_last) == (timedelta(days=7), 3)
    assert policy.audit is not None
    assert (policy.audit.warning_pct, policy.audit.missing_pct) == (Decimal(1), Decimal(5))
    assert policy.audit.final is None
    assert settings.catalog.spark_properties()["s3.path-style-access"] == "true"


def test_a_tables_blocks_hold_only_what_differs(file: Path) -> None:
    more = """\
  - {name: cold.b, source: b, compact: {retries: 0}, audit: {warning_pct: 0.1, final: true}}
  - {name: cold.c, source: c, audit: off}
  - {name: cold.d}
  - {name: cold.e, enabled: false}
compact: {timeout: 1h30m, retries: 4}
audit: {missing_pct: 7.5}
"""
    a, b, c, d = read(file, GOOD + more).policies()
    assert (a.compact.limits.retries, b.compact.limits.retries) == (4, 0)
    assert b.compact.limits.timeout == timedelta(minutes=90)
    assert b.audit is not None
    assert (b.audit.warning_pct, b.audit.missing_pct, b.audit.final) == (Decimal("0.1"), Decimal("7.5"), True)
    assert c.audit is None
    assert d.audit is None


def test_the_environment_wins_over_the_file(file: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("ICEKEEPER_POSTGRES__PASSWORD", "from the environment")
    monkeypatch.setenv("ICEKEEPER_COMPACT__RETRIES", "7")
    settings = read(file, GOOD + "compact: {retries: 2}\n")
    assert settings.postgres.password is not None
    assert settings.postgres.password.get_secret_value() == "from the environment"
    assert settings.policies()[0].compact.limits.retries == 7


def test_a_mistake_of_the_environment_names_the_variable(file: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("ICEKEEPER_COMPACT__RETRIES", "many")
    with pytest.raises(ConfigError, match=r"environment variable ICEKEEPER_COMPACT__RETRIES: compact\.retries: 'many'"):
        load(file)


def test_secrets_come_from_files_beside_the_configuration_and_are_never_shown(file: Path) -> None:
    (file.parent / "pg").write_text("pg secret\n")
    (file.parent / "s3").write_text("s3 secret\n")
    text = GOOD.replace('icekeeper@pg/icekeeper"}', 'icekeeper@pg/icekeeper", password_file: pg}')
    text = text.replace("s3.path-style-access: true", "s3.secret-access-key_file: s3, jdbc.password: inline")
    settings = read(file, text)
    assert settings.postgres.password is not None
    assert settings.postgres.password.get_secret_value() == "pg secret"
    assert settings.catalog.spark_properties()["s3.secret-access-key"] == "s3 secret"
    for text_of_it in (str(shown(settings)), repr(settings), str(settings)):
        assert "secret" not in text_of_it.replace("s3.secret-access-key", "")
        assert "inline" not in text_of_it


def test_the_digest_tells_settings_apart_and_the_same_ones_not(file: Path) -> None:
    first, again, other = load(file), load(file), read(file, GOOD + "compact: {retries: 2}\n")
    assert first.digest() == again.digest() != other.digest()


def test_all_mistakes_are_told_at_once_each_with_its_line(file: Path) -> None:
    told = mistakes(file, GOOD + "compact: {timeout: 5}\nexpire:\n  retain_last: 0\nmode: on-holiday\n")
    assert f"{file}:7: compact.timeout: 5 is not allowed: a duration is written like" in told
    assert f"{file}:9: expire.retain_last: 0 is not allowed" in told
    assert f"{file}:10: mode: 'on-holiday' is not allowed" in told
    assert len(told.splitlines()) == 3


# (what is added to a good file, what the message must say)
MISTAKES: list[tuple[str, str]] = [
    ("compcat: {}", "compcat is no key that icekeeper knows; did you mean compact?"),
    ("run: {max_durations: 4h}", "run.max_durations is no key that icekeeper knows; did you mean max_duration?"),
    ("compact: {zzz: 1}", "compact.zzz is no key that icekeeper knows; here it knows min_input_files"),
    ("mode: maintain\nmode: observe", "mode is there twice; it stands in line 7 already"),
    ("compact: {timeout: 10}", "a duration is written like 30s, 10m, 12h, 7d or 1h30m"),
    ("compact: {timeout: -1h}", "compact.timeout: '-1h' is not allowed"),
    ("compact: {timeout: 10 minutes}", "compact.timeout: '10 minutes' is not allowed"),
    ("compact: {target_file_size: 128}", "a size is written like 128MiB or 1GiB"),
    ("compact: {target_file_size: 128MB}", "a size is written like 128MiB or 1GiB"),
    ("compact: {strategy: zorder}", "compact.strategy: 'zorder' is not allowed: Input should be 'binpack'"),
    ("compact: {min_input_files: 1}", "compact.min_input_files: 1 is not allowed"),
    ("compact: {timeout: 0s}", "a duration is at least 1s"),
    ("compact: {timeout: 99999999999d}", "a duration is at least 1s and at most 3650d"),
    ("compact: {target_file_size: 1B}", "a file size is at least 1MiB"),
    ("expire: {older_than: 5m}", "at least 1h"),
    ("schedule: {cron: \"0 2 30 2 *\"}", "it never fires"),
    ("http: {listen: \"127.0.0.1:99999\"}", "an address to listen on is written like"),
    ("state_dir: ~/ice", "it has to be an absolute path"),
    ("notify: [me]", "not available yet"),
    ("logs: !secret x", "has a value that can't be read"),
    ("logs: {? [a, b] : c}", "has a key that is not plain text"),
    ("logs: {<<: {level: info}}", "uses a merge key"),
    ("spark: {packages: [iceberg]}", "spark.packages[0]"),
    ("compact: {retries: eleven}", "compact.retries: 'eleven' is not allowed"),
    ("compact: 5", "compact: 5 is not allowed: it has to be a block of keys"),
    ("expire: {retain_last: 0}", "expire.retain_last: 0 is not allowed"),
    ("expire: {hold_on: [missing_data]}", "expire.hold_on"),
    ("audit: {warning_pct: -1}", "audit.warning_pct: -1 is not allowed"),
    ("audit: {warning_pct: 6}", "warning_pct (6) must not exceed missing_pct (5)"),
    ("audit: {missing_pct: much}", "audit.missing_pct: 'much' is not allowed"),
    ("audit: {final: sometimes}", "audit.final: 'sometimes' is not allowed"),
    ('schedule: {cron: "0 2 * *"}', "a cron expression has five fields"),
    ('schedule: {cron: "0 2 * * 1"}', "weekdays are written as names"),
    ('schedule: {cron: "0 25 * * *"}', "not a cron expression"),
    ("schedule: {timezone: Mars/Olympus}", "a time zone is a name of the tz database"),
    ("spark: {master: everywhere}", "spark.master: 'everywhere' is not allowed"),
    ("spark: {driver_memory: 2}", "spark.driver_memory: 2 is not allowed"),
    ("replicas: true", "replicas: True is not allowed: not available yet"),
    ("logs: {level: loud}", "logs.level: 'loud' is not allowed"),
    ("http: {listen: 9420}", "http.listen: 9420 is not allowed"),
    ("http: {token_file: nowhere}", "can't be read: No such file or directory"),
    ("offload: {table: two words}", "an identifier has no spaces"),
]  # fmt: skip


@pytest.mark.parametrize(("added", "said"), MISTAKES, ids=[said[:60] for _, said in MISTAKES])
def test_a_mistake_is_told_with_its_key_and_what_is_allowed(file: Path, added: str, said: str) -> None:
    told = mistakes(file, GOOD + added + "\n")
    assert said in told
    assert f"{file}:7: " in told or f"{file}:8: " in told
    assert len(told.splitlines()) == 1


@pytest.mark.parametrize(
    ("old", "new", "said"),
    [
        ("name: cold.a", "name: a", "a needs its namespace: namespace.a"),
        ("name: cold.a,", "", "tables[0].name is missing"),
        ("type: jdbc", "type: paper", "catalog.type: 'paper' is not allowed"),
        (', uri: "jdbc:postgresql://pg/iceberg"', "", "a jdbc catalog needs uri"),
        ("type: jdbc", "type: custom", "a custom catalog needs properties: {catalog-impl: its class}"),
        ("http://clickhouse:8123", "clickhouse:8123", "clickhouse.url: 'clickhouse:8123' is not allowed"),
        ("http://clickhouse", "http://me:secret@clickhouse", "no user or password in it"),
        ("clickhouse:8123", "clickhouse:99999", "its port has to be a number"),
        ("icekeeper@pg", "icekeeper:geheim@pg", "no password in it"),
        ("jdbc:postgresql://", "postgresql://", "begins with jdbc:"),
        (', warehouse: "s3://w"', "", "a jdbc catalog needs warehouse"),
        ("name: k2,", "name: k.2,", "catalog.name"),
        ("name: cold.a", "name: k2.cold.a", "is named without its catalog: cold.a"),
        ("source_ttl: 7d", "source_ttl: 7d, enabled: false", "none of them is enabled"),
        ("source_ttl: 7d", "source_ttl: 1d", "source_ttl is at least 2d"),
        ("postgresql://", "mysql://", "postgres.dsn"),
        ("tables:", "tables: []\nignored:", "tables"),
        ("database: k2", "database: k 2", "an identifier has no spaces"),
        ("source_ttl: 7d", "source_ttl: 7 days", "tables[0].source_ttl: '7 days' is not allowed"),
        ("source_ttl: 7d", "source_ttl: 7d, compact: {retries: 99}", "tables[0].compact.retries: 99 is not allowed"),
    ],
)
def test_a_mistake_in_what_must_be_given(file: Path, old: str, new: str, said: str) -> None:
    assert old in GOOD
    assert said in mistakes(file, GOOD.replace(old, new))


def test_a_table_listed_twice_is_named(file: Path) -> None:
    assert "cold.a is listed twice" in mistakes(file, GOOD + "  - {name: cold.a}\n")


@pytest.mark.parametrize(
    ("content", "said"),
    [
        (b"", "the file is empty"),
        (b"- a\n- b\n", "has to be a mapping"),
        (b"catalog: {name: k2\n", "not YAML"),
        (b"\xff\xfe\x00", "it is not UTF-8 text"),
        (b"a:\n\t- b\n", "not YAML"),
    ],
)
def test_a_file_that_is_no_configuration(file: Path, content: bytes, said: str) -> None:
    file.write_bytes(content)
    with pytest.raises(ConfigError, match=said):
        load(file)


def test_a_file_that_is_not_there_and_none_to_be_found(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    with pytest.raises(ConfigError, match="No such file"):
        load(tmp_path / "nowhere.yaml")
    monkeypatch.chdir(tmp_path)
    with pytest.raises(ConfigError, match="there is no configuration: give --config FILE"):
        find_config(None, {})
    assert find_config(None, {"ICEKEEPER_CONFIG": "x.yaml"}) == Path("x.yaml")
    (tmp_path / "config").mkdir()
    (tmp_path / "config" / "icekeeper.yaml").write_text(GOOD)
    assert find_config(None, {}) == Path("config/icekeeper.yaml")


def test_a_secret_is_in_no_message(file: Path) -> None:
    told = mistakes(file, GOOD + "http: {token: [geheim]}\n") + mistakes(
        file, GOOD.replace("database: k2", "database: k2, password: {x: geheim}")
    )
    assert "geheim" not in told


def test_the_schema_describes_every_block() -> None:
    document: dict[str, Any] = schema()
    assert set(document["required"]) == {"catalog", "clickhouse", "postgres", "tables"}
    assert document["additionalProperties"] is False
    assert set(document["properties"]) == set(Settings.model_fields)
    assert document["$defs"]["Compact"]["properties"]["timeout"]["type"] == "string"
    assert document["$defs"]["Compact"]["properties"]["timeout"]["description"]


@pytest.mark.parametrize(
    ("name", "value", "said"),
    [
        ("ICEKEEPER_POSTGRE__PASSWORD", "x", "postgre is no key that icekeeper knows; did you mean postgres?"),
        ("ICEKEEPER_POSTGRES_PASSWORD", "x", "postgres_password is no key"),
        ("ICEKEEPER_COMPACT", "{bad", "a whole block is written as JSON"),
        ("ICEKEEPER_COMPACT", '{"retrys": 3}', "environment variable ICEKEEPER_COMPACT: compact.retrys is no key"),
        ("ICEKEEPER_CLICKHOUSE__PASSWORD_FILE", "/nowhere", "can't be read"),
    ],
)
def test_a_variable_that_says_nothing_good_is_refused(
    file: Path, monkeypatch: pytest.MonkeyPatch, name: str, value: str, said: str
) -> None:
    monkeypatch.setenv(name, value)
    assert said in mistakes(file, GOOD)


def test_a_secret_files_path_may_come_from_the_environment(file: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    (file.parent / "ch").write_text("from a file")
    monkeypatch.setenv("ICEKEEPER_CLICKHOUSE__PASSWORD_FILE", str(file.parent / "ch"))
    assert load(file).clickhouse.password.get_secret_value() == "from a file"
    monkeypatch.setenv("ICEKEEPER_CLICKHOUSE__PASSWORD", "straight")
    assert load(file).clickhouse.password.get_secret_value() == "straight"


@pytest.mark.parametrize(
    "text",
    [
        "spark: &s {conf: *s}\n",
        "spark: " + "{a: " * 3000 + "1" + "}" * 3000 + "\n",
        "a: &a [x, x, x, x, x, x, x, x, x]\n"
        + "".join(
            f"{new}: &{new} [{', '.join([f'*{old}'] * 9)}]\n" for old, new in zip("abcdefg", "bcdefgh", strict=True)
        ),
    ],
    ids=["an alias of itself", "nested too deep", "an alias that multiplies"],
)
def test_a_file_made_to_break_a_reader_is_a_mistake_like_any_other(file: Path, text: str) -> None:
    assert "nested too deep" in mistakes(file, GOOD + text)


def test_secrets_are_hidden_wherever_they_stand(file: Path) -> None:
    text = GOOD.replace("pg/iceberg", "pg/iceberg?user=u&password=geheim")
    text = text.replace(
        "s3.path-style-access: true", "header.Authorization: geheim, adls.auth.shared-key.account.key: geheim"
    )
    text += "spark: {conf: {fs.azure.account.key.x: geheim}}\n"
    assert "geheim" not in str(shown(read(file, text)))


def test_the_schemas_defaults_are_written_as_the_file_would_have_them() -> None:
    definitions = schema()["$defs"]
    assert definitions["Compact"]["properties"]["timeout"]["default"] == "10m"
    assert definitions["Compact"]["properties"]["target_file_size"]["default"] == "128MiB"
    assert definitions["Audit"]["properties"]["missing_pct"]["maximum"] == 100
