"""Workers and threads, side by side, and which the search chooses: `python -m benchmarks.layouts`.

Of each architecture on pixels: trials an hour, at the epochs that a trial trains on average, with
one worker on all cores, ..., one worker a core. About half a minute an architecture.
"""

import statistics
from dataclasses import dataclass

from benchmarks import places
from benchmarks.timing import table
from pipelines import calls, data, layout, workers
from pipelines.calls import Spec
from pipelines.config import SearchSettings
from pipelines.workers import Loky
from serving import settings as entry
from serving.settings import describe


@dataclass(frozen=True)
class LayoutSettings:
    """What to measure."""

    data: str = describe("folder of labelled images; empty: scenes of LOOKOUT_DATA, or digits", "")
    architectures: str = describe("comma list of codes", "nn,dnnd,cnn,dcnn")
    repeats: int = describe("of each layout, in turn", 3)
    epochs: int = describe("of a trial", 20)


def main(settings: LayoutSettings) -> int:
    """Prints each layout's trials an hour, and what the choice costs against the best."""
    source = places.source(settings.data)
    dataset = data.prepare(source, 0)
    data.keep(dataset)
    images = len(dataset.rows("train"))
    pool = workers.local(0)
    rows = {}
    for code in settings.architectures.split(","):
        spec = Spec("", SearchSettings(data=source, epochs=settings.epochs), dataset.digest)
        workers.run_one(pool, calls.prepare, spec, code)
        rates: dict[int, list[float]] = {}
        for _ in range(settings.repeats):
            for threads in layout.candidates(pool.size):
                rates.setdefault(threads, []).append(_rate(pool, spec, code, threads, images))
        chosen = layout.measure(pool, spec, code, images, calls.speed)
        medians = {threads: statistics.median(found) for threads, found in rates.items()}
        best = max(medians.values())
        shown = [
            f"{pool.size // threads} x {threads} threads {rate:.1f}"
            for threads, rate in medians.items()
        ]
        cost = 1 - medians[chosen] / best
        one = 1 - medians[1] / best
        rows[code] = (
            f"{', '.join(shown)}; chosen {pool.size // chosen} x {chosen} ({cost:.1%} below the "
            f"best; unmeasured, with one thread each, {one:.1%})"
        )
    table(f"{dataset.name}, {images} images: trials an hour, all workers together", rows)
    pool.stop()
    return 0


def _rate(pool: Loky, spec: Spec, code: str, threads: int, images: int) -> float:
    together = [(spec, code)] * (pool.size // threads)
    speeds = workers.run_all(pool, calls.speed, together, threads)
    return 3600 * layout.trials_a_second(speeds, images * layout.EPOCHS * spec.settings.epochs)


if __name__ == "__main__":
    entry.run(LayoutSettings, main)
