"""A folder of labelled images as a data set: classes, splits, and a digest that names it.

Understood are a folder per class; split folders (train, val, valid, validation, test, also with a
prefix such as `seg_train`, and nested as archives unpack: `seg_train/seg_train/CLASS`); and
`digits`, scikit-learn's handwritten digits. A split that is missing is cut from the training
images, stratified by class, in an order that depends on the pixels and the seed alone: an image
that is added later moves no other image between splits but those at the cut.
"""

import re
import shutil
import tempfile
from collections.abc import Iterator
from dataclasses import dataclass
from functools import cached_property
from pathlib import Path

import numpy as np
import pandas as pd
from numpy.typing import NDArray
from PIL import Image

from pipelines import audit, cache
from serving.durable import replacing
from serving.folder import files, is_hidden, require_folder, written
from serving.settings import UserError, require

SPLITS = ("train", "val", "test")
SHARE = 0.15
MIN_TRAIN = 2
_SPLIT_NAMES = {
    "train": "train",
    "training": "train",
    "val": "val",
    "valid": "val",
    "validation": "val",
    "test": "test",
    "testing": "test",
}


@dataclass(frozen=True)
class Feedback:
    """Which corrections of people are among the training images.

    digest: names their set in the cache; until: id of the newest row of the log that was read.
    images: those that were added; left_out: those that were not; unknown: those of these whose
    label is no class.
    """

    digest: str
    until: int
    images: int = 0
    left_out: int = 0
    unknown: int = 0

    def __post_init__(self) -> None:
        """Raises UserError for what is no digest: it names a folder, and may come from a tag."""
        require(
            re.fullmatch("[0-9a-f]{16}", self.digest) is not None,
            f"Expected a feedback_digest of 16 hexadecimal digits, got {self.digest!r}.",
        )


@dataclass(frozen=True)
class Dataset:
    """Labelled images of a folder, each distinct image once.

    images: `path`, `class`, `label` (index into `classes`), `split`, `content` (digest of the
    pixels), `width`, `height` (pixels, upright); sorted by `content`.
    excluded: `path`, `class`, `split`, `reason`. unreadable: how many of those are no images.
    """

    name: str
    folder: Path
    classes: tuple[str, ...]
    images: pd.DataFrame
    excluded: pd.DataFrame
    unreadable: int = 0
    feedback: Feedback | None = None

    @property
    def files(self) -> int:
        """How many files there were, whatever they hold."""
        return len(self.images) + len(self.excluded)

    @cached_property
    def digest(self) -> str:
        """16 hexadecimal digits of the images' pixels, labels and splits, whatever their paths."""
        rows = self.images[["content", "class", "split"]].itertuples(index=False, name=None)
        return cache.key(*rows)

    def rows(self, split: str) -> NDArray[np.int64]:
        """Positions (int64) of a split's images in `images`."""
        return np.flatnonzero((self.images["split"] == split).to_numpy())

    def labels(self, split: str) -> NDArray[np.int64]:
        """Labels (int64) of a split's images."""
        labels: NDArray[np.int64] = self.images["label"].to_numpy(np.int64)
        return labels[self.rows(split)]

    def counts(self) -> pd.DataFrame:
        """Images per class (rows) and split (columns)."""
        table = pd.crosstab(self.images["class"], self.images["split"])
        return table.reindex(index=list(self.classes), columns=list(SPLITS), fill_value=0)


def prepare(data: str, seed: int) -> Dataset:
    """The data set in the folder `data`, or `digits`.

    Raises UserError where the folder is missing, is a file, or is empty; where no image is usable;
    where there is one class only; and where a class has too few images for the splits.
    """
    folder = digits() if data == "digits" else Path(data).resolve()
    require_folder(folder)
    found = pd.DataFrame(_scan(folder), columns=["path", "class", "split"])
    if found.empty:
        raise UserError(
            f"Expected a folder per class in {folder}, got {len(files(folder))} files without one; "
            "put each class's images into a folder of its name."
        )
    looks = audit.inspect([Path(path) for path in found["path"]], folder)
    usable, excluded = audit.exclude(found.merge(looks, on="path"))
    _check(folder, found, usable, excluded)
    images = _split(usable, seed).sort_values("content").reset_index(drop=True)
    classes = tuple(sorted(images["class"].unique()))
    images["label"] = images["class"].map(classes.index).astype(np.int64)
    columns = ["path", "class", "label", "split", "content", "width", "height"]
    unreadable = int((looks["reason"] != "").sum())
    return Dataset(_name(data, folder), folder, classes, images[columns], excluded, unreadable)


def keep(dataset: Dataset) -> None:
    """Writes the data set to the cache, for other processes of this machine to `recall`."""
    table = dataset.images.copy()
    table.attrs = {
        "name": dataset.name,
        "folder": written(dataset.folder),
        "classes": list(dataset.classes),
    }
    with replacing(_kept(dataset.digest)) as file:
        table.to_parquet(file)


