"""Load on a server, from a process of its own.

`python -m benchmarks.load --url http://HOST:PORT/PATH --bodies FOLDER`, a file of the folder a
request. A closed loop: each client holds a connection (HTTP/1.1, kept alive), sends a request,
waits for its answer, and sends the next. Answers count that arrive in a window after the warm-up,
under a load that neither begins nor ends with it. Tests call `run`.
"""

import asyncio
import json
import math
import time
from collections import Counter
from collections.abc import Callable, Sequence
from dataclasses import dataclass, field
from functools import partial
from pathlib import Path
from typing import NamedTuple, Self, cast
from urllib.parse import urlsplit

import httptools
import uvloop

from benchmarks.timing import table
from serving import settings as entry
from serving.settings import describe, require

LOST = 0  # the status of a request without an answer
PAUSE = 0.01  # seconds after a connection was refused
TIMEOUT = 60.0  # seconds for an answer


@dataclass(frozen=True)
class LoadSettings:
    """Sends requests and prints how fast they are answered."""

    url: str = describe("where to send them, http://HOST:PORT/PATH")
    bodies: str = describe("folder of requests' bodies, a file each")
    content_type: str = describe("of the bodies", "application/json")
    clients: int = describe("at once", 8)
    seconds: float = describe("that count", 8.0)
    warm_up: float = describe("seconds before them", 2.0)
    rounds: int = describe("answers for each client at least, and one before, however long", 3)
    output: str = describe("JSON file for every latency; empty: none", "")

    def __post_init__(self) -> None:
        """Raises UserError for a value out of its range."""
        address = urlsplit(self.url)
        http = address.scheme == "http" and bool(address.hostname)
        require(http, f"Expected url as http://HOST:PORT/PATH, got {self.url!r}.")
        folder = Path(self.bodies).is_dir()
        require(folder, f"Expected bodies as a folder of files, but {self.bodies} is none.")
        require(self.clients > 0, f"Expected clients of at least 1, got {self.clients}.")
        require(self.seconds > 0, f"Expected seconds of more than 0, got {self.seconds}.")
        require(self.warm_up >= 0, f"Expected warm_up of 0 or more, got {self.warm_up}.")
        require(self.rounds >= 0, f"Expected rounds of 0 or more, got {self.rounds}.")


class Answer(NamedTuple):
    """What came for one request.

    request: the number of its body, from 0; status: LOST where the connection failed or nothing
    came in time; sent, arrived: seconds of `time.perf_counter`.
    """

    request: int
    status: int
    body: bytes
    sent: float
    arrived: float


@dataclass
class Result:
    """What a load gave.

    seconds: of the window; latencies: seconds, of the answers with status 200 that arrived in it;
    statuses, refused: of all requests, how often each came, and how many answers `check` refused;
    sent, received: bytes of all requests, and of the bodies of their answers; answers: all of them,
    where they were to be kept.
    """

    seconds: float = 0.0
    latencies: list[float] = field(default_factory=list)
    statuses: Counter[int] = field(default_factory=Counter)
    refused: int = 0
    sent: int = 0
    received: int = 0
    answers: list[Answer] = field(default_factory=list)

    @property
    def rate(self) -> float:
        """Requests answered a second."""
        return len(self.latencies) / self.seconds if self.seconds else 0.0

    @property
    def failed(self) -> int:
        """Requests, of all, without an answer of status 200."""
        return self.statuses.total() - self.statuses[200]

    def milliseconds(self, share: float) -> float:
        """The latency that `share` of the answers did not exceed; not a number without answers."""
        ordered = sorted(self.latencies)
        return 1000 * ordered[math.ceil(share * len(ordered)) - 1] if ordered else math.nan

    def write(self, path: Path) -> None:
        """All but the answers as a JSON file."""
        path.write_text(json.dumps(vars(self) | {"answers": []}))

    @classmethod
    def read(cls, path: Path) -> Self:
        """The result in a JSON file."""
        fields = json.loads(path.read_text())
        statuses = Counter({int(status): count for status, count in fields["statuses"].items()})
        return cls(**fields | {"statuses": statuses})


def run(
    url: str,
    bodies: Sequence[bytes],
    clients: int,
    seconds: float = math.inf,
    *,
    requests: float = math.inf,
    content_type: str = "application/json",
    warm_up: float = 0.0,
    rounds: int = 0,
    timeout: float = TIMEOUT,
    check: Callable[[Answer], bool] | None = None,
    keep: bool = False,
) -> Result:
    """Posts `bodies` to `url` in turn, over again, from `clients` connections at once.

    seconds: of the window, which opens after `warm_up` seconds; with `rounds` it opens once there
    were as many answers as clients, and closes after that many more of them each, however long
    that takes; requests: how many to send at most. What is on its way at the end is waited for.
    timeout: seconds for an answer. check: whether an answer is as it should be. keep: the answers
    with their bodies.
    """
    address = urlsplit(url)
    head = (
        f"POST {address.path or '/'} HTTP/1.1\r\nHost: {address.netloc}\r\n"
        f"Content-Type: {content_type}\r\nContent-Length: "
    )
    messages = [f"{head}{len(body)}\r\n\r\n".encode() + body for body in bodies]
    window = _Window(
        time.perf_counter() + warm_up, seconds, clients * bool(rounds), clients * rounds
    )
    load = _Load(messages, window, requests, timeout, check, keep)
    with asyncio.Runner(loop_factory=uvloop.new_event_loop) as runner:
        runner.run(load.drive(address.hostname or "", address.port or 80, clients))
    return load.result


