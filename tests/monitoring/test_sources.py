"""Folders and tables of scores as sources of current images."""

import os
from datetime import UTC, datetime, timedelta
from pathlib import Path

import numpy as np
import pandas as pd
import pyarrow as pa
import pytest
from pyarrow import parquet

from monitoring import sources
from monitoring.features import told
from monitoring.sources import of_folder, of_table
from monitoring.window import Window
from serving.features import FEATURES
from serving.predictor import ImageError
from serving.settings import UserError
from tests.conftest import CLASSES

NOW = datetime(2026, 3, 29, 12, 0, tzinfo=UTC)
ALL = Window(NOW)
HOUR = timedelta(hours=1)


def changed(path: Path, when: datetime) -> None:
    os.utime(path, (when.timestamp(), when.timestamp()))


def names(current: sources.Current) -> list[str]:
    return current.rows["path"].tolist()


def test_a_folder_is_a_frame_with_its_unreadable_files_counted(tints, painted):
    images = painted("folder", 6, seed=1)
    (images / "a broken.png").write_bytes(b"no image")
    current = of_folder(tints, images, ALL)
    assert names(current) == sorted(path.name for path in images.iterdir())[1:]
    assert {"label", "confidence", "p_blue", "e_0", "novelty", *FEATURES} < set(current.rows)
    assert current.unreadable == 1
    assert current.labels is None
    assert current.left_out == []
    assert current.picture(0) == (images / names(current)[0]).read_bytes()


def test_a_window_of_time_holds_the_files_changed_after_its_begin_up_to_its_end(tints, painted):
    images = painted("window", 5, seed=1)
    moments = [NOW - 2 * HOUR, NOW - HOUR, NOW - HOUR / 2, NOW, NOW + timedelta(seconds=1)]
    paths = sorted(images.iterdir())
    for path, moment in zip(paths, moments, strict=True):
        changed(path, moment)
    current = of_folder(tints, images, Window.parse("1h", NOW))
    assert names(current) == [paths[2].name, paths[3].name]


def test_a_window_of_a_number_holds_the_newest_files(tints, painted):
    images = painted("number", 5, seed=1)
    paths = sorted(images.iterdir())
    for path, hours in zip(paths, [1, 5, 2, 4, 3], strict=True):
        changed(path, NOW - hours * HOUR)
    current = of_folder(tints, images, Window.parse("3", NOW))
    assert names(current) == [paths[0].name, paths[2].name, paths[4].name]
    assert len(of_folder(tints, images, Window.parse("9", NOW)).rows) == 5


def test_a_link_to_nothing_counts_as_unreadable_in_any_window(tints, painted):
    images = painted("links", 2, seed=1)
    (images / "link.png").symlink_to(images / "gone.png")
    assert of_folder(tints, images, ALL).unreadable == 1
    assert of_folder(tints, images, Window.parse("3", NOW + 10_000 * 24 * HOUR)).unreadable == 1


def test_a_labelled_folder_knows_what_is_right(tints, painted):
    images = painted("labelled", 9, seed=1)
    for path in list(images.iterdir()):
        below = images / path.name.split("-")[0] / "deep"
        below.mkdir(parents=True, exist_ok=True)
        path.rename(below / path.name)
    (images / "red" / "broken.png").write_bytes(b"no image")
    current = of_folder(tints, images, ALL, labelled=True)
    assert current.labels
    assert current.labels.truth == [Path(name).parts[0] for name in names(current)]
    assert current.labels.label == current.rows["label"].tolist()
    assert sorted(set(current.labels.truth)) == list(CLASSES)
    assert current.unreadable == 1


def test_a_labelled_folder_with_other_classes_is_refused_before_an_image_is_read(tints, painted):
    images = painted("others", 1, seed=1)
    (images / "Red").mkdir()
    next(images.glob("*.png")).rename(images / "Red" / "1.png")
    sentence = r"classes of the model \(blue, green, red\) in .*, but it has Red; check with"
    with pytest.raises(UserError, match=sentence):
        of_folder(tints, images, ALL, labelled=True)


