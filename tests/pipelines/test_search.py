"""A study: who gets a trial, what becomes of one whose worker died, and which trial is the best."""

import subprocess
import sys
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path

import optuna
import pytest
from optuna.trial import TrialState

from pipelines import processes, search
from pipelines.config import SearchSettings
from pipelines.search import Study
from serving.settings import UserError

FIRST = {"x": 0.25}
ABOUT = {"data_digest": "d", "run_id": "r", "experiment": "1"}


@pytest.fixture
def url(tmp_path: Path) -> str:
    return f"sqlite:///{tmp_path}/optuna.db"


@pytest.fixture
def study(url: str) -> Study:
    """A study of three trials at most, without one."""
    settings = SearchSettings(trials=3, epochs=2, max_overfit_gap=0.05)
    return Study.create(search.open_storage(url), "search/lm", settings, ABOUT)


def measured(val: float, train: float | None = None, loss: float = 1.0) -> dict[str, float]:
    return {
        "train_accuracy": val if train is None else train,
        "val_accuracy": val,
        "val_loss": loss,
    }


def waiting(study: Study) -> int:
    return len(study.trials(TrialState.WAITING))


def claim(study: Study) -> optuna.Trial:
    trial = study.claim()
    assert trial is not None
    return trial


def finish(study: Study, val: float, train: float | None = None, loss: float = 1.0) -> None:
    trial = claim(study)
    trial.set_user_attr("run_id", str(trial.number))
    trial.set_user_attr("params", {"x": trial.suggest_float("x", 0, 1)})
    trial.set_user_attr("history", {"val_accuracy": [val]})
    assert study.complete(trial, measured(val, train, loss))


def die(study: Study, url: str) -> None:
    """A process claims a trial and is gone."""
    code = (
        "import sys\n"
        "from pipelines import search\n"
        "study = search.Study.load(search.open_storage(sys.argv[1]), sys.argv[2])\n"
        "trial = study.claim()\n"
        "trial.suggest_float('x', 0, 1)\n"
        "trial.set_user_attr('run_id', 'its run')\n"
    )
    subprocess.run(
        [sys.executable, "-c", code, url, study.name],
        check=True,
        cwd=Path(__file__).parents[2],
    )


def vanish(study: Study) -> None:
    """The same without a process: the trial's owner is one that is not there."""
    trial = claim(study)
    trial.suggest_float("x", 0, 1)
    trial.set_user_attr("owner", f"{processes.machine()}:999999:0")


def test_the_first_trial_is_the_architectures_own_recipe(study: Study) -> None:
    study.top_up(3, FIRST)
    assert waiting(study) == 3
    assert claim(study).suggest_float("x", 0, 1) == FIRST["x"]


def test_topping_up_again_adds_nothing(study: Study) -> None:
    study.top_up(2, FIRST)
    finish(study, 0.5)
    study.top_up(2, FIRST)
    assert (waiting(study), len(study.trials())) == (1, 2)


def test_a_trial_is_claimed_once(study: Study, url: str) -> None:
    """By eight workers, each with a connection of its own."""
    study.top_up(20, FIRST)

    def work(_: int) -> list[int]:
        own = Study.load(search.open_storage(url), study.name)
        return [trial.number for trial in iter(own.claim, None)]

    with ThreadPoolExecutor(8) as pool:
        claimed = [number for numbers in pool.map(work, range(8)) for number in numbers]
    assert sorted(claimed) == list(range(20))


def test_a_trial_draws_the_same_whoever_trains_it(url: str) -> None:
    drawn = []
    for name in ("one/lm", "two/lm"):
        own = Study.create(search.open_storage(url), name, SearchSettings(trials=5), ABOUT)
        own.top_up(5, FIRST)
        for value in (0.3, 0.5, 0.4, 0.6, 0.2):
            finish(Study.load(search.open_storage(url), name), value)
        drawn.append([trial.params for trial in own.trials()])
    assert drawn[0] == drawn[1]
    assert len({trial["x"] for trial in drawn[0]}) == 5


