"""The pictures say what the data say, nothing is clipped, and nothing overlaps."""

import re
from collections.abc import Callable
from itertools import combinations
from pathlib import Path

import numpy as np
import pandas as pd
import pytest
from matplotlib._pylab_helpers import Gcf
from matplotlib.axis import Axis
from matplotlib.backends.backend_agg import FigureCanvasAgg
from matplotlib.colors import to_rgb
from matplotlib.figure import Figure
from matplotlib.image import AxesImage
from matplotlib.text import Annotation, Text
from matplotlib.transforms import Bbox
from PIL import Image

from pipelines import figures

SCENES = ["buildings", "forest", "glacier", "mountain", "sea", "street"]
NAMES = [
    "x",
    "Northern flicker, juvenile female, in a tree",
    "W" * 60,
    "price $5 or $10",
    "two\nlines",
]
LONG = [f"{number:03d} {NAMES[number % len(NAMES)]}" for number in range(100)]


def texts(figure: Figure) -> list[Text]:
    """Texts that a reader sees on the drawn figure."""
    FigureCanvasAgg(figure).draw()
    found: list[Text] = []
    for axes in figure.axes:
        found += axes.texts
        if axes.axison:
            found += [axes.xaxis.label, *tick_labels(axes.xaxis), *tick_labels(axes.yaxis)]
    return [text for text in found if text.get_text()]


def tick_labels(axis: Axis) -> list[Text]:
    low, high = axis.get_view_interval()
    return [tick.label1 for tick in axis.get_major_ticks() if low <= tick.get_loc() <= high]


def words(figure: Figure) -> list[str]:
    return [text.get_text().replace(r"\$", "$") for text in texts(figure)]


def counts(classes: list[str], seed: int = 0) -> pd.DataFrame:
    numbers = np.random.default_rng(seed).integers(0, 3000, (len(classes), 3))
    return pd.DataFrame(numbers, index=classes, columns=["train", "val", "test"])


def matrix(count: int, seed: int = 0) -> np.ndarray:
    return np.random.default_rng(seed).integers(0, 30, (count, count)) + 400 * np.eye(
        count, dtype=np.int64
    )


def history(epochs: int) -> pd.DataFrame:
    steps = np.arange(1, epochs + 1)
    learned = 1 - np.exp(-steps / 3)
    return pd.DataFrame(
        {
            "epoch": steps,
            "train_accuracy": 0.2 + 0.79 * learned,
            "val_accuracy": 0.2 + 0.7 * learned - 0.004 * steps,
            "train_loss": 1.8 - 1.7 * learned,
            "val_loss": 1.8 - 1.4 * learned + 0.01 * steps,
        }
    )


def scores(classes: list[str], seed: int = 0) -> pd.DataFrame:
    random = np.random.default_rng(seed)
    table = pd.DataFrame(
        random.uniform(0.5, 1, (len(classes), 3)),
        index=classes,
        columns=["precision", "recall", "f1"],
    )
    return table.assign(support=random.integers(1, 600, len(classes)))


def accuracies(**rows: tuple[float, float, float]) -> pd.DataFrame:
    columns = ["train_accuracy", "val_accuracy", "test_accuracy"]
    return pd.DataFrame.from_dict(rows, orient="index", columns=columns)


def layers(count: int) -> list[figures.Layer]:
    kinds = ["GlobalAveragePooling2D", "BatchNormalization", "Conv2D", "SpatialDropout2D", "Lambda"]
    return [
        figures.Layer(
            f"layer_{i}", kinds[i % 5], (None, 150, 150, 128), 137 * i, list(figures.GROUPS)[i % 10]
        )
        for i in range(count)
    ]


def images(count: int, *shape: int) -> np.ndarray:
    return np.random.default_rng(0).integers(0, 256, (count, *shape), dtype=np.uint8)


def gallery(count: int, classes: list[str]) -> Figure:
    truth = [classes[i % len(classes)] for i in range(count)]
    answers = [classes[(i + 1) % len(classes)] for i in range(count)]
    return figures.mistakes(images(count, 16, 16, 3), truth, answers, np.linspace(1, 0.3, count))


def guesses(count: int, classes: list[str]) -> Figure:
    probabilities = np.random.default_rng(0).dirichlet(np.ones(len(classes)), count)
    truth = [classes[i % len(classes)] for i in range(count)]
    return figures.predictions(images(count, 20, 30, 3), truth, probabilities, classes)


