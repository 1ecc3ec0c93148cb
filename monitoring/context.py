"""What the parts of a schedule share."""

import threading
from collections.abc import Mapping
from contextlib import suppress
from dataclasses import dataclass
from datetime import datetime, tzinfo

from monitoring.alerts import Alerts
from monitoring.jobs import State


@dataclass(frozen=True)
class Context:
    """stopping: set as the schedule stops; environment: of the processes that it starts.

    secret: a password that they know, or empty.
    """

    state: State
    alerts: Alerts
    stopping: threading.Event
    environment: Mapping[str, str]
    zone: tzinfo
    secret: str = ""

    def say(self, line: str) -> None:
        """Prints a line, with the time."""
        with suppress(OSError):  # nobody listens
            print(f"{self.clock(datetime.now(self.zone))}  {line}", flush=True)

    def redacted(self, text: str) -> str:
        """What a process said, without the secret."""
        return text.replace(self.secret, "***") if self.secret else text

    def clock(self, time: datetime) -> str:
        """A time for a reader."""
        return f"{time.astimezone(self.zone):%Y-%m-%d %H:%M:%S %Z}"
