"""Joins a running search: `mlflow run . -e worker -P study=RUN_ID -P storage=postgresql://...`.

Trains trials of the search from another shell or another machine, until the search is over. The
images must be the same (a digest is compared), and MLFLOW_TRACKING_URI must name the same server.
"""

import math
import signal
import time
from concurrent.futures import FIRST_COMPLETED, Future, wait
from dataclasses import replace

import mlflow
from mlflow.exceptions import MlflowException

from pipelines import calls, forks, search, tracking, workers
from pipelines.calls import Spec
from pipelines.config import WorkerSettings
from pipelines.search import Study
from pipelines.tracking import Run, name_run
from pipelines.workers import Loky, WorkerLostError
from serving import settings as entry
from serving.settings import UserError, require

LOOK_SECONDS = 2.0


def main(settings: WorkerSettings) -> int:
    """Returns 0 when the search is over."""
    forks.begin()
    storage = search.open_storage(settings.storage)
    studies = find(storage, settings.study)
    root = studies[0].name.split("/")[0]
    experiment = require_tracking(root)
    pool = workers.local(settings.workers)
    own = Run(root, experiment)
    signal.signal(signal.SIGTERM, signal.default_int_handler)
    try:
        specs = {study.name: _spec(study, settings, root) for study in studies}
        for study in studies:
            pool.submit(1, calls.prepare, specs[study.name], study.code).result()
        name_run("worker", f"worker of {root[:8]}", {"study": settings.study})
        print(f"Joined run {root}: {', '.join(study.code for study in studies)}", flush=True)
        done = help_out(pool, studies, specs, own)
    finally:
        pool.stop()
        for study in studies:
            study.reap(lost=lambda run_id: _close(own, run_id, "its worker was stopped"))
    print(f"The search is over; {done} trials were trained here")
    return 0


def find(storage: search.Storage, name: str) -> list[Study]:
    """The studies that `name` names: of a search that is still going on.

    Raises UserError where there is none.
    """
    studies = [Study.load(storage, found) for found in search.names(storage, name)]
    require(
        bool(studies),
        f"Expected study to be a search's run id, or RUN_ID/CODE, in the storage, got {name!r}.",
    )
    require(
        _goes_on(studies),
        f"Expected a search that goes on, but nobody leads {name}; go on with it by -P resume.",
    )
    return studies


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


def help_out(pool: Loky, studies: list[Study], specs: dict[str, Spec], own: Run) -> int:
    """Trains what waits until the search is over, or nobody leads it; returns how many trials."""
    futures: dict[Future[bool], Study] = {}
    done = 0
    while futures or _goes_on(studies):
        for study in filter(_is_open, studies):
            while pool.free > 0 and study.waiting() > 0:
                threads = max(1, pool.size // (specs[study.name].settings.workers or pool.size))
                spec = replace(specs[study.name], threads=threads)
                futures[pool.submit(threads, calls.train, spec, study.code, math.inf)] = study
                time.sleep(LOOK_SECONDS)  # for it to claim, before the next look
        ended = wait(futures, LOOK_SECONDS, FIRST_COMPLETED).done
        if not futures:
            time.sleep(LOOK_SECONDS)
        for future in ended:
            done += _ended(future, futures.pop(future), own)
    return done


def _ended(future: Future[bool], study: Study, own: Run) -> bool:
    try:
        trained = future.result()
    except WorkerLostError:
        study.reap(blame=True, lost=lambda run_id: _close(own, run_id, "its worker died"))
        return False
    if trained:
        print(f"{study.code:<8} {search.ending(study.ended()[-1])}", flush=True)
    return trained


def _close(own: Run, run_id: str, reason: str) -> None:
    tracking.close(own, run_id, "KILLED", reason)


def _goes_on(studies: list[Study]) -> bool:
    return any(study.leader() and _is_open(study) for study in studies)


def _is_open(study: Study) -> bool:
    return not study.about.get("closed", False)


def _spec(study: Study, settings: WorkerSettings, root: str) -> Spec:
    """What this machine's workers need to know: where the images and weights are here."""
    here = {name: value for name in ("data", "weights") if (value := getattr(settings, name))}
    own = replace(study.settings, storage=settings.storage, workers=settings.workers, **here)
    return Spec(root, own, str(study.about["data_digest"]))


if __name__ == "__main__":
    entry.run(WorkerSettings, main)
