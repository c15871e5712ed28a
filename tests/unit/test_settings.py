"""Settings from a file: defaults, overrides, secrets. The messages about mistakes: test_settings_mistakes.py."""

from __future__ import annotations

import os
from datetime import UTC, datetime, timedelta
from decimal import Decimal
from itertools import islice
from pathlib import Path
from tempfile import TemporaryDirectory

import pytest
import yaml

from icekeeper.core.audit.source import Source
from icekeeper.core.enums import NIGHT, Proof, Stage
from icekeeper.core.errors import ConfigError
from icekeeper.core.policy import DEFAULT_HOLD_ON, DEFAULT_PROOF
from icekeeper.settings import Settings, find_config, load, state_dir_of
from icekeeper.settings.export import redacted
from icekeeper.settings.messages.warnings import warnings
from icekeeper.settings.model import Schedule

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
    assert policy.compact.prove_pct == Decimal(10)
    assert policy.expire.hold_on == frozenset(DEFAULT_HOLD_ON)
    assert policy.expire.limits.timeout == timedelta(minutes=5)
    assert policy.expire.limits.retry_delay == timedelta(minutes=1)
    assert (policy.expire.older_than, policy.expire.retain_last) == (timedelta(days=7), 3)
    assert policy.audit is not None
    assert (policy.audit.warning_pct, policy.audit.missing_pct) == (Decimal(1), Decimal(5))
    assert policy.audit.final is None
    assert policy.audit.proof is DEFAULT_PROOF
    assert settings.catalog.spark_properties()["s3.path-style-access"] == "true"


@pytest.mark.parametrize(
    ("written", "share", "shown"),
    [
        ("10 %", "10", "10 %"),
        ("2.5%", "2.5", "2.5 %"),
        ("7", "7", "7 %"),
        ("100 %", "100", "100 %"),
        ("off", "0", "off"),
        ("0 %", "0", "off"),
    ],
)
def test_a_share_of_the_time_is_written_in_percent_or_off(file: Path, written: str, share: str, shown: str) -> None:
    settings = read(file, GOOD + f"compact: {{prove: {written}}}\n")
    assert settings.policies()[0].compact.prove_pct == Decimal(share)
    assert settings.compact.model_dump(mode="json")["prove"] == shown


def test_a_tables_blocks_hold_only_what_differs(file: Path) -> None:
    more = """\
  - {name: cold.b, source: b, compact: {retries: 0}, audit: {warning_pct: 0.1, final: true, proof: manifests}}
  - {name: cold.c, source: c, audit: off}
  - {name: cold.d}
  - {name: cold.e, enabled: false}
compact: {timeout: 1h30m, retries: 4}
audit: {missing_pct: 7.5, proof: files}
"""
    a, b, c, d = read(file, GOOD + more).policies()
    assert (a.compact.limits.retries, b.compact.limits.retries) == (4, 0)
    assert b.compact.limits.timeout == timedelta(minutes=90)
    assert b.audit is not None
    assert a.audit is not None
    assert (a.audit.proof, b.audit.proof) == (Proof.FILES, Proof.MANIFESTS)
    assert (b.audit.warning_pct, b.audit.missing_pct, b.audit.final) == (Decimal("0.1"), Decimal("7.5"), True)
    assert c.audit is None
    assert d.audit is None


@pytest.mark.parametrize("written", ["off", "false", "{enabled: false}", "{enabled: off}"])
@pytest.mark.parametrize(
    ("stage", "others"),
    [
        ("compact", [Stage.EXPIRE, Stage.AUDIT]),
        ("expire", [Stage.COMPACT, Stage.AUDIT]),
        ("audit", [Stage.COMPACT, Stage.EXPIRE]),
    ],
)
def test_a_stage_is_off_for_a_table_or_for_all_but_those_that_say_otherwise(
    file: Path, stage: str, others: list[Stage], written: str
) -> None:
    of_one = read(file, GOOD + f"  - {{name: cold.b, source: b, {stage}: {written}}}\n").policies()
    assert [[each for each in NIGHT if policy.has(each)] for policy in of_one] == [list(NIGHT), others]
    on = f"  - {{name: cold.b, source: b, {stage}: {{enabled: true}}}}\n"
    of_all = read(file, GOOD + on + f"{stage}: {{enabled: false}}\n").policies()
    assert [[each for each in NIGHT if policy.has(each)] for policy in of_all] == [others, list(NIGHT)]