def test_files_of_any_name_are_checked(tints, painted):
    images = painted("names", 2, seed=1)
    first, second = sorted(images.iterdir())
    first.rename(os.fsdecode(os.fsencode(images) + b'/\xff ".png'))
    second.rename(images / "<b>\n.png")
    current = of_folder(tints, images, ALL)
    assert names(current) == ["<b>\n.png", '\\xff ".png']
    assert current.picture(1)[:4] == b"\x89PNG"


def test_a_folder_that_is_missing_or_empty_is_refused(tints, tmp_path):
    with pytest.raises(UserError, match="gone does not exist"):
        of_folder(tints, tmp_path / "gone", ALL)
    with pytest.raises(UserError, match="it holds no file"):
        of_folder(tints, tmp_path, ALL)


def scores(count: int = 6) -> pd.DataFrame:
    """Rows as `score` writes them, the last with an error."""
    shares = np.random.default_rng(0).dirichlet([1, 1, 1], count).astype(np.float32)
    table = told(shares, np.empty((count, 0)), CLASSES).drop(columns="entropy")
    table = table.astype(dict.fromkeys(table.columns[1:], float))
    table.insert(0, "path", [f"{index}.png" for index in range(count)])
    table["error"] = ""
    table.loc[count - 1, ["label", "error"]] = [None, "empty file"]
    table.loc[count - 1, table.columns[2:-1]] = np.nan
    return table


def written(table: pd.DataFrame, folder: Path) -> Path:
    path = folder / "scores.parquet"
    table.to_parquet(path, index=False)
    return path


def test_a_table_of_scores_is_a_frame_with_its_errors_counted(tints, tmp_path):
    current = of_table(tints, written(scores(), tmp_path), ALL)
    assert len(current.rows) == 5
    assert current.unreadable == 1
    assert current.labels is None
    assert current.rows["label"].tolist() == scores()["label"][:5].tolist()
    assert current.rows["confidence"].tolist() == pytest.approx(scores()["confidence"][:5].tolist())
    assert current.rows["entropy"].between(0, np.log(3) + 1e-6).all()
    assert current.left_out == [
        f"Not known here, so not compared: {', '.join(FEATURES)}.",
        "The embeddings of these images are not known, so not compared.",
    ]
    with pytest.raises(ImageError):
        current.picture(0)


def test_a_table_uses_what_else_it_knows(tints, tmp_path):
    more = dict.fromkeys(FEATURES, 1.5) | {"e_0": 0.25, "novelty": 0.5, "another": "ignored"}
    current = of_table(tints, written(scores().assign(**more), tmp_path), ALL)
    assert current.left_out == []
    assert current.rows["novelty"].tolist() == [0.5] * 5
    assert "another" not in current.rows


def test_a_table_without_errors_cannot_know_what_is_unreadable(tints, tmp_path):
    current = of_table(tints, written(scores().drop(columns="error"), tmp_path), ALL)
    assert (len(current.rows), current.unreadable) == (5, None)


def test_a_table_with_truth_knows_what_is_right_where_it_says_so(tints, tmp_path):
    table = scores().assign(truth=["red", None, "blue", "red", None, None])
    labels = of_table(tints, written(table, tmp_path), ALL).labels
    assert labels
    assert labels.truth == ["red", "blue", "red"]
    assert labels.label == table["label"][[0, 2, 3]].tolist()


@pytest.mark.parametrize("kind", ["aware", "naive", "text"])
def test_a_table_with_times_has_a_window(tints, tmp_path, kind):
    hours = [3, 2, 1, 0, -1, 2.5]
    times = pd.Series([NOW - HOUR * ago for ago in hours])
    if kind != "aware":
        times = times.dt.tz_localize(None)  # is UTC
    table = scores().assign(time=times.astype(str) if kind == "text" else times)
    path = written(table, tmp_path)
    current = of_table(tints, path, Window.parse("150m", NOW))
    assert names(current) == ["1.png", "2.png", "3.png"]
    assert current.unreadable == 0
    newest = of_table(tints, path, Window.parse("2", NOW))
    assert names(newest) == ["3.png", "4.png"]


