"""The settings of the search and of one training, as `MLproject` spells them."""

import json
import math
from dataclasses import asdict, dataclass, field, fields, replace
from pathlib import Path
from typing import TYPE_CHECKING, Self

from serving.settings import UserError, describe, require

if TYPE_CHECKING:
    from models.params import Params

MAX_SEED = 2**31 - 1_000_000  # numbers of trials are added to it
MAX_SIDE = 1024  # pixels
SETTINGS_FILE = "settings.json"  # artifact of a search's run
# `models` imports Keras; the names are needed before that, to refuse a wrong one at once.
ARCHITECTURES = ("lm", "nn", "dnn", "dnnd", "transfer", "cnn", "dcnn")
BACKENDS = ("loky", "ray")
FROM_ENVIRONMENT = "env"  # instead of an inference log's URL: that in LOOKOUT_LOG


@dataclass(frozen=True)
class TrainingSettings:
    """What every training needs, of a search or alone."""

    data: str = describe(
        "folder of labelled images, or digits: scikit-learn's handwritten digits", "digits"
    )
    epochs: int = describe("the most epochs that a trial may take", 20)
    image_size: int = describe("side in pixels; 0: chosen from the images", 0)
    weights: str = describe("of the backbone: imagenet, a file, or none", "imagenet")
    backbone: str = describe("a Keras application; auto: told from the weights file", "auto")
    alpha: float = describe("width of the backbone; 0: told from the weights file, else 1", 0.0)
    fine_tune: int = describe("top blocks of the backbone that a transfer trial may train", 0)
    seed: int = describe("seed of splits, search and training", 0)

    def __post_init__(self) -> None:
        """Raises UserError for a value out of its range."""
        _at_least("epochs", self.epochs, 1)
        _at_least("image_size", self.image_size, 0)
        _at_least("alpha", self.alpha, 0)
        _at_least("fine_tune", self.fine_tune, 0)
        _at_least("seed", self.seed, 0)
        require(self.seed <= MAX_SEED, f"Expected a seed of at most {MAX_SEED}, got {self.seed}.")
        require(
            self.image_size <= MAX_SIDE,
            f"Expected an image_size of at most {MAX_SIDE} pixels, got {self.image_size}.",
        )

    def require_weights(self) -> None:
        """Raises UserError where the weights are a file that is not on this machine."""
        require(
            self.weights in ("imagenet", "none") or Path(self.weights).is_file(),
            f"Expected weights to be imagenet, none, or a file, but {self.weights} is no file.",
        )


@dataclass(frozen=True)
class GateSettings:
    """The bounds that a candidate has to keep."""

    min_accuracy: float = describe(
        "on test images; always more than the largest class's share", 0.0
    )
    max_overfit_gap: float = describe("train minus test accuracy", 0.05)
    max_latency_ms: float = describe("one image, one thread; 0: any", 0.0)
    max_size_mb: float = describe("of the exported network; 0: any", 0.0)

    def __post_init__(self) -> None:
        """Raises UserError for a value out of its range."""
        for name in ("min_accuracy", "max_overfit_gap"):
            value = getattr(self, name)
            require(0 <= value <= 1, f"Expected {name} from 0 to 1, got {value}.")
        for name in ("max_latency_ms", "max_size_mb"):
            _at_least(name, getattr(self, name), 0)


@dataclass(frozen=True)
class SearchSettings(TrainingSettings, GateSettings):
    """Searches hyperparameters for each architecture, compares them, and promotes the best."""

    name: str = describe("of the registered model; empty: the folder's", "")
    architectures: str = describe("all, or a comma list of codes", "all")
    trials: int = describe("a study", 6)
    timeout: float = describe("minutes for all searches; 0: none", 0.0)
    workers: int = describe(
        "processes that train; 0: one a core, or fewer with more threads where that is faster", 0
    )
    backend: str = describe("loky: this machine; ray: the Ray cluster at RAY_ADDRESS", "loky")
    trial_cpus: int = describe("cores a trial trains on; 0: chosen by measurement (ray: 1)", 0)
    trial_gpus: float = describe("GPUs that a trial asks Ray for", 0.0)
    storage: str = describe("Optuna's database", "sqlite:///optuna.db")
    resume: str = describe("run id of an interrupted search to go on with", "")
    feedback: str = describe(
        "inference log whose corrections are trained on too: a URL, or env: LOOKOUT_LOG", ""
    )
    promote: bool = describe("make the candidate champion where every gate passes", True)

    def __post_init__(self) -> None:
        """Raises UserError for a value out of its range."""
        TrainingSettings.__post_init__(self)
        GateSettings.__post_init__(self)
        _at_least("trials", self.trials, 1)
        _at_least("timeout", self.timeout, 0)
        for name in ("workers", "trial_cpus", "trial_gpus"):
            _at_least(name, getattr(self, name), 0)
        require(
            self.backend in BACKENDS,
            f"Unknown backend {self.backend!r}; choose one of {', '.join(BACKENDS)}.",
        )
        require(
            self.backend == "ray" or not self.trial_gpus,
            "Expected trial_gpus with backend=ray; without Ray a trial finds the GPUs by itself.",
        )
        require(
            not set(self.name) & set("/:"), f"Expected a name without / and :, got {self.name!r}."
        )
        _is_url(self.storage)
        _is_log("feedback", self.feedback)
        for code in self.codes:
            _known(code)

    @property
    def codes(self) -> tuple[str, ...]:
        """Codes of the architectures to search, from the quickest to train to the slowest."""
        if self.architectures == "all":
            return ARCHITECTURES
        asked = {code.strip() for code in self.architectures.split(",")}
        return tuple(sorted(asked, key=lambda code: (*ARCHITECTURES, code).index(code)))

    @property
    def asks_for_transfer(self) -> bool:
        """Whether `transfer` was named, rather than being one of all."""
        return self.architectures != "all" and "transfer" in self.codes

    def to_json(self) -> str:
        """All fields, for `from_json`."""
        return json.dumps(asdict(self), indent=2)

    @classmethod
    def from_json(cls, text: str, resume: str) -> Self:
        """The settings of an earlier run, to resume it."""
        known = {field.name for field in fields(cls)}
        stored = {name: value for name, value in json.loads(text).items() if name in known}
        return replace(cls(**stored), resume=resume)


