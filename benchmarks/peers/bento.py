"""BentoML around the classifier: `bentoml serve benchmarks.peers.bento:Answers`.

In its own environment, with a worker a core and without a line of log a request. Images come as the
body of the request: as bytes, for a `Path` would be a file on disk first.
"""

from typing import Any

import bentoml  # type: ignore[import-not-found]

from benchmarks.peers.answering import Answering
from serving.predictor import cores


@bentoml.service(workers=cores(), logging={"access": {"enabled": False}})
class Answers:
    """An image's bytes in, a record out."""

    def __init__(self) -> None:
        self.answering = Answering()

    @bentoml.api  # type: ignore[untyped-decorator]
    def predict(self, image: bytes, /) -> dict[str, Any]:
        """The record of the image that is the request's body."""
        return self.answering(image)
