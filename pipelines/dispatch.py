"""Sends workers for the trials that wait: what a search and who helps it from elsewhere share."""

import time
from collections.abc import Callable
from concurrent.futures import FIRST_COMPLETED, Future, wait
from typing import TYPE_CHECKING

from pipelines import processes
from pipelines.search import Lost, Study
from pipelines.workers import RETRIES, Pool, WorkerLostError
from serving.settings import require

if TYPE_CHECKING:
    from pipelines.calls import Spec

Train = Callable[["Spec", str, float, str], int | None]


class Dispatcher:
    """Workers of a pool that were sent for trials.

    train: what a worker is told; lost: told the run of a trial whose worker died.
    """

    def __init__(self, pool: Pool, train: Train, lost: Lost) -> None:
        self.pool, self.train, self.lost = pool, train, lost
        self.name = processes.name()
        self._futures: dict[Future[int | None], tuple[Study, str]] = {}
        self._sent = self._in_vain = 0

    @property
    def is_busy(self) -> bool:
        """Whether a worker is out."""
        return bool(self._futures)

    def tickets(self, study: Study) -> tuple[int, int]:
        """How many of a study's trials wait, and for how many of them a worker is on its way."""
        # Counted before the storage is asked: who claims in between is then on his way too long,
        # rather than one more sent for a trial that is taken.
        sent = sum(of is study and not f.done() for f, (of, _) in self._futures.items())
        waiting, claimed = study.tickets(self.name)
        return waiting, max(0, sent - claimed)

    def send(self, spec: "Spec", study: Study, threads: int, end: float) -> None:
        """Sends a worker for the next trial; end: clock time (seconds) when it must be done."""
        self._sent += 1
        ticket = f"{self.name}/{self._sent}"
        future = self.pool.submit(threads, self.train, spec, study.code, end, ticket)
        self._futures[future] = study, ticket

    def collect(self, seconds: float) -> list[tuple[Study, int | None]]:
        """Waits until a worker is back, or so long; returns the trials' numbers of those that are.

        Trials of workers that died are enqueued again. Raises UserError where they keep dying
        before they have claimed one, which no trial is to blame for.
        """
        if not self._futures:
            time.sleep(seconds)
        back: list[tuple[Study, int | None]] = []
        for future in wait(self._futures, seconds, FIRST_COMPLETED).done:
            study, ticket = self._futures.pop(future)
            try:
                back.append((study, future.result()))
                self._in_vain = 0
            except WorkerLostError:
                back.append((study, None))
                self._give_up(study, ticket)
        return back

    def _give_up(self, study: Study, ticket: str) -> None:
        study.reap(blame=True, lost=self.lost)
        self._in_vain = 0 if study.was_claimed(ticket) else self._in_vain + 1
        require(
            self._in_vain <= RETRIES,
            "Expected workers to live until they train, but they keep dying before that; free "
            "memory, or ask for fewer with `-P workers=1`.",
        )
