"""The served model: image bytes in, label, confidence and probabilities out.

MLflow logs this file as the model's code ("model from code"), so it stands alone: NumPy, Pillow,
LiteRT, pandas and MLflow's pyfunc, no TensorFlow. The two other files that a server needs, BESIDE,
are artifacts of the model, and loaded by their path: a process may hold models of several versions
of this project. Training decodes through `decode` too: what the model learnt from and what it is
asked about are prepared alike.
"""

import base64
import binascii
import functools
import hashlib
import importlib.util
import io
import json
import logging
import os
import queue
import sys
import threading
import uuid
from collections.abc import Callable, Iterator, Sequence
from concurrent.futures import Future, ThreadPoolExecutor
from contextlib import contextmanager, nullcontext, suppress
from contextvars import ContextVar
from dataclasses import asdict, dataclass, field
from datetime import UTC, datetime
from pathlib import Path
from types import ModuleType
from typing import Any, Self

import mlflow
import numpy as np
import pandas as pd
import yaml
from ai_edge_litert.interpreter import Interpreter
from mlflow.exceptions import MlflowException
from mlflow.protos.databricks_pb2 import BAD_REQUEST
from mlflow.pyfunc.model import PythonModel
from numpy.typing import NDArray
from PIL import Image, ImageOps
from PIL.BmpImagePlugin import BmpImageFile
from PIL.GifImagePlugin import GifImageFile
from PIL.JpegImagePlugin import JpegImageFile
from PIL.PngImagePlugin import PngImageFile
from PIL.TiffImagePlugin import TiffImageFile
from PIL.WebPImagePlugin import WebPImageFile

Pixels = NDArray[np.uint8]
Probabilities = NDArray[np.float32]

# Imported one by one: Pillow registers a format with its import, and only these may be opened.
# The reader of JPEG also takes the multi-picture files (MPO) of phones.
_READERS = (
    JpegImageFile,
    PngImageFile,
    BmpImageFile,
    GifImageFile,
    WebPImageFile,
    TiffImageFile,
)
FORMATS = tuple(reader.format for reader in _READERS)
DECODER = 1  # names what `decode` returns: raise it when that changes, for the caches
MAX_BYTES = 64 * 2**20
MAX_PIXELS = 64_000_000
MAX_IMAGES = 1000  # of a request
MAX_DECODED = 1_000_000_000  # pixels of a request, JPEGs counted as they are decoded
MAX_SIGNS = 100_000  # commas, brackets and line breaks of a request in JSON or CSV
MAX_TABLE = 512 * 2**20  # bytes of a Parquet file once it is unpacked
MAX_SCANS = 100  # of a progressive JPEG: each decodes the whole image once more
LARGE = 8_000_000  # pixels: of larger images, one at a time is in memory
SCAN = b"\xff\xda"
TILE = (322, 323)  # tags of TIFF: width and height of a tile
NETWORK, CARD, REFERENCE = "network.tflite", "network.json", "reference.parquet"
BESIDE = ("features", "log")
HALF = (-65504, 65504)  # what float16 holds, which the log keeps an embedding in
SIDEWAYS = frozenset({5, 6, 7, 8})  # EXIF orientations that swap width and height
ORIENTATION = 0x0112
ERROR_CODES = {400: "BAD_REQUEST", 413: "PAYLOAD_TOO_LARGE", 500: "INTERNAL_ERROR"}

_logger = logging.getLogger(__name__)
_one_large = threading.Lock()


class ImageError(ValueError):
    """An image that cannot be read; the message is the reason, in words."""


class TooLargeError(ImageError):
    """An image beyond one of the bounds."""


class RequestError(MlflowException):
    """A request without an answer: one sentence, no traceback.

    status: of HTTP, a key of ERROR_CODES: 400 where the caller can mend it, 413 beyond a bound.
    """

    def __init__(self, sentence: str, status: int = 400) -> None:
        super().__init__(sentence, error_code=BAD_REQUEST)
        self.sentence, self.status, self.error_code = sentence, status, ERROR_CODES[status]

    def get_http_status_code(self) -> int:
        """The status of the scoring server's answer."""
        return self.status

    def serialize_as_json(self) -> str:
        """The sentence alone: the scoring server rewrites `message` to hold the whole request."""
        return json.dumps({"error_code": self.error_code, "message": self.sentence})


