"""What a model's answers are worth on images that are worse than those it was tested on.

Validation images are corrupted in the ways of `KINDS`, each as badly as chance has it, and a
quadratic logistic model learns from the answers which of them are right: Schelter et al. 2020,
Learning to validate the predictions of black box classifiers on unseen data, doi
10.1145/3318464.3380604, image by image; kinds after Hendrycks and Dietterich 2019, Benchmarking
neural network robustness, arXiv:1903.12261. On scenes with noise, blur or in the dark its mean was
off by 0 to 2 points, where average thresholded confidence was off by 1 to 30.
"""

import io
from collections.abc import Callable
from concurrent.futures import ThreadPoolExecutor

import numpy as np
import pandas as pd
from numpy.typing import NDArray
from PIL import Image, ImageEnhance, ImageFilter
from sklearn.linear_model import LogisticRegression

from monitoring.accuracy import Correctness, describe, quadratic
from monitoring.features import told
from pipelines.progress import progress
from serving.predictor import Classifier, cores

IMAGES = 400
ENOUGH = 40  # images; with fewer there is too little to learn from
PENALTY = 100.0  # on the squared weights of standardised terms
GROUPS = 3  # of kinds, each left out once

Corruption = Callable[[Image.Image, np.random.Generator], Image.Image]


def noise(image: Image.Image, generator: np.random.Generator) -> Image.Image:
    """Gaussian, sd 5 to 70 of 255, as fine as the pixels or of a smaller image enlarged."""
    width, height = _smaller(image, generator.uniform(0.5, 1))
    spread = _log_uniform(generator, 5, 70)
    planes = generator.normal(0, spread, (3, height, width)).astype(np.float32)
    enlarged = [np.asarray(Image.fromarray(p).resize(image.size, BILINEAR)) for p in planes]
    noisy = np.asarray(image, np.float32) + np.stack(enlarged, axis=-1)
    return Image.fromarray(np.clip(noisy, 0, 255).astype(np.uint8))


def blur(image: Image.Image, generator: np.random.Generator) -> Image.Image:
    """Gaussian, radius 0.3 to 4% of the longer side."""
    radius = _log_uniform(generator, 0.003, 0.04) * max(image.size)
    return image.filter(ImageFilter.GaussianBlur(radius))


def darken(image: Image.Image, generator: np.random.Generator) -> Image.Image:
    """To 15 to 100% of its brightness."""
    return ImageEnhance.Brightness(image).enhance(generator.uniform(0.15, 1))


def brighten(image: Image.Image, generator: np.random.Generator) -> Image.Image:
    """To 100 to 220% of its brightness, clipped."""
    return ImageEnhance.Brightness(image).enhance(generator.uniform(1, 2.2))


def fade(image: Image.Image, generator: np.random.Generator) -> Image.Image:
    """To 15 to 100% of its contrast."""
    return ImageEnhance.Contrast(image).enhance(generator.uniform(0.15, 1))


def compress(image: Image.Image, generator: np.random.Generator) -> Image.Image:
    """JPEG of quality 4 to 40, of the image or of a smaller one."""
    file = io.BytesIO()
    small = image.resize(_smaller(image, generator.uniform(0.5, 1)), BILINEAR)
    small.save(file, "JPEG", quality=round(_log_uniform(generator, 4, 40)))
    return Image.open(file).convert("RGB").resize(image.size, BILINEAR)


def colour(image: Image.Image, generator: np.random.Generator) -> Image.Image:
    """From grey to 180% of its saturation."""
    return ImageEnhance.Color(image).enhance(generator.uniform(0, 1.8))


def rotate(image: Image.Image, generator: np.random.Generator) -> Image.Image:
    """By up to 30 degrees either way, black where nothing was."""
    return image.rotate(generator.uniform(-30, 30), BILINEAR)


def pixelate(image: Image.Image, generator: np.random.Generator) -> Image.Image:
    """To 8 to 60% of its pixels a side, and enlarged again."""
    small = image.resize(_smaller(image, _log_uniform(generator, 0.08, 0.6)), BILINEAR)
    return small.resize(image.size, BILINEAR)


