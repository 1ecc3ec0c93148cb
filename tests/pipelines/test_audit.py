"""What cannot be used is listed with its reason; what is equal is found whatever its format."""

import os
import zlib
from io import BytesIO
from pathlib import Path

import numpy as np
import pandas as pd
import pytest
from PIL import Image

from pipelines import audit
from serving.predictor import MAX_BYTES

HALVES = {
    "JPEG": "broken or truncated image",
    "PNG": "broken or truncated image",
    "BMP": "broken or truncated image",
    "GIF": "broken or truncated image",
    "WebP": "not an image of a known format",
    "TIFF": "broken or truncated image",
}


def noise(seed: int, width: int = 40, height: int = 30) -> Image.Image:
    pixels = np.random.default_rng(seed).integers(0, 256, (height, width, 3), np.uint8)
    return Image.fromarray(pixels)


def encode(image: Image.Image, kind: str) -> bytes:
    buffer = BytesIO()
    image.save(buffer, kind)
    return buffer.getvalue()


def half(kind: str) -> bytes:
    content = encode(noise(0), kind)
    return content[: len(content) // 2]


def chunk(name: bytes, content: bytes) -> bytes:
    sum_ = zlib.crc32(name + content).to_bytes(4)
    return len(content).to_bytes(4) + name + content + sum_


def claim(width: int, height: int) -> bytes:
    """A PNG of a few bytes that says it is this large."""
    header = width.to_bytes(4) + height.to_bytes(4) + b"\x08\x02\x00\x00\x00"
    data = chunk(b"IDAT", zlib.compress(bytes(100)))
    return b"\x89PNG\r\n\x1a\n" + chunk(b"IHDR", header) + data + chunk(b"IEND", b"")


def look(folder: Path) -> pd.DataFrame:
    """The looks at a folder's files, by their names."""
    paths = sorted(folder.iterdir())
    looks = audit.inspect(paths, folder)
    assert looks["path"].to_list() == [str(path) for path in paths]
    return looks.set_index(pd.Index([path.name for path in paths]))


def table(*rows: tuple[str, str, str, str]) -> pd.DataFrame:
    """Images of path, class, split and content."""
    columns = ["path", "class", "split", "content"]
    return pd.DataFrame(rows, columns=columns).assign(reason="")


def test_equal_pixels_have_one_content_in_every_lossless_format(tmp_path: Path) -> None:
    for kind in ("PNG", "BMP", "TIFF"):
        (tmp_path / f"same.{kind.lower()}").write_bytes(encode(noise(0), kind))
    noise(0).save(tmp_path / "same.webp", lossless=True)
    noise(1).save(tmp_path / "other.png")
    looks = look(tmp_path)["content"]
    contents = set(looks.filter(like="same"))
    assert len(contents) == 1
    assert looks["other.png"] not in contents


def test_equal_bytes_of_another_shape_are_another_content(tmp_path: Path) -> None:
    for width, height in ((4, 9), (9, 4), (6, 6)):
        Image.new("RGB", (width, height), "teal").save(tmp_path / f"{width}x{height}.png")
    assert look(tmp_path)["content"].is_unique


def test_width_and_height_are_those_of_the_upright_image(tmp_path: Path) -> None:
    exif = Image.Exif()
    exif[0x0112] = 6
    noise(0, width=40, height=30).save(tmp_path / "turned.jpg", exif=exif)
    assert look(tmp_path).loc["turned.jpg", ["width", "height"]].to_list() == [30, 40]


@pytest.mark.parametrize(
    ("content", "reason"),
    [
        (b"", "empty file"),
        (b"About these images.", "not an image of a known format"),
        (claim(20_000, 20_000), "more pixels than the bound of 64,000,000"),
        (claim(9_000, 9_000), "9000x9000 pixels, more than the bound"),
        (claim(100, 100), "broken or truncated image"),
        *((half(kind), reason) for kind, reason in HALVES.items()),
    ],
    ids=["empty", "text", "huge", "large", "incomplete", *(f"half a {kind}" for kind in HALVES)],
)
def test_a_file_that_cannot_be_read_is_listed_with_the_reason(
    content: bytes, reason: str, tmp_path: Path
) -> None:
    (tmp_path / "bad.jpg").write_bytes(content)
    noise(0).save(tmp_path / "good.png")
    looks = look(tmp_path)
    assert looks.loc["good.png", "reason"] == ""
    assert reason in looks.loc["bad.jpg", "reason"]
    assert looks.loc["bad.jpg", "content"] == ""


def test_a_file_beyond_the_bound_of_bytes_is_not_read(tmp_path: Path) -> None:
    with (tmp_path / "bad.png").open("wb") as file:
        file.truncate(MAX_BYTES + 1)
    assert "bytes, more than the bound" in look(tmp_path).loc["bad.png", "reason"]


def test_an_image_is_read_again_only_where_its_size_or_time_has_changed(tmp_path: Path) -> None:
    path = tmp_path / "image.bmp"
    noise(0).save(path)
    first, time = look(tmp_path)["content"].item(), path.stat().st_mtime_ns
    noise(1).save(path)
    os.utime(path, ns=(time, time))
    assert look(tmp_path)["content"].item() == first
    os.utime(path, ns=(time, time + 1))
    assert look(tmp_path)["content"].item() != first


def test_a_file_that_could_not_be_read_is_tried_again(tmp_path: Path) -> None:
    path, good = tmp_path / "image.bmp", encode(noise(0), "BMP")
    path.write_bytes(b"?" * len(good))
    time = path.stat().st_mtime_ns
    assert look(tmp_path)["reason"].item()
    path.write_bytes(good)
    os.utime(path, ns=(time, time))
    assert look(tmp_path)["reason"].item() == ""


@pytest.mark.parametrize(
    ("one", "other", "kept"),
    [("train", "test", "b"), ("train", "val", "b"), ("test", "val", "a"), ("", "", "a")],
)
def test_of_equal_images_one_stays_where_it_is_held_out(one: str, other: str, kept: str) -> None:
    pair = table(("a", "cat", one, "same"), ("b", "cat", other, "same"), ("c", "cat", one, "else"))
    usable, excluded = audit.exclude(pair)
    assert sorted(usable["path"]) == [kept, "c"]
    assert excluded["reason"].to_list() == [f"equal to {kept}"]


def test_of_many_equal_images_one_stays() -> None:
    usable, excluded = audit.exclude(table(*((name, "cat", "", "same") for name in "abcd")))
    assert usable["path"].to_list() == ["a"]
    assert excluded["path"].to_list() == ["b", "c", "d"]


def test_equal_images_with_different_labels_go_out_whole() -> None:
    rows = [("a", "cat"), ("b", "cat"), ("c", "dog")]
    usable, excluded = audit.exclude(table(*((path, name, "", "same") for path, name in rows)))
    assert usable.empty
    assert set(excluded["reason"]) == {"equal images labelled cat and dog"}
    assert excluded["path"].to_list() == ["a", "b", "c"]