FIGURES: dict[str, Callable[[], Figure]] = {
    "counts of 2": lambda: figures.class_counts(counts(LONG[:2])),
    "counts of 6": lambda: figures.class_counts(counts(SCENES)),
    "counts of 100": lambda: figures.class_counts(counts(LONG)),
    "curves of no epoch": lambda: figures.learning_curves(history(0), "lm"),
    "curves that meet": lambda: figures.learning_curves(history(3) * 0 + 1, "lm"),
    "curves of 1 epoch": lambda: figures.learning_curves(history(1), "lm"),
    "curves of 15 epochs": lambda: figures.learning_curves(history(15), "dcnn, trial 12"),
    "curves of 100 epochs": lambda: figures.learning_curves(history(100), "a long title " * 20),
    "comparison": lambda: figures.comparison(
        accuracies(lm=(0.61, 0.55, 0.54), cnn=(0.95, 0.9, np.nan), transfer=(np.nan,) * 3)
    ),
    "comparison of nothing": lambda: figures.comparison(accuracies(lm=(np.nan,) * 3)),
    "comparison near 1": lambda: figures.comparison(accuracies(lm=(1.0, 0.999, 0.998))),
    "flow of 1": lambda: figures.layer_flow(layers(1), "lm"),
    "flow of 11": lambda: figures.layer_flow(layers(11), "cnn"),
    "flow of 60": lambda: figures.layer_flow(layers(60), "a long title " * 20),
    "confusion of 2": lambda: figures.confusion(matrix(2), LONG[:2]),
    "confusion of 12": lambda: figures.confusion(matrix(12), LONG[:12]),
    "confusion of 13": lambda: figures.confusion(matrix(13), LONG[:13]),
    "confusion of 100": lambda: figures.confusion(matrix(100), LONG),
    "scores of 6": lambda: figures.class_scores(scores(SCENES)),
    "scores of 100": lambda: figures.class_scores(scores(LONG)),
    "no mistakes": lambda: gallery(0, SCENES),
    "1 mistake": lambda: gallery(1, LONG),
    "20 mistakes": lambda: gallery(20, LONG),
    "predictions of 2 classes": lambda: guesses(3, LONG[:2]),
    "predictions of 100 classes": lambda: guesses(12, LONG),
}


@pytest.fixture(params=FIGURES, scope="module")
def figure(request: pytest.FixtureRequest) -> Figure:
    return FIGURES[request.param]()


@pytest.fixture(scope="module")
def drawn(figure: Figure) -> list[tuple[Text, Bbox]]:
    return [(text, text.get_window_extent()) for text in texts(figure)]


def test_no_text_leaves_the_canvas(figure: Figure, drawn: list[tuple[Text, Bbox]]) -> None:
    width, height = figure.canvas.get_width_height()
    for text, box in drawn:
        inside = box.x0 >= 0 and box.y0 >= 0 and box.x1 <= width and box.y1 <= height
        assert inside, f"{text.get_text()!r} at {box}"


def test_no_text_lies_on_another(drawn: list[tuple[Text, Bbox]]) -> None:
    """Boxes of lines may share the room of their ascenders, a third of the height; no more."""
    upright = [(text, box) for text, box in drawn if text.get_rotation() in {0, 90}]
    x0, y0, x1, y1 = np.array([box.extents for _, box in upright]).T
    width = np.minimum(x1[:, None], x1) - np.maximum(x0[:, None], x0)
    height = np.minimum(y1[:, None], y1) - np.maximum(y0[:, None], y0)
    least = np.minimum(np.minimum(x1 - x0, y1 - y0)[:, None], np.minimum(x1 - x0, y1 - y0))
    touching = np.triu((width > least / 3) & (height > least / 3), k=1)
    pairs = [(upright[a][0].get_text(), upright[b][0].get_text()) for a, b in np.argwhere(touching)]
    assert not pairs


def test_a_figure_is_unknown_to_pyplot(figure: Figure) -> None:
    assert figure not in [manager.canvas.figure for manager in Gcf.get_all_fig_managers()]


def test_the_splits_differ_in_lightness_and_so_without_colour_vision() -> None:
    weights = (0.2126, 0.7152, 0.0722)
    lightness = [np.dot(to_rgb(color), weights) for color in figures.SPLITS.values()]
    assert all(abs(one - other) > 0.15 for one, other in combinations(lightness, 2))


def test_class_counts_print_every_number_and_the_totals() -> None:
    table = pd.DataFrame(
        {"train": [1753, 1817], "val": [438, np.nan], "test": [0, 474]}, index=["sea", "forest"]
    )
    printed = words(figures.class_counts(table))
    for number in ("1,753", "1,817", "438", "474", "2,191", "2,291"):
        assert printed.count(number) == 1
    assert printed.count("0") == 2
    assert "4,482 images in 2 classes" in printed


def test_class_counts_draw_bars_as_long_as_their_numbers() -> None:
    table = pd.DataFrame({"train": [300, 100], "test": [100, 50]}, index=["sea", "forest"])
    widths = [bar.get_width() for bar in figures.class_counts(table).axes[0].patches]
    assert np.allclose(np.array(widths) / widths[0], [1, 1 / 3, 1 / 3, 1 / 6])


