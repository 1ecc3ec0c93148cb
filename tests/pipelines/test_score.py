"""Labels of a folder, its images sorted, and the same answers whichever way a model is asked."""

import errno
import os
import subprocess
import sys
from collections.abc import Callable
from pathlib import Path
from typing import Any

import mlflow
import numpy as np
import pandas as pd
import pytest
from mlflow.models import Model, get_model_info
from mlflow.tracking import MlflowClient
from PIL import ExifTags, Image

from pipelines.score import ScoreSettings, main, organize
from serving import folder, registered
from serving.settings import UserError

ROOT = Path(__file__).parents[2]
CHAMPION = "models:/colours@champion"
CLASSES = ("blue", "green", "red")
Painted = Callable[..., Path]


def table(path: Path) -> pd.DataFrame:
    read = pd.read_parquet(path) if path.suffix == ".parquet" else pd.read_csv(path)
    return read.fillna({"error": ""})


def below(where: Path) -> dict[str, bytes]:
    """Content by name of every file below a folder."""
    return {
        str(path.relative_to(where)): path.read_bytes()
        for path in sorted(where.rglob("*"))
        if path.is_file()
    }


def command(**flags: object) -> subprocess.CompletedProcess[str]:
    """`score` from the command line, in the environment's store."""
    pairs = [f"--{name}={value}" for name, value in flags.items()]
    return subprocess.run(
        [sys.executable, "-m", "pipelines.score", *pairs],
        cwd=ROOT,
        capture_output=True,
        text=True,
        check=False,
    )


@pytest.mark.parametrize("name", ["labels.csv", "new/folder/labels.parquet"])
def test_a_row_a_file_and_an_error_where_one_cannot_be_read(
    tracking: MlflowClient, painted: Painted, tmp_path: Path, name: str, capsys: Any
) -> None:
    images = painted("photos", 9, seed=3)
    (images / "deeper").mkdir()
    (images / "deeper" / "broken.jpg").write_bytes(b"no image")
    assert main(ScoreSettings(CHAMPION, str(images), str(tmp_path / name))) == 0

    labels = table(tmp_path / name)
    columns = ["path", "label", "confidence", "p_blue", "p_green", "p_red", "error"]
    assert list(labels.columns) == columns
    assert list(labels["path"]) == [str(path) for path in folder.files(images)]
    broken = labels["error"] != ""
    assert list(labels.loc[broken, "path"]) == [str(images / "deeper" / "broken.jpg")]
    assert labels.loc[broken, ["label", "confidence", "p_red"]].isna().all(axis=None)
    read = labels[~broken]
    assert [Path(row.path).name.split("-")[0] for row in read.itertuples()] == list(read["label"])
    probabilities = read[[f"p_{label}" for label in CLASSES]].to_numpy()
    np.testing.assert_allclose(probabilities.sum(axis=1), 1, atol=1e-5)
    np.testing.assert_allclose(probabilities.max(axis=1), read["confidence"], atol=1e-12)

    shown = capsys.readouterr().out
    assert "9 of 10 files labelled by colours 1\n" in shown
    assert "1 files have an error there" in shown


@pytest.mark.parametrize("suffix", [".csv", ".parquet"])
def test_a_folder_without_an_image_still_gets_its_table(
    tracking: MlflowClient, tmp_path: Path, suffix: str
) -> None:
    (tmp_path / "photos").mkdir()
    (tmp_path / "photos" / "notes.txt").write_text("no image")
    output = tmp_path / f"labels{suffix}"
    assert main(ScoreSettings(CHAMPION, str(tmp_path / "photos"), str(output))) == 0
    (row,) = table(output).itertuples()
    assert row.error.startswith("not an image of a known format")
    assert table(output)["p_red"].dtype == float


@pytest.mark.parametrize("suffix", [".csv", ".parquet"])
def test_a_name_that_is_no_utf8_is_written_readably(
    tracking: MlflowClient, painted: Painted, tmp_path: Path, suffix: str
) -> None:
    images = painted("photos", 1, seed=3)
    old = os.fsencode(images) + b"/caf\xe9.png"
    (images / "red-0.png").rename(os.fsdecode(old))
    output = tmp_path / f"labels{suffix}"
    settings = ScoreSettings(CHAMPION, str(images), str(output), str(tmp_path / "sorted"))
    assert main(settings) == 0
    assert list(table(output)["path"]) == [f"{images}/caf\\xe9.png"]
    (linked,) = (tmp_path / "sorted" / "red").iterdir()
    assert os.fsencode(linked.name) == b"caf\xe9.png"


