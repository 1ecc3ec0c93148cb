"""What the machine could answer without a server: images a second, printed.

`python -m benchmarks.peers.limit FOLDER IMAGES SECONDS`: the exported folder, one of images, and
how long. A thread a core decodes and infers in a loop, with an interpreter of one thread each.
"""

import itertools
import sys
import threading
import time
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path

import numpy as np
from ai_edge_litert.interpreter import Interpreter

from serving.predictor import CARD, NETWORK, Card, cores, decode


def rate(folder: Path, contents: list[bytes], seconds: float) -> float:
    """Images a second of all cores together."""
    network, size = (folder / NETWORK).read_bytes(), Card.read(folder / CARD).size
    ready = threading.Barrier(cores())

    def work(_: int) -> int:
        interpreter = Interpreter(model_content=network, num_threads=1)
        interpreter.allocate_tensors()
        given = interpreter.get_input_details()[0]["index"]
        turn = itertools.cycle(contents)

        def answer() -> None:
            pixels = decode(next(turn), size)
            interpreter.set_tensor(given, pixels[None].astype(np.float32))
            interpreter.invoke()

        for _image in contents:  # the first take several times as long
            answer()
        ready.wait()
        end, done = time.perf_counter() + seconds, 0
        while time.perf_counter() < end:
            answer()
            done += 1
        return done

    with ThreadPoolExecutor(cores()) as pool:
        return sum(pool.map(work, range(cores()))) / seconds


def main() -> None:
    """Prints the rate."""
    folder, images, seconds = sys.argv[1:]
    contents = [path.read_bytes() for path in sorted(Path(images).iterdir())]
    print(rate(Path(folder), contents, float(seconds)))


if __name__ == "__main__":
    main()
