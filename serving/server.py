"""One worker process of the app: its endpoints, around MLflow's own scoring server.

`app.py` starts it, and leaves its settings in the environment.
"""

import asyncio
import io
import json
import logging
import os
import signal
from collections.abc import AsyncIterator, Mapping
from contextlib import asynccontextmanager, suppress
from pathlib import Path
from typing import Any

import multipart
import uvicorn
from fastapi import FastAPI, Request, Response
from fastapi.responses import FileResponse, JSONResponse
from mlflow.exceptions import MlflowException
from mlflow.pyfunc import scoring_server
from sqlalchemy.exc import SQLAlchemyError
from starlette.exceptions import HTTPException
from starlette.types import ASGIApp, Receive, Scope, Send

from serving import openapi, saliency
from serving import settings as entry
from serving.app import GRACE, PARENT, SETTINGS, AppSettings, listen
from serving.champion import Champion, Served
from serving.gate import CODES, ID, Gate, RefusalError, refuse
from serving.log import Log
from serving.metrics import Metrics
from serving.predictor import MAX_BYTES, MAX_IMAGES, MAX_PIXELS, mend

PAGE = Path(__file__).with_name("page")
FILES = {"/": "index.html", "/page.css": "page.css", "/page.js": "page.js"}
MLFLOW = ("/invocations", "/ping", "/health", "/version")
LOOK = 0.5  # seconds between looks at what the log has counted
TEXT = 64 * 1024  # bytes of a form's text


def main() -> None:
    """Serves until it is stopped."""
    # MLflow gives up a request after a time, but not the thread that answers it, whose place
    # another would take: here what a request may ask for is bounded, not how long it takes.
    os.environ.setdefault("MLFLOW_SCORING_SERVER_REQUEST_TIMEOUT", str(24 * 3600))
    logging.basicConfig(format="%(asctime)s %(levelname)s %(message)s", level=logging.WARNING)
    logging.getLogger("serving").setLevel(logging.INFO)
    entry.quiet()
    settings = AppSettings(**json.loads(os.environ[SETTINGS]))
    config = uvicorn.Config(
        build(settings, os.environ.get("LOOKOUT_TOKEN", "")),
        log_level="warning",
        access_log=False,
        proxy_headers=False,
        timeout_graceful_shutdown=GRACE,
    )
    with suppress(KeyboardInterrupt):  # uvicorn passes it on once it has stopped
        uvicorn.Server(config).run(sockets=[listen(settings, share=True)])


