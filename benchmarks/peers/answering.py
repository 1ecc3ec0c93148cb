"""What the peers of `benchmarks.serving` serve: the exported network, an image in, a record out."""

import os
from pathlib import Path
from typing import Any

from serving.predictor import Classifier

FOLDER = "LOOKOUT_BENCHMARK_FOLDER"  # the variable that names the exported folder


class Answering:
    """The classifier with one thread: most images a second come from a worker a core."""

    def __init__(self) -> None:
        self.classifier = Classifier(Path(os.environ[FOLDER]), threads=1)

    def __call__(self, content: bytes) -> dict[str, Any]:
        """`label`, `confidence` and `probabilities` of one image's bytes."""
        row = self.classifier.probabilities(self.classifier.decode(content)[None])[0]
        told = dict(zip(self.classifier.card.classes, map(float, row), strict=True))
        label = max(told, key=told.__getitem__)
        return {"label": label, "confidence": told[label], "probabilities": told}