def test_learning_curves_mark_the_epoch_with_the_highest_validation_accuracy() -> None:
    table = history(5).assign(val_accuracy=[0.5, 0.7, 0.912, 0.8, 0.9])
    figure = figures.learning_curves(table, "cnn")
    assert words(figure).count("best: epoch 3") == 2
    assert "5 epochs; best validation accuracy 91.2% in epoch 3" in words(figure)
    for axes in figure.axes[1:]:
        assert list(axes.lines[-1].get_xdata()) == [3, 3]


def test_learning_curves_of_a_diverged_model_have_gaps_and_no_best_epoch() -> None:
    table = history(4).assign(val_accuracy=np.nan, val_loss=[1.0, np.inf, np.nan, np.nan])
    printed = words(figures.learning_curves(table, "cnn"))
    assert "4 epochs; no validation accuracy" in printed
    assert not [word for word in printed if word.startswith("best")]


def test_comparison_prints_every_accuracy_in_the_order_given() -> None:
    table = accuracies(nn=(0.662, 0.601, 0.594), cnn=(0.951, 0.904, 0.899))
    printed = words(figures.comparison(table))
    for value in ("66.2%", "60.1%", "59.4%", "95.1%", "90.4%", "89.9%"):
        assert value in printed
    assert printed.index("nn") < printed.index("cnn")


def test_comparison_says_that_its_scale_does_not_begin_at_zero() -> None:
    high, low = accuracies(cnn=(0.97, 0.93, 0.91)), accuracies(lm=(0.97, 0.5, 0.02))
    assert any(
        word.endswith("the scale begins at 90%, not at 0")
        for word in words(figures.comparison(high))
    )
    assert not any("scale begins" in word for word in words(figures.comparison(low)))


def test_comparison_shows_the_note_of_a_skipped_architecture_alone() -> None:
    table = accuracies(cnn=(0.9, 0.8, np.nan), transfer=(np.nan,) * 3, lm=(np.nan,) * 3)
    notes = ["not shown", "skipped: weights not reachable", np.nan]
    printed = words(figures.comparison(table.assign(note=notes)))
    assert "skipped: weights not reachable" in printed
    assert "no result" in printed
    assert "not shown" not in printed


def test_comparison_sets_the_best_test_accuracy_in_bold() -> None:
    table = accuracies(nn=(0.6, 0.6, 0.594), cnn=(0.951, 0.904, 0.899))
    bold = [t.get_text() for t in texts(figures.comparison(table)) if t.get_fontweight() == "bold"]
    assert [text for text in bold if text.endswith("%")] == ["89.9%"]


def test_layer_flow_gives_kind_shape_and_parameters_of_each_layer() -> None:
    chain = [
        figures.Layer("image", "InputLayer", (None, 64, 64, 3), 0, "input"),
        figures.Layer("conv", "Conv2D", (32, 32, 64), 1792, "convolution"),
        figures.Layer("mobilenet", "Functional", (None, None, 7, 1280), 23_587_712, "backbone"),
        figures.Layer("odd", "Lambda", (6,), 10, "a group of its own"),
    ]
    figure = figures.layer_flow(chain, "cnn")
    printed = words(figure)
    for word in ("InputLayer", "64 x 64 x 3", "Conv2D", "32 x 32 x 64", "1,792", "23.6 M", "other"):
        assert word in printed
    assert {"mobilenet", "? x 7 x 1280"} <= set(printed)
    assert "4 layers, 23,589,514 parameters (at the right of each box)" in printed
    arrows = [text for text in figure.findobj(Annotation) if text.arrow_patch is not None]
    assert len(arrows) == len(chain) - 1


def test_layer_flow_of_60_layers_has_12_rows() -> None:
    figure = figures.layer_flow(layers(60), "deep")
    heads = {round(t.get_position()[1], 3) for t in texts(figure) if t.get_text() == "Conv2D"}
    assert len(heads) <= 12
    assert figure.get_figwidth() < 10


def test_confusion_prints_each_count_and_each_share() -> None:
    table = np.array([[437, 63], [31, 469]])
    printed = words(figures.confusion(table, ["sea", "forest"]))
    assert {"437", "63", "31", "469", "87", "13", "6", "94"} <= set(printed)
    assert "90.6% of 1,000 images right" in printed


@pytest.mark.parametrize(("count", "panels", "numbers"), [(12, 2, 288), (13, 1, 169), (31, 1, 0)])
def test_confusion_leaves_out_counts_above_12_classes_and_text_above_30(
    count: int, panels: int, numbers: int
) -> None:
    figure = figures.confusion(matrix(count), [f"class {i}" for i in range(count)])
    cells = [word for word in words(figure) if re.fullmatch(r"\d+", word)]
    assert len(figure.findobj(AxesImage)) == panels
    assert len(cells) == numbers


