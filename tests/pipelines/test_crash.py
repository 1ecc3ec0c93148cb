"""What a search survives: kills of workers, of itself, of all; Ctrl-C; a tracking server away."""

import os
import random
import re
import signal
import socket
import subprocess
import sys
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import pytest
from mlflow.tracking import MlflowClient

from benchmarks.crashes import problems
from benchmarks.process import workers_of
from pipelines import search
from pipelines.search import Study
from tests.pipelines.conftest import EXPERIMENT, ROOT, Store, stripes

TRIALS = 6


@pytest.fixture(scope="module")
def images(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return stripes(tmp_path_factory.mktemp("images") / "stripes", each=40)


def url_of(store: Store) -> str:
    return f"sqlite:///{store.folder}/optuna.db"


@contextmanager
def searching(store: Store, **flags: Any) -> Iterator[tuple[subprocess.Popen[str], str]]:
    """A search in a process group of its own, and the id of its run."""
    process = subprocess.Popen(
        store.command("pipelines.main", **flags),
        cwd=ROOT,
        env=store.variables() | {"PYTHONUNBUFFERED": "1"},
        stdout=subprocess.PIPE,
        stderr=subprocess.STDOUT,
        text=True,
        start_new_session=True,
    )
    try:
        assert process.stdout is not None
        said = []
        for line in process.stdout:
            said.append(line)
            if found := re.match(r"Run (\w+):", line):
                yield process, found.group(1)
                break
        else:
            raise AssertionError(f"the search ended with {process.wait()}: {''.join(said)}")
    finally:
        if process.poll() is None:
            os.killpg(process.pid, signal.SIGKILL)
        process.wait()
        if process.stdout is not None:
            process.stdout.close()


def until(condition: Callable[[], bool], seconds: float = 60) -> None:
    deadline = time.time() + seconds
    while not condition():
        assert time.time() < deadline, "it took too long"
        time.sleep(0.1)


def studies_of(store: Store) -> list[Study]:
    storage = search.open_storage(url_of(store))
    (root,) = store.runs("search")
    return [Study.load(storage, name) for name in search.names(storage, root.info.run_id)]


def finished(store: Store) -> dict[tuple[str, int], float | None]:
    """The trials that have finished, with their values."""
    return {(s.name, t.number): t.value for s in studies_of(store) for t in s.ended()}


def require_agreement(store: Store, studies: list[Study] | None = None) -> None:
    """Every trial that began has one run, which ended as the trial did; nothing runs."""
    assert problems(store.client, studies or studies_of(store)) == []


def flags_of(store: Store, images: Path) -> dict[str, Any]:
    return {
        "data": images,
        "architectures": "lm,nn",
        "image_size": 16,
        "trials": TRIALS,
        "epochs": 3,
        "workers": 2,
        "storage": url_of(store),
    }


@pytest.mark.long
def test_kills_at_any_moment_lose_and_double_nothing(empty_store: Store, images: Path) -> None:
    """The short form of `benchmarks/crashes.py`: a worker, the parent, and all of them die once."""
    moments = random.Random(0)

    def wait_for_more(than: int) -> None:
        until(lambda: len(finished(empty_store)) > than)
        time.sleep(moments.uniform(0, 2))

    with searching(empty_store, **flags_of(empty_store, images)) as (process, run_id):
        wait_for_more(than=0)
        moments.choice(workers_of(process.pid)).kill()
        first = finished(empty_store)
        wait_for_more(than=len(first) + 1)
        assert process.poll() is None, "a worker's death is its own"
        process.kill()
        process.wait()  # its workers are left to find that out
    second = finished(empty_store)
    with searching(empty_store, resume=run_id) as (process, now):
        assert now == run_id
        wait_for_more(than=len(second))
        os.killpg(process.pid, signal.SIGKILL)
    third = finished(empty_store)
    done = empty_store.run("pipelines.main", resume=run_id)

    assert done.returncode == 0, done.stderr
    last = finished(empty_store)
    assert first.items() <= second.items() <= third.items() <= last.items()
    assert [len(study.ended()) for study in studies_of(empty_store)] == [TRIALS, TRIALS]
    assert [run.info.run_id for run in empty_store.runs("search")] == [run_id]
    assert len(empty_store.runs("architecture")) == 2
    require_agreement(empty_store)


@pytest.mark.long
def test_a_search_is_not_resumed_while_it_goes_on_and_ctrl_c_ends_it_in_order(
    empty_store: Store, images: Path
) -> None:
    flags = flags_of(empty_store, images) | {"trials": 200}
    with searching(empty_store, **flags) as (process, run_id):
        until(lambda: len(finished(empty_store)) > 0)
        second = empty_store.run("pipelines.main", resume=run_id)
        workers = workers_of(process.pid)
        began = time.time()
        os.killpg(process.pid, signal.SIGINT)
        output, _ = process.communicate()
        assert time.time() - began < 5
    assert second.returncode == 2
    (line,) = [line for line in second.stderr.splitlines() if line.startswith("lookout:")]
    assert f"Expected an interrupted search to resume, but run {run_id} is being searched" in line
    assert process.returncode == 130
    assert f"Interrupted; go on with: mlflow run . --env-manager uv -P resume={run_id}" in output
    assert "Traceback" not in output
    until(lambda: not any(worker.is_running() for worker in workers), seconds=5)
    require_agreement(empty_store)
    assert {run.info.status for run in empty_store.runs("architecture")} == {"KILLED"}
    killed = [run for run in empty_store.runs("trial") if run.info.status == "KILLED"]
    assert {run.data.tags["error"] for run in killed} <= {"the search was interrupted"}


@contextmanager
def server(folder: Path, port: int) -> Iterator[subprocess.Popen[bytes]]:
    """MLflow's own server."""
    process = subprocess.Popen(
        [
            *(sys.executable, "-m", "mlflow", "server", "--host", "127.0.0.1", "--port", str(port)),
            *("--backend-store-uri", f"sqlite:///{folder}/mlflow.db", "--workers", "1"),
            *("--artifacts-destination", str(folder / "artifacts")),
        ],
        stdout=subprocess.DEVNULL,
        stderr=subprocess.DEVNULL,
        start_new_session=True,
    )

    def answers() -> bool:
        with socket.socket() as probe:
            return probe.connect_ex(("127.0.0.1", port)) == 0

    try:
        until(answers)
        yield process
    finally:
        os.killpg(process.pid, signal.SIGKILL)
        process.wait()


def test_a_tracking_server_that_goes_away_costs_no_metric(tmp_path: Path, images: Path) -> None:
    """Stopped while trials run, for as long as several of them take, and started again."""
    with socket.socket() as probe:
        probe.bind(("127.0.0.1", 0))
        port = probe.getsockname()[1]
    store = Served(tmp_path, {"MLFLOW_TRACKING_URI": f"http://127.0.0.1:{port}"})
    with server(tmp_path, port):
        store.client.create_experiment(EXPERIMENT)
        flags = flags_of(store, images) | {"architectures": "lm", "trials": 4}
        running = searching(store, **flags)
        process, _ = running.__enter__()
        until(lambda: len(finished_in(store)) > 0)
    time.sleep(10)
    with server(tmp_path, port):
        output, _ = process.communicate(timeout=200)
        running.__exit__(None, None, None)
        assert process.returncode == 0, output
        assert [len(study.ended()) for study in studies_of(store)] == [4]
        require_agreement(store)


class Served(Store):
    """A store behind a server."""

    @property
    def uri(self) -> str:
        return self.environment["MLFLOW_TRACKING_URI"]

    @property
    def client(self) -> MlflowClient:
        return MlflowClient(self.uri)


def finished_in(store: Store) -> list[int]:
    """As `finished`, without asking the server."""
    storage = search.open_storage(url_of(store))
    every = search.optuna.get_all_study_names(storage)
    made = [name for name in every if search.names(storage, name)]
    return [t.number for name in made for t in Study.load(storage, name).ended()]
