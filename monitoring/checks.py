"""The checks of a schedule, one at a time: each a process, an MLflow run, and an outcome to tell.

From before a check begins until its outcome is told, the schedule's row says so, and what a kill
interrupts goes on at the next start: an outcome is told then, a check without one is made up for.
"""

import json
import re
import threading
from collections.abc import Iterator, Mapping
from contextlib import contextmanager, suppress
from dataclasses import asdict
from datetime import UTC, datetime
from pathlib import Path
from typing import TYPE_CHECKING, Any

from mlflow.exceptions import MlflowException
from sqlalchemy.exc import SQLAlchemyError

from monitoring import process
from monitoring.alerts import DRIFT, FAILURE, QUIET, STEADY, Outcome
from monitoring.check import TOO_FEW
from monitoring.context import Context
from monitoring.drift import MINIMUM
from monitoring.jobs import complain
from monitoring.process import Lock, Process
from monitoring.retraining import Retraining, due
from monitoring.runs import LENGTH, RUN, Runs, plain
from serving.durable import replacing

if TYPE_CHECKING:
    from monitoring.schedule import ScheduleSettings

MODULE = "monitoring.check"
RECORD = "drift.json"
_SAID = re.compile(
    rf"Expected at least {MINIMUM} images in .*, got (\d+)"
    rf"(?:, and (\d+) files that cannot be read)?(?: \(.*\))?; {TOO_FEW}\."
)
LOOK = 0.5  # seconds between looks at a check that a killed schedule has left behind


