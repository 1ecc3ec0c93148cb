"""The contestants: for each part of `benchmarks.search`, how its figures come about."""

from collections.abc import Callable
from dataclasses import dataclass
from functools import cached_property, partial
from pathlib import Path
from typing import TYPE_CHECKING, Any

from benchmarks import environments, lookout, plain, process
from benchmarks.environments import InstallError
from benchmarks.peers.job import Job
from benchmarks.places import ROOT
from benchmarks.results import Cost, Row, read_events
from benchmarks.tables import HEADS
from pipelines.backend import start_up
from pipelines.config import TrainingSettings
from pipelines.data import Dataset

if TYPE_CHECKING:
    from benchmarks.search import SearchBenchmarkSettings

HEAD_EPOCHS = 5
SHORT: dict[str, Any] = {
    "architectures": "lm",
    "data": "digits",
    "trials": 20,
    "epochs": 3,
    "image_size": 0,
}
Results = list[Row | Cost]


@dataclass(frozen=True)
class Contest:
    """What all contestants share; scratch: a folder for what they write."""

    settings: "SearchBenchmarkSettings"
    dataset: Dataset
    scratch: Path

    @cached_property
    def images(self) -> Path:
        """The project's own split as links, SPLIT/CLASS, each distinct image once."""
        folder = self.scratch / "images" / self.dataset.name
        columns = self.dataset.images[["path", "split", "class"]].itertuples(index=False, name=None)
        for place, (path, split, of_class) in enumerate(columns):
            link = folder / split / of_class / f"{place:06}{Path(path).suffix.lower()}"
            link.parent.mkdir(parents=True, exist_ok=True)
            link.symlink_to(path)
        return folder

    @property
    def count(self) -> int:
        """Images of the training split."""
        return len(self.dataset.rows("train"))

    @property
    def budget(self) -> float:
        """Seconds for each contestant."""
        return 60 * self.settings.minutes

    @property
    def title(self) -> str:
        """Of the table of searches."""
        s, side = self.settings, self.settings.image_size
        return (
            f"{self.dataset.name}: {self.count} training images at {side}x{side}, at most "
            f"{s.trials} trials of {s.epochs} epochs, {s.minutes:g} minutes each"
        )

    @property
    def heads_title(self) -> str:
        """Of the table of heads."""
        weights = Path(self.settings.weights_file).stem
        return f"{self.dataset.name}: heads on {weights}, at most {HEAD_EPOCHS} epochs a head"

    def job(self, folder: Path, **options: Any) -> Job:
        """The job of a peer, `options` over those of a search for `cnn`."""
        s = self.settings
        epochs = int(options.get("epochs", s.epochs))
        shared: dict[str, Any] = {
            "folder": str(self.images),
            "size": s.image_size,
            "images": self.count,
            "classes": len(self.dataset.classes),
            "epochs": epochs,
            "patience": max(3, epochs // 4),
            "trials": s.trials,
            "seed": s.seed,
            "events": str(folder / "events.jsonl"),
        }
        return Job(**shared | options)


def _lookout(part: str, contest: Contest, **arguments: Any) -> tuple[Row, lookout.Search]:
    """A search of this project for `cnn` on the contest's terms, `arguments` over them."""
    s = contest.settings
    given = {
        "data": str(contest.images),
        "architectures": "cnn",
        "image_size": s.image_size,
        "trials": s.trials,
        "epochs": s.epochs,
        "seed": s.seed,
    } | arguments
    found = lookout.search(part, contest.scratch / part, contest.budget, given)
    row = Row(part, contest.title, PARTS[part].title, contest.budget, s.epochs, contest.count)
    row.seconds, row.peak, row.error = found.ended.seconds, found.ended.peak, found.ended.error
    row.events = found.events()
    return row, found


def _search(part: str, contest: Contest) -> Results:
    return [_lookout(part, contest)[0]]


def _one_worker(part: str, contest: Contest) -> Results:
    row, found = _lookout(part, contest, workers=1)
    return [row, plain.compare(part, found, contest.settings.plain_trials, contest.budget)]


def _short(part: str, contest: Contest) -> Results:
    _, found = _lookout(part, contest, workers=1, **SHORT)
    return [plain.compare(part, found, SHORT["trials"], contest.budget)]


def _peer(part: str, contest: Contest, script: str, environment: str, **options: Any) -> Results:
    """One peer in its environment; what it cannot do is the row's error."""
    folder = contest.scratch / part
    title, limit = contest.title, contest.budget
    if part == "frozen":
        title, limit = contest.heads_title, 60 * contest.settings.head_minutes
    job = contest.job(folder, **options)
    row = Row(part, title, PARTS[part].title, limit, job.epochs, contest.count)
    try:
        python = environments.python(environment)
    except InstallError as error:
        row.error = str(error)
        return [row]
    ended = process.run(
        part,
        [python, "-m", f"benchmarks.peers.{script}", job.to_json()],
        folder=folder,
        environment={"PYTHONPATH": str(ROOT), "TF_CPP_MIN_LOG_LEVEL": "3"},
        budget=limit,
    )
    row.seconds, row.peak, row.error = ended.seconds, ended.peak, ended.error
    row.events = read_events(Path(job.events))
    return [row]


def _heads(part: str, contest: Contest) -> Results:
    weights = contest.settings.weights_file
    options = {"architectures": "transfer", "trials": HEADS, "epochs": HEAD_EPOCHS}
    row, _ = _lookout(part, contest, **options, weights=weights, image_size=0)
    row.title, row.epochs = contest.heads_title, HEAD_EPOCHS
    return [row]


def _frozen(part: str, contest: Contest) -> Results:
    """The same backbone at the same size, which the project chooses from the images."""
    with start_up():
        from pipelines import features
    settings = TrainingSettings(weights=contest.settings.weights_file)
    backbone = features.choose(settings, contest.dataset)
    options = {"code": "transfer", "size": backbone.size[0], "fixed": backbone.params}
    options |= {"trials": contest.settings.heads, "epochs": HEAD_EPOCHS}
    return _peer(part, contest, "tuner", "kerastuner", **options)


@dataclass(frozen=True)
class Part:
    """title: its row's; make: its figures, of its name and the contest; installs: with uv."""

    title: str
    make: Callable[[str, Contest], Results]
    installs: bool = False

    def run(self, contest: Contest) -> Results:
        """Its figures."""
        name = next(name for name, part in PARTS.items() if part is self)
        return self.make(name, contest)


_tuner = partial(_peer, script="tuner", environment="kerastuner")
PARTS = {
    "lookout": Part("this project", _search),
    "one-worker": Part("this project, one worker", _one_worker),
    "hyperband": Part("KerasTuner Hyperband", partial(_tuner, method="hyperband"), True),
    "random": Part("KerasTuner RandomSearch", _tuner, True),
    "random-cached": Part("KerasTuner RandomSearch, cached", partial(_tuner, cached=True), True),
    "autokeras": Part(
        "AutoKeras", partial(_peer, script="automatic", environment="autokeras"), True
    ),
    "short": Part("many short trials", _short),
    "heads": Part("this project, cached features", _heads),
    "frozen": Part("KerasTuner RandomSearch, frozen backbone", _frozen, True),
}
