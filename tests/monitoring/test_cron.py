from datetime import UTC, datetime, timedelta

import pytest

from monitoring.cron import trigger
from serving.settings import UserError

START = datetime(2026, 11, 21, 21, 0, 30, tzinfo=UTC)  # a Saturday


def following(expression: str, count: int, zone: str = "UTC", start: datetime = START) -> list[str]:
    """The next times, as `Sun 22 08:00:00`."""
    when, times, now = trigger(expression, zone), [], start
    for _ in range(count):
        found = when.get_next_fire_time(None, now)
        times.append(f"{found:%a %d %H:%M:%S}")
        now = found + timedelta(seconds=1)
    return times


@pytest.mark.parametrize(
    ("expression", "times"),
    [
        ("*/15 * * * *", ["Sat 21 21:15:00", "Sat 21 21:30:00"]),
        ("5/20 * * * *", ["Sat 21 21:05:00", "Sat 21 21:25:00"]),
        ("0,30 22-23 * * *", ["Sat 21 22:00:00", "Sat 21 22:30:00", "Sat 21 23:00:00"]),
        ("0 0 1 jan-mar/2 *", ["Fri 01 00:00:00", "Mon 01 00:00:00"]),
        ("*/20 * * * * *", ["Sat 21 21:00:40", "Sat 21 21:01:00"]),  # seconds first
    ],
)
def test_times_are_those_of_the_expression(expression, times):
    assert following(expression, len(times)) == times


@pytest.mark.parametrize(
    ("field", "days"),
    [
        ("0", "Sun"),
        ("7", "Sun"),
        ("1-5", "Mon Tue Wed Thu Fri"),
        ("5-7", "Fri Sat Sun"),
        ("sat-sun", "Sat Sun"),
        ("sun-sun", "Sun"),
        ("MON-fri/2", "Mon Wed Fri"),
        ("*/2", "Sun Tue Thu Sat"),
    ],
)
def test_days_of_the_week_count_from_sunday_as_in_crontab(field, days):
    found = {time.split()[0] for time in following(f"0 8 * * {field}", 7)}
    assert found == set(days.split())


def test_of_a_day_of_the_month_and_one_of_the_week_either_is_enough():
    assert following("0 0 24 * 5", 3) == ["Tue 24 00:00:00", "Fri 27 00:00:00", "Fri 04 00:00:00"]
    assert following("0 0 */2 * 5", 2) == ["Fri 27 00:00:00", "Fri 11 00:00:00"]  # both


def test_times_are_those_of_the_zone_through_a_change_of_clocks():
    start = datetime(2026, 10, 24, 12, 0, tzinfo=UTC)
    when = trigger("0 8 * * *", "Europe/Berlin")
    first = when.get_next_fire_time(None, start)
    assert first.astimezone(UTC).hour == 7  # the clocks went back that night
    assert when.get_next_fire_time(None, start - timedelta(days=1)).astimezone(UTC).hour == 6


@pytest.mark.parametrize(
    ("expression", "times"),
    [
        ("30 2 * * *", ["25 00:30", "26 01:30"]),
        ("30 2,4 * * *", ["25 00:30", "25 03:30"]),
        ("30 2 25 * 1", ["25 00:30", "26 01:30"]),
        ("30 * * * *", ["25 00:30", "25 01:30", "25 02:30"]),  # 2:30, 2:30 and 3:30 there
        ("*/30 2 * * *", ["25 00:00", "25 00:30", "25 01:00", "25 01:30", "26 01:00"]),
    ],
)
def test_a_time_that_the_clocks_show_twice_comes_once_unless_it_is_one_of_many(expression, times):
    when, now, found = trigger(expression, "Europe/Berlin"), datetime(2026, 10, 25, tzinfo=UTC), []
    for _ in times:
        following = when.get_next_fire_time(None, now).astimezone(UTC)
        found.append(f"{following:%d %H:%M}")
        now = following + timedelta(seconds=1)
    assert found == times


@pytest.mark.parametrize(
    ("expression", "zone", "sentence"),
    [
        ("* * *", "UTC", "of five fields .* got '\\* \\* \\*'"),
        ("60 * * * *", "UTC", "'60' is no minute \\(0 to 59\\)"),
        ("* * * * 8", "UTC", "'8' is no day of the week"),
        ("* * * * fri-mon", "UTC", "'fri-mon' is no day of the week"),
        ("*/0 * * * *", "UTC", "'\\*/0' is no minute"),
        ("1- * * * *", "UTC", "'1-' is no minute"),
        ("0 0 last * *", "UTC", "'last' is no day of the month"),
        ("0 0 30 2 *", "UTC", "of times that come"),
        ("* * * * *", "Mars/Phobos", "Expected a time zone as UTC or Europe/Berlin"),
        ("* * * * *", "../UTC", "Expected a time zone"),
        ("* * * * *", "America", "Expected a time zone"),
    ],
)
def test_what_cannot_be_meant_is_refused(expression, zone, sentence):
    with pytest.raises(UserError, match=sentence):
        trigger(expression, zone)
