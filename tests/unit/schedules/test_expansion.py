"""The rule of daylight saving time, over zones and transitions, against an independent implementation."""

# ruff: noqa: DTZ001 - wall times are naive

import itertools
from datetime import UTC, datetime, timedelta
from zoneinfo import ZoneInfo, available_timezones

import pytest
from cronsim import CronSim, CronSimError
from hypothesis import given
from hypothesis import strategies as st
from tests.unit.schedules.zones import TRICKY, transitions

from heliograph.exceptions import InvalidArgumentError
from heliograph.schedules.expansion import (
    CronSpec,
    DatesSpec,
    IntervalSpec,
    Occurrence,
    clock_key,
    occurrence_id,
    occurrences,
    validate_cron,
    validate_spec,
)

BERLIN = "Europe/Berlin"
WINDOW = timedelta(days=2)

minutes = st.one_of(st.integers(0, 59).map(str), st.sampled_from(["0,30", "*/20", "5-7"]))
hours = st.one_of(st.integers(0, 23).map(str), st.sampled_from(["0-4", "1,2,3", "*/2", "23,0", "0-22"]))
fixed_crons = st.builds("{} {} * * *".format, minutes, hours)
hourly_crons = st.builds("{} {} * * *".format, minutes, st.sampled_from(["*", "*/1", "0-23"]))


@st.composite
def zones_and_instants(draw):
    """A zone, and an instant within two days of one of its transitions, or anywhere."""
    name = draw(st.sampled_from(TRICKY))
    anywhere = st.datetimes(datetime(1971, 1, 1), datetime(2037, 1, 1)).map(lambda time: time.replace(tzinfo=UTC))
    if not transitions(name):
        return name, draw(anywhere)
    near = st.builds(
        lambda time, seconds: time + timedelta(seconds=seconds),
        st.sampled_from(transitions(name)),
        st.integers(-int(WINDOW.total_seconds()), int(WINDOW.total_seconds())),
    )
    return name, draw(st.one_of(near, near, anywhere))


def between(spec, after, until):
    return list(itertools.takewhile(lambda found: found.time <= until, occurrences(spec, after)))


def slots(cron, after, until):
    """The wall times of an expression, by the other implementation."""
    return list(itertools.takewhile(lambda slot: slot <= until, CronSim(cron, after)))


def exists(slot, zone):
    return slot.replace(tzinfo=zone).astimezone(UTC).astimezone(zone).replace(tzinfo=None, fold=0) == slot


def berlin(cron, after, n):
    found = itertools.islice(occurrences(CronSpec(cron, BERLIN), datetime.fromisoformat(after)), n)
    return [item.time.astimezone(ZoneInfo(BERLIN)).strftime("%d %H:%M%z") for item in found]


