"""Who is sent for a trial, and what becomes of workers that do not come back."""

from concurrent.futures import Future
from pathlib import Path
from typing import Any

import pytest

from pipelines import processes, search
from pipelines.calls import Spec
from pipelines.config import SearchSettings
from pipelines.dispatch import Dispatcher
from pipelines.search import Study
from pipelines.workers import RETRIES, WorkerLostError
from serving.settings import UserError

SETTINGS = SearchSettings(trials=3)
SPEC = Spec("search", SETTINGS, "d")


class Sent:
    """A pool whose workers are on their way until the test says otherwise."""

    size = 2

    def __init__(self) -> None:
        self.futures: list[Future[Any]] = []

    def room(self, threads: int) -> int:
        return self.size

    def submit(self, threads: int, call: object, *arguments: object) -> Future[Any]:
        self.futures.append(Future())
        return self.futures[-1]

    def stop(self) -> None:
        """Nothing runs."""


@pytest.fixture
def study(tmp_path: Path) -> Study:
    about = {"data_digest": "d", "run_id": "r", "experiment": "1"}
    storage = search.open_storage(f"sqlite:///{tmp_path}/optuna.db")
    made = Study.create(storage, "search/lm", SETTINGS, about)
    made.top_up(3, {})
    return made


@pytest.fixture
def pool() -> Sent:
    return Sent()


@pytest.fixture
def dispatcher(pool: Sent) -> Dispatcher:
    return Dispatcher(pool, lambda spec, code, end, ticket: None, lambda run_id: None)


def test_a_worker_is_awaited_until_it_claims_its_trial(
    dispatcher: Dispatcher, study: Study
) -> None:
    dispatcher.send(SPEC, study, 1, 0.0)
    assert dispatcher.tickets(study) == (3, 1)
    study.claim(f"{processes.name()}/1")
    assert dispatcher.tickets(study) == (2, 0)


def test_trials_of_others_are_no_answer_to_who_is_awaited(
    dispatcher: Dispatcher, study: Study
) -> None:
    dispatcher.send(SPEC, study, 1, 0.0)
    study.claim("elsewhere:1:0/1")
    assert dispatcher.tickets(study) == (2, 1)


def test_a_worker_that_is_back_tells_its_trial(
    dispatcher: Dispatcher, study: Study, pool: Sent
) -> None:
    dispatcher.send(SPEC, study, 1, 0.0)
    pool.futures[0].set_result(7)
    assert dispatcher.collect(0.0) == [(study, 7)]
    assert not dispatcher.is_busy


def test_workers_that_keep_dying_before_they_claim_end_the_search(
    dispatcher: Dispatcher, study: Study, pool: Sent
) -> None:
    for place in range(RETRIES + 1):
        dispatcher.send(SPEC, study, 1, 0.0)
        pool.futures[-1].set_exception(WorkerLostError("killed"))
        if place < RETRIES:
            assert dispatcher.collect(0.0) == [(study, None)]
    with pytest.raises(UserError, match="Expected workers to live until they train"):
        dispatcher.collect(0.0)


def test_workers_that_die_of_their_trials_are_no_reason_to_stop(
    dispatcher: Dispatcher, study: Study, pool: Sent
) -> None:
    """All at once, as when a node goes: its trials are given up one after the other, or later."""
    study.top_up(RETRIES + 2, {})
    for number in range(RETRIES + 2):
        dispatcher.send(SPEC, study, 1, 0.0)
        trial = study.claim(f"{processes.name()}/{number + 1}")
        assert trial is not None
        trial.set_user_attr("owner", "elsewhere:1:0")
    for future in pool.futures:
        future.set_exception(WorkerLostError("its node is gone"))
    assert dispatcher.collect(0.0) == [(study, None)] * (RETRIES + 2)
