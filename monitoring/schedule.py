"""Drift checks by cron expression, until stopped, with alerts and, if that is wanted, retraining.

    python -m monitoring.schedule --cron '0 * * * *' --model models:/NAME@champion --images FOLDER

Each check is a process and an MLflow run of its own. What a restart must know is in the database
`jobs`. SIGTERM ends the schedule with status 0, Ctrl-C with 130; 2 is a mistake in the settings.
"""

import hashlib
import json
import logging
import os
import signal
import tempfile
import threading
from collections.abc import Sequence
from dataclasses import asdict, dataclass, fields
from datetime import UTC, datetime
from pathlib import Path
from queue import SimpleQueue
from typing import Any
from urllib.parse import quote, quote_plus
from zoneinfo import ZoneInfo

from apscheduler.events import EVENT_JOB_MAX_INSTANCES, JobSubmissionEvent
from apscheduler.executors.pool import ThreadPoolExecutor
from apscheduler.jobstores.memory import MemoryJobStore
from apscheduler.schedulers.background import BackgroundScheduler
from sqlalchemy import URL, make_url
from sqlalchemy.exc import ArgumentError

from monitoring import alerts, cron, inference
from monitoring.alerts import Alerts
from monitoring.check import MonitorSettings
from monitoring.checks import Checks
from monitoring.context import Context
from monitoring.jobs import JobStore, State, open_jobs
from monitoring.process import Lock
from monitoring.retraining import Retraining
from monitoring.runs import HURRY, RUN, Runs
from serving.settings import UserError, describe, require, run
from serving.uri import parse, without_password

ON_DRIFT = ("alert", "retrain")
STOP = 10.0  # seconds that a check which was ended may take to be written down
LOG = "LOOKOUT_LOG"  # the variable that `--log=env` stands for


@dataclass(frozen=True, kw_only=True)
class ScheduleSettings(MonitorSettings):
    """Checks for drift by cron expression, until stopped."""

    cron: str = describe("when to check: minute, hour, day, month, day of the week")
    timezone: str = describe("of `cron`, as UTC or Europe/Berlin", "UTC")
    jobs: str = describe("database URL of what a restart must know", "sqlite:///schedule.db")
    on_drift: str = describe(f"what new drift starts: {' or '.join(ON_DRIFT)}", "alert")
    promote: bool = describe("let a retrained model become champion", False)

    def __post_init__(self) -> None:
        """Raises UserError for what no check could be made with."""
        super().__post_init__()
        parse(self.model)
        cron.trigger(self.cron, self.timezone)
        open_jobs(self.jobs)
        if self.log:
            inference.url(self.log)
        require(
            not (os.environ.get(RUN) and _passwords(make_url(self.jobs))),
            "Expected `jobs` without a password, since `mlflow run` logs its parameters and has "
            "logged this one: change it, and give it in PGPASSWORD or in a password file.",
        )
        require(
            self.on_drift in ON_DRIFT,
            f"Unknown on_drift {self.on_drift!r}; choose one of {', '.join(ON_DRIFT)}.",
        )
        require(
            self.on_drift != "retrain" or bool(self.log),
            "Expected `log` with on_drift=retrain, which learns from the corrections in it; give "
            "the inference log's URL, or on_drift=alert.",
        )

    @property
    def id(self) -> str:
        """Of the schedule: that of one model and one source of images stays the same."""
        log = inference.public(self.log) if self.log else ""
        return _digest(self.model, _absolute(self.images), _absolute(self.scores), log)

    @property
    def public(self) -> dict[str, Any]:
        """The settings as they may be written down, without a password."""
        return asdict(self) | {"jobs": _masked(self.jobs), "log": _masked(self.log)}

    @property
    def passwords(self) -> list[str]:
        """Those in the URLs, that in LOOKOUT_LOG too, if it stands for one of them."""
        urls = [make_url(self.jobs), *([inference.url(self.log)] if self.log else [])]
        return [password for url in urls for password in _passwords(url)]

    @property
    def hidden(self) -> dict[str, str]:
        """Environment of a process that needs the log's URL, where a command line may not."""
        given = self.log not in ("", inference.ENVIRONMENT)
        return {LOG: self.log} if given and _passwords(make_url(self.log)) else {}

    def flags(self, output: Path) -> dict[str, str]:
        """Flags of a check that writes drift.json to `output`."""
        values = {field.name: getattr(self, field.name) for field in fields(MonitorSettings)}
        values |= {"output": output} | ({"log": "env"} if self.hidden else {})
        return {name: _spelled(value) for name, value in values.items()}

    @property
    def retraining(self) -> dict[str, str]:
        """Flags of a retraining."""
        log = "env" if self.hidden else self.log
        flags = {"model": self.model, "log": log, "promote": _spelled(self.promote)}
        file = _file(self.jobs)  # the working directory may be one that cannot be written
        return flags | ({"storage": f"sqlite:///{file.with_name('optuna.db')}"} if file else {})


