"""Requests that mean no good, two thousand in the long form, and what the app makes of them."""

import asyncio
import base64
import io
import json
import os
import random
import socket
import subprocess
import sys
import time
from collections import Counter
from collections.abc import Iterator
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from typing import Any

import psutil
import pytest
from PIL import Image

from serving import gate
from serving.gate import Gate
from tests.serving.servers import JPEG, JSON, Server, Servers, form, huge, picture, split

CHAMPION = "models:/colours@champion"
SCHEMATHESIS = Path(sys.executable).with_name("schemathesis")
TOKEN = "Bearer s3cret"
DOCUMENTED = {200, 201, 400, 401, 403, 404, 405, 408, 413, 415, 503}
GROWTH = 40 * 2**20  # bytes: of the allocator's, between the first half and the second

Request = tuple[str, bytes, str | None, str]  # path, body, content type, authorization


@pytest.fixture(scope="module")
def server(servers: Servers, store: str) -> Server:
    return servers.app(store, CHAMPION, LOOKOUT_TOKEN="s3cret")


def encoded(kind: str, size: tuple[int, int], mode: str = "RGB") -> bytes:
    file = io.BytesIO()
    Image.new(mode, size, 0).save(file, kind)
    return file.getvalue()


def hostile(chance: random.Random) -> Iterator[Request]:
    """Requests without end: of every kind in turn, each otherwise."""
    good = [picture(number, kind) for number, kind in enumerate(("JPEG", "PNG", "BMP", "WEBP"))]
    bombs = [huge(), encoded("PNG", (7900, 7900), "L"), encoded("GIF", (1, 60_000))]
    tiny = [encoded("PNG", (1, 1)), encoded("PNG", (1, 5000)), encoded("PNG", (5000, 1))]
    table = split(base64.b64encode(good[0]).decode())
    many = form(*[("image", b"x")] * 1500)
    thousands = split(*["AAAA"] * 10_000)
    values: list[Any] = [None, 5, -1e308, True, [], {}, "", "\x00", "🦊" * 50, [[]], "A" * 5000]
    while True:
        yield "/predict", chance.randbytes(chance.randrange(2000)), JPEG, TOKEN
        broken = bytearray(chance.choice(good))
        for _ in range(chance.randrange(1, 20)):
            broken[chance.randrange(len(broken))] = chance.randrange(256)
        yield "/predict", bytes(broken), chance.choice([JPEG, "image/png", "image/x-" * 50]), TOKEN
        yield "/predict", bytes(broken[: chance.randrange(len(broken))]), JPEG, TOKEN
        yield chance.choice(["/predict", "/explain"]), chance.choice(bombs), "image/png", TOKEN
        yield chance.choice(["/predict", "/explain"]), chance.choice(tiny), "image/png", TOKEN
        mangled = bytearray(table)
        for _ in range(chance.randrange(1, 10)):
            mangled[chance.randrange(len(mangled))] = chance.randrange(256)
        yield "/invocations", bytes(mangled), JSON, TOKEN
        value = chance.choice(values)
        asked = chance.choice(
            [
                {"dataframe_split": {"columns": ["image"], "data": [[value]]}},
                {"dataframe_split": value},
                {"dataframe_records": [{"image": value}]},
                {"dataframe_records": value},
                {"inputs": value},
                {"instances": [{"image": value}]},
                {"dataframe_split": {"columns": value, "data": value}},
                value,
            ]
        )
        yield "/invocations", json.dumps(asked).encode(), JSON, TOKEN
        yield "/invocations", chance.choice([b"[" * 100_000, b'{"a":' * 50_000]), JSON, TOKEN
        kind = chance.choice(["text/csv", "application/vnd.apache.parquet", "a/b", "", "; ; ="])
        yield "/invocations", chance.randbytes(300), kind, TOKEN
        yield "/invocations", b"image\n" + b'"' * chance.randrange(50), "text/csv", TOKEN
        yield "/feedback", *form(("image", chance.choice(good)), ("label", "🦊")), TOKEN
        body, kind = form(("image", good[0]), ("label", "red"), ("request_id", "x" * 5000))
        yield "/feedback", body, kind, TOKEN
        yield "/feedback", body[: chance.randrange(len(body))], kind, TOKEN
        yield "/predict", body, f"multipart/form-data; boundary={'x' * 5000}", TOKEN
        yield "/predict", body.replace(b"name=", b"n\x00me="), kind, TOKEN
        yield (
            chance.choice(["/../etc/passwd", "/page.css/..", "/%00", "/predict/x"]),
            b"",
            None,
            TOKEN,
        )
        yield "/explain?label=" + "%F0%9F%A6%8A" * 100, good[0], JPEG, TOKEN
        yield (
            "/predict",
            good[0],
            JPEG,
            chance.choice(["", "Bearer", "Bearer s3cre", "Basic s3cret"]),
        )
        if chance.random() < 0.1:
            yield "/predict", *many, TOKEN
            yield "/invocations", thousands, JSON, TOKEN


def slow(port: int) -> socket.socket:
    """A connection whose body never comes."""
    opened = socket.create_connection(("127.0.0.1", port))
    head = f"POST /predict HTTP/1.1\r\nHost: x\r\nAuthorization: {TOKEN}\r\n"
    opened.sendall(f"{head}Content-Type: {JPEG}\r\nContent-Length: 100000\r\n\r\nabc".encode())
    return opened