def test_a_dead_workers_trial_is_tried_again_with_its_params(study: Study, url: str) -> None:
    lost: list[str] = []
    study.top_up(1, {})
    die(study, url)
    drawn = study.trials()[0].params

    study.reap(lost=lost.append)

    assert lost == ["its run"]
    assert [trial.state for trial in study.trials()] == [TrialState.FAIL, TrialState.WAITING]
    assert study.ended() == []
    again = claim(study)
    assert {"x": again.suggest_float("x", 0, 1)} == drawn
    assert study.seed(again) == 0
    assert "run_id" not in again.user_attrs


def test_a_trial_that_dies_right_after_its_claim_keeps_what_was_asked_for(study: Study) -> None:
    study.top_up(1, FIRST)
    claim(study).set_user_attr("owner", f"{processes.machine()}:999999:0")
    assert study.trials()[0].params == {}
    study.reap()
    assert claim(study).suggest_float("x", 0, 1) == FIRST["x"]


def test_a_kill_between_failing_and_enqueueing_is_repaired_once(study: Study) -> None:
    study.top_up(1, {})
    vanish(study)
    (dead,) = study.trials()
    study.storage.set_trial_state_values(dead._trial_id, state=TrialState.FAIL)
    for _ in range(2):
        study.repair()
    assert waiting(study) == 1
    assert {"x": claim(study).suggest_float("x", 0, 1)} == dead.params


def test_trials_of_workers_that_were_ended_elsewhere_are_given_up(study: Study) -> None:
    """As Ray's, of whose processes this machine knows nothing."""
    study.top_up(2, FIRST)
    for sender in ("sender:1:0", "another:1:0"):
        trial = study.claim(f"{sender}/1")
        assert trial is not None
        trial.set_user_attr("owner", "elsewhere:1:0")
    study.reap(stopped="sender:1:0")
    assert (study.running(), waiting(study)) == (1, 1)


def test_networks_are_kept_of_the_best_and_of_what_runs(study: Study) -> None:
    study.top_up(3, FIRST)
    finish(study, 0.5)
    finish(study, 0.6)
    claim(study)
    part = study.networks / ".part.keras"
    for path in (part, *map(study.network, range(3))):
        path.touch()
    study.tidy()
    assert sorted(study.networks.iterdir()) == [part, study.network(1), study.network(2)]


def test_settings_of_another_machine_are_read_here(url: str) -> None:
    settings = SearchSettings(weights="/only/there.h5", architectures="transfer")
    Study.create(search.open_storage(url), "search/transfer", settings, ABOUT)
    assert Study.load(search.open_storage(url), "search/transfer").settings == settings


def test_a_trial_of_a_process_that_lives_is_left_alone(study: Study) -> None:
    study.top_up(1, FIRST)
    claim(study)
    study.reap()
    assert study.running() == 1


def test_a_trial_that_kills_its_worker_again_and_again_is_given_up(study: Study) -> None:
    study.top_up(1, FIRST)
    for _ in range(search.RETRIES + 1):
        vanish(study)
        study.reap(blame=True)
    assert waiting(study) == 0
    assert study.counts() == {"complete": 0, "pruned": 0, "failed": 1}
    study.top_up(1, FIRST)
    assert waiting(study) == 0


def test_a_search_that_is_stopped_often_gives_no_trial_up(study: Study) -> None:
    study.top_up(1, FIRST)
    for _ in range(search.RETRIES + 3):
        vanish(study)
        study.reap()
    assert waiting(study) == 1