def test_confusion_has_a_dash_for_the_shares_of_a_class_without_images() -> None:
    printed = words(figures.confusion(np.array([[5, 0], [0, 0]]), ["sea", "forest"]))
    assert printed.count(figures.NONE) == 2


def test_confusion_of_nothing_says_so() -> None:
    assert "No images" in words(figures.confusion(np.zeros((2, 2), np.int64), ["sea", "forest"]))


def test_class_scores_print_each_score_and_a_dash_without_support() -> None:
    columns = ["precision", "recall", "f1", "support"]
    rows = [(0.912, 0.883, 0.897, 501), (0.75, 1.0, 0.857, 12), (0.0, 0.0, 0.0, 0)]
    table = pd.DataFrame(rows, columns=columns, index=["sea", "forest", "street"])
    printed = words(figures.class_scores(table))
    for word in ("91.2%", "88.3%", "89.7%", "75.0%", "100.0%", "85.7%", "501", "12"):
        assert word in printed
    assert printed.count(figures.NONE) == 3
    assert "0.0%" not in printed


def test_class_scores_set_apart_the_lowest_and_nothing_where_all_are_equal() -> None:
    table = scores(["sea", "forest"]).assign(precision=[0.9, 0.8], recall=1.0, f1=[0.7, 0.75])
    figure = figures.class_scores(table)
    apart = [text.get_text() for text in texts(figure) if text.get_color() == figures.WRONG]
    assert apart == ["80.0%", "70.0%"]


def test_dollars_in_a_name_are_not_mathematics() -> None:
    assert r"$\nonsense$" in words(figures.class_counts(counts([r"$\nonsense$", "sea"])))


def test_mistakes_say_when_there_are_none() -> None:
    assert "No mistakes on the test images" in words(gallery(0, SCENES))


def test_mistakes_name_answer_truth_and_confidence_of_16_at_most() -> None:
    figure = gallery(20, SCENES)
    assert "Mistakes on the test images (16 of 20 shown)" in words(figure)
    assert len(figure.findobj(AxesImage)) == 16
    assert words(figure)[2:5] == ["100%", "forest", "truth: buildings"]


@pytest.mark.parametrize("shape", [(8, 8, 3), (8, 8, 1), (8, 8)])
def test_mistakes_show_grey_images_as_grey(shape: tuple[int, ...]) -> None:
    pixels = np.full((1, *shape), 128, np.uint8)
    figure = figures.mistakes(pixels, ["3"], ["8"], np.array([0.9]))
    canvas = FigureCanvasAgg(figure)
    canvas.draw()
    x, y = figure.axes[1].bbox.get_points().mean(axis=0).astype(int)
    shade = np.asarray(canvas.buffer_rgba())[-y, x, :3]
    assert list(shade) == [128, 128, 128]


def test_predictions_list_the_three_most_probable_and_mark_the_true_class() -> None:
    probabilities = np.array([[0.02, 0.08, 0.6, 0.3], [0.7, 0.15, 0.1, 0.05]])
    classes = ["sea", "forest", "street", "glacier"]
    figure = figures.predictions(images(2, 8, 8, 3), ["street", "glacier"], probabilities, classes)
    first = ["60%", "✓ street", "30%", "glacier", "8%", "forest"]
    second = ["70%", "sea", "15%", "forest", "10%", "street", "5%", "✓ glacier"]
    assert words(figure)[2:] == first + second


def test_save_replaces_the_file_and_leaves_no_other(tmp_path: Path) -> None:
    path = tmp_path / "mistakes.png"
    path.write_bytes(b"an older picture")
    figures.save(gallery(0, SCENES), path)
    with Image.open(path) as image:
        assert image.format == "PNG"
        assert 900 < image.width < 1100
    assert list(tmp_path.iterdir()) == [path]


def test_save_keeps_the_old_file_when_drawing_fails(tmp_path: Path) -> None:
    figure, path = gallery(0, SCENES), tmp_path / "mistakes.png"
    path.write_bytes(b"an older picture")
    figure.text(0.5, 0.5, "$\\nonsense$")
    with pytest.raises(ValueError, match="nonsense"):
        figures.save(figure, path)
    assert path.read_bytes() == b"an older picture"
    assert list(tmp_path.iterdir()) == [path]


@pytest.mark.parametrize("score", [0.0, 0.5, 1.0])
def test_scores_that_are_all_alike_still_have_a_scale(score: float) -> None:
    columns = ["train_accuracy", "val_accuracy", "test_accuracy"]
    table = pd.DataFrame(score, index=["lm", "cnn"], columns=columns)
    figure = figures.comparison(table)
    assert f"{score:.1%}" in {text.get_text() for axes in figure.axes for text in axes.texts}
