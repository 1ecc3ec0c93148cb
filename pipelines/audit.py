"""Which images of a folder can be used: unreadable, equal and contradictory ones are listed.

Two images are equal where their upright RGB pixels are. Of a group of equal images one stays, in
the order test, validation, training; a group with different labels goes out whole, since one of
its labels must be wrong and nobody knows which.
"""

import hashlib
from collections.abc import Sequence
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path

import pandas as pd
from PIL.Image import Image

from pipelines import cache
from pipelines.progress import progress
from serving.durable import replacing
from serving.folder import read
from serving.predictor import DECODER, ImageError, open_image, to_rgb

KEEP_FIRST = ("test", "val", "train", "")
COLUMNS = ["path", "size", "changed", "content", "width", "height", "reason"]


def inspect(paths: Sequence[Path], folder: Path) -> pd.DataFrame:
    """One row a path: `content` (digest of its pixels), `width`, `height`, `reason` if unreadable.

    Images that have not changed (size and time) since the last look at `folder` are not read again;
    files that could not be read are, since the cause may be gone.
    """
    known_path = cache.folder("audit") / f"{cache.key(DECODER, folder)}.parquet"
    known = _known(known_path)
    state = {(str(path), *_stamp(path)): path for path in paths}
    fresh = {at: path for at, path in state.items() if at not in known}
    if fresh:
        with ThreadPoolExecutor() as pool, progress("checking", len(fresh)) as done:
            for at, look in zip(fresh, pool.map(_look, fresh.values()), strict=True):
                known[at] = look
                done(1)
    table = pd.DataFrame([(*at, *known[at]) for at in state], columns=COLUMNS)
    if fresh:
        with replacing(known_path) as file:
            table[table["reason"] == ""].to_parquet(file)
    return table


def exclude(images: pd.DataFrame) -> tuple[pd.DataFrame, pd.DataFrame]:
    """Splits a table of `path`, `class`, `split`, `content`, `reason` into usable and excluded.

    The excluded rows carry the reason in words: unreadable, equal to another image, or equal to an
    image with another label.
    """
    readable = images[images["reason"] == ""].copy()
    readable["rank"] = readable["split"].map(KEEP_FIRST.index)
    readable = readable.sort_values(["content", "rank", "path"])
    labels = readable.groupby("content")["class"].agg(
        lambda names: " and ".join(sorted(set(names)))
    )
    first = readable.groupby("content")["path"].transform("first")
    repeated = readable["path"] != first
    contradictory = readable["content"].map(labels) != readable["class"]
    readable.loc[repeated, "reason"] = [f"equal to {path}" for path in first[repeated]]
    readable.loc[contradictory, "reason"] = [
        f"equal images labelled {labels[content]}"
        for content in readable.loc[contradictory, "content"]
    ]
    usable = readable[readable["reason"] == ""].drop(columns="rank")
    unreadable = images[images["reason"] != ""]
    excluded = pd.concat([unreadable, readable[readable["reason"] != ""]])
    return usable, excluded[["path", "class", "split", "reason"]].sort_values("path")


def measure(image: Image) -> tuple[str, int, int]:
    """Digest of the upright pixels of an image that was opened, its width and height in pixels.

    Raises ImageError.
    """
    upright = to_rgb(image)
    shape = f"{upright.width}x{upright.height}:".encode()
    digest = hashlib.sha256(shape + upright.tobytes()).hexdigest()
    return digest, upright.width, upright.height


def _known(path: Path) -> dict[tuple[str, int, int], tuple[str, int, int, str]]:
    if not path.exists():
        return {}
    rows = pd.read_parquet(path).itertuples(index=False, name=None)
    return {row[:3]: row[3:] for row in rows}


def _stamp(path: Path) -> tuple[int, int]:
    """Size and time of change; zeros where there is no such file, as with an escaped name."""
    try:
        status = path.stat()
    except FileNotFoundError:
        return 0, 0
    return status.st_size, status.st_mtime_ns


def _look(path: Path) -> tuple[str, int, int, str]:
    if "\\x" in str(path) and not path.exists():
        return "", 0, 0, "its name is not UTF-8; rename it"
    try:
        return (*measure(open_image(read(path))), "")
    except ImageError as error:
        return "", 0, 0, str(error)