def test_a_trial_whose_beat_stops_is_tried_again(
    study: Study, url: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    """As of a machine that is gone: this one cannot look whether its process lives."""
    lost: list[str] = []
    monkeypatch.setattr(search, "GRACE", 1)
    study = Study.load(search.open_storage(url), study.name)
    study.top_up(1, FIRST)
    trial = claim(study)
    trial.set_user_attr("owner", "elsewhere:1:0.00")
    trial.set_user_attr("run_id", "its run")
    study.reap()
    assert study.running() == 1
    subprocess.run(["sleep", "2.5"], check=True)
    study.reap(lost=lost.append)
    assert (study.running(), waiting(study), lost) == (0, 1, ["its run"])
    assert not study.complete(trial, measured(0.9)), "it was given up meanwhile"


def test_beats_keep_a_trial_alive(study: Study, url: str, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(search, "GRACE", 2)
    monkeypatch.setattr(search, "HEARTBEAT", 1)
    study = Study.load(search.open_storage(url), study.name)
    study.top_up(1, FIRST)
    trial = claim(study)
    trial.set_user_attr("owner", "elsewhere:1:0.00")
    with study.beating(trial):
        subprocess.run(["sleep", "4"], check=True)
        study.reap()
    assert study.running() == 1


def test_a_failed_trial_counts_and_tells_why(study: Study) -> None:
    study.top_up(2, FIRST)
    study.fail(claim(study), ValueError("too small"))
    (failed,) = study.ended()
    assert search.ending(failed) == "ValueError: too small"
    study.top_up(2, FIRST)
    assert waiting(study) == 1


@pytest.mark.parametrize(
    ("results", "best"),
    [
        ([(0.88, 0.90), (0.91, 0.92)], 1),
        ([(0.90, 0.93), (0.91, 0.99)], 0),  # the second overfits by more than it gains
        ([(0.80, 0.99), (0.88, 0.95)], 1),
        ([(0.88, 0.90, 0.5), (0.88, 0.90, 0.4)], 1),
    ],
)
def test_overfitting_beyond_the_bound_counts_against_a_trial(
    study: Study, results: list[tuple[float, ...]], best: int
) -> None:
    study.top_up(len(results), FIRST)
    for values in results:
        finish(study, *values)
    found = study.best()
    assert found is not None
    assert found.number == best


def test_values_are_best_first_and_pruned_trials_come_last(study: Study) -> None:
    study.top_up(3, FIRST)
    finish(study, 0.6)
    finish(study, 0.8)
    pruned = claim(study)
    pruned.report(0.7, 1)
    assert study.prune(pruned)
    assert study.values() == pytest.approx([0.8, 0.6, 0.7])


def test_who_leads_is_known_while_it_lives(study: Study) -> None:
    assert study.leader() == ""
    study.lead()
    assert study.leader() == "", "a process is not in its own way"
    study.study.set_user_attr("leader", {"process": "elsewhere:1:0", "time": 2e10})
    assert study.leader() == "elsewhere:1:0"
    study.study.set_user_attr("leader", {"process": "elsewhere:1:0", "time": 0.0})
    assert study.leader() == ""


@pytest.mark.parametrize(
    "url", ["sqlite:////nowhere/at/all.db", "postgresql://127.0.0.1:9/optuna", "nonsense://x"]
)
def test_a_storage_that_does_not_answer_is_one_sentence(url: str) -> None:
    with pytest.raises(UserError, match="Expected storage to be a database that answers") as error:
        search.open_storage(url)
    assert "\n" not in str(error.value)


def test_names_are_those_of_one_search(study: Study, url: str) -> None:
    storage = search.open_storage(url)
    for name in ("search/cnn", "search2/lm"):
        Study.create(storage, name, study.settings, ABOUT)
    assert sorted(search.names(storage, "search")) == ["search/cnn", "search/lm"]
    assert search.names(storage, "search/cnn") == ["search/cnn"]
    assert search.names(storage, "sea") == []


def test_plots_are_drawn_as_far_as_the_trials_allow(study: Study) -> None:
    assert dict(study.plots()) == {}
    study.top_up(3, FIRST)
    for value in (0.5, 0.6, 0.7):
        finish(study, value)
    assert set(dict(study.plots())) == {"optuna_history.png", "optuna_importance.png"}
