"""A visit to a server of `benchmarks.serving`: started, checked, measured, stopped."""

import socket
import subprocess
import sys
import time
from collections.abc import Sequence
from contextlib import suppress
from dataclasses import dataclass, field
from pathlib import Path

import psutil
from sqlalchemy import create_engine, func, select
from sqlalchemy.exc import OperationalError

from benchmarks import load
from benchmarks.environments import InstallError
from benchmarks.load import Result
from benchmarks.peers.answering import FOLDER
from benchmarks.peers.forms import Form
from benchmarks.peers.servers import Server, Stage, environment, log_url
from benchmarks.places import ROOT
from benchmarks.process import Tree, last_line, running
from serving.log import ANSWERS
from serving.settings import UserError

WARM_UP = 0.25  # of a measurement's seconds, before them
START_UP = 180.0  # seconds for the first answer
CHECKED_AT_ONCE = 8  # clients


class ServerError(Exception):
    """A server that did not start, or gave no right answer."""


@dataclass
class Row:
    """One server under one form of request.

    images: in each; points: results by number of clients; wrong: answers of those checked that
    were not right; answered: images with an answer, all in all.
    """

    images: int
    points: dict[int, Result] = field(default_factory=dict)
    wrong: int = 0
    answered: int = 0

    def rate(self, clients: int) -> float:
        """Images a second; 0 where it was not measured."""
        return self.images * self.points[clients].rate if clients in self.points else 0.0


@dataclass
class Found:
    """What was seen of a server.

    start: seconds until the first right answer; memory, own, resident: bytes, the most after a
    measurement: proportional set size of all its processes, unique and resident set size of the
    largest; logged: rows in its log, None without one; error: why it was not measured to the end.
    """

    rows: dict[str, Row]
    start: float | None = None
    memory: int = 0
    own: int = 0
    resident: int = 0
    logged: int | None = None
    error: str = ""

    def weigh(self, tree: Tree) -> None:
        """Looks at the memory of its processes."""
        self.memory = max(self.memory, tree.memory())
        for process in tree.seen:
            with suppress(psutil.Error):
                info = process.memory_full_info()
                self.own, self.resident = max(self.own, info.uss), max(self.resident, info.rss)


def visit(stage: Stage, part: str, server: Server, counts: Sequence[int], seconds: float) -> Found:
    """Starts a server, measures it, and stops it with all that it started.

    counts: numbers of clients; seconds: of each measurement.
    """
    folder, port = stage.folder / part, _free_port()
    found = Found({name: Row(stage.forms[form].images) for name, form in server.forms.items()})
    folder.mkdir()
    try:
        command = server.command(stage, folder, port)
        variables = environment(stage.folder, folder) | dict(server.environment)
        variables[FOLDER] = stage.served.folder
        with running(command, folder, variables) as (process, tree):
            start = time.perf_counter()
            for name, form in server.forms.items():
                asked = _Asked(f"http://127.0.0.1:{port}{server.path}", stage.forms[form], folder)
                row = found.rows[name]
                if found.start is None:
                    row.answered += asked.wait(process)
                    found.start = time.perf_counter() - start
                row.wrong, answered = asked.check()
                row.answered += answered
                for clients in counts:
                    row.points[clients] = asked.measure(clients, seconds)
                    row.answered += row.images * row.points[clients].statuses[200]
                    found.weigh(tree)
    except (InstallError, ServerError, UserError) as error:  # the last: there is no uv
        found.error = str(error)
    if server.logs:
        found.logged = _logged(folder)
    return found


def _free_port() -> int:
    with socket.socket() as found:
        found.bind(("127.0.0.1", 0))
        return int(found.getsockname()[1])


@dataclass(frozen=True)
class _Asked:
    """A server's URL, and the requests that it is sent; folder: of the server."""

    url: str
    form: Form
    folder: Path

    def wait(self, process: subprocess.Popen[bytes]) -> int:
        """Asks until the first right answer, and returns how many images were answered.

        Raises ServerError where no answer is right.
        """
        deadline, body, answered, status = time.perf_counter() + START_UP, self.form.bodies[0], 0, 0
        while time.perf_counter() < deadline:
            if process.poll() is not None:
                ended = f"exit status {process.returncode}"
                raise ServerError(f"did not start: {last_line(self.folder / 'log.txt') or ended}")
            kind = self.form.content_type
            result = load.run(self.url, [body], 1, requests=1, content_type=kind, keep=True)
            answered += self.form.images * result.statuses[200]
            if self.form.is_right(result.answers[0]):
                return answered
            status = result.answers[0].status
            time.sleep(0.05)
        raise ServerError(f"no right answer in {START_UP:.0f} s, at last status {status or 'none'}")

    def check(self) -> tuple[int, int]:
        """Asks for every image, several at once; returns answers that are wrong, and images."""
        bodies = self.form.bodies
        result = load.run(
            self.url,
            bodies,
            CHECKED_AT_ONCE,
            requests=len(bodies),
            content_type=self.form.content_type,
            check=self.form.is_right,
        )
        return result.refused, self.form.images * result.statuses[200]

    def measure(self, clients: int, seconds: float) -> Result:
        """The load, from a process of its own."""
        output = self.folder / "load.json"
        flags = {
            "url": self.url,
            "bodies": self.form.folder,
            "content_type": self.form.content_type,
            "clients": clients,
            "seconds": seconds,
            "warm_up": WARM_UP * seconds,
            "output": output,
        }
        ours = [sys.executable, "-m", "benchmarks.load", *(f"--{k}={v}" for k, v in flags.items())]
        subprocess.run(ours, cwd=ROOT, stdout=subprocess.DEVNULL, check=True)  # noqa: S603
        return Result.read(output)


def _logged(folder: Path) -> int | None:
    """Rows in a server's log; None where it has made none."""
    engine = create_engine(log_url(folder))
    try:
        with engine.connect() as connection:
            return connection.scalar(select(func.count()).select_from(ANSWERS))
    except OperationalError:
        return None
    finally:
        engine.dispose()
