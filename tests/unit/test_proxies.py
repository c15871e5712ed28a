"""Which hosts NO_PROXY excepts, in all the forms that it is written in."""

from __future__ import annotations

import pytest

from icekeeper.adapters.proxies import except_by_name, excepted


@pytest.mark.parametrize(
    ("no_proxy", "host", "holds"),
    [
        ("127.0.0.0/8", "127.0.0.1", True),
        ("10.0.0.0/8,127.0.0.0/8", "127.8.9.1", True),
        ("10.1.2.3/8", "10.200.0.1", True),
        ("192.168.0.0/16", "10.0.0.1", False),
        ("127.0.0.0/8", "localhost", False),
        ("fd00::/8", "fd12::1", True),
        ("::1", "::1", True),
        ("[::1]", "::1", True),
        ("[::1]:8123", "::1", True),
        ("[::1]:9000", "::1", False),
        ("10.0.0.1", "10.0.0.1", True),
        ("10.0.0.1:8123", "10.0.0.1", True),
        ("10.0.0.1:8443", "10.0.0.1", False),
        ("clickhouse", "clickhouse", True),
        ("ClickHouse", "clickhouse", True),
        ("clickhouse", "my-clickhouse", False),
        (".example.com", "ch.example.com", True),
        ("*.example.com", "ch.example.com", True),
        ("example.com", "ch.example.com", True),
        ("example.com:8123", "ch.example.com", True),
        ("example.com", "ch.example.com.evil.org", False),
        ("*", "anything", True),
        ("localhost, *", "anything", True),
        ("localhost 10.0.0.0/8", "10.0.0.1", True),
        ("10.0.0.0/99", "10.0.0.1", False),
        ("", "10.0.0.1", False),
        (",, ,", "10.0.0.1", False),
    ],
)
def test_no_proxy_is_read_as_it_is_written(no_proxy: str, host: str, holds: bool) -> None:
    assert excepted(host, 8123, no_proxy) == holds


@pytest.mark.parametrize(
    ("before", "after"),
    [
        ({"NO_PROXY": "127.0.0.0/8"}, {"NO_PROXY": "127.0.0.0/8,127.0.0.1"}),
        ({"no_proxy": "127.0.0.0/8", "NO_PROXY": "x"}, {"no_proxy": "127.0.0.0/8,127.0.0.1", "NO_PROXY": "x"}),
        ({"NO_PROXY": "127.0.0.1"}, {"NO_PROXY": "127.0.0.1"}),
        ({"NO_PROXY": "*"}, {"NO_PROXY": "*"}),
        ({"NO_PROXY": "10.0.0.0/8"}, {"NO_PROXY": "10.0.0.0/8"}),
        ({}, {}),
    ],
)
def test_a_host_that_is_excepted_is_named_once(before: dict[str, str], after: dict[str, str]) -> None:
    environment = dict(before)
    except_by_name("127.0.0.1", 8123, environment)
    except_by_name("127.0.0.1", 8123, environment)
    assert environment == after
