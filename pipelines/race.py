"""Which architecture the next trial goes to, and which is out of the race.

A race has rounds, each for a third of the trials. In a round the architectures take turns, at first
quick ones first, then slow ones; where time is short, each gets an even share of what is left of
the round, and what one does not need goes to the rest. When its turn comes again, one that cannot
reach the best three any more stops (`reach`): the trials and the time that it would have taken are
spent on those that still improve.
"""

import math
import time
from collections.abc import Callable
from dataclasses import dataclass
from typing import TYPE_CHECKING

from pipelines import layout
from pipelines.dispatch import Dispatcher
from pipelines.search import Study

if TYPE_CHECKING:
    from pipelines.calls import Prepared, Spec

ROUNDS = 3
FEWEST = 3  # trials of the first round: the first params, and two more to see a spread
IN_THE_RUNNING = 3  # architectures whose best must be within reach
CONFIDENCE = 0.95
HEAVY = 5e10  # multiplications of an epoch: about five seconds on one core
HALF = 0.5  # of a trial: what must fit before the deadline for it to be started
TICK, REAP = 2.0, 5.0  # seconds between looks at the clock, and at the trials of others
CLAIM = 0.2  # seconds that a worker is given to claim the last trial

Report = Callable[["Contender"], None]


@dataclass
class Contender:
    """One architecture in the race.

    images: that it trains on; validation: that it is measured on; out: why it stopped; threads: of
    a worker, where that has been measured; ended, seconds: of its trials, as far as `look` saw.
    """

    study: Study
    spec: "Spec"
    prepared: "Prepared"
    images: int
    validation: int
    out: str = ""
    threads: int | None = None
    ended: int = 0
    seconds: float = 0.0

    def look(self) -> None:
        """Reads anew how many trials have ended, and how long they took."""
        self.ended, self.seconds = len(self.study.ended()), self.study.seconds()

    @property
    def code(self) -> str:
        """Its architecture."""
        return self.study.code

    @property
    def is_heavy(self) -> bool:
        """Whether an epoch takes seconds, of a network that many threads can work on."""
        return self.images * self.prepared.work > HEAVY


def rounds(trials: int) -> list[int]:
    """Trials of a study that there are to be at the end of each round."""
    size = max(FEWEST, math.ceil(trials / ROUNDS))
    return [*range(size, trials, size), trials]


