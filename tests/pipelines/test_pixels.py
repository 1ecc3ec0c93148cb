"""Every format and mode gives the right colours in the right places, and is decoded once."""

from collections.abc import Callable
from pathlib import Path

import numpy as np
import pandas as pd
import pytest
from numpy.typing import NDArray
from PIL import Image
from PIL.Image import Transpose

from pipelines import data, pixels
from pipelines.data import Dataset
from serving.settings import UserError

HEIGHT, WIDTH = 16, 24
COLOURS = np.array([[[200, 40, 40], [40, 200, 40]], [[40, 40, 200], [230, 230, 230]]])
GREYS = np.array([[20, 90], [160, 230]])
WHITE = (255, 255, 255)

# What takes a stored image to the upright one (EXIF 2.32, tag 0x0112), and back.
STORE = {
    2: Transpose.FLIP_LEFT_RIGHT,
    3: Transpose.ROTATE_180,
    4: Transpose.FLIP_TOP_BOTTOM,
    5: Transpose.TRANSPOSE,
    6: Transpose.ROTATE_90,
    7: Transpose.TRANSVERSE,
    8: Transpose.ROTATE_270,
}
MODES = {
    "JPEG": ("RGB", "L", "CMYK"),
    "PNG": ("RGB", "L", "P", "RGBA", "LA", "I;16", "1"),
    "BMP": ("RGB", "L", "P", "1"),
    "GIF": ("RGB", "L", "P", "RGBA"),
    "WEBP": ("RGB", "L", "P", "RGBA"),
    "TIFF": ("RGB", "L", "P", "RGBA", "LA", "CMYK", "I;16", "F", "1"),
}
CASES = {
    **{f"{kind} {mode}": (kind, mode, 1) for kind, modes in MODES.items() for mode in modes},
    **{f"PNG turned {turned}": ("PNG", "RGB", turned) for turned in STORE},
    **{f"{kind} turned 6": (kind, "RGB", 6) for kind in ("JPEG", "WEBP", "TIFF")},
}


