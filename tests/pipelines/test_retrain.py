"""Corrections of people: which of them are trained on, and what a search with them registers."""

import os
import shutil
import time
from collections.abc import Callable
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass
from io import BytesIO
from pathlib import Path

import numpy as np
import pandas as pd
import pytest
from PIL import Image

from pipelines import cache, data, feedback, job, promote, retrain, search, train
from pipelines.config import RetrainSettings, SearchSettings, TrainSettings
from pipelines.data import Dataset
from pipelines.gates import GATES, PASSED
from pipelines.promote import PromoteSettings
from pipelines.tracking import project_run
from serving import registered
from serving.settings import UserError
from tests.pipelines.conftest import Store, colours, correct, new_store

SECRET = "hunter2"
HOSTILE = ("../../outside", "/tmp/outside", "red/../../outside", "", "..", ".", "red\n", "fox\0")


def picture(seed: int, kind: str = "PNG") -> bytes:
    """An image that no data set holds."""
    pixels = np.random.default_rng(seed + 1000).integers(0, 255, (16, 16, 3)).astype(np.uint8)
    content = BytesIO()
    Image.fromarray(pixels).save(content, kind)
    return content.getvalue()


@pytest.fixture(autouse=True)
def own_cache(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    where = tmp_path / "cache"
    monkeypatch.setenv("LOOKOUT_CACHE", str(where))
    return where


@pytest.fixture
def dataset(tmp_path: Path) -> Dataset:
    """Twenty images of each colour, in splits that are cut."""
    return data.prepare(str(colours(tmp_path / "colours", each=20)), seed=0)


@pytest.fixture
def url(tmp_path: Path) -> str:
    return f"sqlite:///{tmp_path}/inference.db"


def reasons(held: Dataset) -> dict[str, str]:
    return dict(zip(held.excluded["path"], held.excluded["reason"], strict=True))


def added(held: Dataset, before: Dataset) -> dict[str, str]:
    """Content -> class of what the corrections added."""
    new = held.images[~held.images["content"].isin(before.images["content"])]
    assert set(new["split"]) == {"train"}
    assert [held.classes[label] for label in new["label"]] == new["class"].to_list()
    return dict(zip(new["content"], new["class"], strict=True))


def everything(folder: Path) -> set[Path]:
    return {path for path in folder.rglob("*") if path.is_file()}


def test_of_equal_corrections_the_newest_label_counts(dataset: Dataset, url: str) -> None:
    same = Image.open(BytesIO(picture(1)))
    bmp = BytesIO()
    same.save(bmp, "BMP")
    said = [(picture(1), "red"), (bmp.getvalue(), "blue"), (picture(2, "JPEG"), "red")]
    correct(url, "colours", said)
    held = feedback.add(dataset, SearchSettings(feedback=url))
    assert sorted(added(held, dataset).values()) == ["blue", "red"]
    assert reasons(held) == {"feedback 1": "equal to the newer feedback 2, which says blue"}
    for path in held.images["path"]:
        assert Path(path).is_file()
    assert {Path(path).suffix for path in held.images["path"]} == {".png", ".bmp", ".jpg"}


@pytest.mark.parametrize("split", ["train", "val", "test"])
def test_a_correction_of_an_image_of_the_data_set_is_left_out_with_its_reason(
    split: str, dataset: Dataset, url: str
) -> None:
    row = dataset.images.iloc[dataset.rows(split)[0]]
    other = next(name for name in dataset.classes if name != row["class"])
    content = Path(row["path"]).read_bytes()
    correct(url, "colours", [(content, row["class"]), (picture(1), "red"), (content, other)])
    held = feedback.add(dataset, SearchSettings(feedback=url))
    assert len(added(held, dataset)) == 1
    assert reasons(held) == {
        "feedback 1": f"equal to the newer feedback 3, which says {other}",
        "feedback 3": f"equal to {row['path']}, which is labelled {row['class']}",
    }
    kept = held.images.set_index("content").loc[row["content"]]
    assert (kept["class"], kept["split"]) == (row["class"], split)


def test_a_label_that_is_no_class_is_counted_and_nothing_is_written_outside_the_cache(
    dataset: Dataset, url: str, tmp_path: Path, own_cache: Path
) -> None:
    said = [(picture(i), label) for i, label in enumerate(HOSTILE)]
    correct(url, "colours", [*said, (picture(99), "red")])
    before = everything(tmp_path)
    held = feedback.add(dataset, SearchSettings(feedback=url))
    new = everything(tmp_path) - before
    ours = {path for path in new if "inference.db" not in path.name}
    assert {path.relative_to(own_cache).parts[0] for path in ours} == {"feedback"}
    assert len(added(held, dataset)) == 1
    assert held.feedback is not None
    assert held.feedback.unknown == held.feedback.left_out == len(HOSTILE)
    assert reasons(held)["feedback 1"] == "its label '../../outside' is no class of the data set"
    assert all("\n" not in reason and "\0" not in reason for reason in reasons(held).values())


def test_bytes_that_are_no_image_or_beyond_a_bound_are_left_out(
    dataset: Dataset, url: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    bomb = BytesIO()
    Image.new("1", (20_000, 20_000)).save(bomb, "PNG")
    broken = picture(1)[:200]
    large = BytesIO()
    Image.fromarray(np.zeros((200, 200, 3), np.uint8)).save(large, "BMP")
    wrong = [b"", b"no image", bomb.getvalue(), broken, large.getvalue()]
    correct(url, "colours", [(content, "red") for content in [*wrong, picture(2)]])
    monkeypatch.setattr(feedback, "MAX_BYTES", 100_000)
    held = feedback.add(dataset, SearchSettings(feedback=url))
    assert len(added(held, dataset)) == 1
    said = ("empty file", "not an image", "more ", "broken or truncated", "more than the bound")
    for number, words in enumerate(said, start=1):
        assert words in reasons(held)[f"feedback {number}"]


def test_corrections_of_another_model_are_not_used(dataset: Dataset, url: str) -> None:
    correct(url, "another", [(picture(1), "red")])
    correct(url, "colours", [(picture(2), "blue")])
    held = feedback.add(dataset, SearchSettings(feedback=url))
    assert list(added(held, dataset).values()) == ["blue"]
    held = feedback.add(dataset, SearchSettings(feedback=url, name="another"))
    assert list(added(held, dataset).values()) == ["red"]


def nothing(tmp_path: Path) -> str:
    correct(f"sqlite:///{tmp_path}/inference.db", "another", [(picture(1), "red")])
    return f"sqlite:///{tmp_path}/inference.db"


def unknown_alone(tmp_path: Path) -> str:
    correct(f"sqlite:///{tmp_path}/inference.db", "colours", [(picture(1), "fox")])
    return f"sqlite:///{tmp_path}/inference.db"


def no_tables(tmp_path: Path) -> str:
    search.open_storage(f"sqlite:///{tmp_path}/optuna.db")
    return f"sqlite:///{tmp_path}/optuna.db"


def no_database(tmp_path: Path) -> str:
    (tmp_path / "file").write_text("no database" * 1000)
    return f"sqlite:///{tmp_path}/file"


LOGS: dict[str, tuple[Callable[[Path], str], str]] = {
    "no correction": (nothing, "Expected corrections of colours in the inference log, got none"),
    "none to train on": (unknown_alone, "all 1 are left out, 1 of them since their label is no"),
    "another database": (no_tables, "Expected corrections of colours in the inference log"),
    "no database": (no_database, "Expected an inference log that answers, but it says: file is"),
    "no file": (lambda _: "sqlite:////nowhere/log.db", "but /nowhere/log.db is no file"),
    "nobody listens": (
        lambda _: f"postgresql://me:{SECRET}@127.0.0.1:1/log",
        "Expected an inference log that answers, but it says: connection",
    ),
    "an @ in a password": (
        lambda _: f"postgresql://me:pass@{SECRET}@127.0.0.1/log",
        "with one @; write one in a password as %40",
    ),
    "another kind": (lambda _: f"mysql://me:{SECRET}@host/log", "Expected the URL of an inference"),
    "no URL": (lambda _: f"{SECRET}://", "Expected the URL of an inference log"),
    "env, which is not set": (lambda _: "env", "in LOOKOUT_LOG, which 'env' stands for"),
}


@pytest.mark.parametrize(("make", "words"), LOGS.values(), ids=LOGS)
def test_a_log_without_corrections_or_an_answer_is_refused_in_one_sentence(
    make: Callable[[Path], str], words: str, dataset: Dataset, tmp_path: Path
) -> None:
    with pytest.raises(UserError) as refusal:
        feedback.add(dataset, SearchSettings(feedback=make(tmp_path)))
    assert words in str(refusal.value)
    assert str(refusal.value).endswith(".")
    assert "\n" not in str(refusal.value)
    assert SECRET not in str(refusal.value)
    assert not list((tmp_path / "cache").glob("feedback/.*"))


def test_a_password_that_mlflow_run_has_logged_is_refused(
    dataset: Dataset, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("MLFLOW_RUN_ID", "0" * 32)
    settings = SearchSettings(feedback=f"postgresql://me:{SECRET}@127.0.0.1:1/log")
    with pytest.raises(UserError, match="has logged this one: change it, and give 'env'"):
        feedback.add(dataset, settings)


@pytest.mark.postgres
def test_a_log_in_postgresql_is_read_with_a_password_in_its_url(
    dataset: Dataset, database: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    with_password = database.replace("lookout@", f"lookout:{SECRET}@")
    correct(with_password, "colours", [(picture(i), "red") for i in range(9)])
    monkeypatch.setenv("LOOKOUT_LOG", with_password)
    for given in (with_password, "env"):
        held = feedback.add(dataset, SearchSettings(feedback=given))
        assert len(added(held, dataset)) == 9


@pytest.mark.filterwarnings("ignore:The specified dataset source can be interpreted")
def test_no_password_reaches_mlflow_or_the_study(
    empty_store: Store, use_store: Callable, dataset: Dataset, url: str, tmp_path: Path
) -> None:
    use_store(empty_store)
    correct(url, "colours", [(picture(1), "red")])
    held = feedback.add(dataset, SearchSettings(feedback=url))
    log = f"postgresql://me:{SECRET}@host/log?password={SECRET}&sslpassword={SECRET}"
    optuna = f"sqlite:///{tmp_path}/optuna.db"
    settings = SearchSettings(feedback=log, architectures="lm", storage=optuna)
    with project_run("search") as root:
        job.log_inputs(root, settings, held)
        storage = search.open_storage(optuna)
        results = job.Results(tmp_path)
        (study,) = job.enter(root, settings, held, storage, results, float("inf"), [])
    assert study.settings.feedback == "postgresql://me@host/log"
    found = [path.read_bytes() for path in everything(tmp_path)]
    assert any(b"postgresql://me@host/log" in content for content in found)
    assert not any(SECRET.encode() in content for content in found)


def test_workers_in_other_folders_ask_the_same_log_about_the_same_model(
    dataset: Dataset, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.chdir(tmp_path)
    there = job.for_anywhere(SearchSettings(feedback="sqlite:///log.db"), dataset)
    assert (there.name, there.feedback) == ("colours", f"sqlite:///{tmp_path}/log.db")
    assert job.for_anywhere(SearchSettings(feedback="env"), dataset).feedback == "env"


def test_two_that_read_the_same_corrections_at_once_share_a_set(
    dataset: Dataset, url: str, own_cache: Path
) -> None:
    correct(url, "colours", [(picture(i), "red") for i in range(20)])
    with ThreadPoolExecutor(2) as pool:
        both = [pool.submit(feedback.add, dataset, SearchSettings(feedback=url)) for _ in "ab"]
    assert len({held.result().digest for held in both}) == 1
    assert len(list((own_cache / "feedback").iterdir())) == 1


def test_what_a_kill_left_half_written_is_no_set_and_goes_after_a_day(
    dataset: Dataset, url: str
) -> None:
    half = [cache.folder("feedback", name) for name in (".old.part", ".new.part")]
    for folder in half:
        (folder / "red").mkdir()
    old = time.time() - cache.STALE - 60
    os.utime(half[0], (old, old))
    correct(url, "colours", [(picture(1), "red")])
    feedback.add(dataset, SearchSettings(feedback=url))
    assert [folder.exists() for folder in half] == [False, True]


@dataclass(frozen=True)
class Retrained(Store):
    """A store with a champion, and a search begun again for it; output: what that printed."""

    data: Path = Path()
    output: str = ""


@pytest.fixture(scope="module")
def retrained(tmp_path_factory: pytest.TempPathFactory) -> Retrained:
    folder = tmp_path_factory.mktemp("retrained")
    images = colours(folder / "colours", each=20)
    url = f"sqlite:///{folder}/inference.db"
    new = colours(folder / "new", each=2, seed=1)
    said = [(path.read_bytes(), path.parent.name) for path in sorted(new.rglob("*.png"))]
    correct(url, "painted", [*said, (picture(1), "../x")])
    new_store(folder)
    store = Store(folder, {"LOOKOUT_LOG": url, "LOOKOUT_CACHE": str(folder / "cache")})
    machine = {"storage": f"sqlite:///{folder}/optuna.db", "workers": 1}
    first = store.run(
        "pipelines.main",
        data=images,
        name="painted",
        architectures="lm",
        image_size=16,
        trials=1,
        epochs=4,
        max_overfit_gap=0.5,
        **machine,
    )
    assert first.returncode == 0, first.stderr
    again = store.run("pipelines.retrain", model="models:/painted@champion", **machine)
    assert again.returncode == 0, again.stderr
    return Retrained(folder, store.environment, images, again.stdout)


@pytest.mark.long
def test_a_retrained_model_that_passes_every_gate_stays_challenger_until_it_is_promoted(
    retrained: Retrained, use_store: Callable
) -> None:
    use_store(retrained)

    def aliases() -> dict[str, str]:
        found = retrained.client.get_registered_model("painted").aliases
        return {alias: str(version) for alias, version in found.items()}

    assert aliases() == {"champion": "1", "challenger": "2"}
    tags = retrained.client.get_model_version("painted", "2").tags
    assert {tags[f"gate.{gate}"] for gate in GATES} == {PASSED}
    assert "lm is painted version 2, @challenger (5 of 5 gates passed, McNemar" in retrained.output
    assert (
        "  not promoted, since promote=false; to promote it: mlflow run . -e promote "
        "--env-manager uv -P name=painted -P version=2 -P max_overfit_gap=0.5\n"
    ) in retrained.output
    settings = PromoteSettings(name="painted", version="2", max_overfit_gap=0.5)
    assert promote.main(settings) == 0
    assert aliases() == {"champion": "2", "previous": "1"}


@pytest.mark.long
def test_the_version_and_its_runs_say_what_it_was_retrained_from_and_with(
    retrained: Retrained,
) -> None:
    version = retrained.client.get_model_version("painted", "2")
    assert "**Retrained** from version 1 with 6 corrected images" in version.description
    assert (version.tags["retrained_from"], version.tags["feedback"]) == ("1", "6")
    first, again = retrained.runs("search")
    assert "feedback" not in first.data.tags
    assert (again.data.tags["retrained_from"], again.data.tags["feedback"]) == ("1", "6")
    assert (again.data.params["feedback"], again.data.params["trials"]) == ("env", "1")
    assert again.data.tags["data_digest"] != first.data.tags["data_digest"]
    excluded = pd.read_csv(f"{again.info.artifact_uri}/excluded.csv")
    assert excluded["reason"].to_list() == ["its label '../x' is no class of the data set"]
    assert "Feedback: 6 corrected images to train on; 1 left out" in retrained.output
    assert "1 of them since their label is no class" in retrained.output


@pytest.mark.long
def test_both_models_were_tested_on_the_same_images(
    retrained: Retrained, use_store: Callable
) -> None:
    use_store(retrained)
    first, again = (registered.load(f"models:/painted/{n}").reference() for n in (1, 2))
    assert first["content"].to_list() == again["content"].to_list()


@pytest.mark.long
def test_a_trial_with_corrections_is_trained_again_on_the_same_images(
    retrained: Retrained, use_store: Callable, monkeypatch: pytest.MonkeyPatch
) -> None:
    use_store(retrained)
    monkeypatch.setenv("LOOKOUT_CACHE", retrained.environment["LOOKOUT_CACHE"])
    trial = retrained.runs("trial")[-1]
    plan = train.again(TrainSettings(run_id=trial.info.run_id))
    assert plan.searched is not None
    dataset = feedback.add(data.prepare(plan.settings.data, plan.settings.seed), plan.searched)
    assert dataset.digest == trial.data.tags["data_digest"]


def resumed(store: Store, url: str, held: Dataset) -> SearchSettings:
    """Settings that go on with a run which began with the corrections of `held`."""
    run = store.client.create_run("1", tags=feedback.tags(held))
    return SearchSettings(feedback=url, resume=run.info.run_id)


@pytest.mark.long
def test_a_search_goes_on_with_the_same_corrections_whatever_became_of_the_log(
    retrained: Retrained, use_store: Callable, dataset: Dataset, url: str, tmp_path: Path
) -> None:
    use_store(retrained)
    correct(url, "colours", [(picture(1), "red"), (picture(2), "fox")])
    held = feedback.add(dataset, SearchSettings(feedback=url))
    settings = resumed(retrained, url, held)
    (tmp_path / "inference.db").unlink()
    again = feedback.add(dataset, settings)
    assert again.digest == held.digest
    assert again.feedback == held.feedback
    assert again.excluded.equals(held.excluded)


@pytest.mark.long
def test_a_search_whose_cache_was_deleted_reads_the_rows_that_it_began_with(
    retrained: Retrained, use_store: Callable, dataset: Dataset, url: str, own_cache: Path
) -> None:
    use_store(retrained)
    correct(url, "colours", [(picture(1), "red"), (picture(2), "fox")])
    held = feedback.add(dataset, SearchSettings(feedback=url))
    correct(url, "colours", [(picture(3), "blue"), (picture(1), "green")])
    shutil.rmtree(own_cache)
    assert feedback.add(dataset, resumed(retrained, url, held)).digest == held.digest
    assert feedback.add(dataset, SearchSettings(feedback=url)).digest != held.digest


@pytest.mark.long
def test_a_digest_that_names_another_folder_is_refused(
    retrained: Retrained, use_store: Callable, dataset: Dataset, url: str
) -> None:
    use_store(retrained)
    tags = {"feedback_digest": "../../outside", "feedback_until": "1"}
    run = retrained.client.create_run("1", tags=tags)
    with pytest.raises(UserError, match="Expected a feedback_digest of 16 hexadecimal digits"):
        feedback.add(dataset, SearchSettings(feedback=url, resume=run.info.run_id))


@pytest.mark.long
def test_the_settings_are_those_of_the_search_but_for_what_is_given(
    retrained: Retrained, use_store: Callable, tmp_path: Path
) -> None:
    use_store(retrained)
    given = RetrainSettings(model="models:/painted/1", log="sqlite:///log.db", workers=3)
    again = retrain.of_its_search("painted", "1", given)
    assert (again.trials, again.epochs, again.codes, again.data) == (
        1,
        4,
        ("lm",),
        str(retrained.data),
    )
    assert (again.feedback, again.promote, again.workers) == ("sqlite:///log.db", False, 3)
    assert (again.storage, again.timeout, again.resume) == ("sqlite:///optuna.db", 0, "")
    moved = RetrainSettings(model="models:/painted/1", data=str(tmp_path), promote=True)
    again = retrain.of_its_search("painted", "1", moved)
    assert (again.data, again.promote) == (str(tmp_path), True)


@pytest.mark.parametrize(
    ("flags", "words"),
    [
        ({"log": "sqlite:////nowhere/log.db"}, "/nowhere/log.db is no file"),
        ({"data": "/nowhere"}, "/nowhere does not exist"),
        ({"weights": "nowhere.h5"}, "Expected weights to be imagenet, none, or a file"),
        ({"model": "models:/painted@nobody"}, "Unknown model 'models:/painted@nobody'"),
        ({"model": "painted"}, "Expected models:/NAME@ALIAS or models:/NAME/VERSION"),
        ({"model": "models:/by-hand/1"}, "Expected a version that a search has made"),
    ],
)
@pytest.mark.long
def test_what_cannot_be_retrained_is_refused_before_a_run_is_opened(
    flags: dict[str, str],
    words: str,
    retrained: Retrained,
    use_store: Callable,
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    use_store(retrained)
    monkeypatch.setenv("LOOKOUT_LOG", retrained.environment["LOOKOUT_LOG"])
    if "by-hand" in flags.get("model", ""):
        run = retrained.runs("search")[0].info
        retrained.client.create_registered_model("by-hand")
        retrained.client.create_model_version("by-hand", run.artifact_uri, run.run_id)
    before = len(retrained.runs("search"))
    with pytest.raises(UserError, match=words):
        retrain.main(RetrainSettings(**{"model": "models:/painted/1", **flags}))
    assert len(retrained.runs("search")) == before


@pytest.mark.long
def test_images_that_are_gone_are_a_mistake_that_names_the_parameter(
    retrained: Retrained, use_store: Callable
) -> None:
    use_store(retrained)
    away = retrained.data.rename(retrained.data.with_name("away"))
    try:
        with pytest.raises(UserError, match=r"is no folder here; give theirs as `data`\."):
            retrain.of_its_search("painted", "1", RetrainSettings(model="models:/painted/1"))
    finally:
        away.rename(retrained.data)