class TestExamples:
    def test_a_fixed_time_in_the_gap_shifts_by_its_length(self):
        assert berlin("30 2 * * *", "2024-03-30T12:00Z", 2) == ["31 03:30+0200", "01 02:30+0200"]

    def test_also_when_looked_for_after_the_gap_began(self):
        assert berlin("30 2 * * *", "2024-03-31T01:10Z", 1) == ["31 03:30+0200"]
        assert berlin("30 2 * * *", "2024-03-31T01:30Z", 1) == ["01 02:30+0200"]

    def test_a_shifted_time_gives_way_to_a_real_one(self):
        [real] = between(
            CronSpec("30 2,3 * * *", BERLIN),
            datetime(2024, 3, 31, tzinfo=UTC),
            datetime(2024, 3, 31, 12, tzinfo=UTC),
        )
        assert real.slot == datetime(2024, 3, 31, 3, 30)

    def test_a_fixed_time_in_the_repeated_hour_happens_once_and_first(self):
        """croniter's own handling fires it twice."""
        assert berlin("30 2 * * *", "2024-10-26T12:00Z", 2) == ["27 02:30+0200", "28 02:30+0100"]
        assert berlin("30 2 * * *", "2024-10-27T00:45Z", 1) == ["28 02:30+0100"]

    def test_every_so_often_goes_through_both_passes_and_over_the_gap(self):
        assert berlin("*/30 * * * *", "2024-10-26T23:45Z", 5) == [
            "27 02:00+0200", "27 02:30+0200", "27 02:00+0100", "27 02:30+0100", "27 03:00+0100",
        ]  # fmt: skip
        assert berlin("*/30 * * * *", "2024-03-31T00:10Z", 3) == ["31 01:30+0100", "31 03:00+0200", "31 03:30+0200"]

    def test_minutes_of_one_hour_are_fixed_times(self):
        assert len(berlin("*/15 2 * * *", "2024-10-26T12:00Z", 5)) == 5
        assert berlin("*/15 2 * * *", "2024-10-26T12:00Z", 5)[4] == "28 02:00+0100"
        assert berlin("*/15 2 * * *", "2024-03-30T12:00Z", 4) == [
            "31 03:00+0200", "31 03:15+0200", "31 03:30+0200", "31 03:45+0200",
        ]  # fmt: skip

    def test_a_day_that_never_was(self):
        found = between(
            CronSpec("0 9 * * *", "Pacific/Apia"),
            datetime(2011, 12, 28, tzinfo=UTC),
            datetime(2012, 1, 1, tzinfo=UTC),
        )
        assert [item.slot.day for item in found] == [28, 29, 31, 1]

    def test_six_fields_have_seconds_last(self):
        found = itertools.islice(occurrences(CronSpec("* * * * * 10"), datetime(2024, 1, 1, tzinfo=UTC)), 2)
        assert [(item.time.minute, item.time.second) for item in found] == [(0, 10), (1, 10)]

    def test_both_days_or_either(self):
        after, until = datetime(2024, 9, 1, tzinfo=UTC), datetime(2024, 10, 1, tzinfo=UTC)
        either = between(CronSpec("0 0 13 * 5"), after, until)
        both = between(CronSpec("0 0 13 * 5", day_or=False), after, until)
        assert [item.time.day for item in either] == [6, 13, 20, 27]
        assert [item.time.day for item in both] == [13]

    def test_start_and_end_are_inclusive(self):
        start, end = datetime(2024, 1, 1, 12, tzinfo=UTC), datetime(2024, 1, 1, 15, tzinfo=UTC)
        long_ago = datetime(2020, 1, 1, tzinfo=UTC)
        for spec in (
            CronSpec("0 * * * *", start=start, end=end),
            IntervalSpec(timedelta(hours=1), start=start, end=end),
            DatesSpec(tuple(start + timedelta(hours=n) for n in range(-3, 9)), start=start, end=end),
        ):
            assert [item.time.hour for item in occurrences(spec, long_ago)] == [12, 13, 14, 15]

    def test_long_ago_and_far_away(self):
        ancient = datetime(1, 1, 2, tzinfo=UTC)
        assert next(occurrences(CronSpec("0 0 1 1 *"), ancient)).time.year == 1971  # croniter knows none before
        assert not list(occurrences(CronSpec("0 0 1 1 *"), datetime(2099, 12, 31, tzinfo=UTC)))
        assert len(list(occurrences(IntervalSpec(timedelta(days=300_000)), ancient))) > 5


