"""Where trials are trained: processes of this machine, or a Ray cluster.

On one machine a worker is forked from a process that has imported TensorFlow and done nothing with
it: that takes 20 ms and 340 MB, where a process of its own takes 8 s or more and 950 MB. So one can
be replaced at any time: when it dies, when it has grown, when another number of threads is better.
loky's executor (from joblib) notices a death and keeps the rest going.
"""

import os
import signal
import threading
import time
from collections.abc import Callable, Sequence
from concurrent.futures import FIRST_COMPLETED, Future, wait
from contextlib import suppress
from pathlib import Path
from typing import Any, Protocol, TypeVar

import joblib
import mlflow
import psutil
from joblib.externals.loky.process_executor import (
    ProcessPoolExecutor,
    ShutdownExecutorError,
    TerminatedWorkerError,
)
from tqdm import tqdm

from pipelines import database, forks, processes
from pipelines.config import SearchSettings
from serving.settings import UserError, quiet, require

GROWTH = 80e6  # bytes that a worker may grow by after its first call, until it is replaced
RETRIES = 2  # of a call whose worker died
PROCESS = 700e6  # bytes of one that trains a small network
BUSY = 0.1  # seconds between looks at a pool without room
WATCH_SECONDS = 1.0  # between a worker's looks for its parent
SECRET = ("PASSWORD", "TOKEN", "KEY")
ROOT = Path(__file__).parents[1]

T = TypeVar("T")


class WorkerLostError(Exception):
    """A worker's process, or its machine, is gone; what it was doing is not done."""


class Pool(Protocol):
    """Runs calls in other processes."""

    @property
    def size(self) -> int:
        """Cores that there are."""
        ...

    def room(self, threads: int) -> int:
        """How many more workers there may be with so many threads."""
        ...

    def submit(self, threads: int, call: Callable[..., T], *arguments: Any) -> "Future[T]":
        """Runs a call on so many threads; its future raises WorkerLostError where that died."""
        ...

    def stop(self) -> None:
        """Ends all workers, whatever they are doing."""
        ...


def run_all(
    pool: Pool, call: Callable[..., T], every: Sequence[tuple[Any, ...]], threads: int = 1
) -> list[T]:
    """Results of calls that may be made again, in order; as many at once as there is room for.

    every: the arguments of each. Raises UserError where a worker dies of one again and again.
    """
    results: dict[int, T] = {}
    waiting = dict.fromkeys(range(len(every)), 0)  # place: deaths
    running: dict[Future[T], tuple[int, int]] = {}
    while waiting or running:
        while waiting and pool.room(threads):
            place = next(iter(waiting))
            running[pool.submit(threads, call, *every[place])] = place, waiting.pop(place)
        if not running:  # the pool is busy with what others have submitted
            time.sleep(BUSY)
        for future in wait(running, return_when=FIRST_COMPLETED).done:
            place, deaths = running.pop(future)
            try:
                results[place] = future.result()
            except WorkerLostError as error:
                require(
                    deaths < RETRIES,
                    f"Expected a worker to live through {call.__name__}, but {deaths + 1} died of "
                    f"it ({error}); free memory, or ask for fewer with `-P workers=1`.",
                )
                waiting[place] = deaths + 1
    return [results[place] for place in range(len(every))]


def run_one(pool: Pool, call: Callable[..., T], *arguments: Any) -> T:
    """As `run_all`, of one call."""
    return run_all(pool, call, [arguments])[0]


def cores() -> int:
    """Cores that this process may use."""
    return int(joblib.cpu_count())


def memory() -> float:
    """Bytes of memory that are free: of the machine, or what its container is left."""
    free = float(psutil.virtual_memory().available)
    with suppress(OSError, ValueError):
        group = Path("/sys/fs/cgroup")
        limit = float((group / "memory.max").read_text())  # ValueError: "max"
        used = float((group / "memory.current").read_text())
        counts = dict(line.split() for line in (group / "memory.stat").read_text().splitlines())
        free = min(free, limit - used + float(counts["inactive_file"]))  # a cache gives way
    return free


def require_memory(workers: int) -> None:
    """Raises UserError where the machine has no memory for so many workers."""
    most = max(1, int(memory() / PROCESS))
    require(
        workers <= most,
        f"Expected at most {most} workers, each with {PROCESS / 1e6:.0f} MB, for the "
        f"{memory() / 1e9:.1f} GB of memory that are free, got {workers}.",
    )