def open_image(content: bytes) -> Image.Image:
    """The image in `content`, bounds checked, not decoded yet.

    Raises ImageError for what is empty or of none of `FORMATS`, TooLargeError beyond a bound.
    """
    if not content:
        raise ImageError("empty file")
    if len(content) > MAX_BYTES:
        raise TooLargeError(f"{len(content):,} bytes, more than the bound of {MAX_BYTES:,}")
    try:
        image = Image.open(io.BytesIO(content), formats=FORMATS)
    except (Image.DecompressionBombError, Image.DecompressionBombWarning) as error:
        raise TooLargeError(f"more pixels than the bound of {MAX_PIXELS:,}") from error
    except Exception as error:  # Pillow's plug-ins raise whatever a hostile header makes them
        raise ImageError(f"not an image of a known format ({', '.join(FORMATS)})") from error
    if _area(image) > MAX_PIXELS:
        raise TooLargeError(
            f"{image.width}x{image.height} pixels, more than the bound of {MAX_PIXELS:,}"
        )
    if image.info.get("progressive") and content.count(SCAN) > MAX_SCANS:
        raise TooLargeError(f"a progressive JPEG of more than {MAX_SCANS} scans")
    return image


def _area(image: Image.Image) -> int:
    """Pixels that decoding takes memory for; a TIFF's tile may be larger than the image."""
    tags = getattr(image, "tag_v2", {})
    tile = [tags.get(tag, 0) for tag in TILE]
    return max(image.width * image.height, *(side * side for side in tile if isinstance(side, int)))


@contextmanager
def opened(content: bytes) -> Iterator[Image.Image]:
    """As `open_image`; of large images, one at a time is in memory while its block goes on."""
    image = open_image(content)
    with _one_large if _area(image) > LARGE else nullcontext():
        yield image


def to_rgb(image: Image.Image) -> Image.Image:
    """Upright 8-bit RGB of any mode: EXIF orientation applied, transparency over white.

    Raises ImageError where the file is truncated or its data are broken.
    """
    try:
        image.load()
        ImageOps.exif_transpose(image, in_place=True)
        if image.mode.startswith(("I", "F")):
            return _from_deep_grey(np.asarray(image))
        if image.mode in ("RGBA", "LA", "PA", "RGBa", "La") or "transparency" in image.info:
            image = image.convert("RGBA")
            white = Image.new("RGBA", image.size, "white")
            return Image.alpha_composite(white, image).convert("RGB")
        return image if image.mode == "RGB" else image.convert("RGB")
    except Exception as error:  # as above: any error here is the file's
        raise ImageError(f"broken or truncated image ({error})") from error


@dataclass(frozen=True)
class Photo:
    """An image as it is looked at.

    image: upright RGB, of a large JPEG a fraction; width, height: pixels of the whole upright one.
    format: one of FORMATS.
    """

    image: Image.Image
    width: int
    height: int
    format: str


def photo(image: Image.Image, size: tuple[int, int]) -> Photo:
    """An image that was opened, no smaller than `size` = (height, width) where it is not itself.

    A JPEG much larger than `size` is decoded at a fraction of its size (libjpeg's scaled DCT).
    Raises ImageError.
    """
    width, height = image.size
    image.draft("RGB", (size[1], size[0]))
    if _is_sideways(image):
        width, height = height, width
    upright = to_rgb(image)
    return Photo(upright, width, height, image.format or "")


def _serves(seen: Photo, content: bytes, size: tuple[int, int]) -> bool:
    """Whether a photo that was decoded for another size is what `photo` would decode for `size`."""
    if seen.width < 2 * size[1] or seen.height < 2 * size[0]:  # at its whole size, that is
        return seen.image.size == (seen.width, seen.height)
    image = open_image(content)
    image.draft("RGB", (size[1], size[0]))
    return sorted(image.size) == sorted(seen.image.size)


def _for(seen: Photo, content: bytes, size: tuple[int, int]) -> Photo:
    """A photo that was decoded for another size, as `photo` would decode it for `size`."""
    return seen if _serves(seen, content, size) else photo(open_image(content), size)