class TestCronProperties:
    @given(zones_and_instants(), st.one_of(fixed_crons, hourly_crons))
    def test_times_rise_and_keys_are_unique(self, where, cron):
        zone, instant = where
        found = between(CronSpec(cron, zone), instant - timedelta(days=1), instant + timedelta(days=1))
        times = [item.time for item in found]
        assert times == sorted(set(times))
        assert len({item.key for item in found}) == len(found)

    @given(zones_and_instants(), fixed_crons)
    def test_a_fixed_time_happens_once_per_wall_slot(self, where, cron):
        zone, instant = where
        tz = ZoneInfo(zone)
        after, until = instant - timedelta(days=3), instant + timedelta(days=3)
        found = between(CronSpec(cron, zone), after, until)
        assert not any(item.fold for item in found)
        by_slot = {item.slot: item.time for item in found}
        assert len(by_slot) == len(found)
        inner = (instant - timedelta(days=1)).replace(tzinfo=None), (instant + timedelta(days=1)).replace(tzinfo=None)
        times = set(by_slot.values())
        for slot in slots(cron, *inner):
            expected = slot.replace(tzinfo=tz).astimezone(UTC)
            if exists(slot, tz):
                assert by_slot[slot] == expected
            else:
                assert expected in times  # shifted by the length of the gap, itself or in the place of a real slot

    @given(zones_and_instants(), hourly_crons)
    def test_every_so_often_is_whenever_the_wall_shows_the_minute(self, where, cron):
        zone, instant = where
        tz = ZoneInfo(zone)
        after, until = instant.replace(second=0, microsecond=0), instant + timedelta(hours=30)
        wanted = CronSim(cron, datetime(2024, 1, 1)).minutes
        half_minutes = (after + timedelta(seconds=30 * n) for n in range(1, 2 * 60 * 31))
        walls = ((time, time.astimezone(tz)) for time in half_minutes if time <= until)
        expected = [time for time, wall in walls if wall.second == 0 and wall.minute in wanted]
        assert [item.time for item in between(CronSpec(cron, zone), after, until)] == expected

    @given(zones_and_instants(), st.one_of(fixed_crons, hourly_crons), st.integers(0, 48 * 3600))
    def test_where_one_begins_to_look_does_not_matter(self, where, cron, seconds):
        zone, instant = where
        spec = CronSpec(cron, zone)
        after, until = instant + timedelta(seconds=seconds), instant + timedelta(days=3)
        assert between(spec, after, until) == [
            item for item in between(spec, instant - timedelta(days=2), until) if item.time > after
        ]

    @given(st.builds("{} {} {} {} *".format, minutes, hours, st.integers(1, 31), st.sampled_from(["*", "2", "1-6"])))
    def test_wall_times_agree_with_another_implementation(self, cron):
        start = datetime(2023, 1, 1)
        try:
            theirs = [slot for slot in itertools.islice(CronSim(cron, start), 20) if slot.year < 2090]
        except CronSimError:
            with pytest.raises(InvalidArgumentError):
                validate_cron(cron)
            return
        ours = itertools.islice(occurrences(CronSpec(cron), start.replace(tzinfo=UTC)), len(theirs))
        assert [item.slot for item in ours] == theirs

    @pytest.mark.full
    @pytest.mark.timeout(3_600)
    def test_all_transitions_of_all_zones(self):
        for zone in sorted(available_timezones()):
            tz = ZoneInfo(zone)
            for time in transitions(zone):
                found = between(CronSpec("*/30 0-3,22,23 * * *", zone), time - WINDOW, time + WINDOW)
                times = {item.time for item in found}
                assert len(times) == len(found) == len({item.key for item in found})
                day = timedelta(days=1)
                first, last = (edge.astimezone(tz).replace(tzinfo=None) for edge in (time - day, time + day))
                for slot in slots("*/30 0-3,22,23 * * *", first, last):
                    assert slot.replace(tzinfo=tz).astimezone(UTC) in times, (zone, slot)


