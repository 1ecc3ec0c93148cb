import io
import math
from pathlib import Path

import numpy as np
import pandas as pd
import pytest
from PIL import Image

from monitoring.features import embedding_columns, features, frame
from serving.features import FEATURES, noise, saturation
from serving.folder import Answer
from serving.predictor import ImageError

CLASSES = ("cat", "dog", "a/b", "ü")
FLAT = np.full(4, 0.25, np.float32)


def encoded(pixels, kind="PNG", **options) -> bytes:
    file = io.BytesIO()
    Image.fromarray(np.asarray(pixels).astype(np.uint8)).save(file, kind, **options)
    return file.getvalue()


def solid(colour, width=20, height=10) -> bytes:
    return encoded(np.full((height, width, 3), colour))


def test_features_of_a_solid_colour_are_the_hand_computed_ones():
    measured = features(solid((200, 100, 50)))
    assert tuple(measured) == FEATURES
    assert measured["brightness"] == pytest.approx(round(0.299 * 200 + 0.587 * 100 + 0.114 * 50))
    assert measured["contrast"] == pytest.approx(0, abs=1e-3)
    assert measured["saturation"] == pytest.approx(0.75)
    assert measured["sharpness"] == pytest.approx(0, abs=1e-3)
    assert measured["noise"] == pytest.approx(0, abs=1e-3)
    assert measured["colour_cast"] == 150
    assert (measured["width"], measured["height"], measured["aspect"]) == (20, 10, 2)


def test_contrast_of_half_black_half_white_is_half_the_range():
    halves = np.zeros((10, 10, 3))
    halves[:, 5:] = 255
    assert features(encoded(halves))["contrast"] == pytest.approx(127.5, rel=1e-5)


def test_saturation_of_black_is_zero():
    assert saturation(*np.zeros((3, 2, 2), np.uint8)) == 0


def test_noise_finds_the_standard_deviation_beneath_a_gradient():
    gradient = np.linspace(0, 200, 128)[:, None] + np.linspace(0, 50, 128)[None]
    noisy = gradient + np.random.default_rng(0).normal(0, 10, (128, 128))
    assert noise(noisy.astype(np.float32)) == pytest.approx(10, rel=0.05)


@pytest.mark.parametrize("name", FEATURES[:6])
def test_a_photo_measures_like_its_smaller_copy(name):
    blocks = np.random.default_rng(1).integers(0, 255, (24, 32, 3)).astype(np.uint8)
    photo = Image.fromarray(blocks).resize((2048, 1536), Image.Resampling.BICUBIC)
    copy = photo.resize((512, 384), Image.Resampling.LANCZOS)
    large, small = (features(encoded(image, "JPEG", quality=92)) for image in (photo, copy))
    assert large[name] == pytest.approx(small[name], rel=0.1, abs=0.5)


def test_width_and_height_are_those_of_the_upright_image():
    exif = Image.Exif()
    exif[0x0112] = 6
    measured = features(encoded(np.zeros((300, 400, 3)), "JPEG", exif=exif))
    assert (measured["width"], measured["height"]) == (300, 400)


@pytest.mark.parametrize("size", [(1, 1), (1, 500), (2, 3)])
def test_no_image_is_too_small_or_too_thin_to_measure(size):
    assert all(map(math.isfinite, features(encoded(np.full((*size, 3), 7))).values()))


def test_what_is_no_image_raises():
    with pytest.raises(ImageError):
        features(b"no image")


def answered(name: str, probabilities: np.ndarray, *embedding: float) -> Answer:
    content = solid((9, 9, 9))
    seen = np.array(embedding, np.float32)
    return Answer(Path(name), content, probabilities, "", seen, features(content))


def test_frame_has_one_row_an_answered_image_and_a_column_for_every_class():
    answers = [
        answered("a.png", FLAT, 0.5, 2, 0.25),
        Answer(Path("broken.png"), b"", None, "empty file"),
        answered("b.png", np.array([0, 1, 0, 0], np.float32), 1, 3, 0.75),
    ]
    rows = frame(iter(answers), CLASSES)
    shares = ["p_cat", "p_dog", "p_a/b", "p_ü"]
    seen = ["e_0", "e_1", "novelty"]
    assert list(rows) == ["path", "label", "confidence", "entropy", *shares, *seen, *FEATURES]
    assert list(rows["path"]) == ["a.png", "b.png"]
    assert list(rows["label"]) == ["cat", "dog"]
    assert list(rows["confidence"]) == [0.25, 1]
    assert list(rows["entropy"]) == pytest.approx([math.log(4), 0])
    assert list(rows["p_dog"]) == [0.25, 1]
    assert list(rows["e_1"]) == [2, 3]
    assert list(rows["novelty"]) == [0.25, 0.75]
    assert embedding_columns(rows) == ["e_0", "e_1"]


def test_frame_of_a_model_without_an_embedding_has_no_columns_for_it():
    rows = frame([answered("a.png", FLAT)], CLASSES)
    assert "novelty" not in rows
    assert embedding_columns(rows) == []


def test_frame_of_no_answer_keeps_its_columns():
    assert len(frame(iter([]), CLASSES).columns) == 4 + len(FEATURES) + len(CLASSES)


def test_frame_comes_back_from_parquet_as_it_was(tmp_path):
    rows = frame([answered("a.png", FLAT, 1, 2)], CLASSES)
    rows.to_parquet(tmp_path / "reference.parquet")
    pd.testing.assert_frame_equal(pd.read_parquet(tmp_path / "reference.parquet"), rows)
