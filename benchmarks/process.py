"""A contestant's process: run within a budget, its memory watched, nothing of it left behind."""

import os
import re
import signal
import subprocess
import time
from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager, suppress
from dataclasses import dataclass, field
from pathlib import Path

import psutil

from benchmarks.peers.job import START

GRACE = 20.0  # seconds to end after an interrupt
PROGRESS = 30.0  # seconds between lines


@dataclass
class Ended:
    """How a process ended.

    started: clock time (seconds); seconds: wall time; peak: bytes; error: the last line that it
    wrote where it failed.
    """

    started: float
    seconds: float = 0.0
    peak: int = 0
    error: str = ""


def run(
    label: str,
    command: Sequence[str],
    *,
    folder: Path,
    environment: Mapping[str, str],
    budget: float,
) -> Ended:
    """Runs `command` in `folder` for `budget` seconds at most; its output goes to `log.txt` there.

    At the end of the budget it is interrupted and then killed, with all that it started; what
    TensorFlow then leaves behind in the folder for temporary files is in `folder` too.
    """
    folder.mkdir(parents=True, exist_ok=True)
    ended = Ended(time.time())
    own = os.environ | environment | {START: str(ended.started), "TMPDIR": str(folder)}
    with running(command, folder, own) as (process, tree):
        in_time = _watch(label, process, tree, ended, budget)
    if in_time and process.returncode:
        ended.error = last_line(folder / "log.txt") or f"exit status {process.returncode}"
    return ended


@contextmanager
def running(
    command: Sequence[str], folder: Path, environment: Mapping[str, str]
) -> Iterator[tuple[subprocess.Popen[bytes], "Tree"]]:
    """A process of a session of its own, stopped at the end of the block with all that it started.

    Its output goes to `log.txt` in `folder`.
    """
    with (folder / "log.txt").open("wb") as log:
        process = subprocess.Popen(  # noqa: S603 - a contestant's command
            command,
            cwd=folder,
            env=environment,
            stdin=subprocess.DEVNULL,
            stdout=log,
            stderr=subprocess.STDOUT,
            start_new_session=True,
        )
        tree = Tree(process.pid)
        try:
            yield process, tree
        finally:
            tree.stop(process)


def _watch(
    label: str, process: subprocess.Popen[bytes], tree: "Tree", ended: Ended, budget: float
) -> bool:
    """Whether the process ended by itself within `budget` seconds."""
    shown = 0.0
    while process.poll() is None and ended.seconds < budget:
        ended.peak = max(ended.peak, tree.memory())
        if ended.seconds - shown >= PROGRESS:
            shown = ended.seconds
            peak = f"{ended.peak / 2**30:.1f} GiB at most"
            print(f"  {label}: {shown:.0f} of {budget:.0f} s, {peak}", flush=True)
        with suppress(subprocess.TimeoutExpired):
            process.wait(1)
        ended.seconds = time.time() - ended.started
    return process.poll() is not None


def last_line(log: Path) -> str:
    """The last line that names an error, else the last line."""
    lines = [line.strip() for line in log.read_text(errors="replace").splitlines() if line.strip()]
    errors = [line for line in lines if re.match(r"(lookout|error|[\w.]+(Error|Exception)):", line)]
    return next(reversed(errors or lines), "")[:300]


@dataclass
class Tree:
    """A process with all that it started: its session, and descendants that left the session.

    seen: all of them that were alive when one last looked.
    """

    root: int
    seen: set[psutil.Process] = field(default_factory=set)

    def memory(self) -> int:
        """Bytes now: proportional set size, where what processes share is divided among them."""
        return sum(_memory(process) for process in self.living())

    def living(self) -> set[psutil.Process]:
        """The processes that are alive."""
        found = self.seen | {one for one in psutil.process_iter() if _session(one) == self.root}
        for process in tuple(found):
            with suppress(psutil.Error):
                found |= set(process.children(recursive=True))
        self.seen = {process for process in found if process.is_running()}
        return self.seen

    def stop(self, process: subprocess.Popen[bytes]) -> None:
        """Interrupts what still runs, waits, and kills what is left."""
        if process.poll() is None:
            self.living()
            with suppress(ProcessLookupError):
                os.killpg(self.root, signal.SIGINT)
            with suppress(subprocess.TimeoutExpired):
                process.wait(GRACE)
        with suppress(ProcessLookupError):
            os.killpg(self.root, signal.SIGKILL)
        for left in self.living():
            with suppress(psutil.Error):
                left.kill()
        process.wait()


def workers_of(search: int) -> list[psutil.Process]:
    """The worker processes of a search, by its process id: what its fork server has started."""
    with suppress(psutil.Error):
        children = psutil.Process(search).children()
        return [worker for child in children for worker in child.children()]
    return []


def _session(process: psutil.Process) -> int:
    with suppress(OSError):  # it has ended meanwhile
        return os.getsid(process.pid)
    return 0


def _memory(process: psutil.Process) -> int:
    with suppress(psutil.Error):
        info = process.memory_full_info()
        return int(getattr(info, "pss", info.uss))  # only Linux knows the first
    return 0