@dataclass(frozen=True)
class WorkerSettings:
    """Joins a running search from another shell or machine, until it ends."""

    study: str = describe("the search's run id, or RUN_ID/CODE for one architecture's study")
    storage: str = describe("Optuna's database, that of the search")
    data: str = describe("the same images on this machine; empty: where the search has them", "")
    weights: str = describe("the same weights on this machine; empty: as the search has them", "")
    workers: int = describe("processes that train; 0: one a core", 0)

    def __post_init__(self) -> None:
        """Raises UserError for a value out of its range."""
        _is_url(self.storage)
        _at_least("workers", self.workers, 0)


@dataclass(frozen=True)
class RetrainSettings:
    """Searches again as for a registered model, with the corrections of people to train on."""

    model: str = describe("registered model, as models:/NAME@champion or models:/NAME/VERSION")
    log: str = describe("inference log with corrections: a URL, or env: LOOKOUT_LOG", "env")
    promote: bool = describe("make the candidate champion where every gate passes", False)
    storage: str = describe("Optuna's database", "sqlite:///optuna.db")
    workers: int = describe("processes that train; 0: as of main", 0)
    timeout: float = describe("minutes for all searches; 0: none", 0.0)
    data: str = describe("folder of labelled images; empty: where the search had them", "")
    weights: str = describe("of the backbone; empty: as the search had them", "")

    def __post_init__(self) -> None:
        """Raises UserError for a value out of its range."""
        require(bool(self.log), "Expected log as the URL of an inference log, or env, got none.")
        _is_log("log", self.log)
        _is_url(self.storage)
        _at_least("workers", self.workers, 0)
        _at_least("timeout", self.timeout, 0)


@dataclass(frozen=True)
class TrainSettings(TrainingSettings):
    """Trains one architecture with given params, or a trial again."""

    architecture: str = describe("a code", "cnn")
    params: str = describe("JSON object; empty: those that a study tries first", "")
    run_id: str = describe("of a trial to train again: its data, params, seed and epochs", "")

    def __post_init__(self) -> None:
        """Raises UserError for a value out of its range."""
        super().__post_init__()
        _known(self.architecture)
        self.given()

    def given(self) -> "Params":
        """The object in `params`."""
        try:
            given = json.loads(self.params or "{}")
        except json.JSONDecodeError as error:
            raise UserError(f"Expected params as a JSON object, got {self.params!r}.") from error
        require(isinstance(given, dict), f"Expected params as a JSON object, got {self.params!r}.")
        return dict(given)


@dataclass(frozen=True)
class Plan:
    """What `train` trains: `params` over the architecture's first ones, or all of a trial's.

    metrics: what that trial reached; searched: the settings of its search.
    """

    settings: TrainSettings
    params: "Params"
    seed: int
    metrics: dict[str, float] = field(default_factory=dict)
    searched: SearchSettings | None = None


def _is_url(storage: str) -> None:
    require("://" in storage, f"Expected storage as a URL, got {storage!r}.")


def _is_log(name: str, value: str) -> None:
    """Does not repeat the value, which may hold a password."""
    require(
        value in ("", FROM_ENVIRONMENT) or "://" in value,
        f"Expected {name} as the URL of an inference log, or {FROM_ENVIRONMENT} for the one in "
        "LOOKOUT_LOG, got another.",
    )


def _known(code: str) -> None:
    choices = ", ".join(sorted(ARCHITECTURES))
    require(code in ARCHITECTURES, f"Unknown architecture {code!r}; choose one of {choices}.")


def _at_least(name: str, value: float, least: float) -> None:
    require(
        math.isfinite(value) and value >= least,
        f"Expected {name} of at least {least}, got {value}.",
    )
