"""A retraining that drift starts: a process of its own, watched in a thread, its result told.

What is begun is in the schedule's row until people know how it ended: `due`, `running`, `ended`;
`again` where drift has begun since. A stop ends a retraining and leaves it due; one that a kill
leaves behind is waited for.
"""

import threading
from collections.abc import Mapping
from typing import Any

from monitoring import process
from monitoring.alerts import RETRAINED, told_of_retraining
from monitoring.context import Context
from monitoring.jobs import complain
from monitoring.process import Lock, Process

MODULE = "pipelines.retrain"
MOST = 1000  # characters of what it said
LOOK = 1.0  # seconds between looks at a retraining that another process has begun


class Retraining:
    """At most one at a time, of a schedule and, by `lock`, of a model on this machine.

    flags: of the module; one is `model`.
    """

    def __init__(self, flags: Mapping[str, str], lock: Lock, context: Context) -> None:
        self._flags, self._lock, self._context = flags, lock, context
        self._thread: threading.Thread | None = None
        self._process: Process | None = None

    def resume(self) -> None:
        """Goes on with what the row says: begins, watches or tells, in a thread of its own."""
        if self._context.state["retraining"] is None or self._context.stopping.is_set():
            return
        if self._thread is None or not self._thread.is_alive():
            self._thread = threading.Thread(target=self._run, name="retraining", daemon=True)
            self._thread.start()

    def stop(self) -> None:
        """Ends the process that runs, if one does."""
        running = self._process
        if running is not None:
            running.end()
        if self._thread is not None:
            self._thread.join(process.SECONDS)

    def _run(self) -> None:
        try:
            state, stopping = self._context.state, self._context.stopping
            while (kept := state["retraining"]) and not stopping.is_set():
                if kept["stage"] != "ended" and self._take():
                    try:
                        self._end(*(self._train() if kept["stage"] == "due" else self._unknown()))
                    finally:
                        self._lock.release()
                self._tell()
        except Exception as error:  # noqa: BLE001 - a retraining that fails stops nothing
            told = f"The retraining cannot be watched: {type(error).__name__}: {error}"
            complain(self._context.redacted(told))

    def _take(self) -> bool:
        """Waits for the lock; False where a stop comes first."""
        while not self._context.stopping.is_set():
            if self._lock.take():
                return True
            self._context.stopping.wait(LOOK)
        return False

    def _train(self) -> tuple[bool | None, str]:
        """Whether the retraining ended well, and a sentence."""
        try:
            folder = process.scratch()
        except OSError as error:
            return False, f"It cannot be started: {error.strerror}."
        try:
            self._context.state.write(retraining={"stage": "running"})
            self._context.say(f"Retraining {self._flags['model']}.")
            environment = self._context.environment
            self._process = Process(MODULE, self._flags, environment, folder, self._lock)
            if self._context.stopping.is_set():
                self._process.end()
            status = self._process.wait()
            if status == 0:  # its last paragraph says what became of the candidate
                said = process.said(folder, process.OUTPUT).rsplit("\n\n", 1)[-1]
                return True, self._context.redacted(said)[:MOST] or "It ended well."
            return False, self._context.redacted(process.complaint(folder, status))[:MOST]
        except OSError as error:
            return False, f"It cannot be started: {error.strerror}."
        finally:
            process.remove(folder)

    def _unknown(self) -> tuple[bool | None, str]:
        return None, (
            "The schedule was killed while it ran, so how it ended is not known here; see its run "
            "in MLflow, and start another with `mlflow run . -e retrain` if that one did not end."
        )

    def _end(self, well: bool | None, sentence: str) -> None:
        if self._context.stopping.is_set() and not well:
            self._context.state.write(retraining={"stage": "due"})
            return
        ended = {"stage": "ended", "well": well, "sentence": sentence}
        self._context.state.write(retraining=lambda kept: kept | ended)
        self._context.say(f"{RETRAINED[well]}: {sentence.splitlines()[0]}")

    def _tell(self) -> None:
        """Tells how the retraining ended; a dead letter is told, as it must not hold up others."""
        kept = self._context.state["retraining"]
        if kept and kept["stage"] == "ended":
            told = told_of_retraining(self._flags["model"], kept["sentence"], well=kept["well"])
            if self._context.alerts.deliver(told) or not self._context.stopping.is_set():
                self._context.state.write(
                    retraining=lambda ended: {"stage": "due"} if "again" in ended else None
                )


def due(kept: Mapping[str, Any] | None) -> dict[str, Any]:
    """The row's `retraining` once drift begins; kept: that before. One that runs is made again."""
    if kept is None or kept["stage"] == "due":
        return {"stage": "due"}
    return {**kept, "again": True}