@pytest.mark.parametrize("count", [300, pytest.param(2000, marks=pytest.mark.fuzz)])
def test_hostile_requests_are_refused_and_leave_nothing_behind(server: Server, count: int) -> None:
    if count > 300 and not SCHEMATHESIS.exists():
        pytest.skip("the long form runs where Schemathesis does (requirements-dev.txt)")
    requests = hostile(random.Random(count))
    port = int(server.url.rsplit(":", 1)[1])
    workers = psutil.Process(server.process.pid).children()
    waiting = [slow(port) for _ in range(100)]  # more than may be answered at once
    statuses: Counter[int] = Counter()

    def send(request: Request) -> int:
        path, body, kind, authorization = request
        answer = server.ask(path, body, kind, Authorization=authorization)
        assert answer.status in DOCUMENTED, (request[:1], answer.body)
        assert b"Traceback" not in answer.body
        if answer.status >= 400 and (path, answer.status) != ("/invocations", 415):  # MLflow's own
            assert answer.json.keys() == {"error_code", "message"}
            assert len(answer.body) < 1000
        if answer.status == 503:
            assert answer.headers["Retry-After"]
        return answer.status

    memory = []
    with ThreadPoolExecutor(8) as pool:
        for _ in range(2):
            statuses.update(pool.map(send, (next(requests) for _ in range(count // 2))))
            memory.append(sum(worker.memory_info().rss for worker in workers))
    good = server.ask("/predict", picture(1), Authorization=TOKEN)
    for connection in waiting:
        connection.close()
    assert good.status == 200
    assert statuses.total() == count
    assert {200, 400, 401, 404, 413, 415} <= statuses.keys()
    assert memory[1] - memory[0] < GROWTH
    assert "Traceback" not in server.said


class Told:
    """An observer that only counts."""

    def __init__(self) -> None:
        self.statuses: list[int] = []

    def begun(self) -> None: ...

    def ended(self) -> None: ...

    def answered(self, path: str, status: int, seconds: float) -> None:
        self.statuses.append(status)


def through(passed: Gate, body: Iterator[bytes], *, length: int | None = None) -> int:
    """The status that a POST of these chunks gets, None standing for silence."""
    sent: list[Any] = []

    async def receive() -> Any:
        chunk = next(body, None)
        if chunk is None:
            await asyncio.sleep(60)
        return {"type": "http.request", "body": chunk, "more_body": True}

    async def send(message: Any) -> None:
        sent.append(message)

    headers = [] if length is None else [(b"content-length", str(length).encode())]
    scope = {"type": "http", "method": "POST", "path": "/predict", "headers": headers}
    asyncio.run(passed(scope, receive, send))
    return int(sent[0]["status"])


async def never(scope: Any, receive: Any, send: Any) -> None:
    pytest.fail("the request came through")


def test_a_body_that_does_not_come_is_given_up(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(gate, "BODY_SECONDS", 0.2)
    assert through(Gate(never, "", 1, Told()), iter([b"abc"])) == 408


def test_a_body_that_says_to_be_too_large_is_not_read() -> None:
    def body() -> Iterator[bytes]:
        pytest.fail("it was read")
        yield b""

    assert through(Gate(never, "", 1, Told()), body(), length=gate.MAX_BODY + 1) == 413


def test_a_body_that_does_not_end_is_cut_off(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(gate, "MAX_BODY", 10_000)
    endless = iter(lambda: bytes(100), b"")
    assert through(Gate(never, "", 1, Told()), endless) == 413


def test_bodies_together_are_bounded_and_counted_down_again(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    monkeypatch.setattr(gate, "MAX_BUFFERED", 1000)
    told = Told()
    passed = Gate(never, "", 1, told)
    for _ in range(3):
        assert through(passed, iter([bytes(900), bytes(900)])) == 503
    assert told.statuses == [503] * 3
    assert passed._buffered == 0


@pytest.mark.fuzz
def test_the_app_answers_as_its_openapi_says(server: Server, tmp_path: Path) -> None:
    if not SCHEMATHESIS.exists():
        pytest.skip("Schemathesis is not installed (requirements-dev.txt)")
    (tmp_path / "openapi.json").write_bytes(server.ask("/openapi.json", Authorization=TOKEN).body)
    done = subprocess.run(
        [
            SCHEMATHESIS,
            "run",
            str(tmp_path / "openapi.json"),
            f"--url={server.url}",
            f"--header=Authorization: {TOKEN}",
            "--checks=not_a_server_error,status_code_conformance,content_type_conformance,"
            "response_headers_conformance,response_schema_conformance",
            "--max-examples=60",
            "--seed=0",
        ],
        cwd=tmp_path,
        env=os.environ | {"COLUMNS": "120"},
        capture_output=True,
        text=True,
        check=False,
    )
    assert done.returncode == 0, done.stdout[-5000:]
    assert "Traceback" not in server.said
    deadline = time.monotonic() + 5
    while server.ask("/predict", picture(1), Authorization=TOKEN).status != 200:
        assert time.monotonic() < deadline
