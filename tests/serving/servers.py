"""Real servers on free ports, and what is sent to them: for the tests of this folder."""

import io
import json
import os
import signal
import sqlite3
import struct
import subprocess
import sys
import time
import urllib.error
import urllib.request
import zlib
from collections.abc import Mapping
from contextlib import closing
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from PIL import Image

from tests.conftest import free_port

ROOT = Path(__file__).parents[2]
JSON, JPEG = "application/json", "image/jpeg"


@dataclass
class Answer:
    """Status, headers and body of an answer."""

    status: int
    headers: Mapping[str, str]
    body: bytes

    @property
    def json(self) -> Any:
        return json.loads(self.body)


@dataclass
class Server:
    """A server's process: its URL, and what it said."""

    url: str
    process: "subprocess.Popen[bytes]"
    output: Path
    database: Path

    def ask(
        self, path: str, body: bytes | None = None, kind: str | None = JPEG, **headers: str
    ) -> Answer:
        """GET without a body, else POST; underscores in a header's name stand for hyphens."""
        request = urllib.request.Request(f"{self.url}{path}", body)
        for name, value in headers.items():
            request.add_header(name.replace("_", "-"), value)
        if kind is not None:
            request.add_header("Content-Type", kind)
        try:
            with urllib.request.urlopen(request, timeout=60) as answer:
                return Answer(answer.status, answer.headers, answer.read())
        except urllib.error.HTTPError as refused:
            with refused:
                return Answer(refused.code, refused.headers, refused.read())

    def wait(self, path: str = "/ready", seconds: float = 120) -> None:
        """Waits until `path` is answered with 200."""
        deadline = time.monotonic() + seconds
        while time.monotonic() < deadline:
            assert self.process.poll() is None, self.said
            try:
                if self.ask(path).status == 200:
                    return
            except OSError:
                pass
            time.sleep(0.1)
        pytest.fail(f"no answer after {seconds} seconds: {self.said}")

    @property
    def said(self) -> str:
        return self.output.read_text(errors="replace")

    def rows(self, query: str = "SELECT * FROM answers ORDER BY id") -> list[Any]:
        """Rows of the SQLite log; none before it is made."""
        if not self.database.exists():
            return []
        with closing(sqlite3.connect(self.database, timeout=30)) as connection:
            connection.row_factory = sqlite3.Row
            try:
                return connection.execute(query).fetchall()
            except sqlite3.OperationalError:
                return []

    def metric(self, name: str) -> float:
        """The sum of a metric's samples."""
        lines = self.ask("/metrics").body.decode().splitlines()
        found = [line for line in lines if line.split("{")[0].split(" ")[0] == name]
        return sum(float(line.rsplit(" ", 1)[1]) for line in found)

    def stop(self, how: int = signal.SIGKILL) -> int:
        """Sends a signal to all of it; returns the exit status."""
        if self.process.poll() is None:
            os.killpg(self.process.pid, how)
        return self.process.wait(60)


@dataclass
class Servers:
    """Starts servers in a folder that holds nothing of ours, or the project's where it must."""

    folder: Path
    running: list[Server] = field(default_factory=list)

    def app(self, store: str, model: str, *, wait: str = "/ready", **more: Any) -> Server:
        """Our app. more: its parameters, or in capitals environment variables."""
        flags = {name: value for name, value in more.items() if not name.isupper()}
        variables = {name: value for name, value in more.items() if name.isupper()}
        database = self.folder / f"{len(self.running)}.db"
        port = free_port()
        given = {"model": model, "port": port, "log": f"sqlite:///{database}"} | flags
        command = [sys.executable, "-m", "serving.app", *(f"--{k}={v}" for k, v in given.items())]
        return self._start(command, store, port, database, wait, variables, ROOT)

    def mlflow(self, store: str, model: str, *flags: str, **variables: str) -> Server:
        """The stock command."""
        database = self.folder / f"{len(self.running)}.db"
        port = free_port()
        command = [sys.executable, "-m", "mlflow", "models", "serve", "-m", model, *flags]
        command += ["--env-manager", "local", "--port", str(port)]
        return self._start(command, store, port, database, "/ping", variables, self.folder)

    def _start(
        self,
        command: list[str],
        store: str,
        port: int,
        database: Path,
        wait: str,
        variables: Mapping[str, str],
        where: Path,
    ) -> Server:
        environment = os.environ | {
            "MLFLOW_TRACKING_URI": store,
            "PATH": f"{Path(sys.executable).parent}{os.pathsep}{os.environ['PATH']}",
        }
        environment.pop("PYTHONPATH", None)
        output = self.folder / f"{len(self.running)}.txt"
        with output.open("wb") as file:
            process = subprocess.Popen(
                command,
                cwd=where,
                env=environment | {k: v.format(database=database) for k, v in variables.items()},
                stdout=file,
                stderr=subprocess.STDOUT,
                start_new_session=True,
            )
        server = Server(f"http://127.0.0.1:{port}", process, output, database)
        self.running.append(server)
        if wait:
            server.wait(wait)
        return server


def picture(seed: int, kind: str = "JPEG") -> bytes:
    """The file of an image of noise."""
    pixels = np.random.default_rng(seed).integers(0, 255, (40, 30, 3), dtype=np.uint8)
    file = io.BytesIO()
    Image.fromarray(pixels).save(file, kind)
    return file.getvalue()


def huge() -> bytes:
    """A PNG of a few bytes that says to be 60,000 pixels wide and high."""

    def chunk(kind: bytes, data: bytes) -> bytes:
        body = kind + data
        return struct.pack(">I", len(data)) + body + struct.pack(">I", zlib.crc32(body))

    header = chunk(b"IHDR", struct.pack(">IIBBBBB", 60_000, 60_000, 8, 2, 0, 0, 0))
    return b"\x89PNG\r\n\x1a\n" + header + chunk(b"IDAT", b"") + chunk(b"IEND", b"")


def split(*values: object, column: str = "image") -> bytes:
    """A request of MLflow's form `dataframe_split`."""
    rows = [[value] for value in values]
    return json.dumps({"dataframe_split": {"columns": [column], "data": rows}}).encode()


def form(*parts: tuple[str, bytes | str]) -> tuple[bytes, str]:
    """A form of pairs of a part's name and content: its body and content type."""
    body = b""
    for name, content in parts:
        file = b'; filename="photo"' if isinstance(content, bytes) else b""
        raw = content if isinstance(content, bytes) else content.encode()
        head = b'--edge\r\nContent-Disposition: form-data; name="' + name.encode() + b'"'
        body += head + file + b"\r\n\r\n" + raw + b"\r\n"
    return body + b"--edge--\r\n", "multipart/form-data; boundary=edge"
