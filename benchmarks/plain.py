"""The cost of tracking: trials of a search beside the same trials in a plain loop."""

import json
import sys
from pathlib import Path
from typing import Any

from benchmarks import process
from benchmarks.lookout import Search
from benchmarks.results import Cost, Event, durations, read_events, span

TITLE = "The cost of tracking: trials with one worker, and the same in a plain loop"
TIMES = 3  # the plain loop may take as many times the budget


def compare(part: str, search: Search, most: int, budget: float) -> Cost:
    """The first `most` trials of `search` that ended, and the same without Optuna and MLflow.

    The plain loop starts from the search's cache, so decoding counts for neither. budget: seconds.
    """
    plan = search.plan(most)
    cost = Cost(part, TITLE, _described(plan), error=search.ended.error)
    if not plan["trials"]:
        cost.error = cost.error or "no trial ended within the budget"
        return cost
    bare, error = _again(part, search, plan, TIMES * budget)
    tracked = _first(search.events(), len(durations(bare)))
    cost.tracked, cost.bare = durations(tracked), durations(bare)
    cost.tracked_span, cost.bare_span = span(tracked), span(bare)
    cost.tracked_epochs, cost.bare_epochs = _epochs(tracked), _epochs(bare)
    cost.error = cost.error or error
    return cost


def _again(
    part: str, search: Search, plan: dict[str, Any], budget: float
) -> tuple[list[Event], str]:
    """What the plain loop tells, and how it failed, if it did."""
    folder = search.folder.with_name(f"{part}-plain")
    folder.mkdir()
    events, file = folder / "events.jsonl", folder / "plan.json"
    file.write_text(json.dumps(plan | {"events": str(events)}))
    ended = process.run(
        f"{part}, plain",
        [sys.executable, "-m", "benchmarks.peers.bare", str(file)],
        folder=folder,
        environment=search.environment,
        budget=budget,
    )
    return read_events(events), ended.error


def _first(events: list[Event], count: int) -> list[Event]:
    """Events of the first trials that ended."""
    ended = sorted(event["trial"] for event in events if event["kind"] == "end")
    return [event for event in events if event["trial"] in ended[:count]]


def _epochs(events: list[Event]) -> int:
    return sum(event["kind"] == "epoch" for event in events)


def _described(plan: dict[str, Any]) -> str:
    settings = plan["settings"]
    return f"{plan['code']} on {Path(settings['data']).name}" if settings else "no trial"
