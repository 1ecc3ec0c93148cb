"""The race between architectures: rounds, shares of time, and who is out."""

import math
import re
import threading
import time
from collections.abc import Callable
from concurrent.futures import Future, ThreadPoolExecutor
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from pipelines import layout, processes, race, search
from pipelines.calls import Prepared, Spec, Speed
from pipelines.config import SearchSettings
from pipelines.dispatch import Dispatcher
from pipelines.race import Contender, Race
from pipelines.search import Study


class Threads:
    """A pool of threads, for trials that take no processor."""

    def __init__(self, size: int) -> None:
        self.size, self.running = size, 0
        self.given: list[int] = []
        self._pool = ThreadPoolExecutor(size)
        self._lock = threading.Lock()

    def room(self, threads: int) -> int:
        return (self.size - self.running) // threads

    def submit(self, threads: int, call: Callable[..., Any], *arguments: Any) -> Future[Any]:
        self.given.append(threads)
        self.running += threads

        def work() -> Any:
            try:
                return call(*arguments)
            finally:
                with self._lock:
                    self.running -= threads

        return self._pool.submit(work)

    def stop(self) -> None:
        self._pool.shutdown()


Values = dict[str, list[float]]


@pytest.fixture
def hold(tmp_path: Path) -> Callable[..., Race]:
    """A race whose trials take `seconds` and reach, one after the other, what `values` says."""

    def make(
        values: Values,
        seconds: float = 0.0,
        end: float = math.inf,
        work: int = 0,
        **given: Any,
    ) -> Race:
        settings = SearchSettings(storage=f"sqlite:///{tmp_path}/optuna.db", **given)
        storage = search.open_storage(settings.storage)
        about = {"data_digest": "d", "run_id": "r", "experiment": "1"}
        contenders = [
            Contender(
                Study.create(storage, f"search/{code}", settings, about),
                Spec("search", settings, "d"),
                Prepared({}, (8, 8, 3), work),
                images=1000,
                validation=1000,
            )
            for code in values
        ]
        studies = {contender.code: contender.study for contender in contenders}

        def train(spec: Spec, code: str, end: float, ticket: str) -> int | None:
            trial = studies[code].claim(ticket)
            if trial is None:
                return None
            time.sleep(seconds)
            value = values[code][trial.number]
            measured = {"train_accuracy": value, "val_accuracy": value, "val_loss": 1.0}
            studies[code].complete(trial, measured)
            return trial.number

        return Race(
            contenders=contenders,
            dispatcher=Dispatcher(Threads(2), train, lambda run_id: None),
            speed=lambda spec, code: Speed(0.1, 100.0),
            end=end,
            report=lambda contender: None,
        )

    return make


def done(held: Race) -> dict[str, int]:
    return {contender.code: len(contender.study.ended()) for contender in held.contenders}


@pytest.mark.parametrize(
    ("trials", "targets"),
    [(1, [1]), (3, [3]), (4, [3, 4]), (6, [3, 6]), (9, [3, 6, 9]), (20, [7, 14, 20])],
)
def test_rounds_are_thirds_but_no_less_than_three_trials(trials: int, targets: list[int]) -> None:
    assert race.rounds(trials) == targets


def test_reach_of_an_exponential_tail_is_its_quantile() -> None:
    """Twelve values at the quantiles of 0.5 + Exp(0.1): sixty more stay below the 95% quantile."""
    probabilities = (np.arange(12) + 0.5) / 12
    values = sorted(0.5 - 0.1 * np.log(1 - probabilities), reverse=True)
    exact = 0.5 - 0.1 * math.log(1 - 0.95 ** (1 / 60))
    assert race.reach(list(values), 60, 10_000) == pytest.approx(exact, abs=0.06)


def test_reach_holds_for_accuracies() -> None:
    """Of 400 studies with 6 trials, at most 5% do better in 6 more than was said to be in reach."""
    generator = np.random.default_rng(0)
    wrong = 0
    for _ in range(400):
        values = generator.beta(6, 2, 12)
        most = race.reach(sorted(values[:6], reverse=True), 6, 1000)
        wrong += values[6:].max() > most
    assert wrong <= 20


@pytest.mark.parametrize("values", [[], [0.1], [0.1, 0.1]])
def test_too_few_trials_say_nothing(values: list[float]) -> None:
    assert race.reach(values, 10, 1000) == math.inf


def test_reach_is_never_below_the_best_and_grows_with_trials() -> None:
    values = [0.8, 0.79, 0.6, 0.5]
    reached = [race.reach(values, more, 500) for more in (0, 1, 5, 50)]
    assert reached[0] == 0.8
    assert reached == sorted(reached)


def test_equal_trials_leave_the_error_of_validation_as_scale() -> None:
    assert race.reach([0.5, 0.5, 0.5], 10, 100) > 0.55
    assert race.reach([0.5, 0.5, 0.5], 10, 100_000) < 0.52


