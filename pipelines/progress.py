"""Progress over images and trials: a bar on a terminal, and lines that say what became of them."""

import sys
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager

from tqdm import tqdm

from pipelines import search
from pipelines.search import Study


@contextmanager
def progress(label: str, images: int) -> Iterator[Callable[[int], object]]:
    """Yields what to call with the number of images that are done."""
    start = time.perf_counter()
    with tqdm(total=images, desc=label, unit="image", disable=None, leave=False) as bar:
        yield bar.update
    seconds = time.perf_counter() - start
    print(f"{label}: {images} images in {seconds:.1f} s", file=sys.stderr, flush=True)


class Trials:
    """Progress over the trials of a search: on a terminal also a bar, for them all.

    studies: at their begin, or where they are resumed; end: clock time (seconds) when it is over.
    """

    def __init__(self, studies: list[Study], trials: int, end: float) -> None:
        self.trials, self.end, self.start = trials, end, time.time()
        self.seen = {study.code: {t.number for t in study.ended()} for study in studies}
        self.before = self._done()
        total = trials * len(studies)
        self.bar = tqdm(total=total, initial=self.before, unit="trial", disable=None, leave=False)

    def report(self, study: Study) -> None:
        """A line for each trial of a study that has ended since: its value, the best, the time."""
        seen = self.seen[study.code]
        for trial in study.ended():
            if trial.number not in seen:
                seen.add(trial.number)
                self.bar.write(self._line(study, search.ending(trial)), file=sys.stdout)
                sys.stdout.flush()
                self.bar.update()

    def close(self) -> None:
        """Ends the bar."""
        self.bar.close()

    def _line(self, study: Study, ending: str) -> str:
        best = study.best_trial()
        so_far = f"best {best.value:.4f} (trial {best.number})" if best else "none complete"
        done, passed = self._done(), time.time() - self.start
        left = passed / (done - self.before) * (self.trials * len(self.seen) - done)
        left = max(0.0, min(left, self.end - time.time()))
        place = f"{len(self.seen[study.code])}/{self.trials}"
        times = f"{passed:.0f} s, ~{left:.0f} s left"
        return f"{study.code:<8} trial {place}  {ending}, {so_far}, {times}"

    def _done(self) -> int:
        return sum(map(len, self.seen.values()))