def local(workers: int) -> "Loky":
    """Workers on this machine; `workers` 0: as many as it has cores and memory for.

    Raises UserError where there is no memory for as many as were asked for.
    """
    require_memory(workers)
    size = workers * max(1, cores() // workers) if workers else cores()
    return Loky(size, workers or int(memory() / PROCESS))


class Loky:
    """Worker processes of this machine."""

    def __init__(self, size: int, most: int) -> None:
        self.size, self.most = size, max(1, most)
        self._lock = threading.Lock()
        self._idle: list[_Worker] = []
        self._busy: list[_Worker] = []
        self._context = forks.context()

    def room(self, threads: int) -> int:
        """As Pool: what there are cores and memory for."""
        with self._lock:
            free = self.size - sum(worker.threads for worker in self._busy)
            return max(0, min(free // threads, self.most - len(self._busy)))

    def submit(self, threads: int, call: Callable[..., T], *arguments: Any) -> "Future[T]":
        """As Pool."""
        outer: Future[T] = Future()

        def done(inner: "Future[tuple[T, int]]") -> None:
            error = inner.exception()
            if error is not None:
                lost = isinstance(error, TerminatedWorkerError | ShutdownExecutorError)
                self._give_back(worker, alive=not lost)
                outer.set_exception(WorkerLostError(str(error)) if lost else error)
                return
            result, resident = inner.result()
            self._give_back(worker, alive=not worker.has_grown(resident))
            outer.set_result(result)

        while True:
            worker = self._take(threads)
            try:
                inner = worker.executor.submit(_measured, call, *arguments)
            except (TerminatedWorkerError, ShutdownExecutorError):  # it was killed while idle
                self._give_back(worker, alive=False)
                continue
            inner.add_done_callback(done)
            return outer

    def pids(self) -> list[int]:
        """Process ids of the workers."""
        with self._lock:
            return [pid for worker in self._busy + self._idle for pid in worker.pids()]

    def stop(self) -> None:
        """As Pool."""
        with self._lock:
            workers, self._busy, self._idle = self._busy + self._idle, [], []
        for worker in workers:
            worker.stop(wait=True)

    def _take(self, threads: int) -> "_Worker":
        with self._lock:
            for worker in self._idle:
                if worker.threads == threads:
                    self._idle.remove(worker)
                    break
            else:
                while self._idle:  # a fork is cheaper than their memory
                    self._idle.pop().stop()
                worker = _Worker(self._context, threads)
            self._busy.append(worker)
            return worker

    def _give_back(self, worker: "_Worker", *, alive: bool) -> None:
        with self._lock:
            if worker not in self._busy:  # stopped meanwhile
                return
            self._busy.remove(worker)
            if alive:
                self._idle.append(worker)
        if not alive:
            worker.stop()


class _Worker:
    """One process, and loky's executor for it alone: its death is nobody else's."""

    def __init__(self, context: Any, threads: int) -> None:
        self.threads, self.resident = threads, 0
        self.executor = ProcessPoolExecutor(
            max_workers=1,
            context=context,
            initializer=_enter,
            initargs=(threads, processes.name()),
        )

    def has_grown(self, resident: int) -> bool:
        """Whether it holds GROWTH more than after its first call."""
        self.resident = self.resident or resident
        return resident - self.resident > GROWTH

    def pids(self) -> list[int]:
        return list(self.executor._processes)

    def stop(self, *, wait: bool = False) -> None:
        for pid in self.pids():
            with suppress(ProcessLookupError):
                os.kill(pid, signal.SIGKILL)
        # Not `kill_workers`: what was submitted just before would end its thread with a KeyError.
        self.executor.shutdown(wait=wait)


def _enter(threads: int, parent: str) -> None:
    """Begins a worker's life: silent, deaf to Ctrl-C, and over when its parent's is."""
    quiet()
    tqdm.set_lock(threading.RLock())  # its own would be a semaphore that a kill leaves behind
    signal.signal(signal.SIGINT, signal.SIG_IGN)  # the parent ends it
    signal.signal(signal.SIGTERM, signal.SIG_DFL)
    threading.Thread(target=_watch, args=(parent,), daemon=True, name="watch").start()
    from pipelines import backend

    with backend.start_up():
        backend.use_threads(threads)


def _watch(parent: str) -> None:
    while not processes.is_gone(parent):
        time.sleep(WATCH_SECONDS)
    os._exit(1)


def _measured(call: Callable[..., T], *arguments: Any) -> tuple[T, int]:
    result = call(*arguments)
    return result, psutil.Process().memory_info().rss


def on_ray(settings: SearchSettings) -> "Ray":
    """Workers on the Ray cluster at RAY_ADDRESS, or on one that is started here.

    Raises UserError where Ray is not installed, or does not answer.
    """
    try:
        import ray
    except ImportError as error:
        raise UserError(
            "Expected Ray to be installed for backend=ray; run `pip install -r "
            "requirements-ray.txt` in this environment, and use --env-manager local."
        ) from error
    try:
        ray.init(
            address=os.environ.get("RAY_ADDRESS"),
            runtime_env={"env_vars": _variables()},
            log_to_driver=False,
            logging_level="ERROR",
        )
    except (ConnectionError, RuntimeError) as error:
        raise UserError(
            f"Expected a Ray cluster at RAY_ADDRESS={os.environ.get('RAY_ADDRESS', '')}, but none "
            "answers; start it with `ray start --head`."
        ) from error
    try:
        _require_node(ray, settings)
    except UserError:
        ray.shutdown()
        raise
    return Ray(ray, settings)


def _require_node(ray: Any, settings: SearchSettings) -> None:
    """Raises UserError where no node has what a trial asks for: Ray would wait for one for ever."""
    asked = {"CPU": settings.trial_cpus or 1, "GPU": settings.trial_gpus}
    nodes = [node["Resources"] for node in ray.nodes() if node["Alive"]]
    require(
        any(all(node.get(kind, 0) >= count for kind, count in asked.items()) for node in nodes),
        f"Expected a node with {asked['CPU']:g} CPUs and {asked['GPU']:g} GPUs for a trial, but of "
        f"{len(nodes)} nodes none has them; ask for less with trial_cpus and trial_gpus.",
    )


def _variables() -> dict[str, str]:
    """What a worker on another node must know of this process's environment."""
    names = [name for name in os.environ if name.startswith(("LOOKOUT_", "MLFLOW_", "TF_"))]
    names = [name for name in names if not name.endswith(SECRET)]  # Ray shows what it is given
    tracking = mlflow.get_tracking_uri()
    if "://" in tracking and not tracking.startswith(("http", "databricks", "file")):
        tracking = database.from_anywhere(tracking)
    own = {"PYTHONPATH": str(ROOT), "MLFLOW_TRACKING_URI": tracking}
    return {name: os.environ[name] for name in names if name != "MLFLOW_RUN_ID"} | own


class Ray:
    """Ray tasks, each on the CPUs and GPUs that a trial asks for."""

    def __init__(self, ray: Any, settings: SearchSettings) -> None:
        self.ray, self.settings = ray, settings
        self._running: set[Future[Any]] = set()

    @property
    def size(self) -> int:
        """Cores of the cluster as it is now, or fewer where GPUs or `workers` are."""
        there = self.ray.cluster_resources()
        cpus = self.settings.trial_cpus or 1
        at_once = there.get("CPU", 0) // cpus
        if self.settings.trial_gpus:
            at_once = min(at_once, there.get("GPU", 0) // self.settings.trial_gpus)
        return int(min(at_once, self.settings.workers or at_once) * cpus)

    def room(self, threads: int) -> int:
        """As Pool."""
        self._running = {future for future in self._running if not future.done()}
        free = self.size - len(self._running) * (self.settings.trial_cpus or 1)
        return max(0, free // threads)

    def submit(self, threads: int, call: Callable[..., T], *arguments: Any) -> "Future[T]":
        """As Pool; a call that is lost with its node is not made again: its trial is."""
        options = {"num_cpus": threads, "num_gpus": self.settings.trial_gpus, "max_retries": 0}
        task = self.ray.remote(_on_node).options(**options)
        outer: Future[T] = Future()

        def done(inner: "Future[T]") -> None:
            error = inner.exception()
            if error is None:
                outer.set_result(inner.result())
            elif isinstance(error, self.ray.exceptions.RayTaskError):
                outer.set_exception(error.cause or error)
            else:
                outer.set_exception(WorkerLostError(str(error).splitlines()[0]))

        task.remote(threads, call, *arguments).future().add_done_callback(done)
        self._running.add(outer)
        return outer

    def stop(self) -> None:
        """As Pool."""
        self.ray.shutdown()


def _on_node(threads: int, call: Callable[..., T], *arguments: Any) -> T:
    from pipelines import backend

    quiet()
    with backend.start_up(), suppress(RuntimeError):  # of a process that has trained before
        backend.use_threads(threads)
    return call(*arguments)