@pytest.mark.parametrize(
    ("spark", "master", "max_writers"),
    [
        ("{master: auto}", "local[16]", 8),
        ("{master: auto, driver_memory: 1g}", "local[8]", 4),
        ("{master: auto, driver_memory: 512m}", "local[4]", 2),
        ("{master: auto, driver_memory: 8g}", "local[16]", None),
        ("{}", "local[16]", 8),
        ("{driver_memory: 1g}", "local[8]", 4),
        ("{master: 'local[2]'}", "local[2]", None),
        ("{master: 'local[32]'}", "local[32]", 8),
        ("{master: 'local[*]'}", "local[*]", 8),
        ("{master: 'spark://spark:7077'}", "spark://spark:7077", None),
    ],
)
def test_a_session_has_threads_to_wait_with_and_writes_as_many_files_at_once_as_its_heap_holds(
    file: Path, spark: str, master: str, max_writers: int | None
) -> None:
    file.write_text(f"{GOOD}spark: {spark}\n")
    settings = load(file)
    (policy,) = settings.policies()
    assert settings.spark.resolved_master == master
    assert (policy.compact.strategy, policy.compact.sort_by) == ("auto", "ts")
    assert policy.compact.max_writers == max_writers


@pytest.mark.parametrize(
    ("spark", "mib"),
    [
        ("{}", 104),
        ("{driver_memory: 1g}", 43),
        ("{driver_memory: 512m}", 12),
        ("{master: yarn}", 43),
        ("{master: yarn, conf: {spark.executor.memory: 4G}}", 227),
        ("{master: yarn, conf: {spark.executor.memory: 4096}}", 227),
        ("{master: yarn, conf: {spark.executor.memory: 4gb}}", 227),
        ("{master: yarn, conf: {spark.executor.memory: 524288k}}", 12),
        ("{master: yarn, conf: {spark.executor.memory: 256m}}", 0),
        ("{master: yarn, conf: {spark.executor.memory: much}}", 0),
    ],
)
def test_rows_are_ordered_in_the_heap_that_does_it_a_clusters_is_its_executors(
    file: Path, spark: str, mib: int
) -> None:
    (policy,) = read(file, f"{GOOD}spark: {spark}\n").policies()
    assert policy.compact.spread_max is not None
    assert policy.compact.spread_max // 1024**2 == mib


