"""A folder becomes classes and splits, or one sentence that says what to do."""

import os
import shutil
import zlib
from collections import Counter
from collections.abc import Callable, Sequence
from pathlib import Path

import numpy as np
import pytest
from PIL import Image

from pipelines import data, feedback
from pipelines.config import SearchSettings
from pipelines.data import Dataset
from serving.settings import UserError
from tests.pipelines.conftest import correct

Paint = Callable[..., Path]
Splits = dict[str, str]

# Split folders with 20 images of each class -> train, val and test images of each class.
LAYOUTS: dict[str, tuple[Sequence[str], tuple[int, int, int]]] = {
    "no splits": (["."], (14, 3, 3)),
    "no splits, nested": (["archive/scenes"], (14, 3, 3)),
    "train alone": (["train"], (14, 3, 3)),
    "train and test": (["train", "test"], (17, 3, 20)),
    "train and val": (["train", "val"], (17, 20, 3)),
    "train, valid and test": (["train", "valid", "test"], (20, 20, 20)),
    "longer names": (["training", "validation", "testing"], (20, 20, 20)),
    "a prefix": (["seg_train", "seg_test"], (17, 3, 20)),
    "another prefix, in capitals": (["Scenes-TRAIN", "Scenes-TEST"], (17, 3, 20)),
    "each nested": (["seg_train/seg_train", "seg_test/seg_test"], (17, 3, 20)),
    "nested twice": (["a/b/train/train", "a/b/val/val", "a/b/test/test"], (20, 20, 20)),
}


@pytest.fixture
def fill(painted: Paint) -> Paint:
    """Paints images that no other folder of the test holds."""
    return lambda name, count: painted(name, count, seed=zlib.crc32(name.encode()))


@pytest.fixture
def animals(fill: Paint) -> Path:
    """Forty cats and twenty dogs."""
    fill("animals/cat", 40)
    return fill("animals/dog", 20).parent


def splits(dataset: Dataset) -> Splits:
    """Content -> split."""
    return dict(zip(dataset.images["content"], dataset.images["split"], strict=True))


@pytest.mark.parametrize(("folders", "counts"), LAYOUTS.values(), ids=LAYOUTS)
def test_a_layout_is_understood(
    folders: Sequence[str], counts: tuple[int, int, int], fill: Paint, tmp_path: Path
) -> None:
    for folder in folders:
        for name in ("cat", "dog"):
            fill(f"data/{folder}/{name}", 20)
    dataset = data.prepare(str(tmp_path / "data"), seed=0)
    assert dataset.classes == ("cat", "dog")
    assert dataset.counts().to_numpy().tolist() == [list(counts)] * 2
    for path, label in zip(dataset.images["path"], dataset.images["label"], strict=True):
        assert Path(path).parent.name == dataset.classes[label]


def test_images_in_folders_below_a_class_belong_to_it(fill: Paint, tmp_path: Path) -> None:
    for name in ("cat/indoors", "cat/outdoors", "dog"):
        fill(f"data/{name}", 6)
    counts = data.prepare(str(tmp_path / "data"), seed=0).counts().sum(axis=1)
    assert counts.to_dict() == {"cat": 12, "dog": 6}


def test_hidden_files_and_folders_beside_the_splits_are_left_out(fill: Paint) -> None:
    for name in ("train/cat", "train/dog"):
        folder = fill(f"data/{name}", 6)
        (folder / ".DS_Store").write_bytes(b"none of ours")
        (folder / "Thumbs.db").write_bytes(b"none of ours")
    root = fill("data/pred", 6).parent
    (root / "readme.txt").write_text("About these images.")
    dataset = data.prepare(str(root), seed=0)
    assert len(dataset.images) == 12
    assert dataset.excluded.empty


def test_digits_are_real_images_with_their_labels_and_written_once() -> None:
    dataset = data.prepare("digits", seed=0)
    assert dataset.name == "digits"
    assert dataset.classes == tuple("0123456789")
    assert len(dataset.images) + len(dataset.excluded) == 1797
    assert set(zip(dataset.images["width"], dataset.images["height"], strict=True)) == {(8, 8)}
    first = dataset.folder / "0" / "0000.png"
    row = [0, 0, 80, 207, 143, 16, 0, 0]  # 0 0 5 13 9 1 0 0 of 16
    assert np.abs(np.asarray(Image.open(first))[0] - np.array(row)).max() <= 1
    written = first.stat().st_mtime_ns
    assert data.digits() == dataset.folder
    assert first.stat().st_mtime_ns == written


def test_a_data_set_is_named_after_its_folder(fill: Paint) -> None:
    for name in ("cat", "dog"):
        folder = fill(f"My cats & dogs/{name}", 4)
    assert data.prepare(str(folder.parent), seed=0).name == "My-cats-dogs"