def _is_sideways(image: Image.Image) -> bool:
    try:
        return image.getexif().get(ORIENTATION) in SIDEWAYS
    except Exception:  # noqa: BLE001 - broken metadata, of which `to_rgb` has the last word
        return False


def decode(content: bytes, size: tuple[int, int]) -> Pixels:
    """Pixels (height, width, 3), uint8, 0..255, of an image stretched to `size` = (height, width).

    As `photo`. Raises ImageError.
    """
    with opened(content) as image:
        return resize(photo(image, size).image, size)


def resize(image: Image.Image, size: tuple[int, int]) -> Pixels:
    """RGB image -> pixels (height, width, 3), uint8, bilinear with antialiasing."""
    if image.size != (size[1], size[0]):
        image = image.resize((size[1], size[0]), Image.Resampling.BILINEAR)
    return np.asarray(image)


def _from_deep_grey(values: NDArray[Any]) -> Image.Image:
    """Grey of 16 or 32 bits, or of floats in 0..1 or 0..255, as 8-bit RGB."""
    grey = values.astype(np.float32)
    np.nan_to_num(grey, copy=False)  # all in place: it may be large
    if values.dtype.kind == "f":
        grey *= 255 if grey.max(initial=0) <= 1 else 1
    elif values.dtype.itemsize == 2 or grey.max(initial=0) > 255:
        grey /= 257
    eight_bit = np.clip(np.rint(grey, out=grey), 0, 255, out=grey).astype(np.uint8)
    return Image.fromarray(eight_bit).convert("RGB")


@dataclass(frozen=True)
class Card:
    """What the network needs beside its weights, kept as JSON next to it."""

    classes: tuple[str, ...]
    height: int
    width: int

    @property
    def size(self) -> tuple[int, int]:
        """(height, width) in pixels."""
        return self.height, self.width

    @classmethod
    def read(cls, path: Path) -> Self:
        """The card in a JSON file."""
        fields = json.loads(path.read_text(encoding="utf-8"))
        return cls(tuple(fields["classes"]), fields["height"], fields["width"])

    def write(self, path: Path) -> None:
        """The card as a JSON file."""
        path.write_text(json.dumps(asdict(self), indent=2, ensure_ascii=False), encoding="utf-8")


def cores() -> int:
    """Processors that this process may use: its affinity, and the quota of its control group."""
    known = getattr(os, "sched_getaffinity", None)
    count = len(known(0)) if known else os.cpu_count() or 1
    with suppress(OSError, ValueError):  # no Linux, no quota ("max"), or groups of version 1
        quota, period = Path("/sys/fs/cgroup/cpu.max").read_text().split()
        count = min(count, max(1, round(int(quota) / int(period))))
    return count


class _Interpreter:
    """LiteRT's interpreter, which serves one thread at a time, with one thread."""

    def __init__(self, content: bytes) -> None:
        self._lite = Interpreter(model_content=content, num_threads=1)
        self._lite.allocate_tensors()
        shape = self._lite.get_input_details()[0]["shape"]
        self._input = self._lite.tensor(self._lite.get_input_details()[0]["index"])
        outputs = sorted(self._lite.get_output_details(), key=lambda output: str(output["name"]))
        self._outputs = [self._lite.tensor(output["index"]) for output in outputs]
        self.widths = tuple(int(output["shape"][-1]) for output in outputs)
        self(np.zeros(shape[1:], np.uint8))  # the first takes several times as long

    def __call__(self, pixels: Pixels) -> NDArray[np.float32]:
        self._input()[0] = pixels  # a view of LiteRT's own memory, which may not outlive the line
        self._lite.invoke()
        return np.concatenate([output()[0] for output in self._outputs])