class TestIntervals:
    def test_without_a_start_the_grid_is_midnight_utc(self):
        found = occurrences(IntervalSpec(timedelta(days=1)), datetime(2024, 3, 30, 1, tzinfo=UTC))
        assert next(found).time == datetime(2024, 3, 31, tzinfo=UTC)

    def test_days_keep_wall_time_and_hours_do_not(self):
        anchor = datetime(2024, 3, 29, 6, tzinfo=ZoneInfo(BERLIN))
        days = itertools.islice(occurrences(IntervalSpec(timedelta(days=1), anchor, BERLIN), anchor), 3)
        assert [item.time.astimezone(ZoneInfo(BERLIN)).hour for item in days] == [6, 6, 6]
        halves = itertools.islice(occurrences(IntervalSpec(timedelta(hours=12), anchor, BERLIN), anchor), 5)
        assert [item.time.astimezone(ZoneInfo(BERLIN)).hour for item in halves] == [18, 6, 18, 7, 19]

    @given(zones_and_instants(), st.timedeltas(timedelta(milliseconds=500), timedelta(hours=23)), st.integers(0, 10**6))
    def test_elapsed_steps_are_equal(self, where, step, offset):
        zone, instant = where
        anchor = instant - timedelta(seconds=offset)
        found = list(itertools.islice(occurrences(IntervalSpec(step, anchor, zone), instant), 6))
        assert instant < found[0].time <= instant + step
        assert all(second.time - first.time == step for first, second in itertools.pairwise(found))
        assert all(not (item.time - anchor) % step for item in found)

    @given(zones_and_instants(), st.integers(1, 40), st.integers(0, 2_000))
    def test_days_keep_the_wall_time_of_the_anchor(self, where, days, back):
        zone, instant = where
        tz = ZoneInfo(zone)
        anchor = (instant - timedelta(days=back)).astimezone(tz)
        found = itertools.islice(occurrences(IntervalSpec(timedelta(days=days), anchor, zone), instant), 6)
        previous = instant
        for item in found:
            local = item.time.astimezone(tz)
            distance = (local.date() - anchor.date()).days
            wall = anchor.replace(tzinfo=None, fold=0) + timedelta(days=round(distance / days) * days)
            if exists(wall, tz):
                assert local.time() == anchor.time()
                assert distance % days == 0
            assert item.time > previous
            previous = item.time

    @given(zones_and_instants(), st.timedeltas(timedelta(hours=1), timedelta(days=9)), st.integers(0, 10**6))
    def test_where_one_begins_to_look_does_not_matter(self, where, step, seconds):
        zone, instant = where
        spec = IntervalSpec(step, timezone=zone)
        after, until = instant + timedelta(seconds=seconds), instant + timedelta(seconds=seconds) + 4 * step
        early = [item for item in between(spec, instant, until) if item.time > after]
        assert between(spec, after, until) == early
        assert len(early) >= 3

    def test_an_interval_must_be_positive(self):
        with pytest.raises(InvalidArgumentError, match="more than 0"):
            next(occurrences(IntervalSpec(timedelta(0)), datetime(2024, 1, 1, tzinfo=UTC)))


class TestIdentity:
    def test_ids_depend_on_schedule_clock_slot_and_fold_only(self):
        slot = datetime(2024, 10, 27, 2, 30)
        key = clock_key(CronSpec("30 2 * * *", BERLIN))
        ids = {
            occurrence_id("projects/p/flows/f/schedule", key, slot, 0),
            occurrence_id("projects/p/flows/f/schedule", key, slot, 1),
            occurrence_id("projects/p/flows/g/schedule", key, slot, 0),
            occurrence_id("projects/p/flows/f/schedule", clock_key(CronSpec("30 2 * * *")), slot, 0),
            occurrence_id("projects/p/flows/f/schedule", key, slot + timedelta(days=1), 0),
        }
        assert len(ids) == 5

    def test_ids_never_change(self):
        """They are in databases: another value would double runs that are scheduled already."""
        key = clock_key(CronSpec("30 2 * * *", BERLIN), '{"x": 1}', ["b", "a"])
        assert key == PINNED_CLOCK
        assert str(occurrence_id("projects/p/flows/f/schedule", key, datetime(2024, 10, 27, 2, 30), 0)) == PINNED_ID

    def test_the_key_of_a_clock_is_its_meaning(self):
        one = clock_key(CronSpec("30 2 * * *"), '{"a": 1, "b": 2}', ["x", "y"])
        assert one == clock_key(CronSpec("30  2 * * *"), '{"b":2,"a":1}', ["y", "x", "x"])
        anchor = datetime(2024, 1, 1, tzinfo=UTC)
        berlin_anchor = anchor.astimezone(ZoneInfo(BERLIN))
        assert clock_key(IntervalSpec(timedelta(1), anchor)) == clock_key(IntervalSpec(timedelta(1), berlin_anchor))
        specs = [
            CronSpec("30 2 * * *"), CronSpec("31 2 * * *"), CronSpec("30 2 * * *", BERLIN),
            CronSpec("30 2 * * *", day_or=False),
            CronSpec("30 2 * * *", start=anchor), CronSpec("30 2 * * *", end=anchor),
            IntervalSpec(timedelta(1)), IntervalSpec(timedelta(2)), IntervalSpec(timedelta(1), anchor),
            DatesSpec((anchor,)), DatesSpec((anchor, anchor + timedelta(1))),
        ]  # fmt: skip
        keys = [clock_key(spec) for spec in specs]
        keys += [clock_key(specs[0], '{"x": 1}'), clock_key(specs[0], "", []), clock_key(specs[0], "", ["a"])]
        assert len(set(keys)) == len(keys)

    def test_the_two_passes_of_an_hour_have_two_keys(self):
        spec = CronSpec("0 * * * *", BERLIN)
        found = between(spec, datetime(2024, 10, 26, 23, 30, tzinfo=UTC), datetime(2024, 10, 27, 1, tzinfo=UTC))
        assert [item.key for item in found] == ["2024-10-27T02:00:00/0", "2024-10-27T02:00:00/1"]
        assert isinstance(found[0], Occurrence)


