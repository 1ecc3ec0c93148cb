"""Keeps the app's worker processes: starts them, starts again what died, stops them with itself."""

import signal
import subprocess
import time
from collections.abc import Sequence
from contextlib import suppress
from types import FrameType

LOOK = 0.1  # seconds between looks at the workers
AGAIN = 2.0  # seconds between the starts of a worker that dies at once


class Workers:
    """So many processes of one command; seconds: that they may take to end."""

    def __init__(self, command: Sequence[str], count: int, seconds: float) -> None:
        self._command, self._count, self._seconds = command, count, seconds
        self._running: list[tuple[subprocess.Popen[bytes], float]] = []
        self._stopping = False

    def run(self) -> None:
        """Returns once a signal (SIGTERM, SIGINT) has come and the workers have ended."""
        for which in (signal.SIGTERM, signal.SIGINT):
            signal.signal(which, self._stop)
        try:
            while not self._stopping:
                self._keep()
                time.sleep(LOOK)
        finally:
            self._end()

    def _stop(self, which: int, frame: FrameType | None) -> None:
        del which, frame
        self._stopping = True

    def _keep(self) -> None:
        """Starts what is missing."""
        now = time.monotonic()
        alive = []
        for process, begun in self._running:
            if process.poll() is None or now - begun < AGAIN:
                alive.append((process, begun))
        for _ in range(self._count - len(alive)):
            with suppress(OSError):  # no memory, or too many processes: at the next look
                started = subprocess.Popen(self._command)  # noqa: S603 - our own
                alive.append((started, now))
        self._running = alive

    def _end(self) -> None:
        for process, _ in self._running:
            process.terminate()
        end = time.monotonic() + self._seconds
        for process, _ in self._running:
            try:
                process.wait(max(0.0, end - time.monotonic()))
            except subprocess.TimeoutExpired:
                process.kill()
                process.wait()