def test_a_window_of_time_needs_times_and_a_number_takes_the_last_rows(tints, tmp_path):
    path = written(scores(), tmp_path)
    with pytest.raises(UserError, match="Expected a column time in"):
        of_table(tints, path, Window.parse("24h", NOW))
    current = of_table(tints, path, Window.parse("2", NOW))
    assert (names(current), current.unreadable) == (["4.png"], 1)
    path = written(scores().assign(time="soon"), tmp_path)
    with pytest.raises(UserError, match="Expected times in the column time"):
        of_table(tints, path, Window.parse("24h", NOW))


@pytest.mark.parametrize("column", ["label", "error", "truth"])
def test_a_table_may_keep_its_texts_as_categories(tints, tmp_path, column):
    table = scores().assign(truth="red")
    plain = of_table(tints, written(table, tmp_path), ALL)
    table[column] = table[column].astype("category")
    current = of_table(tints, written(table, tmp_path), ALL)
    assert current.labels == plain.labels
    assert current.rows["label"].tolist() == plain.rows["label"].tolist()


OUT_OF_RANGE = "Expected probabilities from 0 to 1 in .*scores.parquet, got others"
NO_NUMBERS = "Expected numbers in p_blue, p_green, p_red of .*scores.parquet, got others"


@pytest.mark.parametrize(
    ("change", "sentence"),
    [
        ({"p_red": 1.5}, OUT_OF_RANGE),
        ({"p_red": -0.1}, OUT_OF_RANGE),
        ({"p_red": np.nan}, NO_NUMBERS),
        ({"p_red": np.inf}, NO_NUMBERS),
        ({"p_red": "high"}, NO_NUMBERS),
        ({"novelty": np.nan}, "Expected numbers in novelty of"),
        ({"brightness": "dark"}, "Expected numbers in brightness of"),
        ({"e_0": np.inf}, "Expected numbers in e_0 of"),
        ({"label": "fox"}, r"classes of the model \(blue, green, red\) in .*, but it has fox"),
        ({"label": [["red"]] * 6}, "classes of the model"),
        ({"truth": "fox"}, "but it has fox"),
        ({"p_fox": 0.0}, "but it also has p_fox; check with the model that it was scored by"),
    ],
)
def test_a_table_that_no_such_model_can_have_written_is_refused(tints, tmp_path, change, sentence):
    with pytest.raises(UserError, match=sentence):
        of_table(tints, written(scores().assign(**change), tmp_path), ALL)


def test_a_table_that_lacks_a_class_or_has_it_twice_is_refused(tints, tmp_path):
    path = written(scores().drop(columns=["p_red", "label"]), tmp_path)
    with pytest.raises(UserError, match="but it lacks label, p_red"):
        of_table(tints, path, ALL)
    table = pa.Table.from_pandas(scores())
    twice = table.append_column("p_red", table.column("p_red"))
    parquet.write_table(twice, path)
    with pytest.raises(UserError, match="some have the same name"):
        of_table(tints, path, ALL)


@pytest.mark.parametrize("content", [b"", b"path,label\n", b"PAR1" + bytes(100) + b"PAR1"])
def test_what_is_no_parquet_file_is_refused(tints, tmp_path, content):
    path = tmp_path / "scores.parquet"
    path.write_bytes(content)
    with pytest.raises(UserError, match=r"cannot be read as one; write it with `-e score"):
        of_table(tints, path, ALL)
    for other in (tmp_path, tmp_path / "gone.parquet"):
        with pytest.raises(UserError, match="is no file"):
            of_table(tints, other, ALL)


def test_a_table_of_errors_alone_or_of_nothing_has_no_row(tints, tmp_path):
    table = scores()
    assert of_table(tints, written(table.tail(1), tmp_path), ALL).unreadable == 1
    assert len(of_table(tints, written(table.head(0), tmp_path), ALL).rows) == 0


def test_many_unknown_classes_are_not_all_listed():
    with pytest.raises(UserError, match=r"c0, c1, .*, c9 and 990 more"):
        sources.require_classes({f"c{n:03}" for n in range(5)}, [f"c{n}" for n in range(1000)], "x")
