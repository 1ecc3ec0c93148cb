"""Augmentation moves pixels while training, as far as asked, and otherwise does nothing."""

import keras
import numpy as np
import pytest

from models import augment

FULL = {"flip": True, "shift": 0.15, "zoom": 0.2, "rotation": 0.05, "brightness": 0.2}
SIDE = 17


def images(count: int = 16) -> np.ndarray:
    pixels = np.random.default_rng(0).integers(0, 256, (count, SIDE, SIDE, 3))
    return pixels.astype(np.float32)


def ramps(axis: int, slope: float = 5) -> np.ndarray:
    """Images that get brighter by `slope` a pixel along an axis."""
    ramp = np.expand_dims(40 + slope * np.arange(SIDE, dtype=np.float32), axis=1 - axis)
    return np.broadcast_to(ramp[None, :, :, None], (16, SIDE, SIDE, 3)).copy()


def changed(pixels: np.ndarray, **params: float) -> np.ndarray:
    """The pixels after augmentation with these params alone."""
    layer = augment.build(augment.NONE | params, seed=0)
    assert layer is not None
    answer: np.ndarray = keras.ops.convert_to_numpy(layer(pixels, training=True))
    assert answer.shape == pixels.shape
    return answer


@pytest.mark.parametrize("pixels", [images(), images().astype(np.uint8)])
def test_nothing_changes_outside_training(pixels: np.ndarray) -> None:
    layer = augment.build(FULL, seed=0)
    assert layer is not None
    assert np.array_equal(layer(pixels), pixels)
    assert np.array_equal(layer(pixels, training=False), pixels)


def test_there_is_no_layer_where_nothing_is_asked_for() -> None:
    assert augment.build(augment.NONE, seed=0) is None
    assert augment.build({"units": 64, "dropout": 0.5}, seed=0) is None


def test_pixels_stay_within_their_range() -> None:
    extremes = np.where(images() > 128, 255, 0).astype(np.float32)
    answer = changed(extremes, **FULL)
    assert answer.min() >= 0
    assert answer.max() <= 255
    assert not np.array_equal(answer, extremes)


def test_a_flip_alone_is_an_exact_mirror_image_of_about_half() -> None:
    pixels = images(64)
    answer = changed(pixels, flip=True)
    mirrored = np.flip(pixels, axis=2)
    same = np.abs(answer - pixels).max(axis=(1, 2, 3)) < 0.01
    flipped = np.abs(answer - mirrored).max(axis=(1, 2, 3)) < 0.01
    assert (same ^ flipped).all()
    assert 16 < flipped.sum() < 48


@pytest.mark.parametrize("axis", [0, 1])
def test_a_shift_alone_moves_each_image_by_its_own_distance_within_the_bound(axis: int) -> None:
    pixels = ramps(axis)
    inner = np.s_[:, 3:-3, 3:-3]
    steps = (changed(pixels, shift=0.125) - pixels)[inner] / 5
    distances = steps.mean(axis=(1, 2, 3))
    assert np.allclose(steps, distances[:, None, None, None], atol=1e-3)
    assert np.abs(distances).max() <= 0.125 * SIDE
    assert np.ptp(distances) > 0.125 * SIDE
    assert len(np.unique(distances.round(4))) == len(pixels)


@pytest.mark.parametrize("params", [{"zoom": 0.2}, {"rotation": 0.05}, {"flip": True}])
def test_the_middle_stays_where_it_is_but_for_a_shift(params: dict[str, float]) -> None:
    pixels, middle = images(), SIDE // 2
    answer = changed(pixels, **params)
    assert np.allclose(answer[:, middle, middle], pixels[:, middle, middle], atol=0.01)
    assert np.abs(answer - pixels).max() > 10


def test_a_zoom_alone_scales_distances_from_the_middle_within_the_bound() -> None:
    slopes = np.gradient(changed(ramps(1), zoom=0.2), axis=2)[:, 3:-3, 3:-3] / 5
    scales = slopes.mean(axis=(1, 2, 3))
    assert np.allclose(slopes, scales[:, None, None, None], atol=1e-3)
    assert scales.min() >= 0.8
    assert scales.max() <= 1.2
    assert np.ptp(scales) > 0.2


def test_a_rotation_alone_turns_a_ramp_within_the_bound() -> None:
    turned = changed(ramps(1), rotation=0.05)[:, 4:-4, 4:-4]
    down, across = np.gradient(turned, axis=(1, 2))
    turns = np.arctan2(down, across).mean(axis=(1, 2, 3)) / (2 * np.pi)
    assert np.allclose(np.hypot(down, across), 5, atol=1e-2)
    assert np.abs(turns).max() <= 0.05
    assert np.ptp(turns) > 0.05


def test_brightness_alone_adds_one_number_to_each_image_within_the_bound() -> None:
    change = changed(np.full((16, SIDE, SIDE, 3), 128, np.float32), brightness=0.2)[:, 0, 0, 0]
    assert np.abs(change - 128).max() <= 0.2 * 255
    assert len(np.unique(change)) == 16


def test_the_border_is_filled_by_reflection_not_by_black() -> None:
    even = np.full((16, SIDE, SIDE, 3), 200, np.float32)
    answer = changed(even, **FULL | {"brightness": 0.0})
    assert np.allclose(answer, 200, atol=0.01)


def test_the_seed_decides_what_is_drawn() -> None:
    one, same, other = (augment.build(FULL, seed) for seed in (0, 0, 1))
    assert one is not None
    assert same is not None
    assert other is not None
    answer = one(images(), training=True)
    assert np.array_equal(answer, same(images(), training=True))
    assert not np.array_equal(answer, other(images(), training=True))
