"""Labels a folder: `mlflow run . -e score -P model=models:/NAME@champion -P images=FOLDER`.

Sorts the images into a folder a class where `organize_into` asks for it, by hard link or copy: they
stay where they are.
"""

import errno
import filecmp
import os
import re
import shutil
import tempfile
from collections import Counter
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import pandas as pd
from tqdm import tqdm

from pipelines.tracking import name_run
from serving import folder, registered
from serving import settings as entry
from serving.durable import replacing
from serving.settings import UserError, describe, require

SUFFIXES = (".csv", ".parquet")


@dataclass(frozen=True)
class ScoreSettings:
    """Labels every file of a folder."""

    model: str = describe("models:/NAME@ALIAS or models:/NAME/VERSION")
    images: str = describe("folder, with all below it")
    output: str = describe("table to write, .csv or .parquet", "predictions.csv")
    organize_into: str = describe("folder to sort the images into; empty: none", "")

    def __post_init__(self) -> None:
        """Raises UserError for an output of another kind, or a folder that would label itself."""
        require(
            Path(self.output).suffix in SUFFIXES,
            f"Expected an output that ends in {' or '.join(SUFFIXES)}, got {self.output!r}.",
        )
        target, source = Path(self.organize_into).resolve(), Path(self.images).resolve()
        require(
            not self.organize_into or not target.is_relative_to(source),
            f"Expected organize_into outside of {source}, got {target}.",
        )


def main(settings: ScoreSettings) -> int:
    """Returns 0, also where files could not be read: those have their `error` in the table."""
    paths = folder.files(Path(settings.images))
    model = registered.load(settings.model)
    output = Path(settings.output)
    check_writable(output)
    rows = list(_rows(model.classifier, paths, settings))
    table = pd.DataFrame(rows, columns=_columns(model.classifier.card.classes))
    write(table.astype(dict.fromkeys(table.columns[2:-1], float)), output)
    unread = int((table["error"] != "").sum())
    tags = {"model": f"{model.name} version {model.version}", "files": str(len(table))}
    name_run("score", f"score with {model.name} v{model.version}", tags | {"unread": str(unread)})
    counts = Counter(table.loc[table["error"] == "", "label"])
    print(f"{len(table) - unread} of {len(table)} files labelled by {model.name} {model.version}")
    for label, count in counts.most_common():
        print(f"  {label}: {count}")
    print(f"Wrote {settings.output}" + (f"; {unread} files have an error there" if unread else ""))
    if settings.organize_into:
        print(f"Sorted into {settings.organize_into}")
    return 0


def check_writable(path: Path) -> None:
    """Raises UserError where `write` would: before the images are read, which may take hours."""
    with _mistakes(path):
        path.parent.mkdir(parents=True, exist_ok=True)
        if path.is_dir():
            raise IsADirectoryError(errno.EISDIR, os.strerror(errno.EISDIR))
        with tempfile.TemporaryFile(dir=path.parent):
            pass


def write(table: pd.DataFrame, path: Path) -> None:
    """Writes the table whole, or leaves what was there. Raises UserError where it cannot."""
    with _mistakes(path), replacing(path) as file:
        if path.suffix == ".parquet":
            table.to_parquet(file, index=False)
        else:
            table.to_csv(file, index=False)


def organize(path: Path, label: str, target: Path) -> Path:
    """Links, or else copies, an image into `target/label`; overwrites nothing, moves nothing.

    A file of the same name and content is taken as done; one of another content gets a number.
    Raises UserError where nothing can be written there.
    """
    home = target / re.sub(r"[/\\\0]|^\.+$", "_", label)
    with _mistakes(home):
        home.mkdir(parents=True, exist_ok=True)
        for number in range(1, 1_000_000):
            place = home / (path.name if number == 1 else f"{path.stem}-{number}{path.suffix}")
            if not os.path.lexists(place) and _place(path, place):
                return place
            if place.exists() and filecmp.cmp(path, place, shallow=False):
                return place
    raise UserError(f"Expected a free name for {path.name} in {home}, found none.")


def _place(path: Path, place: Path) -> bool:
    """Whether `place` is the image now; not where another process has made it meanwhile."""
    try:
        os.link(path.resolve(), place)  # of a symbolic link, what it points at
    except FileExistsError:
        return False
    except OSError:  # another file system, or one without links
        with replacing(place) as copy, path.open("rb") as original:
            shutil.copyfileobj(original, copy)
    return True


@contextmanager
def _mistakes(path: Path) -> Iterator[None]:
    try:
        yield
    except OSError as error:
        raise UserError(f"Expected to write {path}, but: {error.strerror}.") from error


def _rows(classifier: Any, paths: list[Path], settings: ScoreSettings) -> Iterator[list[object]]:
    classes = classifier.card.classes
    answers = folder.answer(classifier, paths)
    for answer in tqdm(answers, "scoring", len(paths), unit="image", disable=None, leave=False):
        name = folder.written(answer.path)
        if answer.probabilities is None:
            yield [name, None, None, *[None] * len(classes), answer.error]
            continue
        values = [float(value) for value in answer.probabilities]
        label = classes[values.index(max(values))]
        if settings.organize_into:
            organize(answer.path, label, Path(settings.organize_into))
        yield [name, label, max(values), *values, ""]


def _columns(classes: tuple[str, ...]) -> list[str]:
    return ["path", "label", "confidence", *(f"p_{name}" for name in classes), "error"]


if __name__ == "__main__":
    entry.run(ScoreSettings, main)
