import json
import os
import re
import signal
import sqlite3
import threading
from collections.abc import Iterator
from contextlib import closing
from dataclasses import replace
from datetime import UTC, datetime, timedelta
from pathlib import Path

import mlflow
import pandas as pd
import pytest

from monitoring import process
from monitoring.alerts import Alerts, Webhook
from monitoring.check import _require_enough
from monitoring.checks import too_few
from monitoring.context import Context
from monitoring.jobs import State
from monitoring.process import Lock
from monitoring.retraining import Retraining, due
from monitoring.runs import Runs
from monitoring.schedule import ScheduleSettings, main, spellings
from monitoring.sources import Current
from monitoring.window import Window
from serving.settings import UserError
from tests.conftest import EXPERIMENT, free_port, paint, register
from tests.monitoring.conftest import SECRET
from tests.monitoring.schedules import (
    CHAMPION,
    checks,
    require_no_overlap,
    start,
    statuses,
    until,
)

NEVER = "0 0 29 2 *"  # in four years
PASSWORD = "postgresql://lookout:hunter2@host/log"


def settings(folder: Path, **more: object) -> ScheduleSettings:
    given = {"cron": NEVER, "model": CHAMPION, "images": str(folder / "images")}
    given |= {"jobs": f"sqlite:///{folder}/schedule.db"}
    return ScheduleSettings(**(given | more))


@pytest.fixture
def handlers() -> Iterator[None]:
    """The handlers of signals as they were before a schedule of this process set its own."""
    kept = {which: signal.getsignal(which) for which in (signal.SIGTERM, signal.SIGINT)}
    environment = dict(os.environ)
    yield
    for which, handler in kept.items():
        signal.signal(which, handler)
    os.environ.clear()
    os.environ.update(environment)


@pytest.mark.parametrize(
    ("given", "sentence"),
    [
        ({"cron": "61 * * * *"}, "'61' is no minute"),
        ({"timezone": "Mars/Phobos"}, "Expected a time zone"),
        ({"model": "colours"}, "Expected models:/NAME@ALIAS"),
        ({"on_drift": "panic"}, "Unknown on_drift 'panic'; choose one of alert, retrain"),
        ({"on_drift": "retrain"}, "Expected `log` with on_drift=retrain"),
        ({"images": ""}, "images"),
        ({"jobs": "mysql://host/jobs"}, "Expected as `jobs` the URL of a database"),
        ({"jobs": "nonsense"}, "Expected as `jobs` the URL of a database"),
        ({"jobs": "sqlite:///:memory:"}, "a database that outlives the schedule"),
        ({"images": "", "log": "nonsense"}, "Expected the URL of an inference log, as"),
        ({"images": "", "log": "env"}, "in LOOKOUT_LOG, which is not set"),
    ],
)
def test_settings_refuse_what_cannot_work(tmp_path, monkeypatch, given, sentence):
    monkeypatch.delenv("LOOKOUT_LOG", raising=False)
    with pytest.raises(UserError, match=sentence):
        settings(tmp_path, **given)


def test_a_state_that_cannot_be_kept_is_refused_before_anything_starts(tracking, tmp_path):
    (tmp_path / "schedule.db").mkdir()
    for jobs, sentence in [
        ("sqlite:////missing/jobs.db", "no such file or directory; give as `jobs` a database"),
        (f"sqlite:///{tmp_path}/schedule.db", "that can be written, but: unable to open"),
    ]:
        with pytest.raises(UserError, match=sentence):
            main(settings(tmp_path, jobs=jobs))


def test_a_second_schedule_of_the_same_images_is_refused(tracking, tmp_path):
    own = settings(tmp_path)
    lock = Lock(tmp_path / f"schedule.db.{own.id}.schedule.lock")
    assert lock.take()
    with pytest.raises(UserError, match="but another runs; stop that one"):
        main(own)
    lock.release()