def quadrants(values: NDArray[np.int64]) -> NDArray[np.uint8]:
    """An image with one value in each quarter, values (2, 2, ...)."""
    return np.repeat(np.repeat(values, HEIGHT // 2, 0), WIDTH // 2, 1).astype(np.uint8)


def picture(mode: str) -> tuple[Image.Image, NDArray[np.int64]]:
    """An image of a mode, and the colours (2, 2, 3) that its quarters have to show."""
    colour, grey = Image.fromarray(quadrants(COLOURS)), Image.fromarray(quadrants(GREYS))
    greys = np.repeat(GREYS[..., None], 3, -1)
    seen = Image.fromarray(quadrants(np.array([[255, 255], [255, 0]])))
    if mode == "I;16":
        return Image.fromarray(quadrants(GREYS).astype(np.uint16) * 257), greys
    if mode == "F":
        return Image.fromarray(quadrants(GREYS).astype(np.float32) / 255), greys
    if mode == "1":
        return grey.point(lambda value: 255 * (value > 100)).convert("1"), 255 * (greys > 100)
    if mode in {"RGBA", "LA"}:
        image, values = (colour, COLOURS) if mode == "RGBA" else (grey, greys)
        image.putalpha(seen)
        clear = np.array([[False, False], [False, True]])[..., None]
        return image, np.where(clear, WHITE, values)
    if mode == "P":
        return colour.quantize(4), COLOURS
    return (grey, greys) if mode == "L" else (colour.convert(mode), COLOURS)


def write(path: Path, kind: str, mode: str, turned: int) -> None:
    image, _ = picture(mode)
    options: dict[str, object] = {}
    if kind == "JPEG":
        options = {"quality": 95, "subsampling": 0}
    if kind == "WEBP":
        options = {"lossless": True}
    if turned in STORE:
        image = image.transpose(STORE[turned])
        options["exif"] = Image.Exif()
        options["exif"][0x0112] = turned
    image.save(path, kind, **options)


def dataset_of(paths: list[Path], side: int = HEIGHT) -> Dataset:
    names = [str(path) for path in paths]
    images = pd.DataFrame({"path": names, "content": names, "width": side, "height": side})
    return Dataset("cases", paths[0].parent, ("a", "b"), images, pd.DataFrame())


@pytest.fixture(scope="module")
def cases(tmp_path_factory: pytest.TempPathFactory) -> Dataset:
    folder = tmp_path_factory.mktemp("cases")
    paths = []
    for name, case in CASES.items():
        paths.append(folder / name)
        write(paths[-1], *case)
    return dataset_of(paths)


@pytest.fixture
def animals(painted: Callable[..., Path]) -> Path:
    painted("animals/cat", 6, seed=1)
    return painted("animals/dog", 6, seed=2).parent


@pytest.mark.parametrize("scale", [1, 2])
@pytest.mark.parametrize("name", CASES)
def test_a_format_and_mode_decodes_to_its_colours_upright(
    name: str, scale: int, cases: Dataset
) -> None:
    kind, mode, _ = CASES[name]
    decoded = pixels.load(cases, (HEIGHT // scale, WIDTH // scale))[list(CASES).index(name)]
    height, width = decoded.shape[0] // 2, decoded.shape[1] // 2
    centres = decoded[height // 2 :: height, width // 2 :: width]
    tolerance = 4 if kind == "JPEG" else 1
    assert np.abs(centres.astype(int) - picture(mode)[1]).max() <= tolerance


def test_a_jpeg_much_larger_than_asked_for_has_its_colours(tmp_path: Path) -> None:
    large = picture("RGB")[0].resize((40 * WIDTH, 40 * HEIGHT), Image.Resampling.NEAREST)
    large.save(tmp_path / "large.jpg", quality=95)
    decoded = pixels.load(dataset_of([tmp_path / "large.jpg"]), (HEIGHT, WIDTH))[0]
    assert np.abs(decoded[4::8, 6::12].astype(int) - COLOURS).max() <= 4


def test_rows_are_in_the_order_of_the_data_set(animals: Path) -> None:
    dataset = data.prepare(str(animals), seed=0)
    decoded = pixels.load(dataset, (24, 24))
    assert decoded.shape == (12, 24, 24, 3)
    for row, path in zip(decoded, dataset.images["path"], strict=True):
        assert np.array_equal(row, np.asarray(Image.open(path)))


def test_a_second_load_needs_no_image_and_no_folder_of_the_first_name(animals: Path) -> None:
    before = pixels.load(data.prepare(str(animals), seed=0), (20, 20))
    renamed = animals.rename(animals.with_name("renamed"))
    dataset = data.prepare(str(renamed), seed=0)
    for path in renamed.rglob("*.png"):
        path.unlink()
    assert np.array_equal(pixels.load(dataset, (20, 20)), before)


def test_another_size_is_another_entry(animals: Path, cache_folder: Path) -> None:
    dataset = data.prepare(str(animals), seed=0)
    entries = set((cache_folder / "pixels").glob("*"))
    for size in ((18, 18), (18, 22)):
        assert pixels.load(dataset, size).shape[1:3] == size
    assert len(set((cache_folder / "pixels").glob("*")) - entries) == 2


def test_the_cache_is_read_only_and_outside_the_data(animals: Path) -> None:
    files = sorted(animals.rglob("*"))
    decoded = pixels.load(data.prepare(str(animals), seed=0), (16, 16))
    assert sorted(animals.rglob("*")) == files
    assert isinstance(decoded, np.memmap)
    assert not decoded.flags.writeable


def test_an_image_that_broke_after_it_was_checked_is_named(animals: Path) -> None:
    dataset = data.prepare(str(animals), seed=0)
    broken = animals / "cat" / "blue-2.png"
    broken.write_bytes(broken.read_bytes()[:100])
    with pytest.raises(UserError, match=r"blue-2\.png to be as it was .* run again\.$"):
        pixels.load(dataset, (14, 14))


@pytest.mark.parametrize(("side", "size"), [(8, 16), (16, 16), (17, 32), (50, 64), (150, 64)])
def test_the_size_is_the_images_own_rounded_up_to_64_at_most(side: int, size: int) -> None:
    assert pixels.choose_size(dataset_of([Path("a.png"), Path("b.png")], side)) == size
