"""What contestants reached, as JSON files that tables can be printed from again."""

import json
from collections import defaultdict
from dataclasses import asdict, dataclass, field
from pathlib import Path
from statistics import mean
from typing import Any

Event = dict[str, Any]  # seconds, kind (begin, epoch, end), trial; of an epoch also val_accuracy


@dataclass
class Row:
    """One contestant's search.

    part: its name on the command line; title: of the table; name: in it; budget: seconds; epochs:
    the most a trial; images: of the training split; seconds: wall time; peak: bytes; error: why it
    failed; events: counted from the start of its process.
    """

    part: str
    title: str
    name: str
    budget: float
    epochs: int
    images: int
    seconds: float = 0.0
    peak: int = 0
    error: str = ""
    events: list[Event] = field(default_factory=list)

    def of(self, kind: str) -> list[Event]:
        """Events of a kind within the budget, in the order of time."""
        inside = [e for e in self.events if e["kind"] == kind and e["seconds"] <= self.budget]
        return sorted(inside, key=lambda event: float(event["seconds"]))

    @property
    def best(self) -> float | None:
        """Best validation accuracy; None where no epoch ended."""
        return max((event["val_accuracy"] for event in self.of("epoch")), default=None)

    @property
    def worked(self) -> float:
        """Seconds until the last epoch or trial ended; the budget where it was used up."""
        if self.seconds >= self.budget:
            return self.budget
        return max((e["seconds"] for e in self.of("epoch") + self.of("end")), default=0.0)

    def per_hour(self, count: int) -> float:
        """How many of something an hour there were, when there were `count` until now."""
        return 3600 * count / self.worked if self.worked else 0.0

    def reached(self, level: float) -> float | None:
        """Seconds until a validation accuracy of `level`; None where it was not reached."""
        return next((e["seconds"] for e in self.of("epoch") if e["val_accuracy"] >= level), None)

    def seconds_a_trial(self) -> float | None:
        """Without the start: trials that ended, or, where none did, their epochs so far."""
        begins, ends, epochs = self.of("begin"), self.of("end"), self.of("epoch")
        if begins and ends:
            return float((ends[-1]["seconds"] - begins[0]["seconds"]) / len(ends))
        if begins and epochs:
            passed = epochs[-1]["seconds"] - begins[0]["seconds"]
            return float(passed / len(epochs) * self.epochs)
        return None


@dataclass
class Cost:
    """The same trials tracked and in a plain loop; seconds of each, and from first to last."""

    part: str
    title: str
    name: str
    tracked: list[float] = field(default_factory=list)
    bare: list[float] = field(default_factory=list)
    tracked_span: float = 0.0
    bare_span: float = 0.0
    tracked_epochs: int = 0
    bare_epochs: int = 0
    error: str = ""

    @property
    def epoch(self) -> float:
        """Seconds an epoch of the plain loop."""
        return sum(self.bare) / max(1, self.bare_epochs)

    @property
    def extra(self) -> float:
        """Seconds a trial that tracking adds, on average."""
        return mean(self.tracked) - mean(self.bare) if self.bare and self.tracked else 0.0


def durations(events: list[Event]) -> list[float]:
    """Seconds of each trial that ended, by its number."""
    times: dict[int, dict[str, float]] = defaultdict(dict)
    for event in events:
        times[event["trial"]][event["kind"]] = event["seconds"]
    ended = [trial for _, trial in sorted(times.items()) if {"begin", "end"} <= trial.keys()]
    return [trial["end"] - trial["begin"] for trial in ended]


def span(events: list[Event]) -> float:
    """Seconds from the first begin to the last end."""
    begins = [event["seconds"] for event in events if event["kind"] == "begin"]
    ends = [event["seconds"] for event in events if event["kind"] == "end"]
    return float(max(ends) - min(begins)) if begins and ends else 0.0


def read_events(path: Path) -> list[Event]:
    """The lines that a peer has written, none where it wrote none."""
    if not path.exists():
        return []
    return [json.loads(line) for line in path.read_text().splitlines() if line.endswith("}")]


def save(results: list[Row | Cost], folder: Path) -> None:
    """Writes a file a result."""
    folder.mkdir(parents=True, exist_ok=True)
    for result in results:
        kind = "cost" if isinstance(result, Cost) else "row"
        path = folder / f"{result.part}-{kind}.json"
        path.write_text(json.dumps(asdict(result), indent=1))


def load(folder: Path) -> list[Row | Cost]:
    """All results in a folder."""
    rows = [Row(**json.loads(path.read_text())) for path in sorted(folder.glob("*-row.json"))]
    costs = [Cost(**json.loads(path.read_text())) for path in sorted(folder.glob("*-cost.json"))]
    return [*rows, *costs]