@pytest.mark.parametrize(
    ("which", "run_status"), [(signal.SIGTERM, "FINISHED"), (signal.SIGINT, "KILLED")]
)
def test_a_signal_ends_the_schedule_and_its_own_run(
    tracking, tmp_path, monkeypatch, handlers, capsys, which, run_status
):
    experiment = tracking.get_experiment_by_name(EXPERIMENT).experiment_id
    run_id = tracking.create_run(experiment).info.run_id
    monkeypatch.setenv("MLFLOW_RUN_ID", run_id)  # as `mlflow run` does
    timer = threading.Timer(1, os.kill, (os.getpid(), which))
    timer.start()
    if which == signal.SIGINT:
        with pytest.raises(KeyboardInterrupt):
            main(settings(tmp_path))
    else:
        assert main(settings(tmp_path)) == 0
    timer.join()
    run = tracking.get_run(run_id)
    assert run.info.status == run_status
    assert run.data.tags["level"] == "schedule"
    assert "Next check: 2028-02-29 00:00:00 UTC." in capsys.readouterr().out


@pytest.mark.long
def test_a_kill_loses_and_doubles_nothing(model_folder, tmp_path, receiver):
    """Failing checks, kill -9 while a good one runs, a restart, and a stop while another runs."""
    store = register(tmp_path, {"colours": [model_folder]})
    images, every = tmp_path / "images", "* * * * * *"
    receiver.answers = [503, 503]
    variables = {"LOOKOUT_WEBHOOK": receiver.url, "MLFLOW_RUN_ID": "0" * 32}
    schedule = start(store, tmp_path, every, images, **variables)
    until(lambda: "FAILED" in statuses(store), 120)
    paint(tmp_path / "painted", 40, seed=1).rename(images)
    bad = len(checks(store))
    until(lambda: statuses(store)[bad:][-1:] == ["RUNNING"] and schedule.check, 120)
    orphan = schedule.check
    schedule.stop(signal.SIGKILL)
    assert orphan.is_running()

    again = start(store, tmp_path, every, images, **variables)
    until(lambda: "FINISHED" in statuses(store) and statuses(store)[-1] == "RUNNING", 120)
    assert again.stop(signal.SIGTERM) == 0

    runs = checks(store)
    ended = [run.info.status for run in runs]
    failed = ended.count("FAILED")
    assert ended == ["FAILED"] * failed + ["FINISHED"] * (len(ended) - failed - 1) + ["KILLED"]
    require_no_overlap(runs)
    assert all("does not exist" in run.data.tags["error"] for run in runs[:failed])
    assert {run.data.tags["model_name"] for run in runs} == {"colours"}
    assert receiver.headlines == [
        f"The drift check fails: {CHAMPION}",
        "The drift check works again: colours version 1",
    ]
    assert SECRET not in schedule.said + again.said
    assert re.search("No drift: none of [0-9]+ detectors moved[.] Next check: ", again.said)


def test_times_that_were_missed_are_made_up_by_one_check(tmp_path):
    """What a restart finds in the row; a new expression has missed nothing."""
    now = datetime.now(UTC)
    missed = (now - timedelta(days=2)).isoformat()
    own = settings(tmp_path, cron="* * * * *")
    State(own.jobs, own.id, own.public).write(next_run_time=missed, told="drift")
    changed = replace(own, output=str(tmp_path / "drift.json"), on_drift="alert")
    assert changed.id == own.id
    again = State(own.jobs, own.id, changed.public)
    assert (again["next_run_time"], again["told"]) == (missed, "drift")
    assert again["settings"]["output"] == changed.output
    other = replace(own, cron="0 * * * *")
    assert State(own.jobs, own.id, other.public)["next_run_time"] is None


def test_a_quiet_hour_is_known_by_what_the_check_says_of_it():
    def said(rows: int, unreadable: int | None = None, source: str = "the log") -> bool:
        current = Current(pd.DataFrame(index=range(rows)), unreadable, lambda _: b"")
        with pytest.raises(UserError) as refused:
            _require_enough(current, source, Window.parse("1h", datetime.now(UTC)))
        return too_few(str(refused.value))

    assert said(0)
    assert said(29)
    assert said(5, 3, "images, got 99 (of them)")
    assert not said(5, 25)  # images come, and cannot be read
    assert not too_few("Expected at least 30 answered images in the reference, got 3; fewer ...")


