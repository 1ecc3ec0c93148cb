"""alibi-detect on an embedding, in an environment of its own: p-values of draws, as JSON lines.

    python -m benchmarks.peers.alibi METHOD EMBEDDING.npy DRAWS.npz ANSWERS.jsonl

DRAWS.npz: of each cell `CELL reference` and `CELL current`, rows of the embedding, a draw a line.
A line is written when all draws of a cell are answered; cells that have a line are left out.
"""

import json
import multiprocessing
import os
import sys
import time
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray

METHODS = ("ks", "mmd", "classifier")
ALPHA = 0.05
PERMUTATIONS = 100  # its default

_embedding: NDArray[np.float32]


def main(method: str, embedding: str, draws: str, answers: str) -> None:
    """Answers the draws on all cores."""
    global _embedding  # of the processes that are forked now
    _embedding = np.load(embedding)
    path = Path(answers)
    known = {json.loads(line)["cell"] for line in _lines(path)}
    with np.load(draws) as given, multiprocessing.Pool(len(os.sched_getaffinity(0))) as pool:
        for cell in [name.removesuffix(" current") for name in given if name.endswith(" current")]:
            if cell in known:
                continue
            sides = zip(given[f"{cell} reference"], given[f"{cell} current"], strict=True)
            calls = [(method, number, *places) for number, places in enumerate(sides)]
            found = pool.starmap(_answer, calls, chunksize=1)
            flags, p_values, seconds = zip(*found, strict=True)
            line = {"cell": cell, "drift": flags, "p_values": p_values, "seconds": seconds}
            with path.open("a") as file:
                file.write(json.dumps(line) + "\n")


def _lines(path: Path) -> list[str]:
    """Those that were written to their end."""
    lines = path.read_text().splitlines(keepends=True) if path.exists() else []
    return [line for line in lines if line.endswith("\n")]


def _answer(
    method: str, number: int, reference: NDArray[np.int64], current: NDArray[np.int64]
) -> tuple[bool, float, float]:
    """Whether it says drift, its p-value (for many columns the least, corrected), and seconds.

    number: of the draw, which decides how it is permuted or split.
    """
    import torch

    torch.set_num_threads(1)
    torch.manual_seed(number)
    np.random.seed(number)  # noqa: NPY002 - what the library draws from
    start = time.perf_counter()
    detector = _detector(method, _embedding[reference])
    found = detector.predict(_embedding[current])["data"]
    p_value = np.min(found["p_val"])
    if method == "ks":
        p_value = min(1.0, p_value * _embedding.shape[1])
    return bool(found["is_drift"]), float(p_value), time.perf_counter() - start


def _detector(method: str, reference: NDArray[np.float32]) -> Any:
    from alibi_detect.cd import ClassifierDrift, KSDrift, MMDDrift
    from sklearn.linear_model import LogisticRegression

    if method == "ks":
        return KSDrift(reference, p_val=ALPHA)
    if method == "mmd":
        permutations = {"n_permutations": PERMUTATIONS}
        return MMDDrift(reference, backend="pytorch", p_val=ALPHA, device="cpu", **permutations)
    model = LogisticRegression(max_iter=1000)
    return ClassifierDrift(reference, model, backend="sklearn", p_val=ALPHA)


if __name__ == "__main__":
    main(*sys.argv[1:])