def build(settings: AppSettings, token: str = "") -> ASGIApp:
    """The whole app; token: that its requests must bear, empty: none. Raises UserError."""
    mend(scoring_server)
    log = settings.open_log()

    def equip(predictor: Any) -> None:
        predictor.log, predictor.observer = log, metrics.told

    champion = Champion(settings.model, settings.refresh, equip)

    @asynccontextmanager
    async def life(_: FastAPI) -> AsyncIterator[None]:
        await asyncio.to_thread(champion.start)
        looking = asyncio.create_task(_look(metrics))
        yield
        looking.cancel()
        champion.stop()
        if log:
            await asyncio.to_thread(log.close)

    app = FastAPI(lifespan=life, docs_url=None, redoc_url=None, openapi_url=None)
    routes = _Routes(champion, log, settings.refresh)
    for path, method, endpoint in routes.table():
        app.add_route(path, endpoint, methods=[method])
    paths = frozenset({path for path, *_ in routes.table()} | {"/metrics", *MLFLOW})
    metrics = Metrics(champion, log, paths)
    app.add_route("/metrics", _metrics(metrics))
    app.add_exception_handler(HTTPException, _refused)
    app.add_exception_handler(RefusalError, _refused)
    app.add_exception_handler(MlflowException, _refused)
    app.add_exception_handler(Exception, _failed)
    limit = max(1, settings.limit // settings.processes)
    return Gate(_Switch(app, champion, settings.refresh), token, limit, metrics)


async def _look(metrics: Metrics) -> None:
    """Looks at what others count; ends the worker whose parent was killed, as its parent would."""
    while os.getppid() == int(os.environ[PARENT]):
        try:
            metrics.look()
        except Exception:
            logging.getLogger(__name__).exception("The metrics are behind.")
        await asyncio.sleep(LOOK)
    os.kill(os.getpid(), signal.SIGTERM)


class _Switch:
    """Hands MLflow's paths to the scoring app of today's model, and all others to ours."""

    def __init__(self, app: FastAPI, champion: Champion, refresh: float) -> None:
        self._app, self._champion, self._refresh = app, champion, refresh

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        if scope["type"] != "http" or scope["path"] not in MLFLOW:
            await self._app(scope, receive, send)
            return
        try:
            served = _served(self._champion, self._refresh)
        except RefusalError as refusal:
            await refuse(refusal, send)
            return
        served.predictor.request_id.set(scope["request_id"])

        async def telling(message: Any) -> None:
            if message["type"] == "http.response.start":
                version = (b"x-model-version", served.version.encode())
                message["headers"] = [*message.get("headers", []), version]
            await send(message)

        await served.scoring(scope, receive, telling)


class _Routes:
    """The app's own endpoints."""

    def __init__(self, champion: Champion, log: Log | None, refresh: float) -> None:
        self._champion, self._log, self._refresh = champion, log, refresh

    def table(self) -> list[tuple[str, str, Any]]:
        """Path, method and endpoint of each."""
        return [
            *((path, "GET", self._file(name)) for path, name in FILES.items()),
            ("/live", "GET", self.live),
            ("/ready", "GET", self.ready),
            ("/model", "GET", self.model),
            ("/openapi.json", "GET", self.openapi),
            ("/predict", "POST", self.predict),
            ("/explain", "POST", self.explain),
            ("/feedback", "POST", self.feedback),
        ]

    async def live(self, _: Request) -> Response:
        """Whether the process answers, with a model or without."""
        return JSONResponse({"status": "live"})

    async def ready(self, _: Request) -> Response:
        """Whether there is a model that answers."""
        served = self._served()
        # What the alias points at now may not load; the model before it goes on.
        return JSONResponse(
            {"status": "ready", "model": _identity(served), "waiting": self._champion.waiting}
        )

    async def openapi(self, _: Request) -> Response:
        """What the app answers, in OpenAPI."""
        return JSONResponse(openapi.document())

    async def model(self, _: Request) -> Response:
        """The model that answers, for the page."""
        served = self._served()
        bounds = {"bytes": MAX_BYTES, "pixels": MAX_PIXELS, "images": MAX_IMAGES}
        more = {"feedback": self._log is not None, "bounds": bounds}
        classes = list(served.predictor.classifier.card.classes)
        return JSONResponse({**_identity(served), "classes": classes, **more})

    async def predict(self, request: Request) -> Response:
        """The answer to one image or several."""
        served = self._served()
        images = [body for _, body in await _images(request)]
        told = await _all(served.predictor.start(images))
        served.predictor.request_id.set(request.scope["request_id"])
        records = served.predictor.finish(told)
        answer = {"request_id": request.scope["request_id"], "model": _identity(served)}
        headers = {"X-Model-Version": served.version}
        return JSONResponse({**answer, "predictions": records}, headers=headers)

    async def explain(self, request: Request) -> Response:
        """An overlay of the places that the answer depends on."""
        served = self._served()
        ((_, image),) = await _images(request, most=1)
        classifier = served.predictor.classifier
        (told,) = await _all(served.predictor.start([image]))
        classes = classifier.card.classes
        label = request.query_params.get("label") or classes[told.probabilities.argmax()]
        index = classes.index(_known(label, classes))
        pixels = await asyncio.wrap_future(classifier.network.submit(classifier.decode, image))
        places = saliency.patches(*pixels.shape[:2])
        without = []
        for copy in saliency.hidden(pixels, places):  # one by one: other requests come between
            task = classifier.network.submit(classifier.network.infer, copy)
            without.append(float((await asyncio.wrap_future(task))[index]))
        sure = float(told.probabilities[index])
        loss = saliency.importance(sure, without, places, pixels.shape[:2])
        return Response(saliency.overlay(loss), media_type="image/png")

    async def feedback(self, request: Request) -> Response:
        """Stores what a person says that an image shows."""
        served = self._served()
        if self._log is None:
            raise RefusalError(
                404, "This server keeps no log; start it with `log` to take corrections."
            )
        fields = dict(await _form(request))
        image = fields.get("image", b"")
        (told,) = await _all(served.predictor.start([image]))
        classes = served.predictor.classifier.card.classes
        label = _known(_text(fields, "label"), classes)
        request_id = _text(fields, "request_id")
        if request_id and not ID.fullmatch(request_id):
            raise RefusalError(400, "Expected the request_id of an answer, got another text.")
        row = {
            "request_id": request_id or request.scope["request_id"],
            "model_name": served.name,
            "model_version": served.version,
            "label": label,
            "answered": classes[told.probabilities.argmax()],
        }
        try:
            await asyncio.to_thread(self._log.correct, image, row)
        except SQLAlchemyError as error:
            logging.getLogger(__name__).error("A correction was not stored (%s).", type(error))
            raise RefusalError(503, "The correction could not be stored; try again.") from error
        return JSONResponse({"message": "Saved."}, 201)

    def _served(self) -> Served:
        return _served(self._champion, self._refresh)

    def _file(self, name: str) -> Any:
        async def send(_: Request) -> Response:
            return FileResponse(PAGE / name, headers={"Cache-Control": "no-cache"})

        return send


def _served(champion: Champion, refresh: float) -> Served:
    if champion.served is None:
        raise RefusalError(503, champion.waiting, retry_after=max(1, round(refresh)))
    return champion.served


def _identity(served: Served) -> dict[str, str]:
    return {"name": served.name, "version": served.version}


async def _all(tasks: list[Any]) -> list[Any]:
    """The results of tasks in order; raises what the first of them that failed has raised."""
    found = await asyncio.gather(*map(asyncio.wrap_future, tasks), return_exceptions=True)
    for result in found:
        if isinstance(result, BaseException):
            raise result
    return found


async def _images(request: Request, most: int = MAX_IMAGES) -> list[tuple[str, bytes]]:
    """Name and bytes of the images of a request: its body, or the parts of its form."""
    kind = request.headers.get("content-type", "").partition(";")[0].strip().lower()
    if kind == "application/octet-stream" or kind.startswith("image/"):
        return [("image", await request.body())]
    if kind != "multipart/form-data":
        raise RefusalError(
            415,
            "Expected an image as the body (image/* or application/octet-stream), or a form of "
            f"images (multipart/form-data), got {kind[:100] or 'no content type'!r}.",
        )
    found = await _form(request)
    if not found:
        raise RefusalError(400, "Expected at least one image, got none.")
    if len(found) > most:
        raise RefusalError(413, f"Expected at most {most:,} images, got {len(found):,}.")
    return found


async def _form(request: Request) -> list[tuple[str, bytes]]:
    """Name and bytes of each part of a form."""
    kind, options = multipart.parse_options_header(request.headers.get("content-type", ""))
    if kind != "multipart/form-data":
        raise RefusalError(415, f"Expected a form (multipart/form-data), got {kind[:100]!r}.")
    body = await request.body()
    return await asyncio.to_thread(_parts, body, options.get("boundary", ""))


def _parts(body: bytes, boundary: str) -> list[tuple[str, bytes]]:
    most = len(body) + 1
    try:
        parser = multipart.MultipartParser(
            io.BytesIO(body),
            boundary,
            part_limit=MAX_IMAGES + 1,
            spool_limit=most,
            memory_limit=most,
        )
        return [(part.name, part.raw) for part in parser]
    except multipart.ParserLimitReached as error:
        sentence = f"Expected a form of at most {MAX_IMAGES:,} parts, got more, or long headers."
        raise RefusalError(413, sentence) from error
    except (multipart.MultipartError, ValueError) as error:
        raise RefusalError(
            400, f"Expected a whole form of multipart/form-data, but: {error}."
        ) from error


def _text(fields: Mapping[str, bytes], name: str) -> str:
    try:
        return fields.get(name, b"")[:TEXT].decode()
    except UnicodeDecodeError as error:
        raise RefusalError(400, f"Expected UTF-8 text as {name}.") from error


def _known(label: str, classes: tuple[str, ...]) -> str:
    if label not in classes:
        choices = ", ".join(classes[:50])
        raise RefusalError(400, f"Expected a label of {choices}; got {label[:100]!r}.")
    return label


def _metrics(metrics: Metrics) -> Any:
    async def send(_: Request) -> Response:  # in the loop's thread, as all that counts
        return Response(metrics.text(), media_type="text/plain; version=0.0.4")

    return send


async def _refused(_: Request, error: Any) -> Response:
    """Every error in one form: a code and a sentence."""
    if isinstance(error, RefusalError):
        return Response(error.body, error.status, error.headers)
    if isinstance(error, MlflowException):
        if not hasattr(error, "sentence"):
            return await _failed(_, error)
        status = int(error.get_http_status_code())  # type: ignore[no-untyped-call]
        content = error.serialize_as_json()  # type: ignore[no-untyped-call]
        return Response(content, status, media_type="application/json")
    sentence = f"{error.detail}."
    body = {"error_code": CODES.get(error.status_code, "BAD_REQUEST"), "message": sentence}
    return JSONResponse(body, error.status_code, headers=error.headers)


async def _failed(_: Request, error: Exception) -> Response:
    logging.getLogger(__name__).error("A request failed.", exc_info=error)
    sentence = "The server failed on this request; its log says why."
    return JSONResponse({"error_code": CODES[500], "message": sentence}, 500)


if __name__ == "__main__":
    main()
