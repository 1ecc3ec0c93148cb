"""What every request to the app passes: an id, a token, bounds, and a place among the answering.

Bodies are read whole before anything else sees them, within bounds of size and time: a slow or
endless one costs neither a place nor more memory than MAX_BUFFERED allows for all of them together.
"""

import asyncio
import hmac
import json
import re
import time
import uuid
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any, Protocol

from starlette.types import ASGIApp, Message, Receive, Scope, Send

MAX_BODY = 128 * 2**20  # bytes; an image of MAX_BYTES as base64 has 86 MiB
MAX_BUFFERED = 512 * 2**20  # bytes of all bodies at once, in each worker
BODY_SECONDS = 30.0  # that a body may take to arrive
RETRY_AFTER = 1  # seconds
CODES = {
    400: "BAD_REQUEST",
    401: "UNAUTHENTICATED",
    403: "PERMISSION_DENIED",
    404: "ENDPOINT_NOT_FOUND",
    405: "METHOD_NOT_ALLOWED",
    408: "REQUEST_TIMEOUT",
    413: "PAYLOAD_TOO_LARGE",
    415: "UNSUPPORTED_MEDIA_TYPE",
    500: "INTERNAL_ERROR",
    503: "TEMPORARILY_UNAVAILABLE",
}
PUBLIC = frozenset(
    {"/", "/page.css", "/page.js", "/live", "/ready", "/ping", "/health", "/version"}
)
ID = re.compile(r"[\w.-]{1,64}", re.ASCII)
_HEADERS = {
    "Content-Security-Policy": "default-src 'self'; img-src 'self' blob: data:; "
    "frame-ancestors 'none'; form-action 'self'; base-uri 'none'",
    "X-Content-Type-Options": "nosniff",
    "Referrer-Policy": "no-referrer",
}


class RefusalError(Exception):
    """An answer that is an error: a status of CODES and a sentence."""

    def __init__(self, status: int, sentence: str, retry_after: int = RETRY_AFTER) -> None:
        super().__init__(sentence)
        self.status = status
        self.body = json.dumps(
            {"error_code": CODES[status], "message": sentence}, ensure_ascii=False
        ).encode(errors="replace")
        self.headers = {"Content-Type": "application/json"}
        if status == 503:
            self.headers["Retry-After"] = str(retry_after)
        if status == 401:
            self.headers["WWW-Authenticate"] = "Bearer"


class Observer(Protocol):
    """What is told of requests."""

    def begun(self) -> None:
        """A request has a place."""

    def ended(self) -> None:
        """It has given its place back."""

    def answered(self, path: str, status: int, seconds: float) -> None:
        """A request has its answer."""