class Network:
    """A LiteRT flatbuffer of (batch, height, width, 3) float32 pixels 0..255 -> (batch, outputs).

    Of several outputs, one row holds them one after the other; `bounds` are where they part.
    As many interpreters of one thread as `threads` (None: `cores`). They take image by image:
    an answer does not depend on what else is asked, and batches gain convolutions nothing (ADR 8).
    """

    def __init__(self, content: bytes, threads: int | None = None) -> None:
        self.threads = threads or cores()
        interpreters = [_Interpreter(content) for _ in range(self.threads)]
        widths = interpreters[0].widths
        self.outputs, self.bounds = sum(widths), np.cumsum(widths)[:-1]
        self._free: queue.SimpleQueue[_Interpreter] = queue.SimpleQueue()
        for interpreter in interpreters:
            self._free.put(interpreter)
        self._pool = ThreadPoolExecutor(self.threads, "network")

    def infer(self, pixels: Pixels) -> NDArray[np.float32]:
        """pixels: (height, width, 3), uint8. Returns (outputs,), once an interpreter is free."""
        interpreter = self._free.get()
        try:
            return interpreter(pixels)
        finally:
            self._free.put(interpreter)

    def submit(self, task: Callable[..., Any], *arguments: Any) -> "Future[Any]":
        """Runs `task`, which may `infer`, in a thread of the pool: first come, first served."""
        return self._pool.submit(task, *arguments)

    def __call__(self, pixels: Pixels) -> NDArray[np.float32]:
        """pixels: (n, height, width, 3), uint8. Returns (n, outputs), float32, for any n >= 0."""
        parts = np.array_split(pixels, min(self.threads, max(1, len(pixels))))
        waiting = [self.submit(self._infer_all, part) for part in parts]
        return np.concatenate([part.result() for part in waiting])

    def _infer_all(self, pixels: Pixels) -> NDArray[np.float32]:
        rows = np.empty((len(pixels), self.outputs), np.float32)
        for row, image in zip(rows, pixels, strict=True):
            row[:] = self.infer(image)
        return rows


class Classifier:
    """A network with its classes and its preprocessing, from a folder of NETWORK and CARD."""

    def __init__(self, folder: Path, threads: int | None = None) -> None:
        self.card = Card.read(folder / CARD)
        self.network = Network((folder / NETWORK).read_bytes(), threads)

    def decode(self, content: bytes) -> Pixels:
        """Pixels (height, width, 3) at the network's size. Raises ImageError."""
        return decode(content, self.card.size)

    def look(self, content: bytes, size: tuple[int, int]) -> tuple[Pixels, Photo]:
        """As `decode`, and the photo as `photo` gives it for `size`; most are decoded once."""
        with opened(content) as image:
            seen = photo(image, self.card.size)
            pixels = resize(seen.image, self.card.size)
            return pixels, _for(seen, content, size)

    def probabilities(self, pixels: Pixels) -> Probabilities:
        """pixels: (n, height, width, 3), uint8. Returns (n, classes), each row summing to 1."""
        return self.answer(pixels)[0]

    def answer(self, pixels: Pixels) -> tuple[Probabilities, NDArray[np.float32]]:
        """As `probabilities`, and with them the embeddings (n, width); width 0: it has none."""
        return self.parted(self.network(pixels))

    def parted(self, outputs: NDArray[np.float32]) -> tuple[Probabilities, NDArray[np.float32]]:
        """The network's outputs (..., outputs) as probabilities and embeddings."""
        count = len(self.card.classes)
        return outputs[..., :count], outputs[..., count:]


Record = dict[str, Any]  # `label`, `confidence` (0..1), `probabilities` (class -> 0..1)


def record(probabilities: Probabilities, classes: Sequence[str]) -> Record:
    """The answer to one image; probabilities: (classes,)."""
    values = probabilities.tolist()
    most = max(values)
    return {
        "label": classes[values.index(most)],
        "confidence": most,
        "probabilities": dict(zip(classes, values, strict=True)),
    }


@dataclass(frozen=True)
class Told:
    """One image's answer: probabilities of the classes, and what the inference log keeps of it."""

    probabilities: Probabilities
    measured: dict[str, Any] = field(default_factory=dict)


@dataclass
class _Request:
    """What the images of a request share. refused: those that were; decoded: pixels so far."""

    refused: list[int] = field(default_factory=list)
    decoded: int = 0

    def decode(self, pixels: int) -> None:
        """Counts an image's pixels. Raises TooLargeError beyond MAX_DECODED."""
        self.decoded += pixels
        if self.decoded > MAX_DECODED:
            raise TooLargeError(f"the request has more than {MAX_DECODED:,} pixels together")


