"""Which of the images that there are a check looks at: the parameter `since`."""

import re
from dataclasses import dataclass
from datetime import datetime, timedelta
from typing import Self

from monitoring import history
from serving.settings import UserError, require

UNITS = {"m": "minutes", "h": "hours", "d": "days"}
LAST = "last"


@dataclass(frozen=True)
class Window:
    """Images from after `after` to `until`, of these the newest `most`; None: no bound."""

    until: datetime
    after: datetime | None = None
    most: int | None = None

    @classmethod
    def parse(cls, since: str, until: datetime) -> Self:
        """`30m`, `24h`, `7d`: so long ago; `500`: the last so many; empty or `last`: no bound.

        Raises UserError for another form.
        """
        if since in ("", LAST):
            return cls(until)
        if re.fullmatch(r"[0-9]{1,9}", since) and int(since):
            return cls(until, most=int(since))
        found = re.fullmatch(r"([0-9]{1,6}(?:\.[0-9]+)?)([mhd])", since)
        if not found or not float(found[1]):
            raise UserError(
                "Expected since as a time (30m, 24h, 7d), a number of images (500), or last, got "
                f"{since!r}."
            )
        ago = timedelta(**{UNITS[found[2]]: float(found[1])})
        require(ago < timedelta(days=36_500), f"Expected since within a century, got {since!r}.")
        return cls(until, until - ago)

    def __str__(self) -> str:
        """In words, for a reader."""
        if self.most:
            return f"the last {self.most:,} images"
        if self.after:
            return f"from {self.after:%Y-%m-%d %H:%M} to {self.until:%Y-%m-%d %H:%M} UTC"
        return "all"


def since_last(model: str, source: str) -> datetime | None:
    """The end of the last check's window, of this model and source; None where there was none."""
    last = history.past(model, source, limit=1)
    return last[0].until if last else None
