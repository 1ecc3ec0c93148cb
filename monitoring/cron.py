"""Crontab expressions, as crontab(5) means them: APScheduler means some of them otherwise.

Five fields: minute, hour, day of the month, month, day of the week; a sixth before them, if there
is one, is seconds. Each is `*` or a list of numbers, ranges and steps (`*/15`, `1-5`, `0,30`);
months and days of the week may be named (`jan`, `mon-fri`).
"""

import re
from datetime import UTC, datetime, tzinfo
from zoneinfo import ZoneInfo

from apscheduler.triggers.base import BaseTrigger
from apscheduler.triggers.combining import OrTrigger
from apscheduler.triggers.cron import CronTrigger

from serving.settings import UserError, require

MONTHS = ("jan", "feb", "mar", "apr", "may", "jun", "jul", "aug", "sep", "oct", "nov", "dec")
DAYS = ("sun", "mon", "tue", "wed", "thu", "fri", "sat")  # as crontab counts them; 7 is sun too
BOUNDS = {
    "second": (0, 59),
    "minute": (0, 59),
    "hour": (0, 23),
    "day": (1, 31),
    "month": (1, 12),
    "day_of_week": (0, 7),
}
_ITEM = re.compile(r"(?:\*|(\w+)(?:-(\w+))?)(?:/(\d+))?")


def trigger(expression: str, timezone: str) -> BaseTrigger:
    """When to run, in a time zone of the IANA's names.

    Raises UserError for what is no cron expression, one that never comes, and an unknown zone.
    """
    zone = _zone(timezone)
    fields = expression.split()
    require(
        len(fields) in (5, 6),
        "Expected a cron expression of five fields (minute, hour, day, month, day of the week), as "
        f"'0 * * * *' for every hour, got {expression!r}.",
    )
    texts = dict(zip(BOUNDS, fields if len(fields) == 6 else ["0", *fields], strict=True))
    try:
        found = _trigger({name: _numbers(name, text) for name, text in texts.items()}, texts, zone)
    except ValueError as error:
        raise UserError(f"Expected a cron expression, but in {expression!r} {error}.") from error
    require(
        found.get_next_fire_time(None, datetime.now(zone)) is not None,
        f"Expected a cron expression of times that come, but {expression!r} has none.",
    )
    return found


def _zone(name: str) -> tzinfo:
    try:
        return ZoneInfo(name)
    except (KeyError, ValueError, OSError) as error:
        raise UserError(
            f"Expected a time zone as UTC or Europe/Berlin, got {name!r}; see the IANA's list."
        ) from error


def _trigger(numbers: dict[str, list[int]], texts: dict[str, str], zone: tzinfo) -> BaseTrigger:
    """Of days of the month and of the week that both are restricted, either is enough, as in cron.

    APScheduler wants both, counts days of the week from Monday, and reads `mon-fri/2` as `mon-fri`:
    so it is given lists of numbers, and names for days of the week.
    """
    lists = {name: ",".join(map(str, found)) for name, found in numbers.items()}
    lists["day_of_week"] = ",".join(DAYS[number] for number in numbers["day_of_week"])
    lists |= {name: "*" for name, text in texts.items() if text == "*"}
    often = texts["minute"].startswith("*") or texts["hour"].startswith("*")
    kind = CronTrigger if often else _Once
    if texts["day"].startswith("*") or texts["day_of_week"].startswith("*"):
        return kind(**lists, timezone=zone)
    either = (lists | {"day": "*"}, lists | {"day_of_week": "*"})
    return OrTrigger([kind(**one, timezone=zone) for one in either])


class _Once(CronTrigger):  # type: ignore[misc]
    """Times of the day, which come once where the clocks go back over them, as in cron."""

    def get_next_fire_time(self, previous: datetime | None, now: datetime) -> datetime | None:
        """The next time, none where there is none any more."""
        found: datetime | None = super().get_next_fire_time(previous, now)
        while found is not None and _repeated(found):
            found = super().get_next_fire_time(found, found)
        return found


def _repeated(time: datetime) -> bool:
    """Whether the clocks have shown a time before; `fold` alone may be left over from another."""
    return bool(time.astimezone(UTC).astimezone(time.tzinfo).fold)


def _numbers(name: str, text: str) -> list[int]:
    """The numbers that a field lists, sorted. Raises ValueError in the middle of a sentence."""
    found: set[int] = set()
    for item in text.lower().split(","):
        match = _ITEM.fullmatch(item)
        if match is None:
            raise ValueError(f"{item!r} is no {_called(name)}")
        found |= set(_range(name, item, *match.groups()))
    return sorted({number % 7 for number in found} if name == "day_of_week" else found)


def _range(name: str, item: str, first: str | None, last: str | None, step: str | None) -> range:
    lowest, highest = BOUNDS[name]
    start = lowest if first is None else _number(name, first)
    if last is not None:
        end = 7 if last == "sun" and start else _number(name, last)
    else:
        end = highest if first is None or step else start
    if not lowest <= start <= end <= highest or step == "0":
        raise ValueError(f"{item!r} is no {_called(name)} ({lowest} to {highest})")
    return range(start, end + 1, int(step or 1))


def _number(name: str, text: str) -> int:
    names = {"month": ("", *MONTHS), "day_of_week": DAYS}.get(name, ())
    if text.isdecimal() and text.isascii():
        return int(text)
    if text in names:
        return names.index(text)
    raise ValueError(f"{text!r} is no {_called(name)}")


def _called(name: str) -> str:
    return {"day": "day of the month", "day_of_week": "day of the week"}.get(name, name)
