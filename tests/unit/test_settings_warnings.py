"""What `config check` asks about settings that are allowed; and that it asks nothing about those that are fine."""

from __future__ import annotations

import os
from pathlib import Path

import pytest

from icekeeper.settings import load
from icekeeper.settings.messages.notes import notes
from icekeeper.settings.messages.warnings import warnings

SHIPPED = Path(__file__).parents[2] / "config" / "icekeeper.yaml"
MIB = 1024**2
FOUR_GIB = (4096 * MIB, "the container")
GOOD = """\
catalog: {name: k2, type: glue}
clickhouse: {url: "http://ch:8123", database: k2}
postgres: {dsn: "postgresql://pg/i"}
"""
TABLES = "tables: [{name: cold.a, source: a, source_ttl: 7d}, {name: cold.b, source: b, source_ttl: 7d}]\n"


@pytest.fixture(autouse=True)
def clean_environment(monkeypatch: pytest.MonkeyPatch) -> None:
    for name in [name for name in os.environ if name.startswith("ICEKEEPER_")]:
        monkeypatch.delenv(name)


@pytest.fixture
def file(tmp_path: Path) -> Path:
    return tmp_path / "icekeeper.yaml"


def warned(file: Path, text: str, memory: tuple[int, str] | None = FOUR_GIB) -> list[str]:
    file.write_text(GOOD + ("" if "tables:" in text else TABLES) + text + "\n")
    return warnings(load(file), memory=memory)


def test_the_shipped_configuration_gives_none() -> None:
    assert warnings(load(SHIPPED, secrets=False), memory=FOUR_GIB) == []
    assert warnings(load(SHIPPED, secrets=False), memory=None) == []


def test_what_becomes_of_replaced_files_where_no_snapshot_goes_is_said(file: Path) -> None:
    warned(file, "tables: [{name: cold.a, expire: off}, {name: cold.b}, {name: cold.c, compact: off, expire: off}]")
    (told,) = notes(load(file))
    assert told.startswith("expire of cold.a is off: the files that compactions replace stay")


@pytest.mark.parametrize(
    ("text", "shares"),
    [
        ("", [("of every table", "1 %")]),
        ("audit: {warning_pct: 0.25}", [("of every table", "0.25 %")]),
        ("audit: {warning_pct: 0}", []),
        ("audit: {enabled: false}", []),
        (
            "tables: [{name: cold.a, source: a}, {name: cold.b, source: b, audit: {warning_pct: 2.5}}, {name: cold.c}]",
            [("of cold.a", "1 %"), ("of cold.b", "2.5 %")],
        ),
    ],
)
def test_what_share_of_rows_an_ok_may_lack_is_said(file: Path, text: str, shares: list[tuple[str, str]]) -> None:
    warned(file, text)
    told = notes(load(file))
    assert [(whose in note, share in note) for note, (whose, share) in zip(told, shares, strict=True)] == [
        (True, True) for _ in shares
    ]


@pytest.mark.parametrize(
    ("text", "told"),
    [
        ("", []),
        ("spark: {master: auto}\ncompact: {strategy: auto}", []),
        ("spark: {master: 'local[2]'}", [("spark.master (local[2])", "is local[16] with")]),
        ("spark: {master: 'local[2]', driver_memory: 1g}", [("spark.master (local[2])", "is local[8] with")]),
        ("spark: {master: 'local[15,3]'}", [("spark.master (local[15,3])", "is local[16] with")]),
        ("spark: {master: local}", [("spark.master (local) reads", "is local[16] with this heap: set")]),
        ("spark: {master: 'local[8]'}", [("spark.master (local[8]) reads", "is local[16] with this heap: set")]),
        *((f"spark: {{master: '{as_fast}'}}", []) for as_fast in ("local[16]", "local[64]", "local[*]")),
        *((f"spark: {{master: '{cluster}'}}", []) for cluster in ("spark://host:7077", "yarn")),
        ("compact: {strategy: sort}", []),
        (
            "compact: {strategy: binpack}",
            [("compact.strategy (binpack) of every table", "set compact.strategy to auto")],
        ),
        (
            "tables: [{name: cold.a, compact: {strategy: binpack}}, {name: cold.b}, {name: cold.c}]",
            [("compact.strategy (binpack) of cold.a has", "set compact.strategy to auto")],
        ),
    ],
)
def test_settings_that_keep_a_slower_way_are_said_with_what_to_set(
    file: Path, text: str, told: list[tuple[str, str]]
) -> None:
    warned(file, text)
    found = [note for note in notes(load(file)) if "to auto" in note]
    assert [("(it was the default of 0.1)" in note) for note in found] == ["[2]" in text or "binpack" in text] * len(
        told
    )
    assert [(what in note, how in note) for note, (what, how) in zip(found, told, strict=True)] == [
        (True, True) for _ in told
    ]


