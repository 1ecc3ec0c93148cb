"""What people are told of drift checks, and when: by a webhook, in the JSON that Slack's take.

LOOKOUT_WEBHOOK is its URL, which is a secret: no message, log, error or run has it. People are told
when the verdict changes, and again each day while it is bad.
"""

import os
import threading
import uuid
from collections.abc import Iterator, Mapping
from dataclasses import asdict, dataclass, field
from datetime import UTC, datetime, timedelta
from email.utils import parsedate_to_datetime
from typing import Any
from urllib.parse import urlsplit

import requests
from tenacity import (
    RetryCallState,
    Retrying,
    retry_if_exception,
    sleep_using_event,
    stop_after_attempt,
    stop_when_event_set,
)

from monitoring.jobs import State, complain
from monitoring.report import p_text
from serving.settings import require

VARIABLE = "LOOKOUT_WEBHOOK"
STEADY, DRIFT, FAILURE = "no drift", "drift", "failure"  # verdicts
QUIET = "too few images"  # also one, of which nobody is told
REMINDER = timedelta(hours=23)  # not 24: of two daily checks the second may take less time
MOVED = 5  # columns that a message names
NAMED = ("column", "effect_size", "corrected_p_value")
TRIES, PAUSE, LONGEST = 5, 1.0, 30.0  # tries; seconds before the second, twice as many later; most
TIMEOUT = 10.0  # seconds, to connect and for an answer
HEAD, TEXT = 300, 2600  # characters; Slack takes 3,000 in a block
ESCAPES = {"&": "&amp;", "<": "&lt;", ">": "&gt;"}
# Where Slack wants what is for programs: https://docs.slack.dev/messaging/message-metadata
CHECK, RETRAINING = "lookout_drift_check", "lookout_retraining"

HEADLINES = {
    DRIFT: "Drift: {}",
    STEADY: "No drift any more: {}",
    FAILURE: "The drift check fails: {}",
}
RETRAINED = {
    True: "Retrained",
    False: "The retraining failed",
    None: "The retraining has ended unseen",
}
AGAIN = {DRIFT: "Still drift: {}", FAILURE: "The drift check still fails: {}"}


@dataclass(frozen=True)
class Outcome:
    """How a check ended. record: of drift.json; report: where the page is; both may be empty."""

    verdict: str
    sentence: str
    model: str
    run: str = ""
    report: str = ""
    record: Mapping[str, Any] = field(default_factory=dict)


class UndeliveredError(Exception):
    """A try that failed: why, whether to try again, and after how many seconds at least."""

    def __init__(self, reason: str, *, again: bool, after: float = 0.0) -> None:
        super().__init__(reason)
        self.again, self.after = again, after


class Webhook:
    """Delivers messages. stopping: ends the tries; pause: seconds before the second of them.

    Raises UserError for a URL that is none, without repeating it.
    """

    def __init__(self, url: str, stopping: threading.Event, pause: float = PAUSE) -> None:
        parts = urlsplit(url)
        require(
            parts.scheme in ("http", "https") and bool(parts.hostname),
            f"Expected an http or https URL in {VARIABLE}, got another.",
        )
        self._url, self._stopping, self._pause = url, stopping, pause

    def send(self, message: Mapping[str, Any]) -> None:
        """Tries until the message is taken. Raises UndeliveredError after the last try."""
        retrying = Retrying(
            retry=retry_if_exception(lambda error: getattr(error, "again", False)),
            wait=self._wait,
            stop=stop_after_attempt(TRIES) | stop_when_event_set(self._stopping),
            sleep=sleep_using_event(self._stopping),
            reraise=True,
        )
        retrying(self._post, message)

    def _post(self, message: Mapping[str, Any]) -> None:
        """One try. Errors of `requests` hold the URL, so they go no further."""
        try:
            answer = requests.post(
                self._url, json=message, timeout=TIMEOUT, allow_redirects=False, stream=True
            )
        except requests.RequestException as error:
            again = isinstance(error, requests.ConnectionError | requests.Timeout)
            raise UndeliveredError(type(error).__name__, again=again) from None
        answer.close()
        status = answer.status_code
        if not 200 <= status < 300:
            after = _seconds(answer.headers.get("Retry-After", ""))
            again = status == 429 or status >= 500
            raise UndeliveredError(f"status {status}", again=again, after=after)

    def _wait(self, state: RetryCallState) -> float:
        error = state.outcome.exception() if state.outcome else None
        least = error.after if isinstance(error, UndeliveredError) else 0.0
        pause = self._pause * 2.0 ** (state.attempt_number - 1)
        return float(min(max(pause, least), LONGEST))


