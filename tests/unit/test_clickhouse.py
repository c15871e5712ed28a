"""How errors name the ClickHouse server that they are about."""

from __future__ import annotations

import pytest

from icekeeper.adapters.clickhouse.client import ClickHouseOptions


@pytest.mark.parametrize(
    ("url", "address"),
    [
        ("http://clickhouse", "http://clickhouse:8123"),
        ("https://clickhouse", "https://clickhouse:8443"),
        ("https://clickhouse:9443", "https://clickhouse:9443"),
    ],
)
def test_errors_name_the_port_that_is_used(url: str, address: str) -> None:
    assert ClickHouseOptions(url, "k2").where == f"ClickHouse {address} (database k2)"