@dataclass
class Gate:
    """An ASGI middleware.

    token: that requests for all but PUBLIC paths must bear, empty: none; limit: POST requests that
    are answered at once, beyond which others are refused with 503.
    """

    app: ASGIApp
    token: str
    limit: int
    observer: Observer

    def __post_init__(self) -> None:
        self._answering = self._buffered = 0

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        """Answers, or hands on to the app."""
        if scope["type"] != "http":
            await self.app(scope, receive, send)
            return
        begun, status = time.perf_counter(), 500
        headers = dict(scope["headers"])
        asked = headers.get(b"x-request-id", b"").decode("latin-1")
        scope["request_id"] = asked if ID.fullmatch(asked) else uuid.uuid4().hex
        more = {**_HEADERS, "X-Request-ID": scope["request_id"]}

        async def telling(message: Message) -> None:
            nonlocal status
            if message["type"] == "http.response.start":
                status = message["status"]
                message["headers"] = [*message.get("headers", []), *_encoded(more)]
            await send(message)

        try:
            self._admit(scope["method"], scope["path"], headers)
            if scope["method"] == "POST":
                await self._answer(scope, headers, receive, telling)
            else:
                await self.app(scope, receive, telling)
        except RefusalError as refusal:
            await refuse(refusal, telling, close=True)
        except ClientGoneError:
            status = 499
        finally:
            self.observer.answered(scope["path"], status, time.perf_counter() - begun)

    def _admit(self, method: str, path: str, headers: Mapping[bytes, bytes]) -> None:
        scheme, _, given = headers.get(b"authorization", b"").partition(b" ")
        bears = hmac.compare_digest(given, self.token.encode()) and scheme.lower() == b"bearer"
        if self.token and path not in PUBLIC and not bears:
            raise RefusalError(
                401, "Expected the server's token, as `Authorization: Bearer TOKEN`."
            )
        # A browser sends forms of any site to this machine too, but says that it does.
        # To an address without TLS it does not say so, but names the site.
        site = headers.get(b"sec-fetch-site", b"none")
        origin, host = headers.get(b"origin", b""), headers.get(b"host", b"")
        other = origin.partition(b"://")[2] != host if origin and site == b"none" else False
        if method == "POST" and (other or site not in (b"same-origin", b"none")):
            raise RefusalError(
                403, "Expected a request of this server's own page, got another site's."
            )

    async def _answer(
        self, scope: Scope, headers: Mapping[bytes, bytes], receive: Receive, send: Send
    ) -> None:
        taken = 0
        try:
            chunks: list[bytes] = []
            try:
                async with asyncio.timeout(BODY_SECONDS):
                    async for chunk in _chunks(headers, receive):
                        taken += len(chunk)
                        self._buffered += len(chunk)
                        if self._buffered > MAX_BUFFERED:
                            raise RefusalError(
                                503, "The server holds too many requests; try again."
                            )
                        chunks.append(chunk)
            except TimeoutError as error:
                sentence = f"Expected the whole request within {BODY_SECONDS:.0f} seconds."
                raise RefusalError(408, sentence) from error
            body = chunks[0] if len(chunks) == 1 else b"".join(chunks)
            chunks.clear()
            if self._answering >= self.limit:
                raise RefusalError(503, "The server is busy; try again.")
            self._answering += 1
            self.observer.begun()
            try:
                await self.app(scope, _replay(body, receive), send)
            finally:
                self._answering -= 1
                self.observer.ended()
        finally:
            self._buffered -= taken


class ClientGoneError(Exception):
    """The client went away before its request was whole."""


async def _chunks(headers: Mapping[bytes, bytes], receive: Receive) -> Any:
    """The body's parts; raises RefusalError beyond MAX_BODY, at once where its length is told."""
    told = headers.get(b"content-length", b"0")
    total = 0
    refusal = RefusalError(
        413, f"Expected a request of at most {MAX_BODY:,} bytes, got a larger one."
    )
    if told.isdigit() and int(told) > MAX_BODY:
        raise refusal
    more = True
    while more:
        message = await receive()
        if message["type"] == "http.disconnect":
            raise ClientGoneError
        more = message.get("more_body", False)
        if chunk := message.get("body", b""):
            total += len(chunk)
            if total > MAX_BODY:
                raise refusal
            yield chunk


def _replay(body: bytes, receive: Receive) -> Receive:
    """What the app receives: the body in one piece, then what the client does."""
    waiting = [body]

    async def replay() -> Message:
        if waiting:
            return {"type": "http.request", "body": waiting.pop(), "more_body": False}
        return await receive()

    return replay


async def refuse(refusal: RefusalError, send: Send, *, close: bool = False) -> None:
    """Sends a refusal; close: ends the connection, whose request may not be read to its end."""
    headers = {**refusal.headers, "Content-Length": str(len(refusal.body))}
    if close:
        headers["Connection"] = "close"
    start = {"type": "http.response.start", "status": refusal.status, "headers": _encoded(headers)}
    await send(start)
    await send({"type": "http.response.body", "body": refusal.body})


def _encoded(headers: Mapping[str, str]) -> Sequence[tuple[bytes, bytes]]:
    return [(name.lower().encode(), value.encode("latin-1")) for name, value in headers.items()]
