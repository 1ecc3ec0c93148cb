"""From bytes to pixels to answers."""

import base64
import gc
import io
import random
import struct
import subprocess
import sys
import threading
import time
import zlib
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import numpy as np
import pandas as pd
import pytest
from PIL import ExifTags, Image

from serving import predictor
from serving.predictor import Card, Classifier, ImageError, Predictor, RequestError, decode

LEFT, RIGHT = (200, 40, 90), (10, 250, 130)


def encoded(image: Image.Image, kind: str = "PNG", **options: Any) -> bytes:
    file = io.BytesIO()
    image.save(file, kind, **options)
    return file.getvalue()


def halves(size: tuple[int, int] = (16, 16)) -> Image.Image:
    """An image whose halves are LEFT and RIGHT."""
    image = Image.new("RGB", size, LEFT)
    image.paste(RIGHT, (size[0] // 2, 0, *size))
    return image


def png(width: int, height: int) -> bytes:
    """A PNG of a few bytes that says to have this size."""

    def chunk(kind: bytes, data: bytes) -> bytes:
        return (
            struct.pack(">I", len(data)) + kind + data + struct.pack(">I", zlib.crc32(kind + data))
        )

    header = struct.pack(">IIBBBBB", width, height, 8, 0, 0, 0, 0)
    parts = (chunk(b"IHDR", header), chunk(b"IDAT", zlib.compress(b"")), chunk(b"IEND", b""))
    return b"\x89PNG\r\n\x1a\n" + b"".join(parts)


@pytest.fixture(scope="module")
def colours(model_folder: Path) -> Classifier:
    return Classifier(model_folder)


@pytest.fixture(scope="module")
def pyfunc(model_folder: Path) -> Predictor:
    model = Predictor()
    model.load_context(SimpleNamespace(artifacts={"model": str(model_folder)}))
    return model


@pytest.mark.parametrize(
    ("kind", "options", "tolerance"),
    [
        ("PNG", {}, 0),
        ("BMP", {}, 0),
        ("TIFF", {}, 0),
        ("TIFF", {"compression": "tiff_lzw"}, 0),
        ("WEBP", {"lossless": True}, 0),
        ("GIF", {}, 0),
        ("JPEG", {"quality": 100, "subsampling": 0}, 4),
        ("JPEG", {"quality": 100, "subsampling": 0, "progressive": True}, 4),
        ("MPO", {"quality": 100, "subsampling": 0, "save_all": True}, 4),
    ],
)
def test_every_format_decodes_to_the_same_pixels(
    kind: str, options: dict[str, Any], tolerance: int
) -> None:
    pixels = decode(encoded(halves(), kind, **options), (16, 16))
    assert pixels.shape == (16, 16, 3)
    assert pixels.dtype == np.uint8
    assert np.abs(pixels[:, :8].astype(int) - LEFT).max() <= tolerance
    assert np.abs(pixels[:, 8:].astype(int) - RIGHT).max() <= tolerance


@pytest.mark.parametrize(
    ("mode", "colour", "kind", "expected"),
    [
        ("1", 1, "PNG", (255, 255, 255)),
        ("L", 77, "PNG", (77, 77, 77)),
        ("P", 0, "PNG", (0, 0, 0)),
        ("RGB", (1, 2, 3), "PNG", (1, 2, 3)),
        ("RGBA", (1, 2, 3, 255), "PNG", (1, 2, 3)),
        ("RGBA", (1, 2, 3, 0), "PNG", (255, 255, 255)),
        ("RGBA", (200, 100, 0, 51), "PNG", (244, 224, 204)),
        ("LA", (100, 0), "PNG", (255, 255, 255)),
        ("LA", (100, 255), "PNG", (100, 100, 100)),
        ("RGBA", (1, 2, 3, 0), "WEBP", (255, 255, 255)),
        ("CMYK", (0, 255, 255, 0), "TIFF", (255, 0, 0)),
        ("I;16", 257 * 77, "PNG", (77, 77, 77)),
        ("I;16", 65535, "TIFF", (255, 255, 255)),
        ("I", 77, "TIFF", (77, 77, 77)),
        ("I", 65535, "TIFF", (255, 255, 255)),
        ("F", 0.5, "TIFF", (128, 128, 128)),
        ("F", 77.0, "TIFF", (77, 77, 77)),
    ],
)
def test_every_mode_decodes_to_rgb_over_white(
    mode: str, colour: Any, kind: str, expected: tuple[int, int, int]
) -> None:
    pixels = decode(encoded(Image.new(mode, (6, 4), colour), kind), (4, 6))
    assert pixels.shape == (4, 6, 3)
    np.testing.assert_array_equal(pixels, np.broadcast_to(expected, pixels.shape))


@pytest.mark.parametrize(("mode", "colour"), [("P", 3), ("L", 30), ("RGB", (9, 9, 9))])
def test_a_transparent_colour_decodes_to_white(mode: str, colour: Any) -> None:
    image = Image.new(mode, (4, 4), colour)
    if mode == "P":
        image.putpalette(bytes(range(24)))
    assert decode(encoded(image), (4, 4)).max() < 255
    assert decode(encoded(image, transparency=colour), (4, 4)).min() == 255


def test_deep_grey_keeps_its_order() -> None:
    ramp = np.linspace(0, 65535, 256).round().astype(np.uint16).reshape(16, 16)
    pixels = decode(encoded(Image.fromarray(ramp)), (16, 16))
    np.testing.assert_array_equal(pixels[..., 0].ravel(), np.arange(256))


@pytest.mark.parametrize("kind", ["JPEG", "PNG", "WEBP", "TIFF"])
@pytest.mark.parametrize("orientation", range(1, 9))
def test_exif_orientation_is_undone(kind: str, orientation: int) -> None:
    turned = {
        2: Image.Transpose.FLIP_LEFT_RIGHT,
        3: Image.Transpose.ROTATE_180,
        4: Image.Transpose.FLIP_TOP_BOTTOM,
        5: Image.Transpose.TRANSPOSE,
        6: Image.Transpose.ROTATE_90,
        7: Image.Transpose.TRANSVERSE,
        8: Image.Transpose.ROTATE_270,
    }
    upright = halves((32, 16))
    upright.paste((255, 255, 255), (0, 0, 8, 8))
    stored = upright if orientation == 1 else upright.transpose(turned[orientation])
    exif = Image.Exif()
    exif[ExifTags.Base.Orientation] = orientation
    options = {"JPEG": {"quality": 100, "subsampling": 0}, "WEBP": {"lossless": True}}
    pixels = decode(encoded(stored, kind, exif=exif, **options.get(kind, {})), (16, 32))
    difference = np.abs(pixels.astype(int) - np.asarray(upright))
    assert difference.mean() < 2


def test_an_image_is_stretched_to_the_size_asked_for() -> None:
    pixels = decode(encoded(halves((300, 100))), (10, 20))
    assert pixels.shape == (10, 20, 3)
    np.testing.assert_array_equal(pixels[:, 0], np.broadcast_to(LEFT, (10, 3)))
    np.testing.assert_array_equal(pixels[:, -1], np.broadcast_to(RIGHT, (10, 3)))


def test_a_large_jpeg_decoded_at_a_fraction_looks_like_itself() -> None:
    generator = np.random.default_rng(0)
    smooth = Image.fromarray(generator.integers(0, 255, (6, 8, 3), dtype=np.uint8))
    large = smooth.resize((1600, 1200), Image.Resampling.BICUBIC)
    whole = decode(encoded(large, "PNG"), (64, 64)).astype(int)
    fraction = decode(encoded(large, "JPEG", quality=95), (64, 64)).astype(int)
    assert np.abs(whole - fraction).mean() < 2


@pytest.mark.parametrize(
    ("content", "reason"),
    [
        (b"", "empty file"),
        (b"no image", "not an image of a known format"),
        (b"%PDF-1.7 ...", "not an image of a known format"),
        (b"<svg xmlns='http://www.w3.org/2000/svg'/>", "not an image of a known format"),
        (b"%!PS-Adobe-3.0 EPSF-3.0\n%%BoundingBox: 0 0 9 9\n", "not an image of a known format"),
        (encoded(halves(), "ICO"), "not an image of a known format"),
        (encoded(halves())[:60], "broken or truncated image"),
        (encoded(halves((200, 200)), "JPEG")[:700], "broken or truncated image"),
    ],
)
def test_what_is_no_image_is_refused_with_the_reason(content: bytes, reason: str) -> None:
    with pytest.raises(ImageError, match=reason):
        decode(content, (8, 8))


@pytest.mark.parametrize(
    ("width", "height"), [(8001, 8000), (9500, 9500), (50_000, 50_000), (2**31 - 1, 1)]
)
@pytest.mark.filterwarnings("ignore::PIL.Image.DecompressionBombWarning")
def test_too_many_pixels_are_refused_before_they_are_decoded(width: int, height: int) -> None:
    with pytest.raises(ImageError, match=r"more (pixels )?than the bound of 64,000,000"):
        decode(png(width, height), (8, 8))


def test_too_many_bytes_are_refused_before_they_are_read(monkeypatch: pytest.MonkeyPatch) -> None:
    content = encoded(halves())
    monkeypatch.setattr(predictor, "MAX_BYTES", len(content) - 1)
    monkeypatch.setattr(Image, "open", lambda *args, **kwargs: pytest.fail("it was opened"))
    with pytest.raises(ImageError, match=f"{len(content)} bytes, more than the bound of"):
        decode(content, (8, 8))


def seeds() -> list[bytes]:
    """An image of each format, and of the kinds whose readers differ."""
    image = Image.fromarray(np.random.default_rng(0).integers(0, 255, (40, 30, 3), np.uint8))
    exif = Image.Exif()
    exif[ExifTags.Base.Orientation] = 6
    return [encoded(image, kind) for kind in predictor.FORMATS] + [
        encoded(image, "JPEG", exif=exif, progressive=True),
        encoded(image.convert("CMYK"), "JPEG"),
        encoded(image.convert("P"), "PNG", transparency=1),
        encoded(image.convert("RGBA"), "PNG", exif=exif),
        encoded(image.convert("L"), "TIFF", compression="tiff_lzw"),
        encoded(image, "TIFF", compression="jpeg"),
        encoded(image, "WEBP", exif=exif, lossless=True),
        encoded(image, "GIF", save_all=True, append_images=[image]),
        encoded(image, "MPO", save_all=True, append_images=[image]),
    ]


def mutated(content: bytes, chance: random.Random) -> bytes:
    changed = bytearray(content)
    for _ in range(chance.choice([1, 2, 5, 20])):
        at = chance.randrange(max(1, min(len(changed), chance.choice([60, len(content)]))))
        kind = chance.random()
        if kind < 0.6:
            changed[at : at + 1] = bytes([chance.choice([0, 255, chance.randrange(256)])])
        elif kind < 0.75:
            del changed[at : at + chance.randrange(1, 9)]
        elif kind < 0.9:
            changed[at:at] = chance.randbytes(chance.randrange(1, 9))
        else:
            del changed[at:]
    return bytes(changed)


@pytest.mark.filterwarnings("ignore::UserWarning:PIL", "ignore::RuntimeWarning:PIL")
def test_hostile_bytes_raise_nothing_but_an_image_error() -> None:
    chance = random.Random(0)
    originals = seeds()
    for _ in range(800):
        content = mutated(chance.choice(originals), chance)
        try:
            pixels = decode(content, (8, 8))
        except ImageError:
            continue
        assert pixels.shape == (8, 8, 3)
    for length in range(200):
        with pytest.raises(ImageError):
            decode(chance.randbytes(length), (8, 8))


def test_probabilities_do_not_depend_on_batch_size_or_order(colours: Classifier) -> None:
    pixels = np.random.default_rng(1).integers(0, 255, (53, 8, 8, 3), dtype=np.uint8)
    together = colours.probabilities(pixels)
    assert together.shape == (len(pixels), 3)
    np.testing.assert_allclose(together.sum(axis=1), 1, atol=1e-5)
    for size in (1, 7, 16):
        parts = [colours.probabilities(pixels[i : i + size]) for i in range(0, len(pixels), size)]
        np.testing.assert_allclose(np.concatenate(parts), together, atol=1e-5)
    shuffled = np.random.default_rng(2).permutation(len(pixels))
    np.testing.assert_allclose(
        colours.probabilities(pixels[shuffled]), together[shuffled], atol=1e-5
    )


def test_no_images_have_no_probabilities(colours: Classifier) -> None:
    assert colours.probabilities(np.empty((0, 8, 8, 3), np.uint8)).shape == (0, 3)


def test_the_network_names_the_strongest_colour(pyfunc: Predictor) -> None:
    tints = {"red": (250, 20, 20), "green": (20, 250, 20), "blue": (20, 20, 250)}
    images = [encoded(Image.new("RGB", (30, 20), tint)) for tint in tints.values()]
    told = pyfunc.predict(None, pd.DataFrame({"image": images}))
    assert list(told.columns) == ["label", "confidence", "probabilities"]
    assert list(told["label"]) == list(tints)
    for row in told.itertuples():
        assert row.probabilities.keys() == {"blue", "green", "red"}
        assert row.confidence == row.probabilities[row.label] == max(row.probabilities.values())
        assert sum(row.probabilities.values()) == pytest.approx(1, abs=1e-5)


def test_base64_text_is_taken_for_the_bytes_it_stands_for(pyfunc: Predictor) -> None:
    content = encoded(halves())
    wrapped = base64.encodebytes(content)
    forms = [content, base64.b64encode(content), wrapped, wrapped.decode(), np.bytes_(wrapped)]
    told = pyfunc.predict(None, pd.DataFrame({"image": pd.Series(forms, dtype=object)}))
    assert all(record == told["probabilities"][0] for record in told["probabilities"])


@pytest.mark.parametrize(
    ("images", "sentence"),
    [
        ([], "Expected at least one image, got none."),
        ([b""], "Image 0 cannot be read: empty file."),
        (["plain text"], "Image 0 cannot be read: not an image of a known format"),
        ([encoded(halves()), 5], "Image 1: expected the bytes of an image, got int."),
        ([None], "Image 0: expected the bytes of an image, got NoneType."),
    ],
)
def test_a_bad_request_is_refused_in_a_sentence_that_names_the_image(
    pyfunc: Predictor, images: list[object], sentence: str
) -> None:
    with pytest.raises(RequestError) as refused:
        pyfunc.predict(None, pd.DataFrame({"image": pd.Series(images, dtype=object)}))
    assert refused.value.sentence.startswith(sentence)
    assert refused.value.get_http_status_code() == 400


def test_a_failure_of_the_model_is_not_called_the_callers(
    model_folder: Path, monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture
) -> None:
    model = Predictor()
    model.load_context(SimpleNamespace(artifacts={"model": str(model_folder)}))

    def fail(pixels: object) -> None:
        raise RuntimeError("out of tensors")

    monkeypatch.setattr(model.classifier.network, "infer", fail)
    with pytest.raises(RequestError) as refused:
        model.predict(None, pd.DataFrame({"image": [encoded(halves())]}))
    assert refused.value.get_http_status_code() == 500
    assert "out of tensors" not in refused.value.serialize_as_json()
    assert "out of tensors" in caplog.text


def test_a_card_is_read_as_it_was_written(tmp_path: Path) -> None:
    card = Card(("Füße", "a/b", "…"), 32, 48)
    card.write(tmp_path / "card.json")
    assert Card.read(tmp_path / "card.json") == card


REFUSING = """
import sys
import threading
import time
from importlib.abc import MetaPathFinder

class Refuse(MetaPathFinder):
    def find_spec(self, name, path=None, target=None):
        if name.split(".")[0] in ("tensorflow", "keras", "tf_keras", "tflite_runtime"):
            raise AssertionError(f"{name} is imported")

sys.meta_path.insert(0, Refuse())
import mlflow
import pandas as pd
from pathlib import Path

model = mlflow.pyfunc.load_model("models:/colours@champion")
told = model.predict(pd.DataFrame({"image": [Path(sys.argv[1]).read_bytes()]}))
print(told["label"][0])
"""


def test_a_registered_model_answers_where_tensorflow_cannot_be_imported(
    store: str, tmp_path: Path
) -> None:
    image = tmp_path / "red.png"
    Image.new("RGB", (9, 9), "red").save(image)
    ended = subprocess.run(
        [sys.executable, "-c", REFUSING, str(image)],
        cwd=tmp_path,
        env={"MLFLOW_TRACKING_URI": store, "PATH": "/usr/bin:/bin", "HOME": str(tmp_path)},
        capture_output=True,
        text=True,
        check=False,
    )
    assert ended.stdout.strip() == "red", ended.stderr


@pytest.mark.parametrize(
    ("affinity", "quota", "expected"),
    [
        (8, "max 100000", 8),
        (8, "250000 100000", 2),
        (8, "50000 100000", 1),
        (2, "800000 100000", 2),
    ],
)
def test_a_network_takes_the_cores_that_it_may_use(
    affinity: int, quota: str, expected: int, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("os.sched_getaffinity", lambda _: set(range(affinity)), raising=False)
    monkeypatch.setattr(Path, "read_text", lambda _: quota)
    assert predictor.cores() == expected


def test_a_model_that_is_gone_leaves_no_threads(model_folder: Path) -> None:
    before = threading.active_count()
    for _ in range(3):
        Classifier(model_folder).probabilities(np.zeros((4, 8, 8, 3), np.uint8))
    gc.collect()
    deadline = time.monotonic() + 5
    while threading.active_count() > before:
        assert time.monotonic() < deadline, [thread.name for thread in threading.enumerate()]
        time.sleep(0.05)


def tiff(tile: int) -> bytes:
    """A TIFF of one pixel, which says to lie in a tile of this side."""
    tags = [(256, 1), (257, 1), (258, 8), (259, 1), (262, 1), (277, 1)]
    tags += [(322, tile), (323, tile), (324, 200), (325, 1)]
    entries = b"".join(struct.pack("<HHII", tag, 4, 1, value) for tag, value in tags)
    head = b"II*\x00" + struct.pack("<I", 8) + struct.pack("<H", len(tags)) + entries
    return (head + bytes(4)).ljust(201, b"\0")


def test_the_tile_of_a_tiff_counts_as_what_it_takes_in_memory() -> None:
    with pytest.raises(ImageError, match="more than the bound of 64,000,000"):
        decode(tiff(9000), (8, 8))


def test_a_jpeg_of_endless_scans_is_refused_before_it_is_decoded() -> None:
    content = encoded(halves((64, 64)), "JPEG", progressive=True)
    at = content.rindex(predictor.SCAN)
    assert decode(content, (8, 8)).shape == (8, 8, 3)
    with pytest.raises(ImageError, match="a progressive JPEG of more than 100 scans"):
        decode(content[:at] + content[at:-2] * 150 + content[-2:], (8, 8))


def test_a_request_is_bounded_in_its_pixels_together(
    pyfunc: Predictor, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(predictor, "MAX_DECODED", 1000)
    images = [encoded(halves())] * 3  # of 256 pixels each
    assert len(pyfunc.predict(None, pd.DataFrame({"image": images}))) == 3
    with pytest.raises(RequestError) as refused:
        pyfunc.predict(None, pd.DataFrame({"image": images * 2}))
    assert refused.value.get_http_status_code() == 413
