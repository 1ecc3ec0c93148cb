"""The drift check beside the libraries that people use: `python -m benchmarks.drift`.

On the scenes and the cats and dogs of LOOKOUT_DATA, with a model that is trained first. `--parts`
chooses what runs:

| part | |
| --- | --- |
| `alarms` | false alarms: how often a check without drift says drift, by number of images |
| `power` | how often a check after a shift says drift, by shift and number of images |
| `accuracy` | the error of the estimated accuracy, by shift, where the right labels are known |
| `cost` | a check of 10,000 images beside decoding and inference alone, and of a log of 1,000,000 |

Peers are installed with uv, once, in environments of their own, and are asked the same draws. The
model, the rows of all shifts and what peers answered are kept in `--folder`: rows and model are not
made again there, so give another folder after a change to what they are made with. Tables are
Markdown. With the defaults some four hours on two cores, most of it MMD; `--minutes` bounds it.
"""

import signal
import sys
import tempfile
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path

from benchmarks import checks, environments, estimates, frames, places, rates
from benchmarks.detectors import DETECTORS, Contest
from benchmarks.timing import table
from monitoring.accuracy import CORRECTNESS, Correctness
from monitoring.drift import MINIMUM
from serving import settings as entry
from serving.settings import describe, require

PARTS = ("alarms", "power", "accuracy", "cost")
NEEDED = ("scenes", "cats_and_dogs", "weights")
PEERS = (*(name for name in DETECTORS if name != "ours"), estimates.PEER)


@dataclass(frozen=True)
class DriftBenchmarkSettings:
    """Compares false alarms, power, estimated accuracy and cost of the drift check."""

    parts: str = describe(f"all, or a comma list of {', '.join(PARTS)}", "all")
    draws: int = describe("without drift, of each size; half as many of each shift", 200)
    sizes: str = describe("numbers of current images, a comma list", "50,100,200,500,1000")
    peers: str = describe(f"all, none, or a comma list of {', '.join(PEERS)}", "all")
    minutes: float = describe("that a peer may take for a part", 240.0)
    folder: str = describe("to keep the model and its rows in; empty: a temporary one", "")
    figures: str = describe("folder to write the figures to; empty: none", "")

    def __post_init__(self) -> None:
        """Raises UserError for a value out of its range."""
        _require_known("parts", self.parts, PARTS)
        if self.peers != "none":
            _require_known("peers", self.peers, PEERS)
        require(self.draws > 1, f"Expected 2 draws or more, got {self.draws}.")
        sizes = [size.strip() for size in self.sizes.split(",")]
        numbers = all(size.isdecimal() and int(size) >= MINIMUM for size in sizes)
        least = f"of {MINIMUM} or more"
        require(numbers, f"Expected sizes as a comma list of numbers {least}, got {self.sizes!r}.")
        for name in filter(None, (self.folder, self.figures)):
            require(not Path(name).is_file(), f"Expected a folder, but {name} is a file.")

    @property
    def asked(self) -> list[str]:
        """The parts to run, in the order of PARTS."""
        return _listed(self.parts, PARTS)

    @property
    def counts(self) -> list[int]:
        """The sizes, the smallest first."""
        return sorted({int(size) for size in self.sizes.split(",")})

    @property
    def detectors(self) -> list[str]:
        """Lookout's and the peers'."""
        others = [] if self.peers == "none" else _listed(self.peers, PEERS)
        return ["ours", *others]


def main(settings: DriftBenchmarkSettings) -> int:
    """Runs the parts and prints the tables; returns 0.

    Raises UserError where images, weights or uv are missing.
    """
    shared = _shared()
    if settings.peers != "none":
        environments.uv()
    signal.signal(signal.SIGTERM, lambda *_: sys.exit(143))  # so that peers are ended
    with _folder(settings.folder) as kept:
        model = frames.model(kept, shared)
        if set(settings.asked) != {"cost"}:
            rows, learnt = frames.rows(kept, shared, model), model.folder / CORRECTNESS
            correctness = Correctness.read(learnt) if learnt.exists() else None
            _compare(settings, Contest(rows, kept, 60 * settings.minutes, correctness))
        if "cost" in settings.asked:
            checks.cost(kept, shared, model)
    return 0


def _compare(settings: DriftBenchmarkSettings, contest: Contest) -> None:
    """Prints the tables of all parts that ask detectors, and draws what they found."""
    parts, sizes, chosen = settings.asked, settings.counts, settings.detectors
    detectors = [name for name in DETECTORS if name in chosen]
    half = settings.draws // 2
    _tell(contest)
    alarms = rates.alarms(contest, sizes, settings.draws, detectors) if "alarms" in parts else None
    power = rates.power(contest, sizes, half, detectors) if "power" in parts else None
    if settings.figures:
        rates.draw(Path(settings.figures), sizes, alarms, power)
    if "accuracy" in parts:
        estimates.accuracy(contest, half, chosen)


def _tell(contest: Contest) -> None:
    rows = contest.rows
    about = {
        "images that no training saw": f"{rows.images:,}, {rows.labelled:,} of them labelled",
        "cats and dogs": f"{rows.foreign:,}",
        "columns": f"{len(rows.plain)}, and an embedding of {len(rows.embedding)}",
    }
    table("Compared on", about)


def _shared() -> Path:
    """The folder with images and weights."""
    missing = [name for name in NEEDED if not Path(places.shared(name) or "missing").is_dir()]
    what = ", ".join(f"{name}/" for name in missing)
    require(
        not missing,
        f"Expected LOOKOUT_DATA to name a folder with scenes/, cats_and_dogs/ and weights/, "
        f"missing {what}; set it as in CONTRIBUTING.md.",
    )
    return Path(places.shared()).resolve()


@contextmanager
def _folder(given: str) -> Iterator[Path]:
    if given:
        Path(given).mkdir(parents=True, exist_ok=True)
        yield Path(given).resolve()
    else:
        with tempfile.TemporaryDirectory(prefix="lookout-benchmark-") as scratch:
            yield Path(scratch)


def _require_known(name: str, given: str, known: Sequence[str]) -> None:
    unknown = sorted({part.strip() for part in given.split(",")} - {"all", *known})
    choices = ", ".join(known)
    require(not unknown, f"Unknown {name} {', '.join(unknown) or given!r}; choose of {choices}.")


def _listed(given: str, known: Sequence[str]) -> list[str]:
    """What is asked for, in the order of what there is."""
    asked = {part.strip() for part in given.split(",")}
    return [name for name in known if asked & {name, "all"}]


if __name__ == "__main__":
    entry.run(DriftBenchmarkSettings, main)
