"""ClickHouse without a server: how errors name it, which settings a count needs, how windows are written."""

from __future__ import annotations

from datetime import UTC, datetime, timedelta

import pytest

from icekeeper.adapters.clickhouse import event_time
from icekeeper.adapters.clickhouse.client import ClickHouseOptions
from icekeeper.adapters.clickhouse.exact import Setting, exact_settings
from icekeeper.core.audit.source import LONGEST_NAME, Source, TimestampAs
from icekeeper.core.calendar import Window
from icekeeper.core.errors import PermanentError
from icekeeper.core.reasons import Reason


@pytest.mark.parametrize(
    ("url", "address"),
    [
        ("http://clickhouse", "http://clickhouse:8123"),
        ("https://clickhouse", "https://clickhouse:8443"),
        ("https://clickhouse:9443", "https://clickhouse:9443"),
        ("https://proxy.example.com/clickhouse/", "https://proxy.example.com:443/clickhouse/"),
        ("http://proxy/clickhouse", "http://proxy:80/clickhouse/"),
        ("http://proxy:8080/a/b", "http://proxy:8080/a/b/"),
        ("https://clickhouse/", "https://clickhouse:8443"),
    ],
)
def test_errors_name_the_port_that_is_used(url: str, address: str) -> None:
    assert ClickHouseOptions(url, "k2").where == f"ClickHouse {address} (database k2)"


@pytest.mark.parametrize(
    ("name", "value", "final", "local", "refused"),
    [
        ("session_timezone", "UTC", True, True, False),
        ("session_timezone", "Etc/UTC", True, True, False),
        ("session_timezone", "Europe/London", True, True, True),
        ("read_overflow_mode", "break", True, True, True),
        ("read_overflow_mode", "throw", True, True, False),
        ("skip_unavailable_shards", "1", True, True, False),
        ("skip_unavailable_shards", "1", True, False, True),
        ("final", "1", True, True, False),
        ("final", "1", False, True, True),
        ("final", "1", None, True, False),
    ],
)
def test_a_fixed_setting_stands_against_a_count_only_where_it_could_cost_rows(
    name: str, value: str, final: bool | None, local: bool, refused: bool
) -> None:
    options, seen = ClickHouseOptions("http://clickhouse", "k2"), [Setting(name, value, fixed=True)]
    if name != "final":
        seen.append(Setting("final", str(int(final or False)), fixed=True))
    if not refused:
        assert exact_settings(seen, options, final=final, local=local) == {}
        return
    with pytest.raises(PermanentError, match=f"fixes {name} = '{value}'") as raised:
        exact_settings(seen, options, final=final, local=local)
    assert raised.value.reason is Reason.SOURCE_LIMITED


@pytest.mark.parametrize(("final", "refused"), [(True, True), (False, False), (None, False)])
def test_a_server_that_can_not_merge_while_it_counts_is_refused_where_rows_merge(
    final: bool | None, refused: bool
) -> None:
    options, seen = ClickHouseOptions("http://clickhouse", "k2"), [Setting("limit", "0", fixed=False)]
    if not refused:
        assert exact_settings(seen, options, final=final, local=True) == {"limit": "0"}
        return
    with pytest.raises(PermanentError, match="too old to merge rows") as raised:
        exact_settings(seen, options, final=final, local=True)
    assert raised.value.reason is Reason.SOURCE_LIMITED


EPOCH = datetime(1970, 1, 1, tzinfo=UTC)


@pytest.mark.parametrize(
    ("stored", "seconds", "low"),
    [
        (None, 1200, "toDateTime64('1970-01-01 00:20:00', 6, 'UTC')"),
        (None, 1200.25, "toDateTime64('1970-01-01 00:20:00.250000', 6, 'UTC')"),
        ("epoch_s", 1200, "1200"),
        ("epoch_s", 1200.25, "1201"),
        ("epoch_ms", 1200.25, "1200250"),
        ("epoch_ms", 1200.0005, "1200001"),
        ("epoch_us", 1200.0005, "1200000500"),
    ],
)
def test_a_window_of_any_bounds_is_written_for_its_column(stored: TimestampAs | None, seconds: float, low: str) -> None:
    source = Source(("trades",), "at", stored)
    window = Window(EPOCH + timedelta(seconds=seconds), EPOCH + timedelta(hours=1))
    assert f"`at` >= {low} AND" in event_time.written_out(event_time.within(source), source, window)


def test_a_source_of_many_tables_is_named_by_as_many_as_the_ledger_has_room_for() -> None:
    assert str(Source(("a", "other.b"), "ts")) == "a, other.b"
    many = Source(tuple(f"archive.trades_2026_{month:02}" for month in range(1, 13)), "ts")
    assert str(many) == f"{', '.join(many.tables[:4])} and 8 more"
    assert len(str(many)) <= LONGEST_NAME