def test_a_configuration_of_0_1_keeps_its_way_and_is_told_so_until_two_keys_are_removed(tmp_path: Path) -> None:
    old = Path(__file__).parents[1] / "upgrade" / "0.1.0" / "icekeeper.yaml"
    settings = load(old, secrets=False)
    assert settings.spark.resolved_master == "local[2]"
    assert {policy.compact.strategy for policy in settings.policies()} == {"binpack"}
    assert sum("the default of 0.1" in note for note in notes(settings)) == 2
    text = old.read_text().replace('  master: "local[2]"\n', "").replace("strategy: binpack, ", "")
    (new := tmp_path / "icekeeper.yaml").write_text(text)
    settings = load(new, secrets=False)
    assert settings.spark.master == "auto"
    assert {policy.compact.strategy for policy in settings.policies()} == {"auto"}
    assert not [note for note in notes(settings) if "the default of 0.1" in note]


def test_a_configuration_of_0_1_that_others_reach_is_told_what_the_next_version_refuses(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    old = Path(__file__).parents[1] / "upgrade" / "0.1.0" / "icekeeper.yaml"
    about = [text for text in warnings(load(old, secrets=False), memory=None) if text.startswith("http.listen")]
    assert about == []
    monkeypatch.setenv("ICEKEEPER_HTTP__LISTEN", "0.0.0.0:9420")  # as the image does
    (about_it,) = [text for text in warnings(load(old, secrets=False), memory=None) if text.startswith("http.listen")]
    assert "0.3 will refuse that" in about_it


@pytest.mark.parametrize(
    "text",
    [
        "",
        "tables: [{name: cold.a}]",
        "http: {listen: '127.0.0.5:9420'}",
        "http: {listen: '[::1]:9420', url: 'https://example.com/keeper'}",
        "http: {listen: 'localhost:9420', token: x}",
        "http: {listen: '0.0.0.0:9420', read_token: x}",
        "expire: {hold_on: [missing_data]}",
        "expire: {hold_on: [missing_data, warning, error], hold_max: 7d}",
        "expire: {older_than: 2d, retain_last: 100}",
        "expire: {older_than: 60d}",
        "expire: {writer_state: [], writer_state_max: 1d}",
        "schedule: {cron: '30 0 * * *'}",
        "schedule: {cron: '0 3 * * *', timezone: Europe/Berlin}",
        "schedule: {cron: '0 22 * * *', timezone: America/New_York}",
        "schedule: {cron: '0 2,14 * * *'}",
        "tables: [{name: cold.a, source: a, source_ttl: 2d}]",
        "tables: [{name: cold.a, source: a}, {name: cold.b, source: b, audit: {warning_pct: 5}, enabled: false}]",
        "spark: {driver_memory: 3036m, conf: {spark.hadoop.fs.x: y}}",
        "schedule: {cron: '0 0 * * *'}\naudit: {enabled: false}",
        "compact: {enabled: false, min_input_files: 500}",
        "expire: {enabled: false, older_than: 1h, hold_max: 1h, writer_state_max: 1h, retain_last: 1000}",
        "compact: {timeout: 1h59m, min_input_files: 100}",
        "spark: {recycle: 24h}\nlogs: {retention: 400d}",
    ],
)
def test_what_is_fine_gives_none(file: Path, text: str) -> None:
    assert warned(file, text) == []


SOON = (
    "the offload runs every 15 minutes and lags 5, so that the audited day's last rows may not be in Iceberg yet; "
    "let it begin at 00:30 UTC or later"
)
NEVER = (
    "a night audits the UTC day before it, so that the day before each of those is never audited; "
    "let a night begin on every UTC day"
)
HEAP = (
    "with what the JVM needs beside its heap and with Python it comes to about {} MiB, and the kernel kills what "
    "exceeds them; "
)


@pytest.mark.parametrize(
    ("text", "warning"),
    [
        (
            "schedule: {cron: '15 0 * * *'}",
            "schedule.cron ('15 0 * * *' in UTC) begins a night less than 30 minutes after UTC midnight on every day "
            f"of a year (e.g. 2027-03-01 at 00:15 UTC): {SOON}",
        ),
        (
            # Summer only: at 02:00 it is midnight in UTC.
            "schedule: {cron: '0 2 * * *', timezone: Europe/Berlin}",
            "schedule.cron ('0 2 * * *' in Europe/Berlin) begins a night less than 30 minutes after UTC midnight on "
            f"217 days of a year (e.g. 2027-03-29 at 00:00 UTC): {SOON}",
        ),
        (
            "schedule: {cron: '0 2 * * mon-fri'}",
            "schedule.cron ('0 2 * * mon-fri' in UTC) begins no night on 104 days of a year (e.g. 2027-03-06 UTC): "
            f"{NEVER}",
        ),
        (
            # In winter after UTC midnight, in summer before it: when the clocks go back a UTC day has none.
            "schedule: {cron: '30 0 * * *', timezone: Europe/London}",
            "schedule.cron ('30 0 * * *' in Europe/London) begins no night on 1 day of a year (e.g. 2027-10-31 UTC): "
            f"{NEVER}",
        ),
        (
            "schedule: {cron: '0 2 1-31 * mon-sun'}",
            "schedule.cron ('0 2 1-31 * mon-sun' in UTC) names days of the month and weekdays: a night begins where "
            "both fit, while other crons take either; name only one of them",
        ),
        (
            "schedule: {cron: '0 1,12,14 * * *'}",
            "run.max_duration (4h) is longer than the shortest time between two slots (2h): a long run makes the next "
            "slot late; lower it",
        ),
        (
            "spark: {driver_memory: 3040m}",
            "spark.driver_memory (3040m) does not fit the 4096 MiB of memory that the container has: "
            f"{HEAP.format(4100)}"
            "set it to 3036m or less, or give the container more",
        ),
        (
            "spark: {driver_memory: 8g, master: yarn}",
            f"spark.driver_memory (8g) does not fit the 4096 MiB of memory that the container has: {HEAP.format(10540)}"
            "set it to 3036m or less, or give the container more",
        ),
        (
            "spark: {conf: {fs.s3a.endpoint: x}}",
            "spark.conf.fs.s3a.endpoint has no effect: Spark ignores settings that don't begin with spark.; Hadoop's "
            "are written spark.hadoop.fs.s3a.endpoint",
        ),
        (
            "compact: {timeout: 3h}",
            "compact.timeout (3h) of every table with compact.retries (1) can take 6h2m, longer than run.max_duration "
            "(4h): one table can use up the whole night; lower the one or raise the other",
        ),
        (
            "expire: {older_than: 1d}",
            "expire.older_than (1d) of every table removes snapshots of a day before that day is audited (its window "
            "begins 26h before the slot): they may be the only copy of what the audit then finds missing; "
            "set it to 2d or more",
        ),
        (
            "audit: {lookback: 6d}",
            "audit.lookback (6d) of every table reaches back further than source_ttl (7d) keeps rows: the oldest of "
            "these days are never audited again; lower it",
        ),
        (
            "expire: {hold_on: [warning]}",
            "expire.hold_on of every table holds where few rows are missing (warning) and not where many are; "
            "add missing_data",
        ),
        (
            "expire: {hold_on: [missing_data], hold_max: 24h}",
            "expire.hold_max (1d) of every table is over before the next night (1d later), so that expire.hold_on "
            "holds nothing; raise it",
        ),
        (
            "expire: {hold_on: [missing_data], hold_max: 8d}",
            "expire.hold_max (8d) of every table is longer than source_ttl (7d): when ClickHouse has dropped the rows "
            "they can't be offloaded again, and snapshots pile up until the finding is acknowledged; "
            "lower it to source_ttl",
        ),
        (
            "expire: {hold_on: [missing_data]}\ntables: [{name: cold.a}, {name: cold.b}]",
            "expire.hold_on of every table holds nothing: where no table is audited there is no finding; leave it out",
        ),
        (
            "expire: {retain_last: 700}",
            "expire.retain_last (700) of every table keeps more snapshots than an offload every 15 minutes makes in "
            "expire.older_than (7d): that age never acts; lower expire.retain_last",
        ),
        (
            "expire: {writer_state_max: 7d}",
            "expire.writer_state_max (7d) of every table keeps nothing for writers that expire.older_than (7d) would "
            "not keep; raise it, or say expire.writer_state: []",
        ),
        (
            "compact: {min_input_files: 500}",
            "compact.min_input_files (500) of every table leaves partitions alone that hold fewer small files than "
            "that, for good; 5 is the default",
        ),
        (
            "compact: {enabled: false}\nexpire: {enabled: false}\naudit: {enabled: false}",
            "compact, expire and audit of every table are off: nothing is done there; say enabled: false",
        ),
        *(
            (
                f"http: {{listen: '{listen}', token: x}}",
                f"http.listen ({listen}) can be reached from other hosts, and reading needs no token: configuration, "
                "logs and names are seen there; icekeeper 0.3 will refuse that, set http.read_token_file",
            )
            for listen in ("0.0.0.0:9420", "[::]:9420", "10.0.0.5:9420", "icekeeper.example.com:9420")
        ),
        (
            "audit: {warning_pct: 5}",
            "audit.warning_pct and audit.missing_pct of every table are both 5: no audit ever warns; lower the former",
        ),
        (
            "audit: {missing_pct: 100}",
            "audit.missing_pct (100) of every table means that no audit ever finds missing data; lower it",
        ),
    ],
)
def test_settings_that_may_not_be_intended_give_one_warning(file: Path, text: str, warning: str) -> None:
    assert warned(file, text) == [warning]


HADOOP = "catalog: {name: k2, type: hadoop, warehouse: /w}"
CYCLES = (
    "schedule.cron ({cron!r} in {zone}) begins a night as a cycle of the offload begins, on {days} of a year "
    "(offload.every is {every}), and a hadoop catalog takes one writer at a time: the night first waits for the "
    "cycle's end; {better} between two cycles"
)


@pytest.mark.parametrize(
    ("cron", "zone", "every", "days", "better"),
    [
        ("0 2 * * *", "UTC", "15m", "every day", "'7 2 * * *' begins"),
        ("4 2 * * *", "UTC", "15m", "every day", "'7 2 * * *' begins"),
        ("45 1 * * *", "UTC", "15m", "every day", "'52 1 * * *' begins"),
        ("47 1 * * *", "Europe/Berlin", "15m", "every day", "'52 1 * * *' begins"),
        ("15 2 * * *", "Asia/Kathmandu", "15m", "every day", "'22 2 * * *' begins"),
        ("30 2 * * *", "Asia/Kolkata", "1h", "every day", "let it begin"),
        ("5 2 1 * *", "UTC", "1h", "12 days", "'30 2 1 * *' begins"),
        ("5 2 * * *", "UTC", "30m", "every day", "'15 2 * * *' begins"),
        ("*/30 2 * * *", "UTC", "1h", "every day", "let it begin"),
        ("0 2 * * *", "UTC", "1d", None, None),
        ("5 2 * * *", "UTC", "15m", None, None),
        ("7 2 * * *", "UTC", "15m", None, None),
        ("14 2 * * *", "UTC", "15m", None, None),
        ("30 2 * * *", "UTC", "1h", None, None),
    ],
)
def test_a_slot_in_a_cycle_of_the_offload_is_named_with_a_minute_between_two(
    file: Path, cron: str, zone: str, every: str, days: str | None, better: str | None
) -> None:
    schedule = f"schedule: {{cron: {cron!r}, timezone: {zone}, catch_up: 1h}}\noffload: {{every: {every}}}"
    text = f"{schedule}\nrun: {{max_duration: 10m}}\ncompact: {{timeout: 1m, retries: 0}}\nexpire: {{timeout: 1m}}"
    file.write_text(GOOD.replace("catalog: {name: k2, type: glue}", HADOOP) + TABLES + text + "\n")
    found = [warning for warning in warnings(load(file), memory=FOUR_GIB) if "cycle" in warning]
    expected = CYCLES.format(cron=cron, zone=zone, days=days, every=every, better=better)
    assert found == ([expected] if days else [])


@pytest.mark.parametrize(
    ("offload", "warning"),
    [
        ("{every: 10m, wait: 10m}", "offload.cycle_max (10m) is not shorter than offload.every (10m): a status that "
         "a cycle without rows left behind is never told from a cycle, and its table is never free; lower it"),
        ("{wait: 9m}", "offload.wait (9m) is shorter than offload.cycle_max (10m): tables may be held before a cycle "
         "has ended; raise it"),
        ("{wait: 10m}", None),
    ],
)  # fmt: skip
def test_cycles_that_a_night_can_not_wait_for_give_one_warning(file: Path, offload: str, warning: str | None) -> None:
    text = f"offload: {offload}\nschedule: {{cron: '8 2 * * *'}}\n"
    file.write_text(GOOD.replace("catalog: {name: k2, type: glue}", HADOOP) + TABLES + text)
    assert warnings(load(file), memory=FOUR_GIB) == ([warning] if warning else [])


def test_where_two_may_write_at_once_or_nothing_is_offloaded_a_slot_in_a_cycle_is_fine(file: Path) -> None:
    assert warned(file, "") == []
    file.write_text(GOOD.replace("catalog: {name: k2, type: glue}", HADOOP) + "tables: [{name: cold.a}]\n")
    assert warnings(load(file), memory=FOUR_GIB) == []


def test_a_source_that_forgets_before_a_late_night_has_counted(file: Path) -> None:
    (warning,) = warned(
        file, "tables: [{name: cold.a, source: a, source_ttl: 2d}, {name: cold.b, source: b}]\nschedule: {catch_up: 1d}"
    )
    assert warning == (
        "source_ttl (2d) of cold.a is too short for a slot that is caught up late: its window begins 26h before it, "
        "schedule.catch_up (1d) and run.max_duration (4h) may follow, and then the audit ends as source_expired; "
        "lower schedule.catch_up"
    )


def test_clickhouses_own_timeout_of_a_count_replaces_ours(file: Path) -> None:
    text = GOOD.replace("database: k2", "database: k2, settings: {max_execution_time: 5}")
    file.write_text(text + TABLES)
    (warning,) = warnings(load(file), memory=None)
    assert warning.startswith("clickhouse.settings.max_execution_time replaces what follows from audit.timeout")


def test_a_warning_about_many_tables_comes_once_with_their_names(file: Path) -> None:
    tables = ", ".join(f"{{name: cold.t{number}, source: t{number}, audit: {{warning_pct: 5}}}}" for number in range(5))
    (warning,) = warned(file, f"tables: [{tables}, {{name: cold.z}}]")
    assert warning.startswith(
        "audit.warning_pct and audit.missing_pct of cold.t0, cold.t1, cold.t2 and 2 more are both 5"
    )


@pytest.mark.parametrize(
    ("tables", "named"),
    [
        ("{name: a.t, source: t}, {name: b.t, source: t}", "a.t, b.t"),
        ("{name: a.t, source: t}, {name: b.t, source: {tables: [u, t]}}, {name: c.t, source: t}", "a.t, b.t, c.t"),
        ("{name: a.t, source: {table: t, where: x = 1}}, {name: b.t, source: {table: t, where: x = 1}}", "a.t, b.t"),
        ("{name: a.t, source: {table: t, where: x = 1}}, {name: b.t, source: {table: t, where: x = 2}}", None),
        ("{name: a.t, source: t}, {name: b.t, source: t, audit: off}", None),
        ("{name: a.t, source: t}, {name: b.t, source: t, enabled: false}", None),
        ("{name: a.t, source: t}, {name: b.t, source: other.t}", None),
    ],
)
def test_a_source_of_several_tables_is_doubted(file: Path, tables: str, named: str | None) -> None:
    found = warned(file, f"tables: [{tables}]")
    assert [line.partition(":")[0] for line in found] == (
        [] if named is None else [f"tables[].source t is that of {named}"]
    )


def test_no_heap_that_spark_starts_with_fits_a_small_cgroup(file: Path) -> None:
    (warning,) = warned(file, "", memory=(1024 * MIB, "this machine"))
    assert warning.endswith("the kernel kills what exceeds them; give this machine more")
    assert warned(file, "spark: {driver_memory: 64g}", memory=None) == []


@pytest.mark.parametrize("cron", ["* * * * *", "30-59 * * * *", "0 2 29 2 *"])
def test_schedules_without_end_and_almost_without_a_night_are_judged_soon(file: Path, cron: str) -> None:
    assert warned(file, f"schedule: {{cron: '{cron}'}}")
