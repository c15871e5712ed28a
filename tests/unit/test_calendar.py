"""Slots and windows: what a night answers for, wherever the clocks stand and whichever way they are moved."""

from __future__ import annotations

from collections import Counter
from collections.abc import Iterator
from datetime import UTC, date, datetime, timedelta, timezone
from itertools import islice, pairwise, takewhile
from zoneinfo import ZoneInfo

import pytest
from apscheduler.triggers.cron import CronTrigger
from hypothesis import example, given, settings
from hypothesis import strategies as st

from icekeeper.core.calendar import Calendar, NextFire, Window, expiry_cutoff, to_utc, window_of
from icekeeper.settings.model import Schedule
from tests.unit.builders import SLOT

NIGHTLY = "0 2 * * *"
# Transitions of an hour, of half an hour, of two, of a whole day, at midnight, to the south, and none at all.
ZONES = [
    "UTC",
    "Europe/Berlin",
    "Europe/London",
    "Europe/Dublin",
    "America/New_York",
    "America/Havana",
    "America/Sao_Paulo",
    "America/St_Johns",
    "America/Nuuk",
    "America/Santiago",
    "Africa/Cairo",
    "Africa/Casablanca",
    "Asia/Beirut",
    "Asia/Kathmandu",
    "Asia/Tehran",
    "Asia/Tokyo",
    "Antarctica/Troll",
    "Atlantic/Azores",
    "Australia/Lord_Howe",
    "Australia/Sydney",
    "Pacific/Apia",
    "Pacific/Chatham",
]

aware = st.datetimes(
    min_value=datetime(1990, 1, 1),  # noqa: DTZ001 - the strategy adds the zone
    max_value=datetime(2100, 1, 1),  # noqa: DTZ001
    timezones=st.one_of(st.just(UTC), st.sampled_from(ZONES).map(ZoneInfo), st.timezones()),
)


def fires(cron: str, zone: str) -> NextFire:
    """APScheduler's own cron as the calendar wants it: the first firing strictly after an instant."""
    trigger = CronTrigger.from_crontab(cron, timezone=zone)

    def next_fire(after: datetime) -> datetime | None:
        fired: datetime | None = trigger.get_next_fire_time(None, after + timedelta(microseconds=1))
        return fired

    return next_fire


def calendar(cron: str = NIGHTLY, zone: str = "UTC") -> Calendar:
    return Calendar(fires(cron, zone), ZoneInfo(zone))


def at(text: str) -> datetime:
    return datetime.fromisoformat(text + "+00:00")


def firings(cron: str, zone: str, start: datetime, end: datetime) -> Iterator[datetime]:
    next_fire, instant = fires(cron, zone), start
    while (fired := next_fire(instant)) is not None and (instant := fired.astimezone(UTC)) < end:
        yield instant


def slots(cron: str, zone: str, start: datetime, end: datetime) -> list[datetime]:
    return list(takewhile(lambda slot: slot < end, calendar(cron, zone).slots(start)))


# --- windows


def test_the_window_of_a_night_is_the_utc_day_before_its_slot() -> None:
    assert window_of(at("2026-02-18T02:00")) == Window(at("2026-02-17T00:00"), at("2026-02-18T00:00"))


@pytest.mark.parametrize("slot", ["2026-02-18T00:00:00", "2026-02-18T00:00:00.000001", "2026-02-18T23:59:59.999999"])
def test_the_window_is_the_same_whenever_in_its_day_a_slot_lies(slot: str) -> None:
    assert window_of(at(slot)) == Window(at("2026-02-17T00:00"), at("2026-02-18T00:00"))


def test_the_day_is_counted_in_utc_not_where_the_slot_was_written() -> None:
    slot = datetime(2026, 2, 18, 1, 0, tzinfo=timezone(timedelta(hours=2)))  # 23:00 UTC of the day before
    assert window_of(slot) == Window(at("2026-02-16T00:00"), at("2026-02-17T00:00"))