def test_cut_splits_hold_the_same_share_of_every_class(animals: Path) -> None:
    counts = data.prepare(str(animals), seed=0).counts()
    assert counts.loc["cat"].to_dict() == {"train": 28, "val": 6, "test": 6}
    assert counts.loc["dog"].to_dict() == {"train": 14, "val": 3, "test": 3}


def test_four_images_of_a_class_are_enough(fill: Paint) -> None:
    for name in ("cat", "dog"):
        folder = fill(f"few/{name}", 4)
    counts = data.prepare(str(folder.parent), seed=0).counts()
    assert counts.to_numpy().tolist() == [[2, 1, 1]] * 2


def test_the_same_seed_cuts_the_same_splits_whatever_the_files_are_called(
    animals: Path, tmp_path: Path
) -> None:
    renamed = tmp_path / "renamed"
    for number, path in enumerate(sorted(animals.rglob("*.png"), reverse=True)):
        target = renamed / path.parent.name / f"{number:03}.png"
        target.parent.mkdir(parents=True, exist_ok=True)
        shutil.copyfile(path, target)
    one, other = data.prepare(str(animals), seed=3), data.prepare(str(renamed), seed=3)
    assert splits(one) == splits(other)
    assert one.digest == other.digest


def test_another_seed_cuts_other_splits(animals: Path) -> None:
    one, other = data.prepare(str(animals), seed=0), data.prepare(str(animals), seed=1)
    assert splits(one) != splits(other)
    assert one.digest != other.digest
    assert one.counts().equals(other.counts())


def test_an_image_that_is_added_moves_none_but_those_at_the_cut(animals: Path, fill: Paint) -> None:
    before = splits(data.prepare(str(animals), seed=0))
    moves = Counter[tuple[str, str]]()
    for added in sorted(fill("more", 10).iterdir()):
        target = animals / "dog" / f"added-{added.name}"
        shutil.copyfile(added, target)
        after = splits(data.prepare(str(animals), seed=0))
        target.unlink()
        moved = [(split, after[content]) for content, split in before.items()]
        moves.update(pair for pair in moved if pair[0] != pair[1])
        assert len(after) == len(before) + 1
    assert set(moves) <= {("test", "val"), ("val", "train")}
    assert max(moves.values(), default=0) <= 10


def test_declared_splits_stay_as_they_are_whatever_the_seed(fill: Paint, tmp_path: Path) -> None:
    for split in ("train", "val", "test"):
        for name in ("cat", "dog"):
            fill(f"data/{split}/{name}", 4)
    for seed in (0, 1):
        images = data.prepare(str(tmp_path / "data"), seed).images
        assert [Path(path).parts[-3] for path in images["path"]] == images["split"].to_list()


def test_an_image_in_two_splits_stays_in_the_test_images_alone(fill: Paint, tmp_path: Path) -> None:
    for split in ("train", "test"):
        for name in ("cat", "dog"):
            fill(f"data/{split}/{name}", 6)
    tested = next((tmp_path / "data" / "test" / "cat").iterdir())
    same, copy = (tmp_path / "data" / "train" / "cat" / name for name in ("same.png", "copy.bmp"))
    shutil.copyfile(tested, same)
    Image.open(tested).save(copy)
    dataset = data.prepare(str(tmp_path / "data"), seed=0)
    assert dataset.images["content"].is_unique
    assert str(tested) in set(dataset.images["path"])
    excluded = dict(zip(dataset.excluded["path"], dataset.excluded["reason"], strict=True))
    assert excluded == dict.fromkeys([str(copy), str(same)], f"equal to {tested}")


@pytest.mark.parametrize("layout", ["no splits", "train alone", "train and test", "longer names"])
def test_corrections_are_trained_on_and_move_no_image_between_splits(
    layout: str, fill: Paint, tmp_path: Path
) -> None:
    folders, _ = LAYOUTS[layout]
    for folder in folders:
        for name in ("cat", "dog"):
            fill(f"data/{folder}/{name}", 20)
    before = data.prepare(str(tmp_path / "data"), seed=0)
    new = [(path.read_bytes(), "dog") for path in sorted(fill("new", 9).iterdir())]
    held = before.images.drop_duplicates("split")  # one of each split: not to be trained on
    known = [(Path(path).read_bytes(), "cat") for path in held["path"]]
    url = f"sqlite:///{tmp_path}/inference.db"
    correct(url, "data", new + known)
    after = feedback.add(before, SearchSettings(feedback=url))
    assert after.feedback is not None
    assert (after.feedback.images, after.feedback.left_out) == (9, 3)
    assert splits(before).items() <= splits(after).items()
    added = after.images[~after.images["content"].isin(before.images["content"])]
    assert set(zip(added["split"], added["class"], strict=True)) == {("train", "dog")}
    assert after.images["content"].is_monotonic_increasing
    assert after.digest != before.digest