class Predictor(PythonModel):
    """The pyfunc around a `Classifier`: a column `image` of bytes in, a record an image out.

    log: takes a row an image (`log.Log`), None: no log. name, version: of the registered model.
    observer: is called with the labels of every answer. request_id: that of the caller, if it has
    one. A server may set all of them.
    """

    def load_context(self, context: Any) -> None:
        """Loads the network that was logged as the artifact `model`, and warms it up.

        Raises ValueError for settings of the inference log that cannot be meant.
        """
        self.folder = Path(context.artifacts["model"])
        self.classifier = Classifier(self.folder)
        self.name, self.version = _registered_as(self.folder)
        self.observer: Callable[[Sequence[str]], None] | None = None
        self.request_id: ContextVar[str] = ContextVar("request_id", default="")
        self._modules: dict[str, ModuleType] = {}
        own = Path(__file__).with_name
        self._code = {name: Path(context.artifacts.get(name, own(f"{name}.py"))) for name in BESIDE}
        self.log: Any = None
        if os.environ.get("LOOKOUT_LOG"):
            self.log = self._beside("log").from_environment()
        mend(sys.modules.get("mlflow.pyfunc.scoring_server"))

    def predict(
        self, context: Any, model_input: pd.DataFrame, params: dict[str, Any] | None = None
    ) -> pd.DataFrame:
        """model_input: a column `image`, of bytes or base64 text, of one image or more.

        Raises RequestError naming the first bad image.
        """
        del context, params
        contents = [_bytes(i, content) for i, content in enumerate(model_input["image"])]
        return pd.DataFrame(self.answer(contents))

    def answer(self, contents: Sequence[bytes]) -> list[Record]:
        """A record an image. Raises RequestError as `start`, and naming the first bad image."""
        if len(contents) == 1:  # in this thread: to hand it to another takes time
            return self.finish([self._answer(0, contents[0], _Request())])
        return self.finish([told.result() for told in self.start(contents)])

    def start(self, contents: Sequence[bytes]) -> list["Future[Told]"]:
        """Answers images on all cores: a future an image, whose error is a RequestError.

        Where one fails, those after it are not begun. Raises RequestError for none or too many.
        """
        if not contents:
            raise RequestError("Expected at least one image, got none.")
        if len(contents) > MAX_IMAGES:
            raise RequestError(
                f"Expected at most {MAX_IMAGES:,} images a request, got {len(contents):,}.", 413
            )
        request = _Request()
        submit = self.classifier.network.submit
        return [submit(self._answer, *image, request) for image in enumerate(contents)]

    def finish(self, told: Sequence[Told]) -> list[Record]:
        """The records of a request's images, once they are noted in the log."""
        records = [record(one.probabilities, self.classifier.card.classes) for one in told]
        if self.observer:
            self.observer([one["label"] for one in records])
        if self.log:
            self._note(records, told)
        return records

    def _note(self, records: Sequence[Record], told: Sequence[Told]) -> None:
        common = {
            "time": datetime.now(UTC),
            "request_id": self.request_id.get() or uuid.uuid4().hex,
            "model_name": self.name,
            "model_version": self.version,
        }
        try:
            self.log.put(
                [
                    {**common, "position": i, **record, **one.measured}
                    for i, (record, one) in enumerate(zip(records, told, strict=True))
                ]
            )
        except Exception:  # the answer is worth more than its record
            _logger.exception("The inference log took no record of %d images.", len(told))

    def _answer(self, index: int, content: bytes, request: _Request) -> Told:
        if any(other < index for other in request.refused):
            raise RequestError("Refused with an earlier image of the request.")
        size = self.classifier.card.size
        try:
            with opened(content) as image:
                seen = photo(image, size)
                request.decode(seen.image.width * seen.image.height)
                pixels = resize(seen.image, size)
                measured = self._measure(content, seen) if self.log else {}
                del seen
            known, embedding = self.classifier.parted(self.classifier.network.infer(pixels))
            if measured and embedding.size:
                measured["embedding"] = np.clip(embedding, *HALF).astype("<f2").tobytes()
            return Told(known, measured)
        except ImageError as error:
            request.refused.append(index)
            status = 413 if isinstance(error, TooLargeError) else 400
            raise RequestError(f"Image {index} cannot be read: {error}.", status) from error
        except Exception as error:  # MLflow would blame the caller, and send the traceback
            request.refused.append(index)
            _logger.exception("The model failed on image %d of a request.", index)
            sentence = "The model failed on this request; the server's log says why."
            raise RequestError(sentence, 500) from error

    def _measure(self, content: bytes, seen: Photo) -> dict[str, Any]:
        """What the log keeps of the image beside the answer; {} where that fails."""
        try:
            features = self._beside("features")
            seen = _for(seen, content, features.SCALE)
            known = features.measure(seen.image, seen.width, seen.height)
            digest = hashlib.sha256(content).hexdigest()
            return {**known, "content": digest, "format": seen.format, "image": content}
        except Exception:
            _logger.exception("The features of an image could not be measured.")
            return {}

    def _beside(self, name: str) -> ModuleType:
        """A file of BESIDE, under a name of its own: other versions of it may be loaded too."""
        if name in self._modules:
            return self._modules[name]
        path = self._code[name]
        spec = importlib.util.spec_from_file_location(f"{name}_{uuid.uuid4().hex}", path)
        if spec is None or spec.loader is None:
            raise ImportError(f"Expected Python at {path}, which the model was registered with.")
        module = importlib.util.module_from_spec(spec)
        sys.modules[spec.name] = module  # dataclasses look themselves up there
        spec.loader.exec_module(module)
        return self._modules.setdefault(name, module)


