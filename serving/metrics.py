"""What the app tells Prometheus, at `/metrics`: of all its worker processes together.

Each keeps its counts in files of the folder PROMETHEUS_MULTIPROC_DIR, whichever is asked adds them.
"""

import os
from collections.abc import Sequence
from contextlib import suppress
from pathlib import Path

import psutil
from prometheus_client import CollectorRegistry, Counter, Gauge, Histogram, generate_latest
from prometheus_client.multiprocess import MultiProcessCollector, mark_process_dead

from serving.champion import Champion
from serving.log import Log

SECONDS = (0.005, 0.01, 0.02, 0.03, 0.05, 0.075, 0.1, 0.15, 0.25, 0.5, 1, 2.5, 5, 10, 30)


class Metrics:
    """One worker's counts; the gate and the model's answers tell it what happens.

    paths: that are told by name, all others as one.
    """

    def __init__(self, champion: Champion, log: Log | None, paths: frozenset[str]) -> None:
        self._champion, self._log, self._paths = champion, log, paths
        self._requests = Counter("lookout_requests", "Requests", ["path", "status"], registry=None)
        self._seconds = Histogram(
            "lookout_request_seconds", "Till the answer", ["path"], buckets=SECONDS, registry=None
        )
        self._in_flight = _gauge("lookout_requests_in_flight", "POST requests answered now")
        self._images = Counter("lookout_images", "Images answered", registry=None)
        self._labels = Counter("lookout_labels", "Images by label", ["label"], registry=None)
        self._model = _gauge("lookout_model", "Workers that answer with it", "name", "version")
        self._queue = _gauge("lookout_log_queue", "Rows that wait for the log")
        self._elsewhere = {
            "swaps": Counter("lookout_model_swaps", "Models taken over", registry=None),
            "failures": Counter("lookout_model_failures", "That did not load", registry=None),
            "written": Counter("lookout_log_written", "Rows written to the log", registry=None),
            "dropped": Counter("lookout_log_dropped", "Rows that the log lost", registry=None),
        }
        self._known = dict.fromkeys(self._elsewhere, 0)
        self._told_model: tuple[str, str] | None = None

    def begun(self) -> None:
        """A request has a place."""
        self._in_flight.inc()

    def ended(self) -> None:
        """It has given its place back."""
        self._in_flight.dec()

    def answered(self, path: str, status: int, seconds: float) -> None:
        """A request has its answer; paths that there are not count as one."""
        known = path if path in self._paths else "other"
        self._requests.labels(known, status).inc()
        self._seconds.labels(known).observe(seconds)

    def told(self, labels: Sequence[str]) -> None:
        """A model has answered images."""
        self._images.inc(len(labels))
        for label in labels:
            self._labels.labels(label).inc()

    def look(self) -> None:
        """Takes over what the champion and the log have counted."""
        served = self._champion.served
        model = (served.name, served.version) if served else None
        if model != self._told_model:
            if self._told_model:
                self._model.labels(*self._told_model).set(0)
            if model:
                self._model.labels(*model).set(1)
            self._told_model = model
        counts = {"swaps": self._champion.swaps, "failures": self._champion.failures}
        if self._log:
            self._queue.set(self._log.queued)
            counts |= {"written": self._log.written, "dropped": self._log.dropped}
        for name, count in counts.items():
            self._elsewhere[name].inc(count - self._known[name])
            self._known[name] = count

    def text(self) -> bytes:
        """All workers' metrics, in Prometheus' text format."""
        self.look()
        folder = os.environ["PROMETHEUS_MULTIPROC_DIR"]
        for file in Path(folder).glob("gauge_live*.db"):
            worker = int(file.stem.rpartition("_")[2])
            if not psutil.pid_exists(worker):
                with suppress(FileNotFoundError):  # another worker was as quick
                    mark_process_dead(worker, folder)  # type: ignore[no-untyped-call]
        registry = CollectorRegistry()
        MultiProcessCollector(registry, folder)  # type: ignore[no-untyped-call]
        return generate_latest(registry)


def _gauge(name: str, text: str, *labels: str) -> Gauge:
    """A gauge whose value is the sum of the living workers'."""
    return Gauge(name, text, labels, registry=None, multiprocess_mode="livesum")