def reach(values: list[float], more: int, validation: int) -> float:
    """What the best of `more` further trials stays below, with CONFIDENCE.

    values: of the trials so far, best first, 0..1; validation: images that they were measured on.
    The best half of the values is taken for an exponential tail, whose quantiles are those of
    Weissman (1978, J. Am. Stat. Assoc. 73). Accuracies have an end, so that theirs is lighter, and
    this is on the side of going on. The scale is at least the standard error of the best value.
    Infinite below FEWEST values, which show no tail.
    """
    if len(values) < FEWEST:
        return math.inf
    if not more:
        return values[0]
    top = max(2, len(values) // 2)
    threshold = values[top]
    error = math.sqrt(max(values[0] * (1 - values[0]), 0.0) / max(1, validation))
    scale = max(sum(values[:top]) / top - threshold, error)
    beyond = 1 - CONFIDENCE ** (1 / more)
    return max(values[0], threshold + scale * math.log(top / len(values) / beyond))


class Race:
    """The race itself.

    end: clock time (seconds) when it is over; report: called now and then, when a trial of a
    contender may have ended, here or elsewhere.
    """

    def __init__(
        self,
        contenders: list[Contender],
        dispatcher: Dispatcher,
        speed: layout.Measure,
        end: float,
        report: Report,
    ) -> None:
        self.contenders, self.dispatcher, self.speed = contenders, dispatcher, speed
        self.end, self.report = end, report
        self.pool = dispatcher.pool
        self._reaped = 0.0

    def run(self) -> None:
        """Runs the trials that are still missing, until the last round or the deadline is over."""
        trials = self.contenders[0].spec.settings.trials
        targets = rounds(trials)
        for place, target in enumerate(targets):
            self._round(target, len(targets) - place)
            if target < trials:
                self._settle()
        self._drain()
        while any(c.ended < trials and self._fits(c) for c in self._in()):
            self._round(trials, 1)  # of workers that died meanwhile
            self._drain()
        for contender in self.contenders:
            contender.study.close()

    def _in(self) -> list[Contender]:
        return [contender for contender in self.contenders if not contender.out]

    def _round(self, target: int, left: int) -> None:
        """Trains until each that is in has `target` trials, or the round's time is over."""
        over = time.time() + (self.end - time.time()) / left
        self._judge(self._in())
        for contender in self._in():
            contender.study.top_up(target, contender.prepared.first)
            contender.look()
        # Slow ones first, once that is known: what is left at the end is then short.
        turns = sorted(self._in(), key=lambda contender: -contender.seconds)
        while turns and time.time() < self.end:
            contender = turns.pop(0)
            self._judge([contender])  # again: others have ended trials since
            if not contender.out:
                self._turn(contender, min(self.end, self._share(over, len(turns))))

    def _share(self, over: float, others: int) -> float:
        now = time.time()
        return now + max(0.0, over - now) / (others + 1)

    def _turn(self, contender: Contender, until: float) -> None:
        """Starts trials of one architecture until none waits, or its share of time is over."""
        while time.time() < until:
            threads = self._threads(contender)
            if not self.pool.room(threads):
                self._wait()
                continue
            waiting, awaited = self.dispatcher.tickets(contender.study)
            if not waiting or not self._fits(contender):
                return
            if waiting <= awaited:
                self._wait(CLAIM)
                continue
            self.dispatcher.send(contender.spec, contender.study, threads, self.end)

    def _fits(self, contender: Contender) -> bool:
        """Whether half of a trial can be trained before the deadline."""
        return time.time() + HALF * contender.seconds < self.end

    def _threads(self, contender: Contender) -> int:
        """Threads of a worker for this architecture, measured where that is worth its time."""
        settings = contender.spec.settings
        if settings.backend == "ray" or settings.trial_cpus:
            return min(settings.trial_cpus or 1, max(1, self.pool.size))
        if settings.workers:
            return max(1, self.pool.size // settings.workers)
        shape = contender.prepared.shape
        if contender.threads is None:
            contender.threads = layout.known(contender.code, shape, self.pool.size)
        if not contender.threads and self._is_worth_measuring(contender):
            while self.dispatcher.is_busy:
                self._wait()
            contender.threads = layout.measure(
                self.pool, contender.spec, contender.code, contender.images, self.speed
            )
            layout.keep(contender.code, shape, self.pool.size, contender.threads)
        if not contender.threads and contender.is_heavy and not contender.ended:
            return self.pool.size  # the first trial is what the others are pruned by: soon
        return min(contender.threads or 1, self.pool.size)

    def _is_worth_measuring(self, contender: Contender) -> bool:
        missing = contender.spec.settings.trials - contender.ended
        left = min(self.end - time.time(), missing * contender.seconds / self.pool.size)
        return self.pool.size > 1 and left > layout.WORTH * layout.COST

    def _settle(self) -> None:
        """Waits, cores being free, for no trial that takes long."""
        while self.dispatcher.is_busy and not self.pool.room(1):
            self._wait()

    def _drain(self) -> None:
        """Waits for the trials that run, here and elsewhere."""
        while self.dispatcher.is_busy or (
            time.time() < self.end and any(c.study.running() for c in self._in())
        ):
            self._wait()

    def _wait(self, seconds: float = TICK) -> None:
        """Waits until a trial ends, or a little, and deals with what has ended since."""
        for study, _ in self.dispatcher.collect(seconds):
            self._look(next(c for c in self.contenders if c.study is study))
        now = time.time()
        if now - self._reaped > REAP:
            for contender in self._in():
                contender.study.reap(lost=self.dispatcher.lost)
                self._look(contender)
            self._reaped = now

    def _look(self, contender: Contender) -> None:
        contender.look()
        self.report(contender)

    def _judge(self, contenders: list[Contender]) -> None:
        """Stops those of them that cannot reach the best three any more, and that nobody trains."""
        best = {c.code: (c.study.values() or [0.0])[0] for c in self.contenders}
        ranked = sorted(best.values(), reverse=True)
        if len(ranked) <= IN_THE_RUNNING:
            return
        third = ranked[IN_THE_RUNNING - 1]
        for contender in (c for c in contenders if not c.study.running()):
            done = len(contender.study.ended())
            more = contender.spec.settings.trials - done
            most = reach(contender.study.values(), more, contender.validation)
            if more > 0 and most < third:
                contender.out = (
                    f"stopped after {done} trials: at most {most:.3f} was in reach, and the third "
                    f"best has {third:.3f}"
                )
                contender.study.close()
