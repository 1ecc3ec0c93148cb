"""Joins a running search: `mlflow run . -e worker -P study=RUN_ID -P storage=postgresql://...`.

Trains trials of the search from another shell or another machine, until the search is over. The
images must be the same (a digest is compared), and MLFLOW_TRACKING_URI must name the same server.
"""

import signal
import time
from contextlib import suppress
from dataclasses import replace

import mlflow
from mlflow.exceptions import MlflowException

from pipelines import calls, forks, processes, search, tracking, workers
from pipelines.calls import Spec
from pipelines.config import WorkerSettings
from pipelines.data import Feedback
from pipelines.dispatch import Dispatcher
from pipelines.search import Study
from pipelines.tracking import Run, name_run
from pipelines.workers import Loky, run_one
from serving import settings as entry
from serving.settings import UserError, require

LOOK_SECONDS = 2.0


def main(settings: WorkerSettings) -> int:
    """Returns 0 when the search is over."""
    forks.begin()
    storage = search.open_storage(settings.storage)
    root, *_ = settings.study.split("/")
    names = find(storage, settings.study)
    own = Run(root, require_tracking(root))
    pool = workers.local(settings.workers)
    before = signal.signal(signal.SIGTERM, signal.default_int_handler)
    helper = Helper(storage, settings, pool, own)
    try:
        helper.enter(names)
        name_run("worker", f"worker of {root[:8]}", {"study": settings.study})
        done = helper.run()
    except search.NoAnswer as error:
        raise UserError(
            f"Expected storage to go on answering, but {str(error).splitlines()[0]}; when it does, "
            "help again with the same command."
        ) from error
    finally:
        with processes.undisturbed(), suppress(*search.NoAnswer):
            pool.stop()
            helper.write_off()
        signal.signal(signal.SIGTERM, before)
    print(f"The search is over; {done} trials were trained here")
    return 0


def find(storage: search.Storage, name: str) -> list[str]:
    """Names of the studies that `name` names: of a search that is still going on.

    Raises UserError where there is none.
    """
    names = search.names(storage, name)
    require(
        bool(names),
        f"Expected study to be a search's run id, or RUN_ID/CODE, in the storage, got {name!r}.",
    )
    require(
        _goes_on([Study.load(storage, found) for found in names]),
        f"Expected a search that goes on, but nobody leads {name}; go on with it by -P resume.",
    )
    return names


def require_tracking(run_id: str) -> str:
    """The experiment of the search's run.

    Raises UserError where the tracking server has no such run.
    """
    try:
        return str(mlflow.get_run(run_id).info.experiment_id)
    except MlflowException as error:
        raise UserError(
            f"Expected run {run_id} in {mlflow.get_tracking_uri()}; set MLFLOW_TRACKING_URI to the "
            "tracking server of the search."
        ) from error


class Helper:
    """Trains what waits in the studies of a search, on the cores of this machine."""

    def __init__(
        self, storage: search.Storage, settings: WorkerSettings, pool: Loky, own: Run
    ) -> None:
        self.storage, self.settings, self.pool, self.own = storage, settings, pool, own
        self.studies: list[Study] = []
        self.dispatcher = Dispatcher(
            pool, calls.train, lambda run_id: self._close(run_id, "its worker died")
        )

    def enter(self, names: list[str]) -> None:
        """Prepares for studies that were not known before; says so.

        Raises UserError where the images of this machine are others.
        """
        known = {study.name for study in self.studies}
        new = [Study.load(self.storage, name) for name in names if name not in known]
        for study in new:
            run_one(self.pool, calls.prepare, self._spec(study), study.code)
        if new:
            print(f"Joined run {self.own.id}: {', '.join(s.code for s in new)}", flush=True)
        self.studies += new

    def run(self) -> int:
        """Trains until the search is over, or nobody leads it; returns how many trials."""
        done = 0
        while (goes_on := _goes_on(self.studies)) or self.dispatcher.is_busy:
            if goes_on:
                self.enter(search.names(self.storage, self.settings.study))
                for study in filter(_is_open, self.studies):
                    self._send(study)
            for study, number in self.dispatcher.collect(LOOK_SECONDS):
                if number is not None:
                    done += 1
                    print(f"{study.code:<8} {search.ending(study.trials()[number])}", flush=True)
        return done

    def write_off(self) -> None:
        """Gives the trials of workers that have been ended to others."""
        for study in self.studies:
            study.reap(
                stopped=self.dispatcher.name,
                lost=lambda run_id: self._close(run_id, "its worker was stopped"),
            )

    def _send(self, study: Study) -> None:
        spec = self._spec(study)
        per_worker = self.pool.size // self.settings.workers if self.settings.workers else 1
        threads = min(study.settings.trial_cpus or per_worker, self.pool.size)
        while self.pool.room(threads) and time.time() < study.end:
            waiting, awaited = self.dispatcher.tickets(study)
            if waiting <= awaited:
                return
            self.dispatcher.send(spec, study, threads, study.end)

    def _spec(self, study: Study) -> Spec:
        """What this machine's workers need to know: where the images and weights are here."""
        given = {name: getattr(self.settings, name) for name in ("data", "weights")}
        here = {name: value for name, value in given.items() if value}
        own = replace(study.settings, storage=self.settings.storage, **here)
        held = study.about.get("feedback")
        feedback = Feedback(**held) if held else None
        return Spec(self.own.id, own, str(study.about["data_digest"]), feedback)

    def _close(self, run_id: str, reason: str) -> None:
        with tracking.impatient():  # else the search itself ends it
            tracking.close(self.own, run_id, "KILLED", {"error": reason})


def _goes_on(studies: list[Study]) -> bool:
    return any(study.leader() and _is_open(study) for study in studies)


def _is_open(study: Study) -> bool:
    return not study.about.get("closed", False)


if __name__ == "__main__":
    entry.run(WorkerSettings, main)
