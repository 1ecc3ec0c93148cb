import json
import sqlite3
import threading
from collections.abc import Callable
from contextlib import closing
from datetime import UTC, datetime, timedelta
from pathlib import Path

import pytest

from monitoring.alerts import (
    DRIFT,
    FAILURE,
    QUIET,
    STEADY,
    TRIES,
    Alerts,
    Outcome,
    UndeliveredError,
    Webhook,
    due,
    escape,
    from_environment,
    message,
)
from monitoring.jobs import State
from serving.settings import UserError
from tests.conftest import free_port
from tests.monitoring.conftest import SECRET, Receiver

NOW = datetime(2026, 11, 21, 12, tzinfo=UTC)
DAY = timedelta(days=1)
MODEL = "models:/colours@champion"


def webhook(url: str, stopping: threading.Event | None = None) -> Webhook:
    return Webhook(url, stopping or threading.Event(), pause=0.01)


def state(folder: Path) -> State:
    return State(f"sqlite:///{folder}/schedule.db", "one", {"cron": "0 * * * *"})


def letters(folder: Path) -> list[tuple[str, str]]:
    with closing(sqlite3.connect(folder / "schedule.db")) as connection:
        return connection.execute("SELECT reason, message FROM lookout_dead_letters").fetchall()


@pytest.fixture
def alerts(tmp_path: Path) -> Callable[[str], tuple[Alerts, State]]:
    """Alerts of a schedule that has been started again: the state is read anew each time."""

    def make(url: str) -> tuple[Alerts, State]:
        kept, stopping = state(tmp_path), threading.Event()
        return Alerts(kept, webhook(url, stopping), stopping), kept

    return make


def outcome(verdict: str) -> Outcome:
    return Outcome(verdict, f"A sentence of {verdict}.", MODEL)


def test_an_alert_is_tried_until_it_is_accepted(receiver: Receiver) -> None:
    receiver.answers = [503, 503]
    webhook(receiver.url).send({"text": "Drift."})
    assert (receiver.asked, receiver.taken) == (3, [{"text": "Drift."}])


@pytest.mark.parametrize(
    ("answer", "asked", "reason"),
    [
        (404, 1, "status 404"),
        ((302, {"Location": "http://127.0.0.1:1/"}), 1, "status 302"),
        (500, TRIES, "status 500"),
        ((429, {"Retry-After": "0"}), TRIES, "status 429"),
    ],
)
def test_what_another_try_cannot_change_is_tried_once(
    receiver: Receiver, answer: object, asked: int, reason: str
) -> None:
    receiver.answers = [answer] * TRIES
    with pytest.raises(UndeliveredError, match=f"^{reason}$"):
        webhook(receiver.url).send({"text": "Drift."})
    assert receiver.asked == asked


@pytest.mark.parametrize(
    ("header", "least", "most"),
    [("1", 1, 1), ("7200", 30, 30), ("Sat, 21 Nov 2099 12:00:00 GMT", 30, 30), ("soon", 0, 0.1)],
)
def test_a_receiver_says_when_to_come_again_within_a_bound(
    receiver: Receiver, header: str, least: float, most: float
) -> None:
    waited: list[float] = []

    class Stopping(threading.Event):
        def wait(self, timeout: float | None = None) -> bool:
            waited.append(timeout or 0)
            return True

    receiver.answers = [(429, {"Retry-After": header})]
    webhook(receiver.url, Stopping()).send({"text": "Drift."})
    (pause,) = waited
    assert least <= pause <= most


def test_a_stop_ends_the_tries_and_leaves_no_dead_letter(receiver, tmp_path) -> None:
    receiver.answers = [503] * TRIES
    kept, stopping = state(tmp_path), threading.Event()
    stopping.set()
    told = Alerts(kept, webhook(receiver.url, stopping), stopping)
    assert not told.tell(outcome(DRIFT), NOW)
    assert (receiver.asked, letters(tmp_path), kept["told"]) == (1, [], None)


def test_people_are_told_of_changes_alone_and_daily_while_it_is_bad(receiver, alerts) -> None:
    story = [
        (STEADY, 0.0),
        (DRIFT, 0.1),
        (DRIFT, 0.2),
        (DRIFT, 1.0999),  # a day after the first, by a check that took a few seconds less
        (QUIET, 1.15),
        (DRIFT, 1.2),
        (FAILURE, 1.3),
        (FAILURE, 1.4),
        (STEADY, 1.5),
        (STEADY, 9.0),
        (DRIFT, 9.1),
        (STEADY, 9.2),
    ]
    for verdict, days in story:
        told, _ = alerts(receiver.url)
        assert told.tell(outcome(verdict), NOW + days * DAY)
    assert receiver.headlines == [
        f"{headline}: {MODEL}"
        for headline in (
            "Drift",
            "Still drift",
            "The drift check fails",
            "The drift check works again",
            "Drift",
            "No drift any more",
        )
    ]