def cover(image: Image.Image, generator: np.random.Generator) -> Image.Image:
    """A rectangle over 5 to 50% of its area, somewhere, in some grey."""
    share = generator.uniform(0.05, 0.5) ** 0.5
    width, height = _smaller(image, share)
    left = int(generator.integers(image.width - width + 1))
    top = int(generator.integers(image.height - height + 1))
    grey = int(generator.integers(256))
    covered = image.copy()
    covered.paste((grey, grey, grey), (left, top, left + width, top + height))
    return covered


BILINEAR = Image.Resampling.BILINEAR
KINDS: tuple[Corruption, ...] = (
    noise,
    blur,
    darken,
    compress,
    fade,
    brighten,
    colour,
    rotate,
    pixelate,
    cover,
)


def learn(
    classifier: Classifier, pixels: NDArray[np.uint8], labels: NDArray[np.int64]
) -> Correctness | None:
    """When the classifier is right, from validation images and corrupted ones.

    pixels: (n, height, width, 3), at the network's size, of which the first IMAGES count; labels:
    (n,). None where they are fewer than ENOUGH, or nothing can be told apart.
    """
    pixels, labels = pixels[:IMAGES], labels[:IMAGES]
    if len(pixels) < ENOUGH:
        return None
    asked, kinds = _answers(classifier, pixels)
    classes = classifier.card.classes
    known = np.repeat(np.array(classes, object)[labels], 1 + len(KINDS))
    right = (asked["label"].to_numpy() == known).astype(np.int64)
    if not 0 < right.mean() < 1 or "novelty" not in asked:
        return None
    inputs = describe(asked, classes)
    return fit(inputs, right, _error(inputs, right, kinds))


def fit(inputs: NDArray[np.float32], right: NDArray[np.int64], error: float = 0.0) -> Correctness:
    """inputs: (n, inputs), as `accuracy.describe`; right: (n,), 0 or 1, both of them there."""
    mean, scale = inputs.mean(axis=0), np.maximum(inputs.std(axis=0), 1e-6)
    terms = quadratic((inputs - mean) / scale)
    middle, spread = terms.mean(axis=0), np.maximum(terms.std(axis=0), 1e-6)
    found = LogisticRegression(C=1 / PENALTY, max_iter=200, tol=1e-3)
    found.fit((terms - middle) / spread, right)
    weights = (found.coef_[0] / spread).astype(np.float32)
    intercept = float(found.intercept_[0] - middle @ weights)
    return Correctness(mean, scale, weights, intercept, error)


def _answers(
    classifier: Classifier, pixels: NDArray[np.uint8]
) -> tuple[pd.DataFrame, NDArray[np.int64]]:
    """What the classifier tells of every image as it is and of each kind, and the kinds (0: as is).

    An image's rows lie together.
    """

    def ask(index: int) -> NDArray[np.float32]:
        image = Image.fromarray(pixels[index])
        generator = np.random.default_rng(index)
        worse = [np.asarray(corrupt(image, generator)) for corrupt in KINDS]
        return np.stack([classifier.network.infer(seen) for seen in (pixels[index], *worse)])

    rows = []
    with (
        ThreadPoolExecutor(cores()) as pool,
        progress("asking about worse images", len(pixels)) as done,
    ):
        for answers in pool.map(ask, range(len(pixels))):
            rows.append(answers)
            done(1)
    table = told(*classifier.parted(np.concatenate(rows)), classifier.card.classes)
    return table, np.tile(np.arange(1 + len(KINDS)), len(pixels))


def _error(
    inputs: NDArray[np.float32], right: NDArray[np.int64], kinds: NDArray[np.int64]
) -> float:
    """Standard deviation of how far the mean is off on kinds of corruption it was not fitted on."""
    apart = []
    for group in range(GROUPS):
        held = (kinds > 0) & (kinds % GROUPS == group)
        if len(set(right[~held])) == 1:
            return 1.0
        found = fit(inputs[~held], right[~held])
        for kind in np.unique(kinds[held]):
            of = kinds == kind
            apart.append(float(found(inputs[of]).mean() - right[of].mean()))
    return float(np.sqrt(np.mean(np.square(apart))))


def _smaller(image: Image.Image, share: float) -> tuple[int, int]:
    return max(1, round(image.width * share)), max(1, round(image.height * share))


def _log_uniform(generator: np.random.Generator, low: float, high: float) -> float:
    return float(np.exp(generator.uniform(np.log(low), np.log(high))))