def recall(digest: str) -> Dataset | None:
    """The data set that was kept under this digest; None where none was.

    It comes without `excluded` and `feedback`.
    """
    path = _kept(digest)
    if not path.exists():
        return None
    images = pd.read_parquet(path)
    about = images.attrs
    left_out = pd.DataFrame(columns=["path", "class", "split", "reason"])
    return Dataset(about["name"], Path(about["folder"]), tuple(about["classes"]), images, left_out)


def _kept(digest: str) -> Path:
    return cache.folder("datasets") / f"{digest}.parquet"


def digits() -> Path:
    """Folder of scikit-learn's 1,797 handwritten digits (8x8 grey) as PNG, a folder per digit."""
    target = cache.folder() / "digits"
    if not target.exists():
        from sklearn.datasets import load_digits

        bunch = load_digits()
        building = Path(tempfile.mkdtemp(dir=target.parent, prefix=".digits."))
        for i, (image, label) in enumerate(zip(bunch.images, bunch.target, strict=True)):
            path = building / str(label) / f"{i:04}.png"
            path.parent.mkdir(exist_ok=True)
            Image.fromarray(np.rint(image * 255 / 16).astype(np.uint8)).save(path)
        try:
            building.rename(target)
        except OSError:  # another process was faster
            shutil.rmtree(building)
    return target


def _name(data: str, folder: Path) -> str:
    return data if data == "digits" else re.sub(r"[^\w.-]+", "-", folder.name).strip("-") or "model"


def _scan(folder: Path) -> Iterator[tuple[str, str, str]]:
    """(path, class, declared split or "") of every file below a class folder."""
    root = _unwrap(folder)
    splits = {child: _split_name(child) for child in _folders(root) if _folders(_unwrap(child))}
    if "train" not in splits.values():  # a class may be called so too, and then holds no folders
        splits = {root: ""}
    for child, split in splits.items():
        if split is not None:
            for of_class in _folders(_unwrap(child)):
                for path in sorted(of_class.rglob("*")):
                    if path.is_file() and not is_hidden(path.name):
                        yield written(path), written(Path(of_class.name)), split


def _unwrap(folder: Path) -> Path:
    """The folder below that holds more than one folder: archives often nest one in another."""
    children = _folders(folder)
    if len(children) == 1 and _folders(children[0]):
        return _unwrap(children[0])
    return folder


def _folders(folder: Path) -> list[Path]:
    return sorted(p for p in folder.iterdir() if p.is_dir() and not is_hidden(p.name))


def _split_name(folder: Path) -> str | None:
    return _SPLIT_NAMES.get(re.split(r"[_\-. ]", folder.name.lower())[-1])


def _check(folder: Path, found: pd.DataFrame, usable: pd.DataFrame, excluded: pd.DataFrame) -> None:
    reason = "" if excluded.empty else f" (the first: {excluded['reason'].iloc[0]})"
    require(
        len(usable) > 0,
        f"Expected images in {folder}, but none of its {len(found)} files is usable{reason}.",
    )
    classes = sorted(found["class"].unique())
    require(
        len(classes) > 1,
        f"Expected at least two classes in {folder}, got only {classes[0]!r}; "
        "put each class's images into a folder of its name.",
    )
    declared = set(usable["split"]) - {""}
    missing = [split for split in ("val", "test") if split not in declared]
    for split in declared:
        there = set(usable.loc[usable["split"] == split, "class"])
        absent = sorted(set(classes) - there)
        require(
            not absent,
            f"Expected every class in each split of {folder}, but the {split} images "
            f"hold none of {', '.join(map(repr, absent))}.",
        )
    train = usable[usable["split"].isin(["train", ""])]
    smallest = train["class"].value_counts().reindex(classes, fill_value=0).sort_values()
    needed = MIN_TRAIN + len(missing)
    require(
        smallest.iloc[0] >= needed,
        f"Expected at least {needed} usable images of each class to train on and to split, but "
        f"{smallest.index[0]!r} has {smallest.iloc[0]}; add images or remove that class.",
    )


def _split(images: pd.DataFrame, seed: int) -> pd.DataFrame:
    """Fills the missing splits from the training images, `SHARE` of each class for each."""
    declared = set(images["split"])
    images = images.assign(split=images["split"].replace("", "train"))
    missing = [split for split in ("test", "val") if split not in declared]
    order = images["content"].map(lambda content: cache.key(seed, content))
    images = images.loc[order.sort_values().index]
    for _, group in images[images["split"] == "train"].groupby("class"):
        size = max(1, round(SHARE * len(group)))
        for i, split in enumerate(missing):
            images.loc[group.index[i * size : (i + 1) * size], "split"] = split
    return images