def test_a_tracking_database_that_is_away_is_a_sentence_at_once(tmp_path, monkeypatch):
    where = f"postgresql+psycopg://ann:hunter2@127.0.0.1:{free_port()}/mlflow"
    monkeypatch.setattr(mlflow, "get_tracking_uri", lambda: where)
    with pytest.raises(UserError, match="Expected a tracking store that answers") as refused:
        Runs("schedule", CHAMPION)
    assert "hunter2" not in str(refused.value)


def test_a_state_that_cannot_be_written_stops_nothing(tmp_path, capsys):
    own = settings(tmp_path)
    state = State(own.jobs, own.id, own.public)
    with closing(sqlite3.connect(tmp_path / "schedule.db")) as connection:
        connection.execute("DROP TABLE lookout_schedules")
    state.write(told="drift")
    assert state["told"] == "drift"
    assert "lookout: What the schedule must remember cannot be written" in capsys.readouterr().err


def test_a_password_is_in_no_flag_and_nothing_written_down(tmp_path):
    plain = ScheduleSettings(cron=NEVER, model=CHAMPION, log="sqlite:///log.db")
    assert plain.flags(Path("o"))["log"] == "sqlite:///log.db"
    assert (plain.hidden, plain.retraining["log"]) == ({}, "sqlite:///log.db")
    secret = replace(plain, log=PASSWORD, on_drift="retrain")
    assert secret.hidden == {"LOOKOUT_LOG": PASSWORD}
    written = [secret.flags(Path("o")), secret.retraining, secret.public, secret.id]
    assert "hunter2" not in json.dumps(written)
    assert secret.flags(Path("o"))["log"] == secret.retraining["log"] == "env"
    assert replace(secret, log=PASSWORD.replace("hunter2", "another")).id == secret.id


def test_a_password_that_mlflow_run_has_logged_is_refused(tmp_path, monkeypatch):
    monkeypatch.setenv("MLFLOW_RUN_ID", "0" * 32)
    for given in ({"images": "", "log": PASSWORD}, {"jobs": PASSWORD}):
        with pytest.raises(UserError, match="without a password, since `mlflow run`") as refused:
            settings(tmp_path, **given)
        assert "hunter2" not in str(refused.value)


