"""What a search asks of its workers: calls that import TensorFlow where they run, not here."""

from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, NamedTuple

from pipelines.config import SearchSettings

if TYPE_CHECKING:
    from models import Params, Shape
    from pipelines.data import Feedback
    from pipelines.evaluation import Evaluation


@dataclass(frozen=True)
class Spec:
    """What a worker needs to know of a search; the rest is in the storage, and in MLflow.

    search: id of the search's run; digest: of the data set; feedback: what that holds of it.
    """

    search: str
    settings: SearchSettings
    digest: str
    feedback: "Feedback | None" = None


class Speed(NamedTuple):
    """Of one process: seconds before a network's first batch is trained; images a second then."""

    start: float
    images: float


def check_backbone(settings: SearchSettings, digest: str) -> str:
    """Why the search goes on without `transfer`; empty where it does not.

    Raises UserError where `transfer` was asked for by name, and where a weights file does not fit.
    """
    from pipelines import trials

    return trials.check_backbone(settings, digest)


class Prepared(NamedTuple):
    """Of an architecture: the params that its study tries first, the shape of one input, and the
    multiplications that one image takes on its way through that first network.
    """

    first: "Params"
    shape: "Shape"
    work: int


def prepare(spec: Spec, code: str) -> Prepared:
    """Decodes pixels and computes features, for all workers of this machine."""
    from pipelines import trials

    return trials.prepare(spec, code)


def train(spec: Spec, code: str, end: float, ticket: str) -> int | None:
    """Claims a trial of a study and trains it; returns its number, None where none waits.

    end: clock time (seconds) after which it ends with its epoch; ticket: as of `Study.claim`.
    """
    from pipelines import trials

    return trials.train(spec, code, end, ticket)


def evaluate_best(spec: Spec, code: str, folder: Path) -> "Evaluation | str":
    """Tests the best trial of a study, exports its network into `folder`, and logs both.

    Returns why not, where the export answers otherwise than the network.
    """
    from pipelines import export, trials

    try:
        return trials.evaluate_best(spec, code, folder)
    except export.ParityError as error:
        return str(error)


def speed(spec: Spec, code: str) -> Speed:
    """How fast this process trains the params that a study of this architecture tries first."""
    from pipelines import trials

    return trials.speed(spec, code)
