"""Values as people read them."""

from __future__ import annotations

from datetime import UTC, datetime, timedelta, timezone

import pytest

from icekeeper.core import formats


@pytest.mark.parametrize(
    ("value", "text"),
    [(0, "0"), (999, "999"), (1234567, "1 234 567"), (-1234, "-1 234"), (12.6, "13")],
)
def test_a_number_has_its_thousands_apart(value: float, text: str) -> None:
    assert formats.number(value) == text


def test_the_separator_of_thousands_and_units_can_be_another() -> None:
    assert formats.number(1234567, "'") == "1'234'567"
    assert formats.signed(1234, "'") == "+1'234"
    assert formats.size(2048, "_") == "2_KiB"
    assert formats.duration(7500, "_") == "2_h 5_min"
    assert formats.percent(1, "_") == "+1.00_%"


@pytest.mark.parametrize(("value", "text"), [(0, "0"), (1234, "+1 234"), (-1234, "-1 234")])
def test_a_difference_has_its_sign(value: int, text: str) -> None:
    assert formats.signed(value) == text


@pytest.mark.parametrize(
    ("value", "text"),
    [(0, "0 %"), (-8.3333, "-8.33 %"), (100, "+100.00 %"), (-0.001234, "-0.0012 %"), (0.01, "+0.01 %")],
)
def test_a_small_percentage_is_not_shown_as_none(value: float, text: str) -> None:
    assert formats.percent(value) == text


@pytest.mark.parametrize(
    ("value", "text"),
    [
        (0, "0 B"),
        (999, "999 B"),
        (1000, "0.977 KiB"),
        (128 * 1024**2, "128 MiB"),
        (1.5 * 1024**3, "1.5 GiB"),
        (2**70, "1.05e+06 PiB"),
    ],
)
def test_a_size_has_three_digits(value: float, text: str) -> None:
    assert formats.size(value) == text


@pytest.mark.parametrize(
    ("seconds", "text"),
    [
        (0.03, "30 ms"),
        (4.21, "4.2 s"),
        (12.4, "12 s"),
        (180, "3 min"),
        (200, "3 min 20 s"),
        (3600, "1 h"),
        (7500, "2 h 5 min"),
        (51 * 3600, "2 d 3 h"),
    ],
)
def test_a_duration_has_two_units_at_most(seconds: float, text: str) -> None:
    assert formats.duration(seconds) == text


def test_instants_are_in_utc() -> None:
    instant = datetime(2026, 2, 18, 2, 0, 17, tzinfo=UTC)

    for same in (instant, instant.astimezone(timezone(timedelta(hours=5)))):
        assert formats.minute(same) == "2026-02-18 02:00"
        assert formats.minute_utc(same) == "2026-02-18 02:00 UTC"
        assert formats.second(same) == "2026-02-18 02:00:17"
        assert formats.iso_minute(same) == "2026-02-18T02:00Z"
        assert formats.iso_second(same) == "2026-02-18T02:00:17Z"


def test_one_thing_is_no_plural() -> None:
    assert formats.counted(1, "table") == "1 table"
    assert formats.counted(0, "table") == "0 tables"
    assert formats.counted(2, "entry", "entries") == "2 entries"


def test_of_many_names_only_some_are_listed() -> None:
    assert formats.listed(["a", "b"]) == "a, b"
    assert formats.listed("abcdef", most=4) == "a, b, c, d and 2 more"