def test_one_that_cannot_reach_the_best_three_stops(hold: Callable[..., Race]) -> None:
    good = [0.90, 0.91, 0.92, 0.93, 0.92, 0.93]
    bad = [0.30, 0.31, 0.29]
    rest = {"nn": good * 2, "dnn": good * 2, "cnn": good * 2}
    held = hold({"lm": bad * 4} | rest, trials=9)
    held.run()
    ended = done(held)
    assert ended.pop("lm") in (3, 6)  # as the others have ended their first ones by then, or not
    assert set(ended.values()) == {9}
    (out,) = [contender for contender in held.contenders if contender.out]
    assert out.code == "lm"
    assert re.match(r"stopped after [36] trials: at most 0\.", out.out)
    assert all(contender.study.about["closed"] for contender in held.contenders)


def test_three_architectures_are_all_searched_to_the_end(hold: Callable[..., Race]) -> None:
    held = hold({"lm": [0.1] * 6, "nn": [0.9] * 6, "cnn": [0.95] * 6}, trials=6)
    held.run()
    assert done(held) == {"lm": 6, "nn": 6, "cnn": 6}


def test_no_trial_starts_after_the_deadline(hold: Callable[..., Race]) -> None:
    held = hold({"lm": [0.5] * 3}, end=0.0, trials=3)
    held.run()
    assert done(held) == {"lm": 0}
    assert held.contenders[0].study.running() == 0


def test_time_is_shared_and_the_slow_leave_some_to_the_rest(hold: Callable[..., Race]) -> None:
    held = hold({"lm": [0.5] * 99, "nn": [0.5] * 99}, seconds=0.5, end=time.time() + 9, trials=99)
    began = time.time()
    held.run()
    assert time.time() - began < 11
    assert min(done(held).values()) >= 4


@pytest.mark.parametrize(("work", "threads"), [(0, [1, 1, 1]), (10**8, [2, 1, 1])])
def test_the_first_trial_of_a_heavy_network_has_all_cores(
    hold: Callable[..., Race], work: int, threads: list[int]
) -> None:
    held = hold({"cnn": [0.5] * 3}, work=work, trials=3)
    held.run()
    assert held.pool.given == threads


def test_trials_that_others_train_are_waited_for(hold: Callable[..., Race]) -> None:
    held = hold({"lm": [0.5, 0.6, 0.7]}, trials=3)
    (contender,) = held.contenders
    contender.study.top_up(3, {})
    other = contender.study.claim()
    assert other is not None
    other.set_user_attr("owner", "elsewhere:1:0.00")
    measured = {"train_accuracy": 0.9, "val_accuracy": 0.9, "val_loss": 1.0}
    timer = threading.Timer(3, lambda: contender.study.complete(other, measured))
    timer.start()
    held.run()
    assert contender.study.values() == [0.9, 0.7, 0.6]


def test_a_trial_whose_worker_dies_last_of_all_is_still_tried_again(
    hold: Callable[..., Race],
) -> None:
    held = hold({"lm": [0.5, 0.6, 0.7, 0.8]}, trials=3)
    (contender,) = held.contenders
    contender.study.top_up(3, {})
    other = contender.study.claim()
    assert other is not None
    other.set_user_attr("owner", f"{processes.machine()}:999999:0")  # it is gone
    held.run()
    assert len(contender.study.ended()) == 3


@pytest.mark.parametrize(
    ("cores", "threads"), [(1, [1]), (2, [1, 2]), (4, [1, 2, 4]), (6, [1, 2, 4, 6])]
)
def test_layouts_run_from_one_thread_to_all(cores: int, threads: list[int]) -> None:
    assert layout.candidates(cores) == threads


@pytest.mark.parametrize(
    ("alone", "together", "best"),
    [
        (Speed(1, 429), Speed(1, 195), 2),  # the small network, one process with two threads
        (Speed(1, 160), Speed(1, 98.5), 1),  # the residual network
        (Speed(3, 429), Speed(3, 195), 1),  # what is single-threaded before the first batch counts
    ],
)
def test_the_faster_layout_is_chosen(alone: Speed, together: Speed, best: int) -> None:
    spec, pool = (
        Spec("search", SearchSettings(epochs=1 if alone.start > 2 else 20), "d"),
        Threads(2),
    )

    def speed(spec: Spec, code: str) -> Speed:
        return alone if pool.given[-1] == 2 else together

    assert layout.measure(pool, spec, "cnn", 1000, speed) == best


def test_a_measured_layout_is_known_to_the_next_search() -> None:
    assert layout.known("cnn", (99, 99, 3), 2) == 0
    layout.keep("cnn", (99, 99, 3), 2, 2)
    assert layout.known("cnn", (99, 99, 3), 2) == 2
    assert layout.known("cnn", (99, 99, 3), 4) == 0