PINNED_CLOCK = "5a9fee1b1a370cb870caeee140232107"
PINNED_ID = "720d82ef-852f-5ca1-9a77-29cae8300ef2"


class TestValidation:
    @pytest.mark.parametrize(
        ("cron", "why"),
        [
            ("", "0 fields"),
            ("* * * *", "4 fields"),
            ("* * * * * * 2030", "7 fields"),
            ("@reboot", "not valid"),
            ("60 * * * *", "not valid"),
            ("0 0 31 2 *", "not valid"),
            ("R * * * *", "random"),
            ("0 r(1-5) * * *", "random"),
            ("H * * * *", "not valid"),
            ("x * * * *", "not valid"),
            ("*/0 * * * *", "not valid"),
            ("0 " * 200 + "* *", "at most 256"),
        ],
    )
    def test_cron(self, cron, why):
        with pytest.raises(InvalidArgumentError, match=why):
            validate_cron(cron)

    @pytest.mark.parametrize("cron", ["@daily", "@hourly", "0 13 * * *", "*/5 * * * *", "0 0 L * *", "0 9 * * mon-fri"])
    def test_cron_that_is_fine(self, cron):
        validate_spec(CronSpec(cron))

    @given(st.text(alphabet="0123456789*/,-LRH# @adimonw?\x00é", max_size=40))
    def test_any_text_is_valid_or_refused_cleanly(self, cron):
        try:
            validate_cron(cron)
        except InvalidArgumentError:
            return
        first = itertools.islice(occurrences(CronSpec(cron, BERLIN), datetime(2024, 1, 1, tzinfo=UTC)), 3)
        times = [item.time for item in first]
        assert times == sorted(set(times))

    @pytest.mark.parametrize(
        ("spec", "why"),
        [
            (CronSpec("* * * * *", "Mars/Base"), "no time zone 'Mars/Base'"),
            (CronSpec("* * * * *", "../etc/passwd"), "no time zone"),
            (IntervalSpec(timedelta(milliseconds=999)), "at least 1 second"),
            (IntervalSpec(timedelta(1), datetime(2024, 1, 1)), "must have a time zone"),
            (DatesSpec(()), "1 to 1,000"),
            (DatesSpec((datetime(2024, 1, 1),)), "must have a time zone"),
            (CronSpec("* * * * *", start=datetime(2024, 1, 1)), "must have a time zone"),
            (
                CronSpec("* * * * *", start=datetime(2024, 1, 2, tzinfo=UTC), end=datetime(2024, 1, 1, tzinfo=UTC)),
                "cannot end before",
            ),
        ],
    )
    def test_specs(self, spec, why):
        with pytest.raises(InvalidArgumentError, match=why):
            validate_spec(spec)