def _registered_as(folder: Path) -> tuple[str, str]:
    """Name and version that MLflow noted when it fetched the model; else its id, and no version."""
    for above in folder.parents[:4]:
        if (noted := above / "registered_model_meta").is_file():
            known = yaml.safe_load(noted.read_text(encoding="utf-8"))
            return str(known["model_name"]), str(known["model_version"])
        if (described := above / "MLmodel").is_file():
            known = yaml.safe_load(described.read_text(encoding="utf-8"))
            return str(known.get("model_id") or ""), ""
    return "", ""


def _bytes(index: int, content: object) -> bytes:
    if not isinstance(content, bytes | str):
        kind = type(content).__name__
        raise RequestError(f"Image {index}: expected the bytes of an image, got {kind}.")
    return _from_base64(content)


def _from_base64(content: bytes | str) -> bytes:
    """The bytes in base64 text; what is no such text, as every image, stays as it is.

    MLflow decodes the text in `dataframe_split` and `dataframe_records`, not in `inputs` or CSV.
    """
    raw = content.encode("utf-8", "replace") if isinstance(content, str) else bytes(content)
    try:
        return base64.b64decode(raw.translate(None, b"\r\n"), validate=True)
    except binascii.Error:
        return raw


def mend(server: Any) -> None:
    """Has MLflow's scoring server read images itself, and refuse as `RequestError` does (ADR 4).

    By way of tables, an image costs twice the time that it needs; and MLflow's own refusals repeat
    the request, and for broken Parquet or CSV send a stack trace. What `_images` does not know is
    MLflow's to read.
    server: the module `mlflow.pyfunc.scoring_server`; None in a process that is no server. In a
    later MLflow without the function, all stays as it is there.
    """
    invocations = getattr(server, "invocations", None)
    if invocations is None or hasattr(invocations, "__wrapped__"):
        return

    @functools.wraps(invocations)
    def mended(data: bytes, content_type: str | None, model: Any, *rest: Any) -> Any:
        try:
            contents = _images(data, content_type)
            if contents and hasattr(predictor := model.unwrap_python_model(), "answer"):
                body = json.dumps({"predictions": predictor.answer(contents)})
                return server.InvocationsResponse(body, 200, "application/json")
            return invocations(data, content_type or "none", model, *rest)
        except (MlflowException, RecursionError, ValueError) as error:
            if hasattr(error, "sentence"):  # of any version's RequestError
                raise
            raise _misread(_cause(error)) from error

    server.invocations = mended


