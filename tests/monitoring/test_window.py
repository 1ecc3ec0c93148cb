"""The parameter `since`, and where the last check ended."""

from datetime import UTC, datetime, timedelta, timezone

import mlflow
import pytest

from monitoring.history import UNTIL
from monitoring.window import LAST, Window, since_last
from serving.settings import UserError

NOW = datetime(2026, 3, 29, 12, 30, tzinfo=UTC)


@pytest.mark.parametrize(
    ("since", "ago"),
    [
        ("30m", timedelta(minutes=30)),
        ("24h", timedelta(hours=24)),
        ("7d", timedelta(days=7)),
        ("1.5h", timedelta(minutes=90)),
    ],
)
def test_a_time_is_so_long_ago(since, ago):
    assert Window.parse(since, NOW) == Window(NOW, NOW - ago)


def test_a_number_is_the_last_so_many_images():
    assert Window.parse("500", NOW) == Window(NOW, most=500)


@pytest.mark.parametrize("since", ["", LAST])
def test_nothing_and_last_have_no_bound_of_their_own(since):
    assert Window.parse(since, NOW) == Window(NOW)


@pytest.mark.parametrize(
    "since",
    ["0", "0h", "0.0d", "-5", "5 h", "1w", "h", "1e3", "2026-01-01", "٢٤h", "h24", "24h\n"],
)
def test_another_form_is_refused_in_a_sentence_that_repeats_it(since):
    with pytest.raises(UserError, match="Expected since as a time") as refusal:
        Window.parse(since, NOW)
    assert repr(since) in str(refusal.value)


def test_a_time_beyond_a_century_is_refused():
    with pytest.raises(UserError, match="within a century, got '999999d'"):
        Window.parse("999999d", NOW)


def test_windows_are_told_in_words():
    assert str(Window.parse("24h", NOW)) == "from 2026-03-28 12:30 to 2026-03-29 12:30 UTC"
    assert str(Window.parse("1500", NOW)) == "the last 1,500 images"
    assert str(Window(NOW)) == "all"


def checked(until: str, model: str = "window's", source: str = 'a "b"', **more: str) -> None:
    tags = {"level": "monitor", "model_name": model, "source": source, UNTIL: until}
    with mlflow.start_run(tags=tags | more):
        mlflow.log_metric("estimated_accuracy", 0.9)


@pytest.fixture
def checks(tracking, request, monkeypatch):
    """A store whose active experiment is the test's own."""
    tracking.create_experiment(request.node.name)
    monkeypatch.setenv("MLFLOW_EXPERIMENT_NAME", request.node.name)
    return tracking


def test_the_last_check_is_the_newest_finished_one_of_this_model_and_source(checks):
    assert since_last("window's", "there") is None
    checked("2026-03-01T00:00:00+00:00", source="there")
    checked("2026-03-02T05:00:00+02:00", source="there")
    checked("2026-03-03T00:00:00+00:00", source="elsewhere")
    checked("2026-03-04T00:00:00+00:00", model="another", source="there")
    checked("2026-03-05T00:00:00+00:00", source="there", level="search")
    checked("2026-03-06T00:00:00+00:00", source="there")
    newest = checks.search_runs([mlflow.last_active_run().info.experiment_id], max_results=1)[0]
    checks.set_terminated(newest.info.run_id, "FAILED")
    found = since_last("window's", "there")
    assert found == datetime(2026, 3, 2, 3, tzinfo=UTC)
    assert found.tzinfo is UTC


def test_a_check_from_before_windows_had_ends_is_none(checks):
    with mlflow.start_run(tags={"level": "monitor", "model_name": "m", "source": "s"}):
        mlflow.log_metric("estimated_accuracy", 0.9)
    assert since_last("m", "s") is None


def test_the_same_moment_is_the_same_in_any_time_zone():
    there = NOW.astimezone(timezone(timedelta(hours=9)))
    assert Window(there, there) == Window(NOW, NOW)
