"""A program of ours as a process of its own, that outlives a kill of the one that started it.

It is in a session of its own, writes to files rather than pipes, and holds a lock, so that a
restarted schedule waits for what the killed one has left behind.
"""

import os
import signal
import subprocess
import sys
import tempfile
import time
from collections.abc import Mapping, Sequence
from contextlib import suppress
from pathlib import Path

from serving.durable import SUFFIX

SECONDS = 5.0  # that a process may take to end when it is asked to
TAIL = 20_000  # bytes of what it said that are read
PREFIX = "lookout-"  # of folders
OUTPUT, ERRORS = "stdout.txt", "stderr.txt"


class Lock:
    """A file's lock: one holder on this machine, which may be a process that a holder started."""

    def __init__(self, path: Path) -> None:
        self._path = path
        self._file: int | None = None

    def take(self) -> bool:
        """Whether the lock is this process's now. Raises OSError where its file cannot be made."""
        import fcntl  # Windows has none

        flags = os.O_RDWR | os.O_CREAT | os.O_NOFOLLOW | os.O_CLOEXEC
        file = os.open(self._path, flags, 0o600)
        try:
            fcntl.flock(file, fcntl.LOCK_EX | fcntl.LOCK_NB)
        except OSError:
            os.close(file)
            return False
        self._file = file
        return True

    def release(self) -> None:
        """Gives the lock up; a process that inherited it and runs still holds it."""
        if self._file is not None:
            os.close(self._file)
            self._file = None

    @property
    def inherited(self) -> Sequence[int]:
        """File descriptors that a process must inherit to hold the lock."""
        return () if self._file is None else (self._file,)


class Process:
    """A module that runs, with flags; folder: for what it says, and left by it."""

    def __init__(
        self,
        module: str,
        flags: Mapping[str, str],
        environment: Mapping[str, str],
        folder: Path,
        lock: Lock,
    ) -> None:
        self._folder = folder
        arguments = [f"--{name}={value}" for name, value in flags.items()]
        with (folder / OUTPUT).open("wb") as output, (folder / ERRORS).open("wb") as errors:
            self._process = subprocess.Popen(  # noqa: S603 - our own module
                [sys.executable, "-m", module, *arguments],
                env=environment,
                stdin=subprocess.DEVNULL,
                stdout=output,
                stderr=errors,
                pass_fds=lock.inherited,
                start_new_session=True,
            )

    def wait(self) -> int:
        """The exit status, once there is one; negative for a signal."""
        return self._process.wait()

    def end(self, seconds: float = SECONDS) -> None:
        """Ends the process and those that it started, at the latest after `seconds`."""
        self._send(signal.SIGTERM)
        latest = time.monotonic() + seconds
        while self._process.poll() is None and time.monotonic() < latest:
            time.sleep(0.05)
        self._send(signal.SIGKILL)

    def _send(self, which: signal.Signals) -> None:
        if self._process.poll() is None:
            with suppress(ProcessLookupError):  # it has ended since
                os.killpg(self._process.pid, which)


def scratch() -> Path:
    """A folder for what a process says. Raises OSError."""
    return Path(tempfile.mkdtemp(prefix=PREFIX))


def said(folder: Path, name: str) -> str:
    """The last lines of what a process wrote to OUTPUT or ERRORS; empty where there is nothing.

    Only whole lines: half a URL is not known to be one, and the other half may be a password.
    """
    try:
        text = (folder / name).read_bytes()
    except OSError:
        return ""
    tail = text if len(text) <= TAIL else text[-TAIL:].partition(b"\n")[2]
    return tail.decode(errors="replace").strip()


def complaint(folder: Path, status: int) -> str:
    """The sentence in which a process that failed said why, or its last line; neither is cut."""
    lines = said(folder, ERRORS).splitlines()
    ours = [line.removeprefix("lookout: ") for line in lines if line.startswith("lookout: ")]
    last = (ours or [line.strip() for line in lines if line.strip()] or [""])[-1]
    how = f"signal {-status}" if status < 0 else f"status {status}"
    return last if ours else f"It ended with {how}{': ' if last else '.'}{last}"


def remove(folder: Path, *names: str) -> None:
    """Removes a process's folder with what we know to be in it, `names` too, and nothing else."""
    if not folder.name.startswith(PREFIX):
        return
    for name in (OUTPUT, ERRORS, *names):
        (folder / name).unlink(missing_ok=True)
    for unfinished in folder.glob(f".*{SUFFIX}"):
        unfinished.unlink(missing_ok=True)
    with suppress(OSError):
        folder.rmdir()
