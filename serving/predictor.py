"""The served model: image bytes in, label, confidence and probabilities out.

MLflow logs this file as the model's code ("model from code"), so it stands alone: NumPy, Pillow,
LiteRT, pandas and MLflow's pyfunc, nothing else of ours, no TensorFlow. Training decodes through
`decode` too: what the model learnt from and what it is asked about are prepared alike.
"""

import base64
import binascii
import functools
import io
import json
import logging
import sys
import threading
from collections.abc import Sequence
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any, Self

import mlflow
import numpy as np
import pandas as pd
from ai_edge_litert.interpreter import Interpreter
from mlflow.exceptions import MlflowException
from mlflow.protos.databricks_pb2 import BAD_REQUEST, INTERNAL_ERROR
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
BATCH = 16
NETWORK, CARD, REFERENCE = "network.tflite", "network.json", "reference.parquet"

_logger = logging.getLogger(__name__)


class ImageError(ValueError):
    """An image that cannot be read; the message is the reason, in words."""


class RequestError(MlflowException):
    """A request without an answer: one sentence, no traceback; 400 where the caller can mend it."""

    def __init__(self, sentence: str, error_code: int = BAD_REQUEST) -> None:
        super().__init__(sentence, error_code=error_code)
        self.sentence = sentence

    def serialize_as_json(self) -> str:
        """The sentence alone: the scoring server rewrites `message` to hold the whole request."""
        return json.dumps({"error_code": self.error_code, "message": self.sentence})


def open_image(content: bytes) -> Image.Image:
    """The image in `content`, bounds checked, not decoded yet.

    Raises ImageError for what is empty, too large, or of none of `FORMATS`.
    """
    if not content:
        raise ImageError("empty file")
    if len(content) > MAX_BYTES:
        raise ImageError(f"{len(content):,} bytes, more than the bound of {MAX_BYTES:,}")
    try:
        image = Image.open(io.BytesIO(content), formats=FORMATS)
    except (Image.DecompressionBombError, Image.DecompressionBombWarning) as error:
        raise ImageError(f"more pixels than the bound of {MAX_PIXELS:,}") from error
    except Exception as error:  # Pillow's plug-ins raise whatever a hostile header makes them
        raise ImageError(f"not an image of a known format ({', '.join(FORMATS)})") from error
    if image.width * image.height > MAX_PIXELS:
        raise ImageError(
            f"{image.width}x{image.height} pixels, more than the bound of {MAX_PIXELS:,}"
        )
    return image


def to_rgb(image: Image.Image) -> Image.Image:
    """Upright 8-bit RGB of any mode: EXIF orientation applied, transparency over white.

    Raises ImageError where the file is truncated or its data are broken.
    """
    try:
        image.load()
        image = ImageOps.exif_transpose(image)
        if image.mode.startswith(("I", "F")):
            return _from_deep_grey(np.asarray(image))
        if image.mode in ("RGBA", "LA", "PA", "RGBa", "La") or "transparency" in image.info:
            image = image.convert("RGBA")
            white = Image.new("RGBA", image.size, "white")
            return Image.alpha_composite(white, image).convert("RGB")
        return image.convert("RGB")
    except Exception as error:  # as above: any error here is the file's
        raise ImageError(f"broken or truncated image ({error})") from error


def decode(content: bytes, size: tuple[int, int]) -> Pixels:
    """Pixels (height, width, 3), uint8, 0..255, of an image stretched to `size` = (height, width).

    A JPEG much larger than `size` is decoded at a fraction of its size (libjpeg's scaled DCT).
    Raises ImageError.
    """
    image = open_image(content)
    image.draft("RGB", (size[1], size[0]))
    return resize(to_rgb(image), size)


def resize(image: Image.Image, size: tuple[int, int]) -> Pixels:
    """RGB image -> pixels (height, width, 3), uint8, bilinear with antialiasing."""
    if image.size != (size[1], size[0]):
        image = image.resize((size[1], size[0]), Image.Resampling.BILINEAR)
    return np.asarray(image)


def _from_deep_grey(values: NDArray[Any]) -> Image.Image:
    """Grey of 16 or 32 bits, or of floats in 0..1 or 0..255, as 8-bit RGB."""
    grey = np.nan_to_num(values.astype(np.float64))
    if values.dtype.kind == "f":
        grey = grey * 255 if grey.max(initial=0) <= 1 else grey
    elif values.dtype.itemsize == 2 or grey.max(initial=0) > 255:
        grey = grey / 257
    eight_bit = np.clip(np.rint(grey), 0, 255).astype(np.uint8)
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


class Network:
    """A LiteRT flatbuffer of (batch, height, width, 3) float32 pixels 0..255 -> (batch, outputs).

    threads: of one inference; None: LiteRT's own choice.
    """

    def __init__(self, content: bytes, threads: int | None = None) -> None:
        self._interpreter = Interpreter(model_content=content, num_threads=threads)
        self._lock = threading.Lock()  # an interpreter serves one thread at a time
        self._shape: tuple[int, ...] = ()
        self._input = self._interpreter.get_input_details()[0]["index"]
        self._output = self._interpreter.get_output_details()[0]["index"]

    def __call__(self, pixels: Pixels) -> NDArray[np.float32]:
        """pixels: (n, height, width, 3), uint8. Returns (n, outputs), float32, for any n >= 0."""
        parts = [self._batch(pixels[i : i + BATCH]) for i in range(0, len(pixels), BATCH)]
        return np.concatenate(parts) if parts else np.empty((0, self.outputs), np.float32)

    @property
    def outputs(self) -> int:
        """Width of the output."""
        return int(self._interpreter.get_output_details()[0]["shape_signature"][-1])

    def _batch(self, pixels: Pixels) -> NDArray[np.float32]:
        with self._lock:
            if self._shape != pixels.shape:
                self._interpreter.resize_tensor_input(self._input, pixels.shape)
                self._interpreter.allocate_tensors()
                self._shape = pixels.shape
            self._interpreter.set_tensor(self._input, pixels.astype(np.float32))
            self._interpreter.invoke()
            return np.array(self._interpreter.get_tensor(self._output))


