"""Several machines: PostgreSQL, workers that join, a Ray cluster that loses a node."""

import contextlib
import functools
import os
import re
import signal
import subprocess
import sys
import time
from collections.abc import Iterator
from importlib.util import find_spec
from pathlib import Path
from typing import Any

import pytest

from pipelines import search
from pipelines.search import Study
from tests.conftest import free_port
from tests.pipelines.conftest import ROOT, Store, stripes
from tests.pipelines.test_crash import require_agreement, searching, until


@pytest.fixture
def database(database: str) -> Iterator[str]:
    yield database
    storage_of(database).engine.dispose()


@pytest.fixture(scope="module")
def images(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return stripes(tmp_path_factory.mktemp("images") / "stripes", each=40)


def flags_of(database: str, images: Path, **more: Any) -> dict[str, Any]:
    return {
        "data": images,
        "architectures": "lm",
        "image_size": 16,
        "epochs": 3,
        "storage": database,
        **more,
    }


@functools.cache
def storage_of(database: str) -> search.Storage:
    """Opened once: a connection that nobody closes is one that the server is short of."""
    return search.open_storage(database)


def study_of(database: str, run_id: str) -> Study:
    return Study.load(storage_of(database), f"{run_id}/lm")


def goes_on(database: str, run_id: str) -> bool:
    """Whether the search has come as far as to have a study."""
    named = search.names(storage_of(database), f"{run_id}/lm")
    return bool(named) and study_of(database, run_id).leader() != ""


def owners(database: str, run_id: str) -> set[str]:
    """The processes that trained."""
    if not goes_on(database, run_id):
        return set()
    return {trial.user_attrs["owner"] for trial in study_of(database, run_id).ended()}


@pytest.mark.long
@pytest.mark.postgres
def test_workers_join_by_the_study_and_one_that_dies_costs_nothing(
    empty_store: Store, database: str, images: Path, tmp_path: Path
) -> None:
    """One with other images, and one that names no search, are refused meanwhile."""
    others = stripes(tmp_path / "others", each=10, seed=1)
    cache = {"LOOKOUT_CACHE": str(tmp_path / "its own cache")}
    elsewhere = Store(empty_store.folder, empty_store.environment | cache)
    with searching(empty_store, **flags_of(database, images, workers=1, trials=30)) as begun:
        process, run_id = begun
        until(lambda: goes_on(database, run_id))
        joined, dying = (
            subprocess.Popen(
                empty_store.command("pipelines.worker", study=run_id, storage=database, workers=1),
                cwd=ROOT,
                env=empty_store.variables(),
                stdout=subprocess.PIPE,
                stderr=subprocess.PIPE,
                text=True,
                start_new_session=True,
            )
            for _ in range(2)
        )
        assert dying.stdout is not None
        assert dying.stdout.readline() == f"Joined run {run_id}: lm\n"
        refused = elsewhere.run("pipelines.worker", study=run_id, storage=database, data=others)
        os.killpg(dying.pid, signal.SIGKILL)
        dying.communicate()
        output, _ = process.communicate(timeout=300)
        assert process.returncode == 0, output
        said, errors = joined.communicate(timeout=60)
    nothing = empty_store.run("pipelines.worker", study="nothing", storage=database)
    assert joined.returncode == 0, errors
    assert f"Joined run {run_id}: lm" in said
    assert int(re.search(r"The search is over; (\d+) trials", said)[1]) > 0
    assert len(study_of(database, run_id).ended()) == 30
    require_agreement(empty_store, [study_of(database, run_id)])
    assert refused.returncode == nothing.returncode == 2
    assert "lookout: Expected the images that the study was made from (digest " in refused.stderr
    assert "lookout: Expected study to be a search's run id, or RUN_ID/CODE" in nothing.stderr
    assert "Traceback" not in refused.stderr + nothing.stderr


@contextlib.contextmanager
def node(*flags: str) -> Iterator[subprocess.Popen[bytes]]:
    """A node of a Ray cluster, in a process group of its own."""
    process = subprocess.Popen(
        [sys.executable, "-m", "ray.scripts.scripts", "start", *flags, "--block", "--num-cpus=1"],
        env=os.environ | {"PYTHONPATH": str(ROOT), "RAY_USAGE_STATS_ENABLED": "0"},
        stdout=subprocess.DEVNULL,
        stderr=subprocess.DEVNULL,
        start_new_session=True,
    )
    try:
        yield process
    finally:
        kill(process)


def kill(process: subprocess.Popen[bytes]) -> None:
    with contextlib.suppress(ProcessLookupError):
        os.killpg(process.pid, signal.SIGKILL)
    process.wait()


@pytest.mark.ray
def test_a_ray_cluster_that_loses_a_node_finishes_all_trials(
    empty_store: Store, database: str, images: Path
) -> None:
    ray = pytest.importorskip("ray", reason="Ray is an extra: pip install -r requirements-ray.txt")
    port = free_port()
    head = (
        "--head",
        f"--port={port}",
        "--include-dashboard=false",
        "--object-store-memory=100000000",
    )
    more = (f"--address=127.0.0.1:{port}", "--object-store-memory=100000000")
    with node(*head), node(*more) as second:
        address = {"RAY_ADDRESS": f"127.0.0.1:{port}"}
        until(lambda: nodes(ray, address["RAY_ADDRESS"]) == 2)
        store = Store(empty_store.folder, empty_store.environment | address)
        flags = flags_of(database, images, trials=14, backend="ray")
        with searching(store, **flags) as (process, run_id):
            until(lambda: len(owners(database, run_id)) > 1, seconds=200)
            kill(second)
            output, _ = process.communicate(timeout=400)
            assert process.returncode == 0, output
    study = study_of(database, run_id)
    assert study.counts()["failed"] == 0
    assert len(study.ended()) == 14
    require_agreement(empty_store, [study_of(database, run_id)])


def nodes(ray: Any, address: str) -> int:
    """Nodes of a cluster that are alive, asked for in a process of its own."""
    code = (
        "import ray, sys\n"
        "ray.init(address=sys.argv[1], logging_level='ERROR', log_to_driver=False)\n"
        "print(sum(node['Alive'] for node in ray.nodes()))\n"
    )
    done = subprocess.run(
        [sys.executable, "-c", code, address], capture_output=True, text=True, timeout=120
    )
    time.sleep(1)
    return int(done.stdout.split()[-1]) if done.returncode == 0 else 0


@pytest.mark.skipif(
    find_spec("ray") is not None,
    reason="Ray is installed",
)
def test_without_ray_the_backend_is_refused(empty_store: Store, images: Path) -> None:
    done = empty_store.run("pipelines.main", data=images, architectures="lm", backend="ray")
    assert done.returncode == 2
    assert "Expected Ray to be installed for backend=ray; run `pip install -r " in done.stderr
    assert empty_store.runs("search") == []
