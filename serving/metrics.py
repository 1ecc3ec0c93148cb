"""What the app tells Prometheus, at `/metrics`."""

from collections.abc import Iterator, Sequence

from prometheus_client import (
    CollectorRegistry,
    Counter,
    Gauge,
    Histogram,
    disable_created_metrics,
    generate_latest,
)
from prometheus_client.core import CounterMetricFamily, GaugeMetricFamily, Metric
from prometheus_client.registry import Collector

from serving.champion import Champion
from serving.log import Log

SECONDS = (0.005, 0.01, 0.02, 0.03, 0.05, 0.075, 0.1, 0.15, 0.25, 0.5, 1, 2.5, 5, 10, 30)


class Metrics:
    """Counters of one app; the gate and the model's answers tell it what happens."""

    def __init__(self, champion: Champion, log: Log | None, paths: frozenset[str]) -> None:
        self._paths = paths
        self._registry = CollectorRegistry()
        disable_created_metrics()  # type: ignore[no-untyped-call]
        self._requests = Counter("lookout_requests", "Requests", ["path", "status"], registry=None)
        self._seconds = Histogram(
            "lookout_request_seconds", "Till the answer", ["path"], buckets=SECONDS, registry=None
        )
        self._in_flight = Gauge("lookout_requests_in_flight", "Answered now", registry=None)
        self._images = Counter("lookout_images", "Images answered", registry=None)
        self._labels = Counter("lookout_labels", "Images by label", ["label"], registry=None)
        for one in (self._requests, self._seconds, self._in_flight, self._images, self._labels):
            self._registry.register(one)
        self._registry.register(_State(champion, log))

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

    def text(self) -> bytes:
        """All of it, in Prometheus' text format."""
        return generate_latest(self._registry)


class _State(Collector):
    """What is counted elsewhere, read when it is asked for."""

    def __init__(self, champion: Champion, log: Log | None) -> None:
        self._champion, self._log = champion, log

    def collect(self) -> Iterator[Metric]:
        served = self._champion.served
        model = GaugeMetricFamily(
            "lookout_model", "1 for the model that answers", labels=["name", "version"]
        )
        if served:
            model.add_metric([served.name, served.version], 1)
        yield model
        yield CounterMetricFamily(
            "lookout_model_swaps", "Models taken over", value=self._champion.swaps
        )
        yield CounterMetricFamily(
            "lookout_model_failures", "Models that did not load", value=self._champion.failures
        )
        if self._log:
            yield GaugeMetricFamily(
                "lookout_log_queue", "Rows that wait for the log", value=self._log.queued
            )
            yield CounterMetricFamily(
                "lookout_log_written", "Rows written to the log", value=self._log.written
            )
            yield CounterMetricFamily(
                "lookout_log_dropped", "Rows that the log lost", value=self._log.dropped
            )
