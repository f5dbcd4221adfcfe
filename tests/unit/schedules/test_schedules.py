"""Clocks and schedules as authors use them."""

import itertools
from datetime import UTC, datetime, timedelta, timezone
from types import SimpleNamespace
from zoneinfo import ZoneInfo

import pytest

from heliograph.exceptions import InvalidArgumentError
from heliograph.schedules import (
    CronClock,
    CronSchedule,
    DatesClock,
    IntervalClock,
    IntervalSchedule,
    Schedule,
)
from heliograph.schedules.clocks import zone_name

NOON = datetime(2024, 5, 1, 12, tzinfo=UTC)


class TestNext:
    def test_strictly_after_and_in_order(self):
        schedule = CronSchedule("0 12 * * *")
        assert schedule.next(2, after=NOON) == [NOON + timedelta(days=1), NOON + timedelta(days=2)]
        assert schedule.next(1, after=NOON - timedelta(microseconds=1)) == [NOON]
        assert schedule.next(0, after=NOON) == []

    def test_from_now_by_default(self):
        [time] = IntervalSchedule(timedelta(hours=1)).next(1)
        assert timedelta(0) < time - datetime.now(UTC) <= timedelta(hours=1)

    def test_a_naive_time_is_utc(self):
        assert CronSchedule("0 12 * * *").next(1, after=NOON.replace(tzinfo=None)) == [NOON + timedelta(days=1)]

    def test_fewer_when_the_clocks_end(self):
        assert len(IntervalSchedule(timedelta(hours=1), NOON, NOON + timedelta(hours=3)).next(10, after=NOON)) == 3
        assert Schedule([]).next(3) == []

    def test_times_are_in_the_zone_of_the_clock(self):
        [time] = CronSchedule("0 12 * * *", timezone="Asia/Tokyo").next(1, after=NOON)
        assert (time.hour, time.utcoffset()) == (12, timedelta(hours=9))


class TestUnion:
    def test_events_are_merged_with_their_parameters_and_labels(self):
        schedule = Schedule(
            [
                CronClock("0 13 * * *", parameter_defaults={"x": 1}, labels=["a"]),
                IntervalClock(timedelta(hours=12), parameter_defaults={"x": 2}),
                DatesClock([NOON + timedelta(hours=2)], labels=[]),
            ]
        )
        events = schedule.next(4, after=NOON, return_events=True)
        assert [(event.start_time.hour, event.parameter_defaults, event.labels) for event in events] == [
            (13, {"x": 1}, ("a",)), (14, None, ()), (0, {"x": 2}, None), (12, {"x": 2}, None),
        ]  # fmt: skip

    def test_only_equal_events_are_one(self):
        clocks = [
            CronClock("0 13 * * *"),
            CronClock("0 13 * * *"),
            CronClock("0 13 * * *", parameter_defaults={"x": 1}),
            CronClock("0 13 * * *", labels=["a"]),
            CronClock("0 15 * * *", timezone="Europe/Berlin"),
        ]
        events = Schedule(clocks).next(3, after=NOON, return_events=True)
        assert {event.start_time.astimezone(UTC).hour for event in events} == {13}
        assert len(Schedule(clocks).next(6, after=NOON)) == 6
        assert len(set(map(str, Schedule(clocks).next(6, after=NOON, return_events=True)))) == 6

    def test_start_and_end_are_those_of_all_clocks(self):
        schedule = Schedule(
            [
                IntervalClock(timedelta(1), NOON),
                IntervalClock(timedelta(1), NOON - timedelta(1), NOON + timedelta(9)),
                DatesClock([NOON + timedelta(5), NOON + timedelta(2)]),
            ]
        )
        assert (schedule.start_date, schedule.end_date) == (NOON - timedelta(1), NOON + timedelta(9))
        assert (CronSchedule("* * * * *").start_date, CronSchedule("* * * * *").end_date) == (None, None)

    def test_only_clocks(self):
        with pytest.raises(TypeError, match="made of clocks"):
            Schedule(["0 0 * * *"])


class TestClocks:
    def test_bad_cron_strings_raise_at_once(self):
        with pytest.raises(ValueError, match="4 fields"):
            CronSchedule("* * * *")
        with pytest.raises(InvalidArgumentError, match="time zone"):
            CronSchedule("* * * * *", timezone="Nowhere")

    def test_the_start_date_gives_the_zone(self):
        clock = CronClock("0 9 * * *", start_date=datetime(2024, 3, 1, tzinfo=ZoneInfo("America/New_York")))
        assert clock.spec.timezone == "America/New_York"
        times = list(itertools.islice(clock.events(after=datetime(2024, 3, 9, tzinfo=UTC)), 2))
        assert [event.start_time.astimezone(UTC).hour for event in times] == [14, 13]

    def test_an_interval_starts_at_its_start_date(self):
        clock = IntervalClock(timedelta(hours=5), start_date=NOON)
        assert next(clock.events(after=NOON - timedelta(days=9))).start_time == NOON

    def test_intervals(self):
        for bad in (timedelta(0), timedelta(seconds=-1)):
            with pytest.raises(ValueError, match="more than 0"):
                IntervalSchedule(bad)
        with pytest.raises(TypeError, match="timedelta"):
            IntervalSchedule(60)
        assert len(IntervalSchedule(timedelta(seconds=10)).next(3, after=NOON)) == 3

    def test_dates(self):
        clock = DatesClock([NOON + timedelta(1), NOON.replace(tzinfo=None)])
        assert clock.dates == [NOON, NOON + timedelta(1)]
        assert [event.start_time for event in clock.events(after=NOON)] == [NOON + timedelta(1)]
        with pytest.raises(ValueError, match="at least one"):
            DatesClock([])
        with pytest.raises(TypeError, match="must be a datetime"):
            DatesClock(["2024-01-01"])

    def test_labels_must_be_a_list(self):
        with pytest.raises(TypeError, match="labels"):
            CronClock("* * * * *", labels="abc")

    @pytest.mark.parametrize(
        ("info", "name"),
        [
            (UTC, "UTC"),
            (ZoneInfo("Europe/Paris"), "Europe/Paris"),
            (timezone(timedelta(0)), "UTC"),
            (timezone(timedelta(hours=2)), "Etc/GMT-2"),
            (timezone(timedelta(hours=-5)), "Etc/GMT+5"),
        ],
    )
    def test_zone_names(self, info, name):
        time = datetime(2024, 5, 1, tzinfo=info)
        assert zone_name(time) == name
        assert time.astimezone(ZoneInfo(name)).utcoffset() == time.utcoffset()

    def test_zones_of_other_libraries_are_known_by_their_name(self):
        for attribute in ("zone", "name", "key"):
            value = SimpleNamespace(tzinfo=SimpleNamespace(**{attribute: "Asia/Tokyo"}))
            assert zone_name(value) == "Asia/Tokyo"

    def test_an_offset_without_a_name_is_refused_with_advice(self):
        with pytest.raises(InvalidArgumentError, match="no IANA name") as caught:
            CronClock("* * * * *", datetime(2024, 1, 1, tzinfo=timezone(timedelta(minutes=330))))
        assert "ZoneInfo" in caught.value.hint
