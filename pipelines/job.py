"""The search of all architectures, their comparison, and the way of one into the registry."""

import math
import re
import tempfile
import time
from dataclasses import asdict, dataclass, field
from pathlib import Path

import mlflow
from mlflow.data.pandas_dataset import from_pandas
from mlflow.utils.mlflow_tags import MLFLOW_RUN_NAME, MLFLOW_RUN_NOTE

from models import ARCHITECTURES
from models.transfer import MIN_SIDE, WeightsUnreachableError
from pipelines import evaluate, features, figures, gates, registry, search, tasks
from pipelines.config import SETTINGS_FILE, SearchSettings
from pipelines.data import Dataset
from pipelines.evaluate import Evaluation
from pipelines.export import ParityError
from pipelines.features import Backbone
from pipelines.summary import (
    Outcome,
    closing_table,
    describe,
    description,
    next_lines,
    say,
    summarise,
    verdict_lines,
)
from pipelines.tracking import Run, project_run
from serving.settings import UserError, require

FINALISTS = 3
GREY = "#555555"
COLOURS = {  # of an architecture's runs, in every chart of MLflow's; a new one is grey without
    "lm": "#8c8c8c",
    "nn": "#5b9bd5",
    "dnn": "#1f4e9c",
    "dnnd": "#7b5ea7",
    "cnn": "#e8a33d",
    "dcnn": "#c8553d",
    "transfer": "#2e8b57",
}


@dataclass
class Results:
    """What the searches gave: evaluations, their runs, and why an architecture has none.

    scratch: folder for what is exported, until it is logged.
    """

    scratch: Path
    evaluations: list[Evaluation] = field(default_factory=list)
    runs: dict[str, Run] = field(default_factory=dict)
    notes: dict[str, str] = field(default_factory=dict)

    def finalists(self) -> list[Evaluation]:
        """The best by validation accuracy, at most FINALISTS."""
        ranked = sorted(self.evaluations, key=lambda e: -e.metrics["val_accuracy"])
        return ranked[:FINALISTS]


def run(settings: SearchSettings, dataset: Dataset) -> int:
    """Searches, compares, registers; returns the exit status of `main`.

    Raises UserError where the storage does not answer, and where no trial completes.
    """
    if settings.resume:
        require_same_data(settings.resume, dataset)
    storage = search.open_storage(settings.storage)
    backbone, notes = choose_backbone(settings, dataset)
    with (
        project_run(f"{dataset.name} search", settings.resume) as root,
        tempfile.TemporaryDirectory(prefix="lookout-") as scratch,
    ):
        say(f"Run {root.id}: {describe(dataset)}")
        say(*(f"{code} is {note}" for code, note in notes.items()))
        try:
            log_inputs(root, settings, dataset)
            results = Results(Path(scratch), notes=notes)
            search_all(root, settings, dataset, backbone, storage, results)
            finish(root, settings, dataset, results)
        except KeyboardInterrupt:
            say(f"Interrupted; go on with: mlflow run . --env-manager uv -P resume={root.id}")
            raise
    return 0


def require_same_data(run_id: str, dataset: Dataset) -> None:
    """Refuses to resume a search on other images than it began with.

    Raises UserError: trials on different images cannot be compared, and what was trained on may be
    a test image now. A run that was interrupted before it logged a digest began with nothing.
    """
    began = mlflow.get_run(run_id).data.tags.get("data_digest", dataset.digest)
    require(
        began == dataset.digest,
        f"Expected the images that run {run_id} began with (digest {began}), got others "
        f"({dataset.digest}); put them back, or start a new search.",
    )


def choose_backbone(
    settings: SearchSettings, dataset: Dataset
) -> tuple[Backbone | None, dict[str, str]]:
    """The backbone of `transfer`, loaded, or a note that says why the search goes on without it.

    Raises UserError where `transfer` was asked for by name, and where a weights file does not fit.
    """
    if "transfer" not in settings.codes:
        return None, {}
    if 0 < settings.image_size < MIN_SIDE and not settings.asks_for_transfer:
        return None, {"transfer": f"left out: it needs an image_size of at least {MIN_SIDE}"}
    backbone = features.choose(settings, dataset)
    try:
        _ = backbone.network
    except WeightsUnreachableError as error:
        if settings.asks_for_transfer:
            raise UserError(str(error)) from error
        return None, {"transfer": f"left out: {error}"}
    return backbone, {}


def log_inputs(run: Run, settings: SearchSettings, dataset: Dataset) -> None:
    """Logs the settings, the data set with its digest, and what the audit left out."""
    codes = ",".join(settings.codes)
    run.tags({"level": "search", "architecture": codes, "study": run.id})
    run.tags({"data_digest": dataset.digest})
    run.params({k: v for k, v in asdict(settings).items() if k != "resume"})
    run.text(settings.to_json(), SETTINGS_FILE)
    contexts = {"train": "training", "val": "validation", "test": "testing"}
    for split, context in contexts.items():
        rows = dataset.images.iloc[dataset.rows(split)][["path", "class"]]
        mlflow.log_input(
            from_pandas(
                rows, dataset.folder.as_uri(), "class", f"{dataset.name} {split}", dataset.digest
            ),
            context,
        )
    run.figure(figures.class_counts(dataset.counts()), "images_per_class.png")
    run.table(dataset.excluded, "excluded.csv", index=False)


