"""The same images as the requests that each server takes, and whether it answers them rightly."""

import base64
import json
import mimetypes
from collections.abc import Iterable, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np

from benchmarks.load import Answer
from serving.predictor import Classifier, Pixels

TOGETHER = 16  # images of a large request
TOLERANCE = 1e-3  # of a confidence: TensorFlow and LiteRT round differently
Told = tuple[str, float]  # label and confidence


@dataclass(frozen=True)
class Form:
    """Requests of one kind.

    folder: a body a file; images: in each; told: what is to be answered to each.
    """

    folder: Path
    content_type: str
    images: int
    told: list[list[Told]]
    classes: tuple[str, ...]

    @property
    def bodies(self) -> list[bytes]:
        """The bodies, in the order in which they are sent."""
        return [path.read_bytes() for path in sorted(self.folder.iterdir())]

    def is_right(self, answer: Answer) -> bool:
        """Whether the answer has the labels and confidences that its images should have."""
        if answer.status != 200:
            return False
        try:
            found = _read(json.loads(answer.body), self.classes)
        except (ValueError, TypeError, KeyError, AttributeError):
            return False
        return len(found) == self.images and all(
            label == expected[0] and abs(confidence - expected[1]) < TOLERANCE
            for (label, confidence), expected in zip(found, self.told[answer.request], strict=True)
        )


def make(network: Path, images: Sequence[Path], folder: Path) -> dict[str, Form]:
    """Writes requests into `folder`: `pixels`, `text`, `texts` (TOGETHER in each), and `image`."""
    classifier = Classifier(network)
    classes = classifier.card.classes
    contents = [path.read_bytes() for path in images]
    pixels = [classifier.decode(content) for content in contents]
    rows = classifier.probabilities(np.stack(pixels))
    told = [(classes[row.argmax()], float(row.max())) for row in rows]
    places = range(len(images))
    groups = [[(first + i) % len(images) for i in range(TOGETHER)] for first in places]

    def form(name: str, content_type: str, of: list[list[int]], bodies: Iterable[bytes]) -> Form:
        where = folder / name
        where.mkdir(parents=True)
        for place, body in enumerate(bodies):
            (where / f"{place:04}").write_bytes(body)
        expected = [[told[image] for image in group] for group in of]
        return Form(where, content_type, len(of[0]), expected, classes)

    single, json_type = [[place] for place in places], "application/json"
    image_type = mimetypes.guess_type(images[0])[0] or "application/octet-stream"
    return {
        "pixels": form("pixels", json_type, single, map(_pixels, pixels)),
        "text": form("text", json_type, single, (_texts([content]) for content in contents)),
        "texts": form(
            "texts", json_type, groups, (_texts([contents[i] for i in group]) for group in groups)
        ),
        "image": form("image", image_type, single, contents),
    }


def _pixels(pixels: Pixels) -> bytes:
    return json.dumps({"inputs": [pixels.tolist()]}, separators=(",", ":")).encode()


def _texts(contents: Iterable[bytes]) -> bytes:
    rows = [[base64.b64encode(content).decode()] for content in contents]
    return json.dumps({"dataframe_split": {"columns": ["image"], "data": rows}}).encode()


def _read(answer: Any, classes: Sequence[str]) -> list[Told]:
    """Of MLflow's predictions, or of one record alone; probabilities without labels count too."""
    return [_told(record, classes) for record in answer.get("predictions", [answer])]


def _told(record: Any, classes: Sequence[str]) -> Told:
    if isinstance(record, dict):
        return str(record["label"]), float(record["confidence"])
    best = int(np.argmax(record))
    return classes[best], float(record[best])