def test_a_window_of_hours_ends_at_the_whole_hour_of_the_slot() -> None:
    assert window_of(at("2026-02-18T02:47:31"), 6) == Window(at("2026-02-17T20:00"), at("2026-02-18T02:00"))
    assert window_of(at("2026-02-18T02:00"), 1) == Window(at("2026-02-18T01:00"), at("2026-02-18T02:00"))


@pytest.mark.parametrize("hours", [1, 6, 24, 48])
def test_a_window_knows_its_hours(hours: int) -> None:
    assert window_of(at("2026-02-18T02:47"), hours).hours == hours


@pytest.mark.parametrize("hours", [0, -1])
def test_a_window_without_an_hour_is_refused(hours: int) -> None:
    with pytest.raises(ValueError, match="at least one hour"):
        window_of(at("2026-02-18T02:00"), hours)


def test_a_naive_instant_is_refused() -> None:
    naive = datetime(2026, 2, 18, 2)  # noqa: DTZ001 - that is the point
    with pytest.raises(ValueError, match="time zone"):
        window_of(naive)
    with pytest.raises(ValueError, match="time zone"):
        to_utc(naive)
    with pytest.raises(ValueError, match="time zone"):
        calendar().next_slot(naive)


def test_a_window_is_written_as_the_half_open_span_that_it_is() -> None:
    assert str(window_of(at("2026-02-18T02:00"))) == "[2026-02-17T00:00Z, 2026-02-18T00:00Z)"
    odd = Window(at("2026-02-17T02:07:13"), at("2026-02-18T02:07:13.250"))
    assert str(odd) == "[2026-02-17T02:07:13Z, 2026-02-18T02:07:13.250000Z)"


@given(slot=aware)
def test_a_days_window_is_24_whole_hours_in_utc_that_end_at_or_before_the_slot(slot: datetime) -> None:
    window = window_of(slot)
    assert window.start.tzinfo is window.end.tzinfo is UTC
    assert window.end - window.start == timedelta(hours=24)
    assert (window.end.hour, window.end.minute, window.end.second, window.end.microsecond) == (0, 0, 0, 0)
    assert window.end <= to_utc(slot) < window.end + timedelta(days=1)


@given(slot=aware, nights=st.integers(2, 5))
def test_consecutive_daily_windows_tile_without_gap_or_overlap(slot: datetime, nights: int) -> None:
    windows = [window_of(to_utc(slot) + timedelta(days=night)) for night in range(nights)]
    assert all(earlier.end == later.start for earlier, later in pairwise(windows))


@given(slot=aware, hours=st.integers(1, 24 * 400))
def test_a_window_of_hours_is_that_long_on_whole_hours_and_ends_within_the_hour_before_the_slot(
    slot: datetime, hours: int
) -> None:
    window = window_of(slot, hours)
    assert window.hours == hours
    assert window.end - window.start == timedelta(hours=hours)
    assert (window.end.minute, window.end.second, window.end.microsecond) == (0, 0, 0)
    assert window.end <= to_utc(slot) < window.end + timedelta(hours=1)


@given(slot=aware, zone=st.timezones(), hours=st.none() | st.integers(1, 100))
def test_a_window_is_a_matter_of_the_instant_not_of_the_zone_it_is_given_in(
    slot: datetime, zone: ZoneInfo, hours: int | None
) -> None:
    assert window_of(to_utc(slot).astimezone(zone), hours) == window_of(to_utc(slot), hours)


@pytest.mark.parametrize("zone", ["UTC", "Europe/Berlin", "America/New_York", "Australia/Lord_Howe", "Asia/Tokyo"])
def test_the_nights_of_a_year_audit_every_utc_day_once(zone: str) -> None:
    nights = slots(NIGHTLY, zone, at("2026-01-01T00:00"), at("2027-01-02T00:00"))
    windows = [window_of(slot) for slot in nights]
    assert len(windows) in (366, 367)
    assert all(earlier.end == later.start for earlier, later in pairwise(windows))


# --- the cut-off of an expiry


def test_the_cutoff_is_counted_from_the_slot_where_a_night_is_caught_up_late() -> None:
    slot = at("2026-02-18T02:00")
    assert expiry_cutoff(slot, slot + timedelta(hours=11), timedelta(days=7)) == at("2026-02-11T02:00")