def search_all(
    run: Run,
    settings: SearchSettings,
    dataset: Dataset,
    backbone: Backbone | None,
    storage: search.Storage,
    results: Results,
) -> None:
    """Searches and evaluates one architecture after the other, quick ones first.

    Each gets an even share of the time that is left, so what one does not need goes to the rest.
    """
    codes = [code for code in settings.codes if code not in results.notes]
    end = time.time() + 60 * settings.timeout if settings.timeout else math.inf
    for place, code in enumerate(codes):
        deadline = time.time() + max(0.0, end - time.time()) / (len(codes) - place)
        task = tasks.make(code, dataset, settings, backbone)
        tags = {"level": "architecture", "architecture": code}
        own = run.find_child(tags) or run.child(
            code, tags | {"mlflow.runColor": COLOURS.get(code, GREY)}
        )
        with own.ended():
            study = search.Search(task, settings, own, storage, f"{run.id}/{code}", deadline)
            own.tags(study.tags())
            study.optimize()
            _evaluate(run, own, task, study, results)


def _evaluate(run: Run, own: Run, task: tasks.Task, study: search.Search, results: Results) -> None:
    counts = study.counts()
    own.tags({"trials": ", ".join(f"{count} {state}" for state, count in counts.items())})
    best = study.best()
    if best is None:
        results.notes[task.code] = f"no trial completed ({counts['failed']} failed)"
        return
    try:
        evaluation, pictures = evaluate.evaluate(task, best, results.scratch / task.code / "model")
    except ParityError as error:
        results.notes[task.code] = str(error)
        return
    for name, figure in pictures.items():
        own.figure(figure, f"figures/{name}")
    run.figure(pictures["curves.png"], f"curves/{task.code}.png")
    for name, figure in study.plots():
        own.figure(figure, f"figures/{name}")
    own.table(evaluation.scores, "scores.csv")
    own.params({"architecture": task.code} | best.params)
    title = ARCHITECTURES[task.code].title
    own.tags({"best_trial": best.number, MLFLOW_RUN_NOTE: f"{title}; best trial {best.number}"})
    own.metrics(evaluation.metrics)
    trial = Run(best.run_id, own.experiment)
    trial.metrics(evaluation.metrics, step=len(best.history))
    trial.flush()
    results.evaluations.append(evaluation)
    results.runs[task.code] = own


def finish(run: Run, settings: SearchSettings, dataset: Dataset, results: Results) -> None:
    """Registers the candidate, logs the comparison, and says how it ended."""
    table = evaluate.comparison(results.evaluations, results.notes)
    run.table(table, "comparison.csv")
    run.figure(figures.comparison(table), "comparison.png")
    if not results.evaluations:
        raise UserError(
            "Expected at least one trial to complete, but none did; see the tracebacks on the "
            "trials' runs, or give the search more time."
        )
    outcome = register(run, settings, dataset, results)
    run.json(summarise(run.id, dataset, table, outcome), "summary.json")
    verdicts = verdict_lines(outcome)
    accuracy = table.loc[outcome.architecture, "test_accuracy"]
    name = f"{dataset.name} search: {outcome.architecture} {accuracy:.1%}"
    run.tags({MLFLOW_RUN_NAME: name, MLFLOW_RUN_NOTE: description(table, verdicts)})
    say("", closing_table(table), "", *verdicts, *next_lines(outcome))


def register(run: Run, settings: SearchSettings, dataset: Dataset, results: Results) -> Outcome:
    """Logs the finalists as models and sends the candidate through the gates."""
    name = settings.name or dataset.name
    finalists = results.finalists()
    chosen = choose(finalists, settings)
    for finalist in finalists:
        own = results.runs[finalist.code]
        table = registry.reference(finalist.exported, dataset)
        logged = re.sub(r"[^\w-]", "-", f"{name}-{finalist.code}")  # MLflow allows no dot there
        model_id = registry.log(own, logged, finalist.exported, table)
        if finalist is chosen:
            chosen_table, chosen_model = table, model_id
    own = results.runs[chosen.code]
    candidate = registry.candidate(name, None, chosen.metrics, chosen_table)
    verdicts = gates.judge(candidate, settings)
    title = ARCHITECTURES[chosen.code].title
    card = registry.card(dataset, title, chosen.metrics, chosen.best.params)
    own_version = registry.registered_before(name, own.id, chosen.best.number)
    tags = {"best_trial": str(chosen.best.number)}
    version = own_version or registry.register(name, own.id, chosen_model, verdicts, card, tags)
    alias = registry.settle(name, version, verdicts)
    p_value = candidate.comparison.p_value if candidate.comparison else None
    for level in (run, own):
        level.tags({f"gate.{gate}": verdict for gate, verdict in verdicts.items()})
        level.tags({"model": f"{name} version {version}", "alias": alias})
        level.metrics({} if p_value is None else {"mcnemar_p": p_value})
    run.tags({"winner": chosen.code})
    run.metrics(chosen.metrics)
    return Outcome(name, version, alias, chosen.code, verdicts, p_value)


def choose(finalists: list[Evaluation], settings: SearchSettings) -> Evaluation:
    """The best finalist by validation of those that keep the bounds which need no test image.

    Where none keeps them, the best of all: its refusal then says what is wrong.
    """

    def keeps(evaluation: Evaluation) -> bool:
        metrics = evaluation.metrics
        gap = metrics["train_accuracy"] - metrics["val_accuracy"]
        return (
            gap <= settings.max_overfit_gap
            and metrics["latency_ms"] <= (settings.max_latency_ms or math.inf)
            and metrics["size_mb"] <= (settings.max_size_mb or math.inf)
        )

    return next(filter(keeps, finalists), finalists[0])
