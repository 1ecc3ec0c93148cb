"""Ten minutes of a schedule in real time: `python -m pytest -m schedule`."""

import signal
import time
from datetime import UTC, datetime
from pathlib import Path

import pytest
from mlflow.entities import Run

from tests.conftest import paint, register
from tests.monitoring.schedules import (
    Schedule,
    checks,
    require_no_overlap,
    start,
    statuses,
    until,
)

MINUTE = 60_000  # milliseconds, as MLflow counts
SLOW = 70  # seconds that the slow check is held
LATE = 45_000  # milliseconds after its time that a check may begin on a busy machine


@pytest.fixture
def asked_for(request: pytest.FixtureRequest) -> None:
    if "schedule" not in str(request.config.getoption("markexpr")):
        pytest.skip("ten minutes of real time; ask for it with -m schedule")


def wait_for_second(second: int) -> None:
    """Waits for a place in the next minute at the latest, between the beginnings of checks."""
    until(lambda: datetime.now(UTC).second == second, 90)


def wait_for_check(schedule: Schedule, store: str, count: int) -> None:
    """Waits until so many checks have begun and the last of them runs."""
    until(lambda: len(checks(store)) == count and schedule.check is not None, 120)


def idle(store: str, count: int) -> bool:
    return len(statuses(store)) == count and "RUNNING" not in statuses(store)


def times_of(run: Run) -> tuple[int, int]:
    return run.info.start_time, run.info.end_time


@pytest.mark.schedule
def test_ten_minutes_of_checks_leave_exactly_the_runs_that_are_expected(
    asked_for: None, model_folder: Path, tmp_path: Path
) -> None:
    """The third check cannot read its images, the fourth takes longer than a minute.

    Then the schedule is killed for two more times, and started again.
    """
    store = register(tmp_path, {"colours": [model_folder]})
    images, away = paint(tmp_path / "images", 60, seed=1), tmp_path / "away"
    begun = time.time() * 1000
    schedule = start(store, tmp_path, "* * * * *", images)
    until(lambda: idle(store, 2), 240)
    images.rename(away)
    until(lambda: idle(store, 3), 120)
    away.rename(images)

    wait_for_check(schedule, store, 4)
    assert schedule.check is not None
    slow = schedule.check
    slow.suspend()  # as a machine that swaps, or a disk that hangs
    time.sleep(SLOW)
    slow.resume()
    until(lambda: idle(store, 5), 240)
    schedule.stop(signal.SIGKILL)
    killed = time.time() * 1000

    time.sleep(2 * 60)
    wait_for_second(15)
    restarted = time.time() * 1000
    again = start(store, tmp_path, "* * * * *", images)
    until(lambda: time.time() * 1000 - begun > 10 * MINUTE and idle(store, len(checks(store))), 900)
    assert again.stop() == 0
    stopped = time.time() * 1000

    runs = checks(store)
    assert [run.info.status for run in runs] == [
        "FAILED" if number == 2 else "FINISHED" for number in range(len(runs))
    ]
    assert "does not exist" in runs[2].data.tags["error"]
    require_no_overlap(runs)
    before = [times_of(run) for run in runs if run.info.start_time < killed]
    made_up, *after = [times_of(run) for run in runs if run.info.start_time > restarted]
    assert len(before) == 5
    assert before[3][1] - before[3][0] > SLOW * 1000
    require_times(before, begun, killed)
    require_times([made_up, *after], restarted, stopped, made_up=True)
    assert "No check now: the one before still runs." in schedule.said
    assert "one check makes up for all" in again.said
    assert len(again.said.splitlines()) >= 2 + len(after)


def require_times(
    runs: list[tuple[int, int]], begin: float, end: float, *, made_up: bool = False
) -> None:
    """A run at each full minute but those at which one was running, and none at another time."""
    expected = []
    free = runs[0][1] if made_up else begin
    tick = int(begin // MINUTE + 1) * MINUTE
    left = runs[1:] if made_up else runs[:]
    while tick < end:
        if left and tick <= left[0][0] <= tick + LATE:
            expected.append(left.pop(0))
            free = expected[-1][1]
        else:
            assert tick < free or tick > end - LATE, f"no check at {tick}"
        tick += MINUTE
    assert left == []