@dataclass
class _Window:
    """The time in which answers count.

    earliest: when it may open, as `time.perf_counter`; before, within: answers that must have come
    before it opens, and until it closes. It opens and closes with an answer that is late enough:
    where a server answers many at a time, it holds whole rounds of them.
    """

    earliest: float
    seconds: float
    before: int
    within: int
    begin: float = math.inf
    end: float = math.inf

    def count(self, arrived: float) -> bool:
        """Whether an answer is in the window."""
        inside = self.begin < arrived <= self.end
        self.within -= inside
        self.before -= not inside
        self.move(arrived)
        return inside

    def move(self, now: float) -> None:
        """Opens and closes it."""
        if math.isinf(self.begin):
            if now >= self.earliest and self.before <= 0:
                self.begin = now
        elif math.isinf(self.end) and now - self.begin >= self.seconds and self.within <= 0:
            self.end = now


@dataclass
class _Load:
    """What the connections of a load share; left: requests to send."""

    messages: Sequence[bytes]
    window: _Window
    left: float
    timeout: float
    check: Callable[[Answer], bool] | None
    keep: bool
    sent: int = 0
    open: "set[_Connection]" = field(default_factory=set)
    result: Result = field(default_factory=Result)

    async def drive(self, host: str, port: int, clients: int) -> None:
        """Runs the clients until the last answer is there."""
        watch = asyncio.create_task(self._watch())
        await asyncio.gather(*(self._client(host, port) for _ in range(clients)))
        watch.cancel()
        until = min(self.window.end, time.perf_counter())
        self.result.seconds = max(0.0, until - self.window.begin)

    def take(self) -> int | None:
        """The body to send next; None at the end."""
        self.window.move(time.perf_counter())
        if self.left <= 0 or self.window.end < math.inf:
            return None
        self.left -= 1
        self.sent += 1
        return (self.sent - 1) % len(self.messages)

    def add(self, answer: Answer) -> None:
        """Counts an answer."""
        result = self.result
        result.statuses[answer.status] += 1
        result.sent += len(self.messages[answer.request])
        result.received += len(answer.body)
        if self.window.count(answer.arrived) and answer.status == 200:
            result.latencies.append(answer.arrived - answer.sent)
        if self.check and not self.check(answer):
            result.refused += 1
        if self.keep:
            result.answers.append(answer)

    async def _client(self, host: str, port: int) -> None:
        """One client; a connection that ends is followed by another."""
        loop = asyncio.get_running_loop()
        while (request := self.take()) is not None:
            sent = time.perf_counter()
            try:
                _, connection = await loop.create_connection(
                    partial(_Connection, self, request), host, port
                )
            except OSError:
                self.add(Answer(request, LOST, b"", sent, time.perf_counter()))
                await asyncio.sleep(PAUSE)
            else:
                await connection.ended.wait()

    async def _watch(self) -> None:
        """Gives up what is not answered in time."""
        while True:
            await asyncio.sleep(min(1.0, self.timeout))
            for connection in tuple(self.open):
                if time.perf_counter() - connection.sent > self.timeout:
                    connection.transport.abort()


class _Connection(asyncio.Protocol):
    """Sends a request, and with each answer the next; ended: set when it is closed."""

    def __init__(self, load: _Load, request: int) -> None:
        self.load, self.sent = load, 0.0
        self.request: int | None = request
        self.parts: list[bytes] = []
        self.parser = httptools.HttpResponseParser(self)
        self.ended = asyncio.Event()
        self.transport: asyncio.Transport

    def connection_made(self, transport: asyncio.BaseTransport) -> None:
        """The event loop calls it, and the next two."""
        self.transport = cast(asyncio.Transport, transport)
        self.load.open.add(self)
        self._send()

    def data_received(self, data: bytes) -> None:
        try:
            self.parser.feed_data(data)
        except httptools.HttpParserError:
            self.transport.abort()

    def connection_lost(self, error: Exception | None) -> None:
        del error
        self.load.open.discard(self)
        self._answered(LOST)
        self.ended.set()

    def on_body(self, body: bytes) -> None:
        """The parser calls it, and the next."""
        self.parts.append(body)

    def on_message_complete(self) -> None:
        self._answered(self.parser.get_status_code())
        self.request = self.load.take() if self.parser.should_keep_alive() else None
        if self.request is None:
            self.transport.close()
        else:
            self._send()

    def _send(self) -> None:
        if self.request is not None:
            self.sent = time.perf_counter()
            self.transport.write(self.load.messages[self.request])

    def _answered(self, status: int) -> None:
        if self.request is not None:
            body = b"".join(self.parts)
            self.parts.clear()
            self.load.add(Answer(self.request, status, body, self.sent, time.perf_counter()))
            self.request = None


def main(settings: LoadSettings) -> int:
    """Prints rate, latencies and statuses; returns 0."""
    bodies = [path.read_bytes() for path in sorted(Path(settings.bodies).iterdir())]
    require(bool(bodies), f"Expected a file a request in {settings.bodies}, but it is empty.")
    result = run(
        settings.url,
        bodies,
        settings.clients,
        settings.seconds,
        content_type=settings.content_type,
        warm_up=settings.warm_up,
        rounds=settings.rounds,
    )
    if settings.output:
        result.write(Path(settings.output))
    rows = {
        "requests a second": f"{result.rate:.1f}",
        "p50, p95, p99 in ms": ", ".join(
            f"{result.milliseconds(share):.1f}" for share in (0.5, 0.95, 0.99)
        ),
        "statuses": ", ".join(
            f"{count} of {status or 'no answer'}" for status, count in result.statuses.items()
        ),
    }
    table(f"{settings.url}: {settings.clients} clients for {result.seconds:.1f} s", rows)
    return 0


if __name__ == "__main__":
    entry.run(LoadSettings, main)