def test_images_are_linked_into_their_class_and_stay_where_they_are(
    tracking: MlflowClient, painted: Painted, tmp_path: Path
) -> None:
    images, target = painted("photos", 6, seed=3), tmp_path / "sorted"
    (images / "broken.jpg").write_bytes(b"no image")
    before = below(images)
    settings = ScoreSettings(CHAMPION, str(images), str(tmp_path / "labels.csv"), str(target))
    assert main(settings) == 0
    assert below(images) == before
    assert set(below(target)) == {
        f"{name.split('-')[0]}/{name}" for name in before if name != "broken.jpg"
    }
    assert (target / "red" / "red-0.png").samefile(images / "red-0.png")


def test_sorting_twice_changes_nothing(
    tracking: MlflowClient, painted: Painted, tmp_path: Path
) -> None:
    images, target = painted("photos", 6, seed=3), tmp_path / "sorted"
    painted("photos/other", 6, seed=4)
    settings = ScoreSettings(CHAMPION, str(images), str(tmp_path / "labels.csv"), str(target))
    assert main(settings) == 0
    first = below(target)
    assert len(first) == 12
    assert {"red/red-0.png", "red/red-0-2.png"} <= first.keys()
    assert main(settings) == 0
    assert below(target) == first


def test_where_links_fail_an_image_is_copied(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    def refuse(*paths: object) -> None:
        raise OSError(errno.EXDEV, os.strerror(errno.EXDEV))

    monkeypatch.setattr(os, "link", refuse)
    (tmp_path / "a.png").write_bytes(b"image")
    for _ in range(2):
        place = organize(tmp_path / "a.png", "red", tmp_path / "sorted")
        assert place == tmp_path / "sorted" / "red" / "a.png"
        assert not place.samefile(tmp_path / "a.png")
    assert below(tmp_path / "sorted") == {"red/a.png": b"image"}


@pytest.mark.parametrize("linked", [True, False])
def test_nothing_is_overwritten(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, linked: bool
) -> None:
    def refuse(*paths: object) -> None:
        raise OSError(errno.EPERM, os.strerror(errno.EPERM))

    if not linked:
        monkeypatch.setattr(os, "link", refuse)
    home = tmp_path / "sorted" / "red"
    home.mkdir(parents=True)
    (home / "a.png").write_bytes(b"the user's own")
    (home / "a-2.png").mkdir()
    (home / "a-3.png").symlink_to("nowhere")
    (tmp_path / "a.png").write_bytes(b"image")
    assert organize(tmp_path / "a.png", "red", tmp_path / "sorted") == home / "a-4.png"
    assert (home / "a.png").read_bytes() == b"the user's own"
    assert (home / "a-3.png").is_symlink()
    assert (home / "a-4.png").read_bytes() == b"image"
    assert (tmp_path / "a.png").read_bytes() == b"image"


def test_of_a_symbolic_link_its_image_is_sorted(tmp_path: Path) -> None:
    (tmp_path / "deep").mkdir()
    (tmp_path / "deep" / "b.png").write_bytes(b"image")
    (tmp_path / "a.png").symlink_to("deep/b.png")
    place = organize(tmp_path / "a.png", "red", tmp_path / "sorted")
    assert not place.is_symlink()
    assert place.read_bytes() == b"image"


@pytest.mark.parametrize(
    "label", ["..", ".", "../../up", "/etc", "a/b", "a\\b", "a\0b", "", " ", "Füße", "a:b?*"]
)
def test_a_class_of_any_name_stays_inside_the_folder(tmp_path: Path, label: str) -> None:
    (tmp_path / "a.png").write_bytes(b"image")
    target = tmp_path / "deep" / "sorted"
    place = organize(tmp_path / "a.png", label, target)
    assert place.resolve().is_relative_to(target)
    assert len(place.relative_to(target).parts) <= 2
    assert set(below(tmp_path)) == {"a.png", str(place.relative_to(tmp_path))}


@pytest.mark.parametrize("inside", ["photos", "photos/sorted", "photos/../photos/x"])
def test_sorting_into_the_images_themselves_is_refused(tmp_path: Path, inside: str) -> None:
    (tmp_path / "photos").mkdir()
    with pytest.raises(UserError, match="Expected organize_into outside of"):
        ScoreSettings(CHAMPION, str(tmp_path / "photos"), "x.csv", str(tmp_path / inside))


@pytest.mark.parametrize("name", ["labels.txt", "labels", "csv", ""])
def test_an_output_of_another_kind_is_refused(name: str) -> None:
    with pytest.raises(UserError, match=r"Expected an output that ends in \.csv or \.parquet, got"):
        ScoreSettings(CHAMPION, "photos", name)


@pytest.mark.parametrize("output", ["file/labels.csv", "folder.csv"])
def test_an_output_that_cannot_be_written_is_refused_before_the_work(
    tracking: MlflowClient,
    painted: Painted,
    tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
    output: str,
) -> None:
    (tmp_path / "file").touch()
    (tmp_path / "folder.csv").mkdir()
    monkeypatch.setattr(folder, "answer", lambda *given: pytest.fail("the images were read"))
    settings = ScoreSettings(CHAMPION, str(painted("photos", 1, seed=3)), str(tmp_path / output))
    with pytest.raises(UserError, match=f"Expected to write {tmp_path / output}, but: "):
        main(settings)


def test_a_folder_that_cannot_be_sorted_into_is_refused(
    tracking: MlflowClient, painted: Painted, tmp_path: Path
) -> None:
    (tmp_path / "file").touch()
    images, output = painted("photos", 1, seed=3), tmp_path / "labels.csv"
    with pytest.raises(UserError, match=f"Expected to write {tmp_path / 'file'}"):
        main(ScoreSettings(CHAMPION, str(images), str(output), str(tmp_path / "file")))
    assert not output.exists()


def test_a_table_that_breaks_off_leaves_the_one_before(
    tracking: MlflowClient, painted: Painted, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    output = tmp_path / "labels.csv"
    output.write_text("before")

    def fill_the_disk(*given: object, **named: object) -> None:
        raise OSError(errno.ENOSPC, os.strerror(errno.ENOSPC))

    monkeypatch.setattr(pd.DataFrame, "to_csv", fill_the_disk)
    with pytest.raises(UserError, match="but: No space left on device"):
        main(ScoreSettings(CHAMPION, str(painted("photos", 1, seed=3)), str(output)))
    assert output.read_text() == "before"
    assert not list(tmp_path.glob(".*"))


@pytest.mark.parametrize("model", ["models:/shapes@champion", "models:/colours@best"])
def test_nothing_is_written_where_the_model_is_unknown(
    tracking: MlflowClient, painted: Painted, tmp_path: Path, model: str
) -> None:
    images = painted("photos", 1, seed=3)
    settings = ScoreSettings(
        model, str(images), str(tmp_path / "new" / "x.csv"), str(tmp_path / "s")
    )
    with pytest.raises(UserError, match="Unknown model"):
        main(settings)
    assert list(tmp_path.iterdir()) == [images]


def test_the_command_labels_and_ends_a_mistake_with_one_sentence_and_status_2(
    tracking: MlflowClient, painted: Painted, tmp_path: Path
) -> None:
    images, output = painted("photos", 3, seed=3), tmp_path / "labels.csv"
    done = command(model=CHAMPION, images=images, output=output)
    assert done.returncode == 0, done.stderr
    assert list(table(output)["label"]) == list(CLASSES)

    refused = command(model=CHAMPION, images=images, output=tmp_path / "photos")
    assert refused.returncode == 2
    assert refused.stderr.startswith("lookout: Expected an output that ends in .csv or .parquet,")
    assert refused.stderr.count("\n") == 1


def test_what_a_search_logs_is_served_as_the_tests_model_and_needs_no_tensorflow(
    searched: Any, tracking: MlflowClient
) -> None:
    (logged, *_) = searched.client.search_logged_models(["1"])
    where = Path(logged.artifact_location.removeprefix("file://"))
    requirements = (where / "requirements.txt").read_text().split()
    names = {requirement.split("==")[0] for requirement in requirements}
    assert names.isdisjoint({"tensorflow", "keras"})
    assert names >= {"mlflow", "numpy", "pandas", "pillow", "ai-edge-litert", "sqlalchemy"}
    assert Model.load(str(where)).signature == get_model_info(CHAMPION).signature


# In a process of its own, for TensorFlow's sake: registers a network, and asks it through Keras.
PARITY = """
import sys
from pathlib import Path

import keras
import mlflow
import numpy as np

from pipelines import export, registry, training
from serving.predictor import decode

images = sorted(Path(sys.argv[1]).iterdir())
keras.utils.set_random_seed(7)
layers = keras.layers
inputs = keras.Input((64, 64, 3))
x = layers.Rescaling(1 / 127.5, -1)(inputs)
for filters in (16, 32):
    x = layers.Conv2D(filters, 3, padding="same", use_bias=False)(x)
    x = layers.ReLU()(layers.BatchNormalization()(x))
    x = layers.MaxPooling2D()(x)
x = layers.GlobalAveragePooling2D()(layers.SeparableConv2D(48, 3, activation="relu")(x))
# Wide weights, so that the answers are far from uniform without training.
wide = keras.initializers.RandomNormal(stddev=40)
model = keras.Model(inputs, layers.Dense(6, kernel_initializer=wide)(x))
pixels = np.stack([decode(path.read_bytes(), (64, 64)) for path in images])
names = ("buildings", "forest", "glacier", "mountain", "sea", "street")
exported = export.export(model, names, pixels, Path("model"))
mlflow.pyfunc.log_model(
    name="model",
    python_model=str(registry.PREDICTOR),
    artifacts={"model": str(exported.folder)},
    signature=registry.SIGNATURE,
    registered_model_name="scenes",
    pip_requirements=[],
)
served = mlflow.pyfunc.load_model("models:/scenes/1").unwrap_python_model().folder
trained = keras.models.load_model(served / export.KERAS)
everything = np.arange(len(pixels))
part = training.Part(pixels, everything, everything)
np.save("keras.npy", training.probabilities(trained, part))
"""


def disguised(scenes: list[Path], where: Path) -> Path:
    """Real photos as they arrive: as they are, grey, of odd sizes, turned by EXIF, as PNG."""
    where.mkdir()
    for number, path in enumerate(scenes):
        name = where / f"{number:03}.jpg"
        with Image.open(path) as image:
            kind = number % 5
            if kind == 0:
                name.write_bytes(path.read_bytes())
            elif kind == 1:
                image.convert("L").save(name, quality=95)
            elif kind == 2:
                image.resize((97 + number, 403 - number)).save(name, quality=95)
            elif kind == 3:
                exif = Image.Exif()
                exif[ExifTags.Base.Orientation] = 6
                turned = image.transpose(Image.Transpose.ROTATE_90)
                turned.save(name, quality=95, exif=exif)
            else:
                image.save(name.with_suffix(".png"))
    return where


@pytest.mark.long
def test_score_pyfunc_and_keras_agree_on_real_photos(
    real_data: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    scenes = sorted((real_data / "scenes" / "seg_pred").rglob("*.jpg"))[:100]
    assert len(scenes) == 100
    images = disguised(scenes, tmp_path / "photos")
    monkeypatch.setenv("MLFLOW_TRACKING_URI", f"sqlite:///{tmp_path}/mlflow.db")
    monkeypatch.delenv("MLFLOW_EXPERIMENT_NAME", raising=False)
    mlflow.set_tracking_uri(None)
    done = subprocess.run(
        [sys.executable, "-c", PARITY, str(images)],
        cwd=tmp_path,
        env=os.environ | {"PYTHONPATH": str(ROOT)},
        capture_output=True,
        text=True,
        check=False,
    )
    assert done.returncode == 0, done.stderr
    by_keras = np.load(tmp_path / "keras.npy")
    assert np.ptp(by_keras, axis=0).max() > 0.5

    output = tmp_path / "labels.parquet"
    assert main(ScoreSettings("models:/scenes/1", str(images), str(output))) == 0
    labels = table(output)
    names = registered.load("models:/scenes/1").classifier.card.classes
    scored = labels[[f"p_{name}" for name in names]].to_numpy()

    contents = [Path(path).read_bytes() for path in labels["path"]]
    told = mlflow.pyfunc.load_model("models:/scenes/1").predict(pd.DataFrame({"image": contents}))
    by_pyfunc = np.array([[row[name] for name in names] for row in told["probabilities"]])

    np.testing.assert_allclose(scored, by_keras, atol=1e-4)
    np.testing.assert_allclose(by_pyfunc, by_keras, atol=1e-4)
    np.testing.assert_allclose(by_pyfunc, scored, atol=1e-6)
    assert list(labels["label"]) == list(told["label"])
