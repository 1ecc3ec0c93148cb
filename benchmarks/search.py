"""The search beside KerasTuner, AutoKeras and a plain loop: `python -m benchmarks.search`.

Same images, same split, same space, same epochs and the same seconds for everyone, one after the
other; about an hour with the defaults on two cores. `--parts` chooses what runs:

| part | |
| --- | --- |
| `lookout`, `one-worker` | this project; with one worker, and its first trials in a plain loop |
| `hyperband`, `random` | KerasTuner on this project's space, images read as in its tutorials |
| `random-cached` | the same with decoded images kept in memory |
| `autokeras` | AutoKeras' image classifier, which has a space of its own |
| `short` | many short trials, with one worker and in a plain loop |
| `heads`, `frozen` | heads on cached features; KerasTuner's over the frozen backbone |

With `--output FOLDER` each part leaves its figures there as JSON, and the tables show all that the
folder holds: `--parts none --output FOLDER` prints them again. Peers are installed with uv, once.
"""

import signal
import sys
import tempfile
from dataclasses import dataclass
from pathlib import Path

from benchmarks import environments, places, results, tables
from benchmarks.contest import PARTS, Contest
from pipelines import data
from serving import settings as entry
from serving.settings import describe, require

WEIGHTS = "mobilenet_v2_0.35_224_notop.h5"


@dataclass(frozen=True)
class SearchBenchmarkSettings:
    """Compares the search with KerasTuner, AutoKeras and a plain loop."""

    parts: str = describe(f"all, none, or a comma list of {', '.join(PARTS)}", "all")
    minutes: float = describe("for each contestant", 6.0)
    trials: int = describe("the most of each contestant; Hyperband has its own number", 30)
    epochs: int = describe("the most of a trial", 12)
    image_size: int = describe("side in pixels", 64)
    data: str = describe("folder of images; empty: scenes in LOOKOUT_DATA, else digits", "")
    weights: str = describe("of the backbone; empty: those in LOOKOUT_DATA", "")
    heads: int = describe("how many heads the peer trains", 2)
    head_minutes: float = describe("the most for the peer's heads", 30.0)
    plain_trials: int = describe("of one-worker that the plain loop trains again", 4)
    levels: str = describe("validation accuracies to reach, a comma list", "0.70,0.75,0.80")
    output: str = describe("folder for the figures; empty: none", "")
    seed: int = describe("of split, search and training", 0)

    def __post_init__(self) -> None:
        """Raises UserError for a value out of its range."""
        unknown = sorted(set(self.chosen) - PARTS.keys())
        choices = ", ".join(PARTS)
        require(not unknown, f"Unknown parts {', '.join(unknown)}; choose of {choices}.")
        require(
            bool(self.chosen or self.output),
            "Expected output, the folder whose tables to print, with parts none.",
        )
        for name in ("minutes", "trials", "epochs", "heads", "head_minutes", "plain_trials"):
            value = getattr(self, name)
            require(value > 0, f"Expected {name} of more than 0, got {value}.")
        try:
            _ = self.accuracies
        except ValueError:
            require(False, f"Expected levels as a comma list of numbers, got {self.levels!r}.")

    @property
    def chosen(self) -> tuple[str, ...]:
        """The parts to run, in the order of PARTS."""
        if self.parts in ("all", "none"):
            return tuple(PARTS) if self.parts == "all" else ()
        asked = {part.strip() for part in self.parts.split(",")}
        return tuple(sorted(asked, key=lambda part: (*PARTS, part).index(part)))

    @property
    def accuracies(self) -> list[float]:
        """The levels."""
        return [float(level) for level in self.levels.split(",") if level.strip()]

    @property
    def source(self) -> str:
        """The folder of images."""
        return places.source(self.data)

    @property
    def weights_file(self) -> str:
        """The backbone's weights, an absolute path; Keras fetches them where there is no file."""
        file = self.weights or places.shared("weights", WEIGHTS)
        return str(Path(file).resolve()) if file else "imagenet"


def main(settings: SearchBenchmarkSettings) -> int:
    """Runs the parts and prints the tables; returns 0."""
    signal.signal(signal.SIGINT, signal.default_int_handler)  # children of `nohup` would ignore it
    signal.signal(signal.SIGTERM, lambda *_: sys.exit(143))  # so that contestants are ended
    if any(PARTS[part].installs for part in settings.chosen):
        environments.uv()
    with tempfile.TemporaryDirectory(prefix="lookout-benchmark-") as scratch:
        folder = Path(settings.output or Path(scratch, "output")).resolve()
        if settings.chosen:
            _run(settings, Path(scratch), folder)
        found = results.load(folder)
    tables.show(found, tuple(PARTS), settings.accuracies)
    return 0


def _run(settings: SearchBenchmarkSettings, scratch: Path, output: Path) -> None:
    dataset = data.prepare(settings.source, settings.seed)
    contest = Contest(settings, dataset, scratch)
    for part in settings.chosen:
        print(f"{part}: {PARTS[part].title}", flush=True)
        results.save(PARTS[part].run(contest), output)


if __name__ == "__main__":
    entry.run(SearchBenchmarkSettings, main)