def test_the_cutoff_is_counted_from_now_where_the_slot_is_ahead_of_it() -> None:
    assert expiry_cutoff(at("2026-02-18T02:00"), at("2026-02-18T01:30"), timedelta(days=7)) == at("2026-02-11T01:30")


# --- slots, by APScheduler's cron


def test_a_night_in_utc_comes_every_day_at_its_hour() -> None:
    nights = list(islice(calendar().slots(at("2026-02-17T12:00")), 3))
    assert nights == [at("2026-02-18T02:00"), at("2026-02-19T02:00"), at("2026-02-20T02:00")]


def test_an_instant_that_is_itself_a_slot_is_not_after_itself() -> None:
    assert calendar().next_slot(at("2026-02-18T02:00")) == at("2026-02-19T02:00")
    assert calendar().next_slot(at("2026-02-18T01:59:59.999999")) == at("2026-02-18T02:00")


def test_slots_are_utc_whatever_the_schedules_zone() -> None:
    assert all(slot.tzinfo is UTC for slot in islice(calendar(zone="Asia/Tokyo").slots(at("2026-02-18T00:00")), 3))


@pytest.mark.parametrize(
    ("cron", "zone", "around", "both"),
    [
        (NIGHTLY, "Europe/Berlin", "2026-10-25", ["2026-10-25T00:00", "2026-10-25T01:00"]),
        ("30 1 * * *", "America/New_York", "2026-11-01", ["2026-11-01T05:30", "2026-11-01T06:30"]),
        ("45 1 * * *", "Australia/Lord_Howe", "2026-04-05", ["2026-04-04T14:45", "2026-04-04T15:15"]),
        ("30 0 * * *", "America/Havana", "2018-11-04", ["2018-11-04T04:30", "2018-11-04T05:30"]),
        ("30 23 * * *", "America/Sao_Paulo", "2018-02-17", ["2018-02-18T01:30", "2018-02-18T02:30"]),
    ],
)
def test_a_wall_clock_time_that_comes_twice_fires_twice_and_is_one_slot(
    cron: str, zone: str, around: str, both: list[str]
) -> None:
    twice = [at(instant) for instant in both]
    start, end = twice[0] - timedelta(hours=20), twice[0] + timedelta(hours=20)
    assert list(firings(cron, zone, start, end)) == twice
    assert slots(cron, zone, start, end) == twice[:1]
    assert calendar(cron, zone).slot_on(date.fromisoformat(around)) == twice[0]


@pytest.mark.parametrize(
    ("cron", "zone", "around", "slot", "wall"),
    [
        (NIGHTLY, "Europe/Berlin", "2026-03-29", "2026-03-29T01:00", "03:00"),
        ("30 2 * * *", "Europe/Berlin", "2026-03-29", "2026-03-29T01:30", "03:30"),
        (NIGHTLY, "America/New_York", "2026-03-08", "2026-03-08T07:00", "03:00"),
        (NIGHTLY, "Australia/Lord_Howe", "2026-10-04", "2026-10-03T15:30", "02:30"),
    ],
)
def test_a_wall_clock_time_that_does_not_exist_is_a_slot_at_one_that_does(
    cron: str, zone: str, around: str, slot: str, wall: str
) -> None:
    expected, day = at(slot), date.fromisoformat(around)
    found = slots(cron, zone, expected - timedelta(hours=20), expected + timedelta(hours=20))
    assert found == [expected]
    assert f"{expected.astimezone(ZoneInfo(zone)):%Y-%m-%d %H:%M}" == f"{day} {wall}"
    assert calendar(cron, zone).slot_on(day) == expected


def test_a_midnight_that_does_not_exist_is_left_out_by_apscheduler_and_has_no_slot() -> None:
    # It moves a firing within its day, not over the midnight before it: such a schedule loses a night a year.
    sao_paulo = calendar("0 0 * * *", "America/Sao_Paulo")
    assert sao_paulo.slot_on(date(2018, 11, 4)) is None
    assert sao_paulo.next_slot(at("2018-11-03T12:00")) == at("2018-11-05T02:00")