class Alerts:
    """Tells people what a schedule's row says that they do not know yet.

    webhook: none where LOOKOUT_WEBHOOK is not set, and then nothing is told.
    """

    def __init__(self, state: State, webhook: Webhook | None, stopping: threading.Event) -> None:
        self._state, self._webhook, self._stopping = state, webhook, stopping
        self._turn = threading.Lock()  # a check and a retraining may end at once

    def tell(self, outcome: Outcome, now: datetime) -> bool:
        """Tells the outcome of a check if that is due.

        Returns whether that is settled; a dead letter is, as the next check tells again.
        """
        before, at = self._state["told"], self._state.time("told_at")
        if self._webhook is None or outcome.verdict == QUIET:
            return True
        news = due(before, at, outcome.verdict, now)
        if news and not self.deliver(message(outcome, before)):
            return not self._stopping.is_set()
        if news or before is None:
            self._state.write(told=outcome.verdict, told_at=now.isoformat())
        return True

    def deliver(self, content: Mapping[str, Any]) -> bool:
        """Whether a message is out; else, unless a stop is the reason, it is a dead letter."""
        if self._webhook is None:
            return True
        with self._turn:
            try:
                self._webhook.send(content)
            except UndeliveredError as error:
                if not self._stopping.is_set():
                    self._state.bury(uuid.uuid4().hex, content, str(error))
                    complain(f"An alert was not delivered ({error}): {content['text']}")
                return False
        return True


def from_environment(stopping: threading.Event) -> Webhook | None:
    """The webhook of LOOKOUT_WEBHOOK, if it is set. Raises UserError."""
    url = os.environ.get(VARIABLE, "")
    return Webhook(url, stopping) if url else None


def due(told: str | None, at: datetime | None, verdict: str, now: datetime) -> bool:
    """Whether to tell a verdict, after another was told at a time: changes, and daily what is bad.

    Where nothing was told yet, no drift is no news.
    """
    if told != verdict:
        return told is not None or verdict != STEADY
    return verdict != STEADY and (at is None or now - at >= REMINDER)


def message(outcome: Outcome, before: str | None) -> dict[str, Any]:
    """The alert of a check; before: the verdict that was told last."""
    if before == outcome.verdict:
        headline = AGAIN[outcome.verdict]
    elif outcome.verdict == STEADY and before == FAILURE:
        headline = "The drift check works again: {}"
    else:
        headline = HEADLINES[outcome.verdict]
    own = {name: value for name, value in asdict(outcome).items() if name != "record"}
    scalars = {k: v for k, v in outcome.record.items() if isinstance(v, bool | int | float | str)}
    moved = [{name: finding[name] for name in NAMED} for finding in _moved(outcome)]
    facts = {**scalars, **own, "moved": moved}
    lines = [outcome.sentence, *_lines(outcome)]
    return _content(headline.format(_name(outcome)), lines, CHECK, facts)


def told_of_retraining(model: str, sentence: str, *, well: bool | None) -> dict[str, Any]:
    """The alert of a retraining that has ended: well, or not, or unseen."""
    facts = {"model": model, "sentence": sentence, "ended": RETRAINED[well]}
    return _content(f"{RETRAINED[well]}: {model}", [sentence], RETRAINING, facts)


def escape(text: str, most: int) -> str:
    """Text as Slack wants it, at most so many characters long."""
    pieces: list[str] = []
    length = 0
    for character in text:
        piece = ESCAPES.get(character, character)
        length += len(piece)
        if length >= most:
            return "".join([*pieces, "…"])
        pieces.append(piece)
    return "".join(pieces)


def _content(
    headline: str, lines: list[str], kind: str, facts: Mapping[str, Any]
) -> dict[str, Any]:
    head, body = escape(headline, HEAD), escape("\n".join(line for line in lines if line), TEXT)
    section = {"type": "mrkdwn", "text": f"*{head}*\n{body}", "verbatim": True}
    return {
        "text": f"{head}\n{body}",
        "blocks": [{"type": "section", "text": section}],
        "metadata": {"event_type": kind, "event_payload": dict(facts)},
    }


def _name(outcome: Outcome) -> str:
    name, version = (outcome.record.get(f"model_{part}") for part in ("name", "version"))
    return f"{name} version {version}" if name else outcome.model


def _lines(outcome: Outcome) -> Iterator[str]:
    record = outcome.record
    for finding in _moved(outcome):
        p_value = p_text(finding["corrected_p_value"])
        yield f"• {finding['column']}: effect size {finding['effect_size']:.2f}, p {p_value}"
    if "images" in record:
        yield f"{record['images']:,} images of {record.get('source', 'the inference log')}."
    estimated, known = record.get("estimated_accuracy"), record.get("reference_accuracy")
    if estimated is not None and known is not None:
        yield f"Estimated accuracy {estimated:.1%}, on the reference {known:.1%}."
    if outcome.report:
        yield f"Report: {outcome.report}"
    if outcome.run:
        yield f"MLflow run: {outcome.run}"


def _moved(outcome: Outcome) -> list[dict[str, Any]]:
    """What moved most, the largest effect first."""
    findings = outcome.record.get("detectors", [])
    moved = [finding for finding in findings if finding["verdict"] == "moved"]
    return sorted(moved, key=lambda finding: -finding["effect_size"])[:MOVED]


def _seconds(text: str) -> float:
    """Of a Retry-After header; 0 for none."""
    try:
        return max(0.0, float(text))
    except ValueError:
        pass
    try:
        return max(0.0, (parsedate_to_datetime(text) - datetime.now(UTC)).total_seconds())
    except (TypeError, ValueError):
        return 0.0