def test_a_first_check_is_news_where_it_is_drift_or_a_failure() -> None:
    assert not due(None, None, STEADY, NOW)
    assert due(None, None, DRIFT, NOW)
    assert due(None, None, FAILURE, NOW)


def test_what_cannot_be_delivered_is_a_dead_letter_and_told_by_the_next_check(
    receiver, alerts, tmp_path, capsys
) -> None:
    nobody = f"http://127.0.0.1:{free_port()}/services/{SECRET}"
    told, kept = alerts(nobody)
    assert told.tell(outcome(DRIFT), NOW)
    ((reason, text),) = letters(tmp_path)
    assert reason == "ConnectionError"
    assert json.loads(text)["text"].startswith("Drift: ")
    complaint = capsys.readouterr().err
    assert "lookout: An alert was not delivered (ConnectionError): Drift: " in complaint
    assert SECRET not in complaint + text + reason
    told, kept = alerts(receiver.url)
    assert told.tell(outcome(DRIFT), NOW)
    assert receiver.headlines == [f"Drift: {MODEL}"]
    assert kept["told"] == DRIFT


def test_an_alert_says_what_moved_most_in_a_form_that_slack_accepts() -> None:
    detectors = [
        {
            "column": f"p_{n}",
            "effect_size": n / 10,
            "corrected_p_value": 0.00001,
            "verdict": verdict,
        }
        for n, verdict in enumerate(["moved"] * 7 + ["steady"])
    ]
    record = {
        "drift": True,
        "verdict": "Drift: 7 of 8 detectors moved.",
        "model_name": "a<b & c",
        "model_version": "3",
        "images": 1234,
        "source": "<!channel>",
        "estimated_accuracy": 0.712,
        "reference_accuracy": 0.9,
        "detectors": detectors,
    }
    told = message(Outcome(DRIFT, record["verdict"], MODEL, "run1", "s3://b/r.html", record), None)
    assert told["text"].splitlines() == [
        "Drift: a&lt;b &amp; c version 3",
        "Drift: 7 of 8 detectors moved.",
        *(f"• p_{n}: effect size 0.{n}0, p &lt; 0.0001" for n in (6, 5, 4, 3, 2)),
        "1,234 images of &lt;!channel&gt;.",
        "Estimated accuracy 71.2%, on the reference 90.0%.",
        "Report: s3://b/r.html",
        "MLflow run: run1",
    ]
    assert told.keys() == {"text", "blocks", "metadata"}
    (block,) = told["blocks"]
    assert (block["type"], block["text"]["type"]) == ("section", "mrkdwn")
    assert block["text"]["text"].startswith("*Drift: a&lt;b &amp; c version 3*\n")
    facts = told["metadata"]["event_payload"]
    assert (facts["verdict"], facts["images"], facts["run"]) == (DRIFT, 1234, "run1")
    assert facts["moved"][0] == {"column": "p_6", "effect_size": 0.6, "corrected_p_value": 0.00001}
    flat = (bool, int, float, str)
    assert all(isinstance(value, flat) for name, value in facts.items() if name != "moved")


def test_a_long_text_is_cut_between_characters_and_fits_a_block() -> None:
    assert escape("a&b", 8) == "a&amp;b"
    assert escape("&&&", 11) == "&amp;&amp;…"
    told = message(Outcome(FAILURE, "<" * 9000, "m" * 900), None)
    assert len(told["blocks"][0]["text"]["text"]) <= 3000


def test_a_url_that_is_none_is_refused_without_being_repeated(monkeypatch) -> None:
    for url in (SECRET, f"ftp://host/{SECRET}", f"https:///{SECRET}"):
        monkeypatch.setenv("LOOKOUT_WEBHOOK", url)
        with pytest.raises(UserError, match="Expected an http or https URL") as refused:
            from_environment(threading.Event())
        assert SECRET not in str(refused.value)
    monkeypatch.delenv("LOOKOUT_WEBHOOK")
    assert from_environment(threading.Event()) is None