def _misread(cause: str) -> RequestError:
    return RequestError(
        "Expected a column `image` of image bytes, in Parquet, or as base64 in the "
        f"dataframe_split, dataframe_records or inputs of JSON, but: {cause}."
    )


def _images(data: bytes, content_type: str | None) -> list[bytes] | None:
    """The images of a request in Parquet, or in the plainest forms of JSON; None: MLflow reads it.

    Raises RequestError beyond the bounds, which MLflow has not, and for what Parquet it is not.
    """
    if (content_type or "").partition(";")[0].strip() == "application/vnd.apache.parquet":
        return _from_parquet(data)
    if sum(map(data.count, (b",", b"[", b"{", b"\n"))) > MAX_SIGNS:
        raise RequestError(
            f"Expected at most {MAX_SIGNS:,} commas, brackets and line breaks in a request.", 413
        )
    if content_type != "application/json":
        return None
    try:
        asked = json.loads(data)
        ((form, table),) = asked.items()
        if form == "dataframe_split" and table.keys() == {"columns", "data"}:
            texts = [text for (text,) in table["data"]] if table["columns"] == ["image"] else []
        elif form == "dataframe_records":
            texts = [text for ((name, text),) in map(dict.items, table) if name == "image"]
            texts = texts if len(texts) == len(table) else []
        else:
            return None
        return [binascii.a2b_base64(text, strict_mode=True) for text in texts]
    except (ValueError, TypeError, AttributeError, RecursionError):  # binascii's and JSON's too
        return None


def _from_parquet(data: bytes) -> list[bytes]:
    """The column `image` of a Parquet file, bounds checked before it is unpacked.

    Equal values stay one, however often a hostile file repeats them.
    """
    from pyarrow import ArrowException, parquet, types

    try:
        known = parquet.ParquetFile(io.BytesIO(data))
        groups = map(known.metadata.row_group, range(known.metadata.num_row_groups))
        size = sum(group.total_byte_size for group in groups)
        if known.metadata.num_rows > MAX_IMAGES or size > MAX_TABLE:
            raise RequestError(
                f"Expected at most {MAX_IMAGES:,} images a request, in a table of at most "
                f"{MAX_TABLE:,} bytes, got {known.metadata.num_rows:,} in {size:,}.",
                413,
            )
        if "image" not in known.schema_arrow.names:
            raise _misread("Model is missing inputs ['image']")
        kind = known.schema_arrow.field("image").type
        kind = kind.value_type if types.is_dictionary(kind) else kind
        if not (_holds_bytes(types, kind) or types.is_null(kind)):
            raise _misread("Incompatible input types for column image")
        # `read_dictionary` is for the first reading of the file alone.
        source = parquet.ParquetFile(io.BytesIO(data), read_dictionary=["image"])
        column = source.read(columns=["image"], use_threads=False).column("image")
        values = [value for part in column.chunks for value in _values(types, part)]
    except (ArrowException, OSError) as error:
        raise _misread(f"Could not open Parquet input source ({type(error).__name__})") from error
    if not values:
        raise RequestError("Expected at least one image, got none.")
    return [_bytes(index, value) for index, value in enumerate(values)]


def _holds_bytes(types: Any, kind: Any) -> bool:
    """Whether an Arrow type is of bytes, or of text, which base64 is."""
    forms = (types.is_binary, types.is_large_binary, types.is_string, types.is_large_string)
    return any(form(kind) for form in forms)


def _values(types: Any, part: Any) -> list[bytes | str | None]:
    """The values of a part of a column; of a dictionary, each is made once."""
    if not types.is_dictionary(part.type):
        return list(part.to_pylist())
    known = part.dictionary.to_pylist()
    return [None if index is None else known[index] for index in part.indices.to_pylist()]


def _cause(error: BaseException) -> str:
    """The first sentence of what an error came from, without the request that it may repeat."""
    while inner := error.__cause__ or (not error.__suppress_context__ and error.__context__):
        error = inner
    text = " ".join(str(error).split()).removeprefix("Invalid input. ") or type(error).__name__
    return text.partition(". ")[0][:200].rstrip(".")


# MLflow loads the model by running this file; for an importer the line changes nothing.
mlflow.models.set_model(Predictor())
