"""What the parts of a schedule share."""

import threading
from collections.abc import Mapping, Sequence
from contextlib import suppress
from dataclasses import dataclass
from datetime import datetime, tzinfo

from monitoring.alerts import Alerts
from monitoring.jobs import State
from monitoring.runs import PASSWORD


@dataclass(frozen=True)
class Context:
    """stopping: set as the schedule stops; environment: of the processes that it starts.

    secrets: passwords that they know, in the spellings in which they may be repeated.
    """

    state: State
    alerts: Alerts
    stopping: threading.Event
    environment: Mapping[str, str]
    zone: tzinfo
    secrets: Sequence[str] = ()

    def say(self, line: str) -> None:
        """Prints a line, with the time."""
        with suppress(OSError):  # nobody listens
            print(f"{self.clock(datetime.now(self.zone))}  {line}", flush=True)

    def redacted(self, text: str) -> str:
        """What a process said, without the secrets, and without a password in any URL."""
        for secret in self.secrets:
            text = text.replace(secret, "***")
        return PASSWORD.sub("//", text)

    def clock(self, time: datetime) -> str:
        """A time for a reader."""
        return f"{time.astimezone(self.zone):%Y-%m-%d %H:%M:%S %Z}"