def test_equal_images_with_different_labels_are_left_out_and_listed(animals: Path) -> None:
    cat = next((animals / "cat").iterdir())
    shutil.copyfile(cat, animals / "dog" / "a-cat.png")
    dataset = data.prepare(str(animals), seed=0)
    assert len(dataset.images) == 59
    excluded = dict(zip(dataset.excluded["path"], dataset.excluded["reason"], strict=True))
    reason = "equal images labelled cat and dog"
    assert excluded == {str(cat): reason, str(animals / "dog" / "a-cat.png"): reason}


def test_a_broken_file_is_listed_and_the_job_goes_on(animals: Path) -> None:
    (animals / "dog" / "broken.jpg").write_text("no image")
    dataset = data.prepare(str(animals), seed=0)
    assert len(dataset.images) == 60
    assert dataset.excluded["path"].to_list() == [str(animals / "dog" / "broken.jpg")]


def test_a_class_is_named_in_the_refusal_even_where_none_of_its_images_is_usable(
    animals: Path,
) -> None:
    (animals / "fox").mkdir()
    (animals / "fox" / "fox.jpg").write_text("no image")
    with pytest.raises(UserError, match="'fox' has 0"):
        data.prepare(str(animals), seed=0)


def absent(fill: Paint, root: Path) -> Path:
    return root / "absent"


def file(fill: Paint, root: Path) -> Path:
    (root / "file").write_text("no folder")
    return root / "file"


def empty(fill: Paint, root: Path) -> Path:
    (root / "empty" / "cat").mkdir(parents=True)
    return root / "empty"


def flat(fill: Paint, root: Path) -> Path:
    return fill("flat", 9)


def one_class(fill: Paint, root: Path) -> Path:
    return fill("one/cat", 9).parent


def too_few(fill: Paint, root: Path) -> Path:
    fill("few/cat", 3)
    return fill("few/dog", 9).parent


def unusable(fill: Paint, root: Path) -> Path:
    for name in ("cat", "dog"):
        (root / "unusable" / name).mkdir(parents=True)
        (root / "unusable" / name / "image.jpg").write_text("no image")
    return root / "unusable"


def absent_in_test(fill: Paint, root: Path) -> Path:
    for name in ("train/cat", "train/dog", "test/cat"):
        fill(f"data/{name}", 9)
    return root / "data"


def absent_in_train(fill: Paint, root: Path) -> Path:
    for name in ("train/cat", "train/dog", "test/cat", "test/dog", "test/fox"):
        fill(f"data/{name}", 9)
    return root / "data"


@pytest.mark.parametrize(
    ("make", "words"),
    [
        (absent, "does not exist"),
        (file, "is a file"),
        (empty, "holds no file"),
        (flat, "files without one; put each"),
        (one_class, "got only 'cat'"),
        (too_few, "at least 4 usable images .* 'cat' has 3; add images or remove that class"),
        (unusable, "none of its 2 files is usable .*not an image"),
        (absent_in_test, "the test images hold none of 'dog'"),
        (absent_in_train, "the train images hold none of 'fox'"),
    ],
)
def test_a_folder_that_cannot_be_used_is_refused_in_one_sentence(
    make: Callable[[Paint, Path], Path], words: str, fill: Paint, tmp_path: Path
) -> None:
    with pytest.raises(UserError, match=words) as refusal:
        data.prepare(str(make(fill, tmp_path)), seed=0)
    assert str(refusal.value).endswith(".")
    assert "\n" not in str(refusal.value)


def noise(folder: Path, *classes: str) -> None:
    """Six images of noise in a folder a class."""
    generator = np.random.default_rng(0)
    for name in classes:
        (folder / name).mkdir()
        for i in range(6):
            pixels = generator.integers(0, 255, (8, 8, 3)).astype(np.uint8)
            Image.fromarray(pixels).save(folder / name / f"{i}.png")


def test_classes_may_be_named_like_splits(tmp_path: Path) -> None:
    noise(tmp_path, "bus", "train")
    assert data.prepare(str(tmp_path), 0).classes == ("bus", "train")


def test_a_name_that_is_not_utf_8_is_listed_and_the_job_goes_on(tmp_path: Path) -> None:
    noise(tmp_path, "cat", "dog")
    os.rename(tmp_path / "cat" / "0.png", os.fsencode(tmp_path / "cat") + b"/caf\xe9.png")  # noqa: PTH104 - bytes
    dataset = data.prepare(str(tmp_path), 0)
    assert dataset.excluded["reason"].tolist() == ["its name is not UTF-8; rename it"]
    assert dataset.excluded["path"].iloc[0].endswith("caf\\xe9.png")
