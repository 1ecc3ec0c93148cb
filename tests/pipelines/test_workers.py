"""Worker processes: their threads, their deaths, their memory, their end."""

import os
import signal
import subprocess
import sys
import time
from collections.abc import Iterator
from concurrent.futures import wait
from pathlib import Path

import psutil
import pytest

from pipelines import workers
from pipelines.workers import Loky, WorkerLostError
from serving.settings import UserError

ROOT = Path(__file__).parents[2]


@pytest.fixture(scope="module")
def shared() -> Iterator[Loky]:
    pool = Loky(2, 4)
    yield pool
    pool.stop()


@pytest.fixture
def pool(shared: Loky) -> Loky:
    assert shared.room(1) == 2
    return shared


def threads_of_tensorflow() -> tuple[int, int]:
    import tensorflow as tf

    return os.getpid(), tf.config.threading.get_intra_op_parallelism_threads()


def grow(size: int) -> int:
    hoard.append(os.urandom(size))
    return os.getpid()


hoard: list[bytes] = []


def fail() -> None:
    raise UserError("Expected this.")


def test_a_worker_trains_on_the_threads_that_it_was_given(pool: Loky) -> None:
    assert pool.submit(1, threads_of_tensorflow).result()[1] == 1
    assert pool.submit(2, threads_of_tensorflow).result()[1] == 2


def test_a_worker_is_used_again(pool: Loky) -> None:
    first, second = (pool.submit(1, os.getpid).result() for _ in range(2))
    assert first == second != os.getpid()


def test_cores_in_use_are_not_free(pool: Loky) -> None:
    future = pool.submit(2, time.sleep, 0.5)
    assert pool.room(1) == 0
    future.result()
    assert pool.room(1) == 2
    assert pool.room(2) == 1


def test_the_death_of_a_worker_is_its_own(pool: Loky) -> None:
    other = pool.submit(1, time.sleep, 2)
    dying = pool.submit(1, os._exit, 1)
    with pytest.raises(WorkerLostError):
        dying.result()
    other.result()
    assert pool.submit(1, os.getpid).result() > 0


def test_a_worker_that_dies_while_it_is_idle_is_replaced(pool: Loky) -> None:
    idle = pool.submit(1, os.getpid).result()
    os.kill(idle, signal.SIGKILL)
    time.sleep(1)
    assert pool.submit(1, os.getpid).result() != idle
    assert pool.room(1) == 2


def test_an_error_is_raised_as_it_was_and_the_worker_stays(pool: Loky) -> None:
    before = pool.submit(1, os.getpid).result()
    with pytest.raises(UserError, match="Expected this"):
        pool.submit(1, fail).result()
    assert pool.submit(1, os.getpid).result() == before


def test_a_worker_that_has_grown_is_replaced(pool: Loky) -> None:
    pool.submit(1, os._exit, 1).exception()
    first = pool.submit(1, grow, 0).result()
    assert pool.submit(1, grow, int(workers.GROWTH / 2)).result() == first
    assert pool.submit(1, grow, int(workers.GROWTH)).result() == first
    assert pool.submit(1, grow, 0).result() != first


def once(path: str) -> int:
    """Its process dies of it, the first time."""
    if not Path(path).exists():
        Path(path).touch()
        os._exit(1)
    return os.getpid()


def test_a_call_whose_worker_dies_is_made_again(pool: Loky, tmp_path: Path) -> None:
    asked = [(str(tmp_path / name),) for name in "abc"]
    assert len(workers.run_all(pool, once, asked)) == 3
    assert workers.run_one(pool, once, *asked[0]) > 0


def test_a_call_that_all_workers_die_of_is_one_sentence(pool: Loky) -> None:
    with pytest.raises(UserError, match=r"^Expected a worker to live through _exit, but 3 died"):
        workers.run_one(pool, os._exit, 1)


def test_calls_wait_for_room_and_answer_in_order() -> None:
    pool = Loky(8, 2)
    try:
        assert workers.run_all(pool, abs, [(-number,) for number in range(6)]) == list(range(6))
        assert len(pool.pids()) <= 2
    finally:
        pool.stop()


def test_stopping_ends_what_runs_at_once() -> None:
    pool = Loky(2, 4)
    pool.submit(1, os.getpid).result()
    future = pool.submit(1, time.sleep, 60)
    pids = pool.pids()
    began = time.time()
    pool.stop()
    assert isinstance(future.exception(), WorkerLostError)
    assert time.time() - began < 5
    assert not any(map(psutil.pid_exists, pids))


def test_workers_end_with_the_process_that_they_work_for() -> None:
    code = (
        "import os, time\n"
        "from pipelines.workers import Loky\n"
        "pool = Loky(1, 1)\n"
        "print(pool.submit(1, os.getpid).result(), flush=True)\n"
        "pool.submit(1, time.sleep, 600)\n"
        "os.kill(os.getpid(), 9)\n"
    )
    done = subprocess.run(
        [sys.executable, "-c", f"if __name__ == '__main__':\n    exec({code!r})"],
        cwd=ROOT,
        capture_output=True,
        text=True,
    )
    assert done.returncode == -signal.SIGKILL
    worker = int(done.stdout)
    deadline = time.time() + 10
    while psutil.pid_exists(worker) and time.time() < deadline:
        time.sleep(0.1)
    assert not psutil.pid_exists(worker)


def test_more_workers_than_there_is_memory_for_are_refused() -> None:
    with pytest.raises(UserError, match=r"^Expected at most \d+ workers, each with 700 MB, for "):
        workers.local(10_000)


def test_a_pool_takes_no_more_than_there_is_memory_for() -> None:
    pool = Loky(8, 1)
    try:
        assert pool.room(1) == 1
        futures = [pool.submit(1, time.sleep, 1)]
        assert pool.room(1) == 0
        wait(futures)
    finally:
        pool.stop()


@pytest.mark.parametrize(("asked", "size"), [(1, workers.cores()), (3, 3), (0, workers.cores())])
def test_workers_share_all_cores(asked: int, size: int) -> None:
    pool = workers.local(asked)
    assert pool.size == max(size, asked * (workers.cores() // max(1, asked)))
