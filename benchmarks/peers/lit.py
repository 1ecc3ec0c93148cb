"""LitServe around the classifier: `python -m benchmarks.peers.lit PORT`, in its own environment.

As its documentation has it for a CPU: a worker a core, and the fast queue above 100 requests a
second. Images come as the body of the request; batches would gain nothing on a CPU.
"""

import sys
from typing import Annotated, Any

import litserve  # type: ignore[import-not-found]
from fastapi import Body

from benchmarks.peers.answering import Answering
from serving.predictor import cores


class Answers(litserve.LitAPI):  # type: ignore[misc]
    """An image's bytes in, a record out."""

    def setup(self, device: str) -> None:
        """LitServe calls it in each worker, and the others for each request."""
        del device
        self.answering = Answering()

    def decode_request(self, request: Annotated[bytes, Body(media_type="image/jpeg")]) -> bytes:
        """The image's bytes."""
        return request

    def predict(self, x: bytes) -> dict[str, Any]:
        """The record."""
        return self.answering(x)


if __name__ == "__main__":
    server = litserve.LitServer(
        Answers(), accelerator="cpu", workers_per_device=cores(), fast_queue=True
    )
    server.run(host="127.0.0.1", port=int(sys.argv[1]), generate_client_file=False)