def main(settings: ScheduleSettings) -> int:
    """Checks until a signal comes; returns 0 for SIGTERM.

    Raises UserError where the schedule runs already or its state cannot be kept, and
    KeyboardInterrupt for SIGINT.
    """
    require(hasattr(os, "killpg"), "Expected Linux or macOS; on Windows, schedule `monitor`.")
    stopping = threading.Event()
    webhook = alerts.from_environment(stopping)
    locks = {name: Lock(_lock_file(settings, name)) for name in ("schedule", "check", "retraining")}
    _require_alone(locks["schedule"])
    state = State(settings.jobs, settings.id, settings.public)
    signals = SimpleQueue[int]()  # of the queues, the one that a handler may write to
    for which in (signal.SIGTERM, signal.SIGINT):
        signal.signal(which, lambda number, _: signals.put(number))

    context = Context(
        state,
        Alerts(state, webhook, stopping),
        stopping,
        _environment(settings),
        ZoneInfo(settings.timezone),
        spellings(settings.passwords),
    )
    own = _own_run(settings)
    retraining = Retraining(settings.retraining, locks["retraining"], context)
    checks = Checks(settings, own, retraining, locks["check"], context)
    scheduler = _scheduler(settings, checks, context)
    scheduler.start()
    interrupted = signals.get() == signal.SIGINT

    context.say("Stopping.")
    stopping.set()
    scheduler.shutdown(wait=False)
    checks.stop()
    retraining.stop()
    ended = checks.wait(STOP)
    own.close("KILLED" if interrupted else "FINISHED")
    if not ended:  # a tracking store that is away must not hold the stop
        os._exit(130 if interrupted else 0)
    state.close()
    if interrupted:
        raise KeyboardInterrupt
    return 0


def _environment(settings: ScheduleSettings) -> dict[str, str]:
    """Of the processes that the schedule starts: no run but their own, and no webhook."""
    inherited = {k: v for k, v in os.environ.items() if k not in (RUN, alerts.VARIABLE)}
    return inherited | settings.hidden


def _own_run(settings: ScheduleSettings) -> Runs:
    """The runs of the schedule, one of which may be its own, which `mlflow run` has made."""
    for name, value in HURRY.items():
        os.environ.setdefault(name, value)
    runs = Runs(settings.id, settings.model)
    runs.open(os.environ.pop(RUN, None))
    return runs


def _scheduler(settings: ScheduleSettings, checks: Checks, context: Context) -> BackgroundScheduler:
    """A scheduler with the job, and what is left from before as a job of its own before it."""
    logging.getLogger("apscheduler").setLevel(logging.CRITICAL)  # what it would say is said here
    scheduler = BackgroundScheduler(
        jobstores={"default": JobStore(context.state), "memory": MemoryJobStore()},
        executors={"default": ThreadPoolExecutor(1)},
        job_defaults={"coalesce": True, "max_instances": 1, "misfire_grace_time": None},
        timezone=UTC,
    )
    due = context.state.time("next_run_time")
    if due is not None and due <= datetime.now(UTC):
        context.say(f"No schedule ran since {context.clock(due)}: one check makes up for all.")
        context.state.write(owed=due.isoformat())
    scheduler.add_job(checks.resume, jobstore="memory")
    when = cron.trigger(settings.cron, settings.timezone)
    scheduler.add_job(checks.check, when, id=settings.id)

    def skipped(_: JobSubmissionEvent) -> None:
        context.say("No check now: the one before still runs.")

    scheduler.add_listener(skipped, EVENT_JOB_MAX_INSTANCES)
    first = when.get_next_fire_time(None, datetime.now(UTC))
    context.say(
        f"Checking {settings.model} at '{settings.cron}'. Next check: {context.clock(first)}."
    )
    return scheduler


def _require_alone(lock: Lock) -> None:
    try:
        alone = lock.take()
    except OSError as error:
        raise UserError(
            f"Expected to lock {error.filename}, but: {(error.strerror or str(error)).lower()}; "
            "give as `jobs` a database in a folder that can be written."
        ) from error
    require(
        alone,
        "Expected one schedule for these images and this model, but another runs; stop that one.",
    )


def _lock_file(settings: ScheduleSettings, name: str) -> Path:
    """Beside the file of a SQLite store, else in the folder for temporary files.

    Schedules of one model share the lock of its retraining.
    """
    key = _digest(parse(settings.model)[0]) if name == "retraining" else settings.id
    file = _file(settings.jobs)
    if file is not None:
        return file.with_name(f"{file.name}.{key}.{name}.lock")
    return Path(tempfile.gettempdir(), f"lookout-{key}.{name}.lock")


def _file(url: str) -> Path | None:
    """The file of a SQLite database."""
    known = make_url(url)
    sqlite = known.get_backend_name() == "sqlite" and known.database
    return Path(known.database or "") if sqlite else None


def _absolute(path: str) -> str:
    """One spelling of a path, empty for none; a link is not followed, as it may lead on later."""
    return os.path.abspath(path) if path else ""  # noqa: PTH100


def _digest(*parts: str) -> str:
    return hashlib.sha256(json.dumps(parts).encode()).hexdigest()[:16]


def _masked(url: str) -> str:
    try:
        return without_password(url)
    except ArgumentError:
        return url


def _passwords(url: URL) -> list[str]:
    """The passwords in a database's URL, in its query too."""
    query = [str(value) for name, value in url.query.items() if "password" in name.lower()]
    return [password for password in (str(url.password or ""), *query) if password]


def spellings(passwords: Sequence[str]) -> list[str]:
    """Passwords as they are and as URLs spell them, the longest first."""
    spelled = {way(password) for password in passwords for way in (str, quote, _quoted, quote_plus)}
    return sorted(spelled, key=len, reverse=True)


def _quoted(text: str) -> str:
    return quote(text, safe="")


def _spelled(value: object) -> str:
    return str(value).lower() if isinstance(value, bool) else str(value)


if __name__ == "__main__":
    run(ScheduleSettings, main)
