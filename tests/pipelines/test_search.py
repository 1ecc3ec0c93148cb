"""The search itself: trials that fail, a kill, a resume, and which trial is the best."""

import re
import signal
import subprocess
from pathlib import Path
from typing import Any

import numpy as np
import optuna
import pytest
from optuna.trial import TrialState
from PIL import Image

from pipelines import data, search, tasks
from pipelines.config import SearchSettings
from pipelines.tracking import Run

TRIALS = 5


@pytest.fixture(scope="module")
def images(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Two classes, dark and light."""
    folder = tmp_path_factory.mktemp("shades")
    generator = np.random.default_rng(0)
    for level, name in ((60, "dark"), (190, "light")):
        (folder / name).mkdir()
        for i in range(40):
            pixels = generator.normal(level, 20, (8, 8, 3)).clip(0, 255).astype(np.uint8)
            Image.fromarray(pixels).save(folder / name / f"{i}.png")
    return folder


def study_of(folder: Path) -> optuna.Study:
    storage = f"sqlite:///{folder}/optuna.db"
    (name,) = optuna.get_all_study_names(storage)
    return optuna.load_study(study_name=name, storage=storage)


@pytest.mark.filterwarnings("ignore::optuna.exceptions.ExperimentalWarning")
def test_a_killed_search_is_resumed_under_its_own_run_and_finishes(
    empty_store: Any, images: Path
) -> None:
    """At 8 pixels a `cnn` of four blocks cannot be built, so that some of the trials fail."""
    command = empty_store.command(
        "pipelines.main",
        data=images,
        architectures="cnn",
        image_size=8,
        trials=TRIALS,
        epochs=2,
        storage=f"sqlite:///{empty_store.folder}/optuna.db",
    )
    root = Path(search.__file__).parents[1]
    process = subprocess.Popen(
        command,
        cwd=root,
        env=empty_store.variables() | {"PYTHONUNBUFFERED": "1"},
        stdout=subprocess.PIPE,
        stderr=subprocess.DEVNULL,
        text=True,
    )
    with process:
        assert process.stdout is not None
        run_id = re.match(r"Run (\w+):", process.stdout.readline()).group(1)
        assert "cnn      trial 1/5" in process.stdout.readline()
        process.send_signal(signal.SIGKILL)
    before = study_of(empty_store.folder).trials

    done = empty_store.run("pipelines.main", resume=run_id)

    assert done.returncode == 0, done.stderr
    assert done.stdout.splitlines()[1].startswith(f"Run {run_id}:")
    after = study_of(empty_store.folder).trials
    finished = [t for t in before if t.state.is_finished()]
    assert [t.values for t in after[: len(finished)]] == [t.values for t in finished]
    states = [trial.state for trial in after]
    assert TrialState.RUNNING not in states
    real = [t for t in after if t.state != TrialState.FAIL or search.FAILED in t.user_attrs]
    assert len(real) == TRIALS
    runs = empty_store.runs("trial")
    assert len(runs) == len([t for t in after if "run_id" in t.user_attrs])
    assert "RUNNING" not in {run.info.status for run in runs}
    assert [run.info.run_id for run in empty_store.runs("search")] == [run_id]
    assert len(empty_store.runs("architecture")) == 1

    failed = [run for run in runs if run.info.status == "FAILED"]
    assert failed, "of these seeds some draw four blocks"
    for run in failed:
        assert "Expected an input of at least 16 pixels a side" in run.data.tags["error"]
        assert "traceback.txt" in empty_store.artifacts(run)


@pytest.fixture
def study(images: Path, empty_store: Any, use_store: Any) -> search.Search:
    """A study without a trial."""
    use_store(empty_store)
    settings = SearchSettings(data=str(images), trials=2, epochs=2, max_overfit_gap=0.05)
    dataset = data.prepare(str(images), 0)
    run = Run(empty_store.client.create_run("1").info.run_id, "1")
    storage = search.open_storage(f"sqlite:///{empty_store.folder}/optuna.db")
    return search.Search(tasks.make("lm", dataset, settings), settings, run, storage, "a study")


def add(study: search.Search, train: float, val: float, loss: float = 1.0) -> None:
    measured = {"train_accuracy": train, "val_accuracy": val, "val_loss": loss}
    study.study.add_trial(
        optuna.trial.create_trial(value=val, user_attrs=measured, state=TrialState.COMPLETE)
    )


@pytest.mark.parametrize(
    ("measured", "best"),
    [
        ([(0.90, 0.88), (0.92, 0.91)], 1),
        ([(0.93, 0.90), (0.99, 0.91)], 0),  # the second overfits by more than it gains
        ([(0.99, 0.80), (0.95, 0.88)], 1),
        ([(0.90, 0.88, 0.5), (0.90, 0.88, 0.4)], 1),
    ],
)
def test_overfitting_beyond_the_bound_counts_against_a_trial(
    study: search.Search, measured: list[tuple[float, ...]], best: int
) -> None:
    for values in measured:
        add(study, *values)
    found = study._best_trial()
    assert found is not None
    assert found.number == best


def test_the_first_trial_is_the_architectures_own_recipe(study: search.Search) -> None:
    study.optimize()
    assert study.study.trials[0].user_attrs["params"] == study.task.start
    assert study.counts() == {"complete": 2, "pruned": 0, "failed": 0}


def test_the_same_seed_gives_the_same_trials(study: search.Search, empty_store: Any) -> None:
    study.optimize()
    again = search.Search(
        study.task, study.settings, study.run, study.study._storage, "another study"
    )
    again.optimize()
    assert [t.params for t in again.study.trials] == [t.params for t in study.study.trials]
    assert [t.value for t in again.study.trials] == [t.value for t in study.study.trials]


def test_a_lost_network_is_trained_again_from_its_params(study: search.Search) -> None:
    study.optimize()
    best = study.best()
    assert best is not None
    best.network.unlink()
    again = study.best()
    assert again is not None
    assert again.network.exists()
    assert again.params == best.params


def test_no_trial_starts_after_the_deadline(study: search.Search) -> None:
    study.deadline = 0.0
    study.optimize()
    assert study.study.trials[0].state == TrialState.WAITING
    assert study.best() is None


def test_a_storage_that_does_not_answer_is_one_sentence() -> None:
    with pytest.raises(search.UserError, match="Expected storage to be a database that answers"):
        search.open_storage("sqlite:////nowhere/at/all.db")