@pytest.mark.parametrize("minutes", [0, 1, 30, 59, 60, 61])
def test_started_between_the_two_foldings_the_night_is_not_done_again(minutes: int) -> None:
    first_folding = at("2026-10-25T00:00")
    after = first_folding + timedelta(minutes=minutes)
    assert calendar(zone="Europe/Berlin").next_slot(after) == at("2026-10-26T01:00")


def test_several_firings_within_the_repeated_hour_are_none_of_them_repeated() -> None:
    nights = slots("0,30 2 * * *", "Europe/Berlin", at("2026-10-24T12:00"), at("2026-10-25T12:00"))
    assert nights == [at("2026-10-25T00:00"), at("2026-10-25T00:30")]


def test_a_schedule_that_ends_has_no_slot_after_its_end() -> None:
    last = at("2026-02-18T02:00")
    ending = Calendar(lambda after: last if after < last else None, ZoneInfo("UTC"))
    assert list(ending.slots(at("2026-02-18T00:00"))) == [last]
    assert ending.next_slot(last) is None
    assert ending.slot_on(date(2026, 2, 18)) == last
    assert ending.slot_on(date(2026, 2, 19)) is None


def test_a_day_on_which_the_schedule_has_no_slot_has_none() -> None:
    sundays = calendar("0 2 * * sun", "Europe/Berlin")
    assert sundays.slot_on(date(2026, 10, 24)) is None
    assert sundays.slot_on(date(2026, 10, 25)) == at("2026-10-25T00:00")
    assert sundays.slot_on(date(2026, 10, 26)) is None


def test_of_several_slots_on_a_day_the_first_is_the_days() -> None:
    assert calendar("0 2,14 * * *").slot_on(date(2026, 2, 18)) == at("2026-02-18T02:00")


def test_a_slot_at_midnight_belongs_to_the_day_that_it_begins() -> None:
    assert calendar("0 0 * * *").slot_on(date(2026, 2, 18)) == at("2026-02-18T00:00")


# --- slots, for any zone, year and hour


# Not around midnight: a firing at a midnight that does not exist is left out (above), and in Nuuk, where 23:00 became
# the next day's 00:00, one is moved over midnight and belongs to both days.
hours_of_day = st.integers(1, 21)


@settings(max_examples=10)
@given(zone=st.sampled_from(ZONES), year=st.integers(2000, 2037), hour=hours_of_day, minute=st.integers(0, 59))
@example(zone="Europe/Berlin", year=2026, hour=2, minute=0)
@example(zone="Australia/Lord_Howe", year=2026, hour=1, minute=45)
@example(zone="America/New_York", year=2026, hour=1, minute=30)
@example(zone="Pacific/Apia", year=2011, hour=2, minute=0)
@example(zone="Antarctica/Troll", year=2026, hour=2, minute=30)
def test_a_daily_schedule_has_one_slot_on_every_local_day_of_a_year(
    zone: str, year: int, hour: int, minute: int
) -> None:
    cron, local = f"{minute} {hour} * * *", ZoneInfo(zone)
    start, end = datetime(year, 1, 1, tzinfo=local), datetime(year + 1, 1, 1, tzinfo=local)
    just_before = to_utc(start) - timedelta(microseconds=1)
    nights = slots(cron, zone, just_before, to_utc(end))
    assert all(earlier < later for earlier, later in pairwise(nights))
    fired_on = {fired.astimezone(local).date() for fired in firings(cron, zone, just_before, to_utc(end))}
    assert Counter(night.astimezone(local).date() for night in nights) == dict.fromkeys(fired_on, 1)
    days = (start.date() + timedelta(days=number) for number in range((end.date() - start.date()).days))
    without = [day for day in days if day not in fired_on]
    assert without in ([], [date(2011, 12, 30)]), "Apia left that day out, and no other day lacks its night"