class Checks:
    """Checks with the same settings; lock: held by this process and by the check's own."""

    def __init__(
        self,
        settings: "ScheduleSettings",
        runs: Runs,
        retraining: Retraining,
        lock: Lock,
        context: Context,
    ) -> None:
        self._settings, self._runs, self._retraining = settings, runs, retraining
        self._lock, self._context, self._state = lock, context, context.state
        self._working = threading.Lock()
        self._process: Process | None = None

    def resume(self) -> None:
        """Settles what a kill has left, and makes up for the checks that were missed, by one."""
        with self._turn() as ours:
            if ours:
                self._settle_left()
                if self._state["owed"]:
                    self._check()
        self._retraining.resume()

    def check(self) -> None:
        """Checks, and tells; whatever goes wrong is an outcome too."""
        with self._turn() as ours:
            if ours:
                self._settle_left()
                self._check()
        self._retraining.resume()

    def stop(self) -> None:
        """Ends the check that runs."""
        running = self._process  # which the thread that waits for it may forget meanwhile
        if running is not None:
            running.end()

    def wait(self, seconds: float) -> bool:
        """Whether, after so many seconds at most, no check is being settled."""
        return self._working.acquire(timeout=seconds)

    @contextmanager
    def _turn(self) -> Iterator[bool]:
        """Whether a check may run now: false once a stop has come, which ends the wait for that."""
        with self._working:
            try:
                yield self._take()
            except Exception as error:  # noqa: BLE001 - the next check must come, whatever happens
                self._complain("The check went wrong", error)
            finally:
                self._process = None
                self._lock.release()

    def _take(self) -> bool:
        while not self._context.stopping.is_set():
            if self._lock.take():
                return True
            self._context.stopping.wait(LOOK)
        return False

    def _settle_left(self) -> None:
        """What the row says of a check that another process began, or that a stop interrupted."""
        kept = self._state["running"]
        if kept is not None:
            try:
                self._settle_kept(kept)
            except Exception as error:  # noqa: BLE001 - what cannot be told must not stop the others
                self._complain("A check cannot be told of", error)
                self._state.write(running=None)
        with _away():
            self._runs.end_left()

    def _settle_kept(self, kept: Mapping[str, Any]) -> None:
        folder = Path(kept["folder"])
        record = _read(folder / RECORD) if kept["folder"] else {}
        if kept.get("outcome"):
            self._settle(Outcome(**kept["outcome"]), folder)
        elif record:
            self._settle(self._found(record, kept["run"]), folder)
        else:
            self._state.write(running=None)
            process.remove(folder, RECORD)

    def _complain(self, what: str, error: Exception) -> None:
        complain(self._context.redacted(f"{what}: {type(error).__name__}: {error}"))

    def _check(self) -> None:
        """Makes a check and settles it; one that a stop ends stays in the row, to be made again."""
        run, folder = "", Path()
        try:
            self._state.write(running={"folder": "", "run": ""})
            run = self._runs.create(self._settings.output)
            folder = process.scratch()
            self._state.write(running={"folder": str(folder), "run": run})
            outcome = self._outcome(self._run(folder, run), folder, run)
        except (MlflowException, SQLAlchemyError, OSError) as error:
            outcome = self._failed(f"The check cannot be started: {plain(error)}", run, "")
        if outcome is not None:
            self._settle(outcome, folder)
        else:
            with _away():
                self._runs.end_left()

    def _outcome(self, status: int, folder: Path, run: str) -> Outcome | None:
        """The outcome of a process that has ended; None where a stop ended it."""
        if record := _read(folder / RECORD):
            return self._found(record, run)
        if self._context.stopping.is_set():
            return None
        trace = process.said(folder, process.ERRORS)
        sentence = process.complaint(folder, status)
        verdict = QUIET if too_few(sentence) else FAILURE
        return self._failed(sentence, run, trace, verdict)

    def _run(self, folder: Path, run: str) -> int:
        """The exit status of a check in a process of its own."""
        flags = self._settings.flags(folder / RECORD)
        environment = {**self._context.environment, RUN: run}
        self._process = Process(MODULE, flags, environment, folder, self._lock)
        if self._context.stopping.is_set():
            self._process.end()
        return self._process.wait()

    def _found(self, record: dict[str, Any], run: str) -> Outcome:
        report = ""
        with _away():
            report = self._runs.report(run)
        verdict = DRIFT if record["drift"] else STEADY
        return Outcome(verdict, record["verdict"], self._settings.model, run, report, record)

    def _failed(self, sentence: str, run: str, trace: str, verdict: str = FAILURE) -> Outcome:
        """The outcome of a check that did not happen, which its run says too."""
        sentence = self._context.redacted(sentence)[:LENGTH]
        if run:
            with _away():
                self._runs.fail(run, sentence, self._context.redacted(trace))
        return Outcome(verdict, sentence, self._settings.model, run)

    def _settle(self, outcome: Outcome, folder: Path) -> None:
        """Says, writes and tells an outcome; until that is done, the row keeps it."""
        kept = {"folder": str(folder), "run": outcome.run, "outcome": asdict(outcome)}
        self._state.write(running=kept, **self._changes(outcome))
        if outcome.record and self._settings.output:
            _write(Path(self._settings.output), outcome.record)
        following = self._state.time("next_run_time") or datetime.now(UTC)
        self._context.say(f"{outcome.sentence} Next check: {self._context.clock(following)}.")
        if self._context.alerts.tell(outcome, datetime.now(UTC)):
            self._state.write(running=None, owed=None)
            process.remove(folder, RECORD)

    def _changes(self, outcome: Outcome) -> dict[str, Any]:
        """Columns of the row that an outcome changes: drift that is new may start a retraining."""
        if outcome.verdict in (FAILURE, QUIET):
            return {}
        changes: dict[str, Any] = {"verdict": outcome.verdict}
        new = outcome.verdict == DRIFT and self._state["verdict"] != DRIFT
        if new and self._settings.on_drift == "retrain":
            changes["retraining"] = due
        return changes


def too_few(sentence: str) -> bool:
    """Whether a check says that too few images came for one, and that no more could not be read."""
    found = _SAID.fullmatch(sentence)
    return found is not None and sum(int(count or 0) for count in found.groups()) < MINIMUM


@contextmanager
def _away() -> Iterator[None]:
    """Around what the tracking store may refuse while a schedule goes on."""
    try:
        yield
    except Exception as error:  # noqa: BLE001 - stores raise what their libraries do
        complain(f"The tracking store did not do what a check needs: {plain(error)}")


def _read(path: Path) -> dict[str, Any]:
    """A check's drift.json, empty where there is none."""
    with suppress(OSError, ValueError):
        record = json.loads(path.read_bytes())
        if isinstance(record, dict) and {"drift", "verdict"} <= record.keys():
            return record
    return {}


def _write(path: Path, record: Mapping[str, Any]) -> None:
    try:
        with replacing(path) as file:
            file.write(json.dumps(record, indent=2, ensure_ascii=False).encode())
    except OSError as error:
        complain(f"Expected to write {path}, but that failed: {error.strerror}.")