class Classifier:
    """A network with its classes and its preprocessing, from a folder of NETWORK and CARD."""

    def __init__(self, folder: Path, threads: int | None = None) -> None:
        self.card = Card.read(folder / CARD)
        self._network = Network((folder / NETWORK).read_bytes(), threads)

    def decode(self, content: bytes) -> Pixels:
        """Pixels (height, width, 3) at the network's size. Raises ImageError."""
        return decode(content, self.card.size)

    def probabilities(self, pixels: Pixels) -> Probabilities:
        """pixels: (n, height, width, 3), uint8. Returns (n, classes), each row summing to 1."""
        return self._network(pixels)


def answers(probabilities: Probabilities, classes: Sequence[str]) -> pd.DataFrame:
    """A record an image: `label`, `confidence` (0..1), `probabilities` (class -> 0..1)."""
    return pd.DataFrame(
        {
            "label": [classes[i] for i in probabilities.argmax(axis=1)],
            "confidence": probabilities.max(axis=1).astype(float),
            "probabilities": [
                dict(zip(classes, map(float, row), strict=True)) for row in probabilities
            ],
        }
    )


class Predictor(PythonModel):
    """The pyfunc around a `Classifier`: a column `image` of bytes in, a record an image out."""

    def load_context(self, context: Any) -> None:
        """Loads the network that was logged as the artifact `model`."""
        self.folder = Path(context.artifacts["model"])
        self.classifier = Classifier(self.folder)
        refuse_in_one_sentence(sys.modules.get("mlflow.pyfunc.scoring_server"))

    def predict(
        self, context: Any, model_input: pd.DataFrame, params: dict[str, Any] | None = None
    ) -> pd.DataFrame:
        """model_input: a column `image`, of bytes or base64 text, of one image or more.

        Raises RequestError naming the first bad image.
        """
        del context, params
        decoded = [self._decode(i, content) for i, content in enumerate(model_input["image"])]
        if not decoded:
            raise RequestError("Expected at least one image, got none.")
        try:
            probabilities = self.classifier.probabilities(np.stack(decoded))
            return answers(probabilities, self.classifier.card.classes)
        except Exception as error:  # MLflow would blame the caller, and send the traceback
            _logger.exception("The model failed on %d images.", len(decoded))
            sentence = "The model failed on this request; the server's log says why."
            raise RequestError(sentence, INTERNAL_ERROR) from error

    def _decode(self, index: int, content: object) -> Pixels:
        if not isinstance(content, bytes | str):
            kind = type(content).__name__
            raise RequestError(f"Image {index}: expected the bytes of an image, got {kind}.")
        try:
            return self.classifier.decode(_from_base64(content))
        except ImageError as error:
            raise RequestError(f"Image {index} cannot be read: {error}.") from error


def _from_base64(content: bytes | str) -> bytes:
    """The bytes in base64 text; what is no such text, as every image, stays as it is.

    MLflow decodes the text in `dataframe_split` and `dataframe_records`, not in `inputs` or CSV.
    """
    raw = content.encode("utf-8", "replace") if isinstance(content, str) else bytes(content)
    try:
        return base64.b64decode(raw.translate(None, b"\r\n"), validate=True)
    except binascii.Error:
        return raw


def refuse_in_one_sentence(server: Any) -> None:
    """Has MLflow's scoring server refuse a request as `RequestError` does, wherever it fails.

    MLflow's own refusals repeat the request, and for broken Parquet or CSV send a stack trace.
    server: the module `mlflow.pyfunc.scoring_server`; None in a process that is no server. In a
    later MLflow without the function, its own refusals stay.
    """
    invocations = getattr(server, "invocations", None)
    if invocations is None or hasattr(invocations, "__wrapped__"):
        return

    @functools.wraps(invocations)
    def refusing(data: bytes, content_type: str | None, *rest: Any) -> Any:
        try:
            return invocations(data, content_type or "none", *rest)
        except (MlflowException, RecursionError) as error:
            if hasattr(error, "sentence"):  # of any version's RequestError
                raise
            raise RequestError(
                "Expected a column `image` of image bytes, in Parquet, or as base64 in the "
                f"dataframe_split, dataframe_records or inputs of JSON, but: {_cause(error)}."
            ) from error

    server.invocations = refusing


def _cause(error: BaseException) -> str:
    """The first sentence of what an error came from, without the request that it may repeat."""
    while inner := error.__cause__ or (not error.__suppress_context__ and error.__context__):
        error = inner
    text = " ".join(str(error).split()).removeprefix("Invalid input. ") or type(error).__name__
    return text.partition(". ")[0][:200].rstrip(".")


# MLflow loads the model by running this file; for an importer the line changes nothing.
mlflow.models.set_model(Predictor())