@given(
    cron=st.sampled_from(
        [NIGHTLY, "30 1 * * *", "45 1 * * *", "0 2 * * sun", "0 2 25 * *", "0 * * * *", "0 0,2 * * *"]
    ),
    zone_and_transition=st.sampled_from(
        [
            ("Europe/Berlin", "2026-10-25T01:00"),
            ("Europe/Berlin", "2026-03-29T01:00"),
            ("America/New_York", "2026-11-01T06:00"),
            ("America/New_York", "2026-03-08T07:00"),
            ("Australia/Lord_Howe", "2026-04-04T15:00"),
            ("Australia/Lord_Howe", "2026-10-03T15:30"),
            ("UTC", "2026-02-18T02:00"),
        ]
    ),
    off=st.timedeltas(min_value=timedelta(hours=-30), max_value=timedelta(hours=30)),
    earlier_by=st.timedeltas(min_value=timedelta(0), max_value=timedelta(days=3)),
)
@example(NIGHTLY, ("Europe/Berlin", "2026-10-25T01:00"), timedelta(minutes=-30), timedelta(minutes=31))
@example(NIGHTLY, ("Europe/Berlin", "2026-10-25T01:00"), timedelta(hours=23, minutes=30), timedelta(hours=24))
def test_what_the_slots_are_does_not_depend_on_where_one_starts_to_look(
    cron: str, zone_and_transition: tuple[str, str], off: timedelta, earlier_by: timedelta
) -> None:
    zone, transition = zone_and_transition
    after, days = at(transition) + off, calendar(cron, zone)
    expected = (slot for slot in days.slots(after - earlier_by) if slot > after)
    assert list(islice(days.slots(after), 4)) == list(islice(expected, 4))


@given(zone=st.sampled_from(ZONES), after=aware, hour=hours_of_day)
def test_the_slot_on_a_slots_own_local_day_is_that_slot(zone: str, after: datetime, hour: int) -> None:
    days = calendar(f"0 {hour} * * *", zone)
    slot = days.next_slot(to_utc(after))
    assert slot is not None
    assert days.slot_on(slot.astimezone(ZoneInfo(zone)).date()) == slot


@given(after=aware, zone=st.sampled_from(ZONES))
def test_the_next_slot_is_less_than_two_days_away(after: datetime, zone: str) -> None:
    slot = calendar(NIGHTLY, zone).next_slot(after)
    assert slot is not None
    assert timedelta(0) < slot - to_utc(after) < timedelta(hours=26)


def test_the_cron_line_gives_the_slots() -> None:
    calendar = Schedule(cron="0 2 * * *", timezone="Europe/Berlin").calendar()
    assert calendar.next_slot(datetime(2026, 2, 17, 12, tzinfo=UTC)) == datetime(2026, 2, 18, 1, tzinfo=UTC)
    assert calendar.next_slot(datetime(2026, 2, 18, 1, tzinfo=UTC)) == datetime(2026, 2, 19, 1, tzinfo=UTC)
    weekly = Schedule(cron="0 2 * * sun", timezone="UTC").calendar()
    assert weekly.next_slot(SLOT) == datetime(2026, 2, 22, 2, tzinfo=UTC)


@pytest.mark.parametrize(
    ("cron", "until", "days"),
    [
        ("0 2 * * *", "2026-02-18T02:00", ["2026-02-14", "2026-02-15", "2026-02-16", "2026-02-17"]),
        ("0 2 * * *", "2026-02-18T01:59", ["2026-02-14", "2026-02-15", "2026-02-16"]),
        # Of Friday and Saturday: their nights are Saturday's and Sunday's.
        ("0 2 * * mon-fri", "2026-02-18T12:00", ["2026-02-15", "2026-02-16", "2026-02-17"]),
        ("*/5 * * * *", "2026-02-16T00:04", ["2026-02-14", "2026-02-15"]),
        ("0 2 1 * *", "2026-02-18T12:00", []),
    ],
)
def test_the_days_that_nights_should_have_audited(cron: str, until: str, days: list[str]) -> None:
    calendar = Schedule(cron=cron).calendar()
    found = calendar.audited_days(date(2026, 2, 14), datetime.fromisoformat(f"{until}+00:00"))
    assert [str(day) for day in found] == days
