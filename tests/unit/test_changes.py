"""What a changed configuration brings about, key by key, with its secrets hidden."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import pytest

from icekeeper.core.errors import ConfigError
from icekeeper.scheduling.changes import changes, refuse_unchangeable
from icekeeper.settings import Settings

BASE: dict[str, Any] = {
    "catalog": {"name": "k2", "type": "hadoop", "warehouse": "/lake"},
    "clickhouse": {"url": "http://ch:8123", "database": "k2", "password": "old-secret"},
    "postgres": {"dsn": "postgresql://pg/i"},
    "tables": [{"name": "cold.a", "source": "a", "timestamp": "ts"}, {"name": "cold.b", "audit": False}],
}


def changed(**blocks: Any) -> tuple[str, ...]:
    return changes(Settings(**BASE), Settings(**{**BASE, **blocks}))


def test_the_same_settings_change_nothing() -> None:
    assert changed() == ()


@pytest.mark.parametrize(
    ("blocks", "line"),
    [
        ({"mode": "observe"}, "mode: maintain -> observe: from the next run on"),
        ({"schedule": {"timezone": "Europe/Berlin"}}, "schedule.timezone: UTC -> Europe/Berlin: rescheduled"),
        ({"spark": {"conf": {"spark.a": "1"}}}, "spark.conf.spark.a: unset -> 1: the session is recycled between runs"),
        (
            {"catalog": {**BASE["catalog"], "warehouse": "/other"}},
            "catalog.warehouse: /lake -> /other: the session is recycled between runs",
        ),
        ({"clickhouse": {**BASE["clickhouse"], "password": "new"}}, "clickhouse: a secret of it: connection rebuilt"),
        ({"replicas": True}, "replicas: False -> True: applied"),
        ({"tables": BASE["tables"][:1]}, "tables: cold.b dropped"),
        (
            {"tables": [*BASE["tables"], {"name": "cold.c", "source": "c", "timestamp": "ts"}]},
            "tables: cold.c added",
        ),
    ],
)
def test_each_change_is_a_line_with_what_it_brings_about(blocks: dict[str, Any], line: str) -> None:
    lines = changed(**blocks)
    assert line in lines
    assert not [one for one in lines if "secret" in one and one != line]


def test_a_change_of_a_common_block_is_reported_for_the_tables_that_it_concerns() -> None:
    lines = changed(compact={"min_input_files": 9})
    assert "compact.min_input_files: 5 -> 9: from the next run on" in lines
    assert "tables: cold.a changed: from the next run on" in lines


def test_state_dir_is_refused_with_both_values() -> None:
    old, new = Settings(**BASE, state_dir=Path("/a")), Settings(**BASE, state_dir=Path("/b"))
    with pytest.raises(ConfigError, match=r"state_dir: it can't change while the daemon runs \(/a -> /b\)"):
        refuse_unchangeable(old, new)
    refuse_unchangeable(old, old)