def test_one_spelling_of_a_source_is_as_good_as_another(tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    monkeypatch.setenv("LOOKOUT_LOG", PASSWORD)
    own = settings(tmp_path)
    assert settings(tmp_path, images="./images/").id == own.id
    assert settings(tmp_path, images="", scores="images").id != own.id
    spelled, env = (settings(tmp_path, images="", log=log) for log in (PASSWORD, "env"))
    assert spelled.id == env.id


def test_no_password_is_in_what_a_process_said(tmp_path, monkeypatch):
    monkeypatch.setenv("LOOKOUT_LOG", "postgresql://lookout:hunter%2F2@host/log")
    own = settings(tmp_path, images="", log="env")
    stopping = threading.Event()
    state = State(own.jobs, own.id, own.public)
    context = Context(
        state, Alerts(state, None, stopping), stopping, {}, UTC, spellings(own.passwords)
    )
    said = "hunter/2, hunter%2F2; API request to 'http://ann:s3@cret@host:5000/api' failed"
    assert context.redacted(said) == "***, ***; API request to 'http://host:5000/api' failed"


def test_half_a_line_of_what_a_process_said_is_not_repeated(tmp_path):
    line = "API request to http://ann:s3cret@host:5000 failed " + "x" * 40
    (tmp_path / process.ERRORS).write_text("\n".join([line] * 400))
    kept = process.said(tmp_path, process.ERRORS)
    assert len(kept) > 19_000
    assert set(kept.splitlines()) == {line}


RETRAIN = """
import os, sys, time
assert "MLFLOW_RUN_ID" not in os.environ and "--promote=false" in sys.argv
open("began", "a").write("x")
while not os.path.exists("go"):
    time.sleep(0.05)
print("Searching.\\n\\ncnn is colours version 2, @challenger")
sys.exit("lookout: Expected corrections in hunter2, got none." if os.path.exists("fail") else 0)
"""


@pytest.fixture
def retraining(tmp_path, monkeypatch, receiver):
    """Makes a retraining, as a schedule that is started again does, of a stand-in program."""
    monkeypatch.chdir(tmp_path)
    (tmp_path / "pipelines").mkdir()
    (tmp_path / "pipelines" / "retrain.py").write_text(RETRAIN)
    own = settings(tmp_path)
    stops: list[threading.Event] = []

    def make() -> tuple[Retraining, State]:
        stopping = threading.Event()
        stops.append(stopping)
        state = State(own.jobs, own.id, own.public)
        alerts = Alerts(state, Webhook(receiver.url, stopping, pause=0.01), stopping)
        context = Context(state, alerts, stopping, dict(os.environ), UTC, ("hunter2",))
        lock = Lock(tmp_path / "retraining.lock")
        return Retraining({"model": CHAMPION, "promote": "false"}, lock, context), state

    yield make
    (tmp_path / "go").touch()
    for stopping in stops:
        stopping.set()


def test_a_retraining_is_watched_and_told_of_and_a_stop_leaves_it_due(
    retraining, receiver, tmp_path
):
    first, state = retraining()
    state.write(retraining={"stage": "due"})
    first.resume()
    first.resume()  # the next check finds it running
    until((tmp_path / "began").exists, 60)
    first._context.stopping.set()
    first.stop()
    assert state["retraining"] == {"stage": "due"}

    (tmp_path / "go").touch()
    second, state = retraining()
    second.resume()
    until(lambda: state["retraining"] is None, 60)
    assert (tmp_path / "began").read_text() == "xx"
    assert [content["text"] for content in receiver.taken] == [
        f"Retrained: {CHAMPION}\ncnn is colours version 2, @challenger"
    ]


def test_a_retraining_that_fails_or_is_left_behind_is_told_of(retraining, receiver, tmp_path):
    (tmp_path / "go").touch()
    (tmp_path / "fail").touch()
    one, state = retraining()
    state.write(retraining={"stage": "due"})
    one.resume()
    until(lambda: state["retraining"] is None, 60)
    left, state = retraining()
    state.write(retraining={"stage": "running"})  # as a kill leaves it
    left.resume()
    until(lambda: state["retraining"] is None, 60)
    failed, unknown = (content["text"] for content in receiver.taken)
    assert failed == f"The retraining failed: {CHAMPION}\nExpected corrections in ***, got none."
    assert unknown.startswith("The retraining has ended unseen: ")
    assert (tmp_path / "began").read_text() == "x"


def test_neither_a_webhook_that_refuses_nor_a_retraining_holds_up_the_next(
    retraining, receiver, tmp_path
):
    one, state = retraining()
    receiver.answers = [404, 404]
    state.write(retraining=due)
    one.resume()
    until((tmp_path / "began").exists, 60)
    state.write(retraining=due)  # drift begins again
    (tmp_path / "go").touch()
    until(lambda: state["retraining"] is None, 60)
    assert (tmp_path / "began").read_text() == "xx"
    assert (receiver.asked, receiver.taken) == (2, [])


def test_a_retraining_writes_beside_the_state(tmp_path):
    log = {"images": "", "log": "sqlite:///log.db", "on_drift": "retrain"}
    assert settings(tmp_path, **log).retraining["storage"] == f"sqlite:///{tmp_path}/optuna.db"
    elsewhere = settings(tmp_path, **log, jobs="postgresql://lookout@host/jobs")
    assert "storage" not in elsewhere.retraining


@pytest.mark.postgres
def test_the_state_may_be_in_postgresql(database, tmp_path):
    own = settings(tmp_path, jobs=database)
    first = State(own.jobs, own.id, own.public)
    first.write(told="drift", retraining={"stage": "due"})
    first.bury("letter", {"text": "Drift."}, "status 500")
    first.close()
    again = State(own.jobs, own.id, own.public)
    again.close()
    assert (again["told"], again["retraining"]) == ("drift", {"stage": "due"})