def test_the_environment_wins_over_the_file(file: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("ICEKEEPER_POSTGRES__PASSWORD", "from the environment")
    monkeypatch.setenv("ICEKEEPER_COMPACT__RETRIES", "7")
    settings = read(file, GOOD + "compact: {retries: 2}\n")
    assert settings.postgres is not None
    assert settings.postgres.password is not None
    assert settings.postgres.password.get_secret_value() == "from the environment"
    assert settings.policies()[0].compact.limits.retries == 7


def test_a_surplus_that_a_table_does_not_judge_is_shown_so(file: Path) -> None:
    text = GOOD.replace("source_ttl: 7d}", "source_ttl: 7d, audit: {surplus_pct: off}}") + "audit: {surplus_pct: 0.1}\n"
    settings = read(file, text)
    again = read(file, yaml.safe_dump(redacted(settings)))
    assert again.policies() == settings.policies()
    assert [policy.audit and policy.audit.surplus_pct for policy in again.policies()] == [None]
    assert redacted(read(file, GOOD))["audit"]["surplus_pct"] == "off"


def test_secrets_come_from_files_beside_the_configuration_and_are_never_shown(file: Path) -> None:
    (file.parent / "pg").write_text("pg secret\n")
    (file.parent / "s3").write_text("s3 secret\n")
    text = GOOD.replace('icekeeper@pg/icekeeper"}', 'icekeeper@pg/icekeeper", password_file: pg}')
    text = text.replace("s3.path-style-access: true", "s3.secret-access-key_file: s3, jdbc.password: inline")
    settings = read(file, text)
    assert settings.postgres is not None
    assert settings.postgres.password is not None
    assert settings.postgres.password.get_secret_value() == "pg secret"
    assert settings.catalog.spark_properties()["s3.secret-access-key"] == "s3 secret"
    for text_of_it in (str(redacted(settings)), repr(settings), str(settings)):
        assert "secret" not in text_of_it.replace("s3.secret-access-key", "")
        assert "inline" not in text_of_it


def test_the_digest_tells_settings_apart_and_the_same_ones_not(file: Path) -> None:
    first, again, other = load(file), load(file), read(file, GOOD + "compact: {retries: 2}\n")
    assert first.digest() == again.digest() != other.digest()


def test_what_has_no_default_is_asked_for_all_at_once(file: Path) -> None:
    assert mistakes(file, "mode: observe\n").splitlines() == [
        f"{file}: catalog is missing: the Iceberg catalog that holds the tables",
        f"{file}: tables is missing: the tables, in the order in which a night works on them",
    ]


@pytest.mark.parametrize(
    "tables",
    [
        "[{name: cold.a}]",
        "[{name: cold.a, source: ~}]",
        "[{name: cold.a, source: a, audit: off}]",
        "[{name: cold.a, source: a, audit: {enabled: false}}]",
        "[{name: cold.a, source: a, audit: {enabled: 'off'}}]",
        "[{name: cold.a, source: a, enabled: false}, {name: cold.b}]",
        "[{name: cold.a, source: a}]\naudit: {enabled: false}",
    ],
)
def test_clickhouse_is_asked_for_only_where_a_table_is_audited(tables: str, file: Path) -> None:
    begin = GOOD[: GOOD.index("clickhouse:")] + GOOD[GOOD.index("postgres:") : GOOD.index("tables:")]
    settings = read(file, f"{begin}tables: {tables}\n")
    assert settings.clickhouse is None
    assert not settings.asks_clickhouse
    assert warnings(settings, memory=None) == []
    assert "clickhouse is missing: the rows of cold.z (" in mistakes(
        file, f"{begin}tables: [{{name: cold.z, source: z}}]"
    )


def test_a_mistake_of_a_common_block_is_reported_once_and_not_for_every_table(file: Path) -> None:
    lines = mistakes(file, GOOD + "  - {name: cold.b, compact: {timeout: 1h}}\ncompact: {retries: 99, zzz: 1}\n")
    assert [line.partition(" ")[2].split(" is ")[0] for line in lines.splitlines()] == [
        "compact.retries: 99",
        "compact.zzz",
    ]


@pytest.mark.parametrize(
    ("content", "message"),
    [
        (b"", "the file is empty"),
        (b"- a\n- b\n", "has to be a mapping"),
        (b"catalog: {name: k2\n", "not YAML"),
        (b"\xff\xfe\x00", "it is not UTF-8 text"),
        (b"a:\n\t- b\n", "not YAML"),
    ],
)
def test_a_file_that_is_no_configuration(file: Path, content: bytes, message: str) -> None:
    file.write_bytes(content)
    with pytest.raises(ConfigError, match=message):
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


def clickhouse_password(file: Path) -> str:
    block = load(file).clickhouse
    assert block is not None
    return block.password.get_secret_value()


def test_a_secret_files_path_may_come_from_the_environment(file: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    (file.parent / "ch").write_text("from a file")
    monkeypatch.setenv("ICEKEEPER_CLICKHOUSE__PASSWORD_FILE", str(file.parent / "ch"))
    assert clickhouse_password(file) == "from a file"
    monkeypatch.setenv("ICEKEEPER_CLICKHOUSE__PASSWORD", "straight")
    assert clickhouse_password(file) == "straight"


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
    assert "geheim" not in str(redacted(read(file, text)))


def test_text_that_looks_like_a_number_reaches_spark_and_the_catalog_as_it_was_written(file: Path) -> None:
    values = "{a: 1.10, b: 022, c: 10:30, d: 2026-01-01, e: yes, f: True, g: 1_000, h: text}"
    text = GOOD.replace("s3.path-style-access: true", "p: 1.10") + f"spark: {{conf: {values}}}\n"
    settings = read(file, text)
    written = {"a": "1.10", "b": "022", "c": "10:30", "d": "2026-01-01", "e": "true", "f": "true", "g": "1_000"}
    assert settings.spark.conf == written | {"h": "text"}
    assert settings.catalog.properties["p"] == "1.10"


@pytest.mark.parametrize(
    "text",
    [
        "http: {listen: '[::1]:0'}",
        "offload: {dsn: 'postgresql://me@a:5432,b:5433/i?sslmode=require', password: x}",
        "offload: {dsn: 'postgres:///i?host=/run/postgresql', table: public.marks}",
        "offload: {dsn: 'postgresql://postgres:@/db'}",
        "offload: {dsn: 'postgresql://me:@a:5432,b:5433/i?password='}",
        "audit: {surplus_pct: off}",
        "audit: {surplus_pct: 0.1}",
        "audit: {surplus_pct: 0.00001}",
        "spark: {master: 'local[*]', driver_memory: 1100m, packages: null, home: null}",
        "spark: {master: 'spark://a:7077,b:7077', jars: [relative.jar, hdfs://x/y.jar]}",
        "spark: {master: 'k8s://https://k8s:6443'}",
        "schedule: {cron: '*/30 1-5/2 last JAN,feb Mon-FRI', timezone: America/St_Johns}",
        "expire: {hold_on: [missing_data, error], hold_max: 1d12h, older_than: 1h}",
        "expire: {writer_state: [loader.position.*, a.state per a.job + a.operator], writer_state_max: 90d}",
        "expire: {writer_state: []}",
        "run: {max_clock_skew: 1s, min_free_disk: 10 GiB}",
        "audit: {warning_pct: 0, missing_pct: 0, final: true}",
        "audit: {warning_pct: 5, missing_pct: 5.0, enabled: false}",
        "compact: {target_file_size: 16GiB, retries: 0}",
        "replicas: false\nnotify: []",
        "notify: [{url: 'json://me:secret@h:8/a'}, {url: 'https://hooks.slack.com/services/T1JJ3T3L2/A1BRTD4JD/TIiaj'}]",
        "compact: {}",
    ],
)
def test_what_is_allowed(file: Path, text: str) -> None:
    read(file, GOOD + text + "\n")


@pytest.mark.parametrize("name", ["cold.a-b", "cold.a$b", "cold.größe", "a.b.c", "k2.a", 'cold."a"'])
def test_a_name_that_only_needs_quoting_is_taken(file: Path, name: str) -> None:
    assert read(file, GOOD.replace("name: cold.a", f"name: '{name}'")).tables[0].name == name


@pytest.mark.parametrize(
    ("name", "value"),
    [
        ("ICEKEEPER_REPLICAS", "false"),
        ("ICEKEEPER_AUDIT__FINAL", "true"),
        ("ICEKEEPER_AUDIT__ENABLED", "false"),
        ("ICEKEEPER_SPARK__JARS", '["/a.jar"]'),
        ("ICEKEEPER_SPARK__PACKAGES", "null"),
        ("ICEKEEPER_SPARK__CONF__SPARK.SQL.X", "1"),
        ("ICEKEEPER_TABLES", '[{"name": "cold.z", "audit": "off", "enabled": true}]'),
        ("ICEKEEPER_CLICKHOUSE__PASSWORD", '{"not": "JSON to us"}'),
        ("ICEKEEPER_CLICKHOUSE__SETTINGS__MAX_THREADS", "2"),
        ("ICEKEEPER_COMPACT", "{}"),
    ],
)
def test_what_a_variable_may_say(file: Path, monkeypatch: pytest.MonkeyPatch, name: str, value: str) -> None:
    monkeypatch.setenv(name, value)
    load(file)


def test_the_variable_of_a_key_wins_over_that_of_its_block(file: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("ICEKEEPER_COMPACT__RETRIES", "7")
    monkeypatch.setenv("ICEKEEPER_COMPACT", '{"retries": 3, "timeout": "1h"}')
    compact = read(file, GOOD + "compact: {retries: 2, retry_delay: 5m}\n").compact
    assert (compact.retries, compact.timeout, compact.retry_delay) == (7, timedelta(hours=1), timedelta(minutes=5))


def test_what_kubernetes_tells_of_a_service_named_icekeeper_is_no_setting(
    file: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    before = load(file)
    for name, value in {
        "ICEKEEPER_SERVICE_HOST": "10.0.0.7",
        "ICEKEEPER_SERVICE_PORT": "9420",
        "ICEKEEPER_SERVICE_PORT_HTTP": "9420",
        "ICEKEEPER_PORT": "tcp://10.0.0.7:9420",
        "ICEKEEPER_PORT_9420_TCP": "tcp://10.0.0.7:9420",
        "ICEKEEPER_PORT_9420_TCP_ADDR": "10.0.0.7",
    }.items():
        monkeypatch.setenv(name, value)
    assert load(file) == before
    monkeypatch.setenv("ICEKEEPER_PORTS", "1")
    with pytest.raises(ConfigError, match="ports is no key"):
        load(file)


def test_without_the_secrets_their_files_are_not_read_and_all_else_is_judged(file: Path) -> None:
    text = GOOD.replace("s3.path-style-access: true", "jdbc.password_file: nowhere")
    text = text.replace('icekeeper@pg/icekeeper"}', 'icekeeper@pg/icekeeper", password_file: nowhere}')
    file.write_text(text)
    settings = load(file, secrets=False)
    assert settings.postgres is not None
    assert settings.postgres.password is not None
    assert "jdbc.password_file" not in settings.catalog.properties
    file.write_text(text + "http: {token: x, token_file: nowhere}\nmode: on-holiday\n")
    with pytest.raises(ConfigError) as caught:
        load(file, secrets=False)
    assert [problem.removeprefix(f"{file}:") for problem in caught.value.problems] == [
        "7: http.token_file: token is given as well: one of the two has to go",
        "8: mode: 'on-holiday' is not allowed: it is one of maintain, observe",
    ]


def test_a_secret_file_that_we_may_not_read() -> None:
    # Not in pytest's directory, which other users may not enter; root, who may read everything, becomes another user.
    with TemporaryDirectory() as name:
        directory = Path(name)
        directory.chmod(0o755)
        file, secret = directory / "icekeeper.yaml", directory / "secret"
        file.write_text(GOOD + "http: {token_file: secret}\n")
        secret.write_text("geheim")
        secret.chmod(0)
        root = os.geteuid() == 0
        try:
            if root:
                os.seteuid(65534)
            with pytest.raises(ConfigError) as caught:
                load(file)
        finally:
            if root:
                os.seteuid(0)
    assert caught.value.problems == [
        f"{file}:7: http.token_file: {secret} can't be read: Permission denied; "
        "it has to be a text file that holds the secret alone"
    ]


def test_an_hour_that_comes_twice_does_not_stop_the_calendar() -> None:
    """The trigger's own "after a previous firing" answers the same instant for ever there."""
    calendar = Schedule(cron="0 2 * * *", timezone="Europe/Berlin").calendar()
    nights = islice(calendar.slots(datetime(2027, 10, 30, 12, tzinfo=UTC)), 2)
    assert [f"{slot:%m-%d %H:%M}" for slot in nights] == ["10-31 00:00", "11-01 01:00"]


@pytest.mark.parametrize(
    ("text", "environ", "expected", "readable"),
    [
        (GOOD + "state_dir: /run/own\n", {}, "/run/own", True),
        (GOOD, {}, "/var/lib/icekeeper", True),
        ("tables: []\nstate_dir: /run/own\n", {}, "/run/own", True),
        (GOOD + "state_dir: [1]\n", {}, "/var/lib/icekeeper", True),
        (GOOD + "state_dir: /run/own\n", {"ICEKEEPER_STATE_DIR": "/run/other"}, "/run/other", True),
        ("a: [", {"ICEKEEPER_STATE_DIR": "/run/other"}, "/run/other", False),
        ("a: [", {}, "/var/lib/icekeeper", False),
        (None, {}, "/var/lib/icekeeper", False),
    ],
)
def test_a_daemons_directory_is_known_whatever_is_wrong_with_its_file(
    tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
    text: str | None,
    environ: dict[str, str],
    expected: str,
    readable: bool,
) -> None:
    path = tmp_path / "icekeeper.yaml"
    if text is not None:
        path.write_text(text)
    for name, value in environ.items():
        monkeypatch.setenv(name, value)
    state_dir, unreadable = state_dir_of(path)
    assert (str(state_dir), unreadable is None) == (expected, readable)


@pytest.mark.parametrize(
    ("written", "source"),
    [
        ("a", Source(("a",), "ts")),
        ("other.a", Source(("other.a",), "ts")),
        ("{tables: [a, b], timestamp: event}", Source(("a", "b"), "event", columns={"ts": "event"})),
        ("{table: a, columns: {ts: event, x: y}}", Source(("a",), "event", columns={"ts": "event", "x": "y"})),
        (
            "{table: a, timestamp_as: epoch_ms, where: \"deleted = 0 AND (note != ')--')\"}",
            Source(("a",), "ts", "epoch_ms", "deleted = 0 AND (note != ')--')"),
        ),
    ],
)
def test_a_source_is_a_name_or_a_block(file: Path, written: str, source: Source) -> None:
    settings = read(file, GOOD.replace("source: a,", f"source: {written},"))
    (policy,) = settings.policies()
    assert (policy.source, policy.timestamp) == (source, "ts")
    shown = redacted(settings)["tables"][0]["source"]
    assert shown == yaml.safe_load(written), "the file's own form"
