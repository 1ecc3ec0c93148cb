"""The search of all architectures, their comparison, and the way of one into the registry.

This process trains nothing and imports no TensorFlow: it decides, watches and writes down.
"""

import math
import re
import signal
import tempfile
import threading
import time
from collections.abc import Iterator
from contextlib import contextmanager, suppress
from dataclasses import asdict, dataclass, field, replace
from pathlib import Path

import mlflow
from mlflow.data.pandas_dataset import from_pandas
from mlflow.exceptions import MlflowException
from mlflow.utils.mlflow_tags import MLFLOW_RUN_NAME, MLFLOW_RUN_NOTE

from pipelines import (
    calls,
    data,
    database,
    feedback,
    figures,
    gates,
    latency,
    processes,
    registry,
    search,
    tracking,
    workers,
)
from pipelines.config import SETTINGS_FILE, SearchSettings
from pipelines.data import Dataset
from pipelines.dispatch import Dispatcher
from pipelines.evaluation import Evaluation
from pipelines.progress import Trials
from pipelines.race import Contender, Race
from pipelines.summary import (
    Outcome,
    closing_table,
    comparison,
    describe,
    description,
    feedback_line,
    held_back_lines,
    next_lines,
    say,
    summarise,
    verdict_lines,
)
from pipelines.tracking import Run, project_run
from pipelines.workers import Loky, Pool, run_all, run_one
from serving.settings import UserError, require
from serving.uri import without_password

FINALISTS = 3
# Settings of the machine that searches, rather than of the search: a resumed one may have others.
OF_THE_MACHINE = (
    "workers",
    "backend",
    "trial_cpus",
    "trial_gpus",
    "timeout",
    "storage",
    "feedback",
)
RETRAINED = "retrained_from"  # tag: the version whose search was begun again
SETTLE = 1.0  # seconds for two that resume one search at once to see each other
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
        """The best by validation accuracy, of equals by its loss, at most FINALISTS."""
        ranked = sorted(
            self.evaluations, key=lambda e: (-e.metrics["val_accuracy"], e.metrics["val_loss"])
        )
        return ranked[:FINALISTS]


def run(settings: SearchSettings, dataset: Dataset, retrained_from: str = "") -> int:
    """Searches, compares, registers; returns the exit status of `main`.

    retrained_from: the version of the model whose search this one repeats; empty: none.
    Raises UserError where the storage does not answer, where there is no memory for the workers,
    where another process leads the search, and where no trial completes.
    """
    if settings.resume:
        require_same_data(settings.resume, dataset)
    storage = search.open_storage(settings.storage)
    end = time.time() + 60 * settings.timeout if settings.timeout else math.inf
    with (
        _leading(storage, settings.resume) as led,
        _workers(settings) as (pool, here),
        tempfile.TemporaryDirectory(prefix="lookout-") as tmp,
    ):
        data.keep(dataset)
        results = Results(Path(tmp))
        if "transfer" in settings.codes:
            note = run_one(here, calls.check_backbone, settings, dataset.digest)
            results.notes |= {"transfer": note} if note else {}
        with project_run(f"{dataset.name} search", settings.resume) as root:
            say(f"Run {root.id}: {describe(dataset)}")
            say(*([feedback_line(dataset.feedback)] if dataset.feedback else []))
            say(*(f"{code} is {note}" for code, note in results.notes.items()))
            try:
                if retrained_from:
                    root.tags({RETRAINED: retrained_from})
                log_inputs(root, settings, dataset)
                studies = enter(root, settings, dataset, storage, results, end, led)
                contenders = prepare(root, studies, dataset, here)
                run_race(root, contenders, pool, end)
                evaluate(contenders, here, results)
                finish(root, settings, dataset, results)
            except BaseException as error:
                again = f"mlflow run . --env-manager uv -P resume={root.id}"
                with processes.undisturbed(), suppress(*search.NoAnswer, MlflowException):
                    if isinstance(error, KeyboardInterrupt):
                        say(f"Interrupted; go on with: {again}")
                    pool.stop()
                    here.stop()
                    abandon(root, storage)
                if isinstance(error, search.NoAnswer):
                    raise UserError(
                        f"Expected storage to go on answering, but {str(error).splitlines()[0]}; "
                        f"when it does, go on with: {again}"
                    ) from error
                raise
    return 0


@contextmanager
def _workers(settings: SearchSettings) -> Iterator[tuple[Pool, Loky]]:
    """The pool that trains, and that of this machine: often the same. Ended with the block.

    A request to terminate is treated as Ctrl-C is: trials in flight are written off in order.
    """
    here: Loky = workers.local(0 if settings.backend == "ray" else settings.workers)
    pool: Pool = here
    if settings.backend == "ray":
        pool = workers.on_ray(settings)
    before = signal.signal(signal.SIGTERM, signal.default_int_handler)
    try:
        yield pool, here
    finally:
        signal.signal(signal.SIGTERM, before)
        pool.stop()
        here.stop()


@contextmanager
def _leading(storage: search.Storage, resume: str) -> Iterator[list[search.Study]]:
    """Says of the studies in the list, again and again, that this process leads them.

    At first they are those of the search to resume. Raises UserError where another process leads
    them; where two resume a search at once, in at least one of both.
    """
    names = search.names(storage, resume) if resume else []
    studies = [search.Study.load(storage, name) for name in names]
    stop = threading.Event()

    def lead() -> None:
        for study in studies:
            with suppress(*search.NoAnswer):  # else at the next turn
                study.lead()

    def go_on() -> None:
        while not stop.wait(search.HEARTBEAT):
            lead()

    if studies:
        require_no_leader(studies)
        lead()
        stop.wait(SETTLE)  # for one that found no leader either to say so
        require_no_leader(studies)
    thread = threading.Thread(target=go_on, daemon=True, name="lead")
    thread.start()
    try:
        yield studies
    finally:
        stop.set()
        thread.join()


def require_no_leader(studies: list[search.Study]) -> None:
    """Raises UserError where another process leads a search: two would register twice."""
    for study in studies:
        leader = study.leader()
        require(
            not leader,
            f"Expected an interrupted search to resume, but run {study.search} is being searched "
            f"by process {leader}; wait for it, stop it, or help it with `-e worker`.",
        )


def interrupted(given: SearchSettings) -> SearchSettings:
    """The settings of an earlier run, to resume it; of the machine's, those that are given now.

    Raises UserError where there is no such run, it was no search, or it has finished.
    """
    run_id = given.resume
    try:
        found = mlflow.get_run(run_id)
        text = mlflow.artifacts.load_text(f"{found.info.artifact_uri}/{SETTINGS_FILE}")
    except MlflowException as error:
        raise UserError(
            f"Expected resume to be the id of a search's run in {mlflow.get_tracking_uri()}, "
            f"got {run_id!r}."
        ) from error
    require(
        found.info.status != "FINISHED",
        f"Expected an interrupted search to resume, but run {run_id} has finished.",
    )
    plain = SearchSettings()
    named = {name: getattr(given, name) for name in OF_THE_MACHINE}
    changed = {name: value for name, value in named.items() if value != getattr(plain, name)}
    return replace(SearchSettings.from_json(text, run_id), **changed)


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


def log_inputs(run: Run, settings: SearchSettings, dataset: Dataset) -> None:
    """Logs the settings, the data set with its digest, and what the audit left out."""
    codes = ",".join(settings.codes)
    run.tags({"level": "search", "architecture": codes, "study": run.id})
    run.tags({"data_digest": dataset.digest} | feedback.tags(dataset))
    public = replace(
        settings,
        storage=without_password(settings.storage),
        feedback=feedback.public(settings.feedback),
    )
    run.params({k: v for k, v in asdict(public).items() if k != "resume"})
    run.text(public.to_json(), SETTINGS_FILE)
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


def enter(
    root: Run,
    settings: SearchSettings,
    dataset: Dataset,
    storage: search.Storage,
    results: Results,
    end: float,
    led: list[search.Study],
) -> list[search.Study]:
    """Makes the studies of the architectures, with their runs, or opens them again.

    end: clock time (seconds) when the search is over; led: new ones are added to it.
    """
    settings = for_anywhere(settings, dataset)
    studies = []
    for code in (code for code in settings.codes if code not in results.notes):
        own = results.runs[code] = _own_run(root, code)
        about = {
            "data_digest": dataset.digest,
            "feedback": asdict(dataset.feedback) if dataset.feedback else None,
            "run_id": own.id,
            "experiment": own.experiment,
            "end": end if math.isfinite(end) else None,
        }
        study = search.Study.create(storage, f"{root.id}/{code}", settings, about)
        study.lead()
        if study.name not in {other.name for other in led}:
            led.append(study)
        own.tags({"study": study.name, "data_digest": dataset.digest} | feedback.tags(dataset))
        if settings.resume:
            study.close(closed=False)
            study.reap()
            study.repair()
            reconcile(own, study, "the search was interrupted")
        studies.append(study)
    return studies


def prepare(
    root: Run, studies: list[search.Study], dataset: Dataset, here: Loky
) -> list[Contender]:
    """Decodes and computes what the architectures train on."""
    images, validation = len(dataset.rows("train")), len(dataset.rows("val"))
    contenders = []
    for study in studies:
        spec = calls.Spec(root.id, study.settings, dataset.digest, dataset.feedback)
        prepared = run_one(here, calls.prepare, spec, study.code)
        contenders.append(Contender(study, spec, prepared, images, validation))
    return contenders


def for_anywhere(settings: SearchSettings, dataset: Dataset) -> SearchSettings:
    """The settings as processes in other folders need them: no path counts from this one."""
    is_file = settings.weights not in ("imagenet", "none")
    return replace(
        settings,
        name=settings.name or dataset.name,  # the images may lie in a folder of another name there
        data=settings.data if settings.data == "digits" else str(dataset.folder),
        weights=str(Path(settings.weights).resolve()) if is_file else settings.weights,
        storage=database.from_anywhere(settings.storage),
        feedback=feedback.from_anywhere(settings.feedback),
    )


def _own_run(root: Run, code: str) -> Run:
    tags = {"level": "architecture", "architecture": code}
    colour = {"mlflow.runColor": COLOURS.get(code, GREY)}
    return root.find_child(tags) or root.child(code, tags | colour)


def run_race(root: Run, contenders: list[Contender], pool: Pool, end: float) -> None:
    """Trains until the race is over; runs of trials whose worker died are ended as it goes on."""
    if not contenders:
        return
    progress = Trials([c.study for c in contenders], contenders[0].spec.settings.trials, end)

    def lost(run_id: str) -> None:
        tags = {"error": "its worker died; the trial is tried again"}
        tracking.close(root, run_id, "KILLED", tags)

    race = Race(
        contenders=contenders,
        dispatcher=Dispatcher(pool, calls.train, lost),
        speed=calls.speed,
        end=end,
        report=lambda contender: progress.report(contender.study),
    )
    try:
        race.run()
    finally:
        progress.close()


def reconcile(own: Run, study: search.Study, reason: str) -> None:
    """Ends the runs that a kill left open, as their trials ended in the study."""
    trials = {trial.user_attrs.get("run_id"): trial for trial in study.trials()}
    for run_id in own.running(study.name):
        trial = trials.get(run_id)
        if status := search.run_status(trial):
            tracking.close(own, run_id, status, search.run_tags(trial) or {"error": reason})


def abandon(root: Run, storage: search.Storage) -> None:
    """Writes off the trials in flight of an interrupted search, whose workers have been ended."""
    for name in search.names(storage, root.id):
        study = search.Study.load(storage, name)
        study.close()
        study.reap(stopped=processes.name())
        own = Run(study.about["run_id"], root.experiment)
        with tracking.impatient():
            reconcile(own, study, "the search was interrupted")
            if own.is_open:
                own.end("KILLED")


def evaluate(contenders: list[Contender], here: Loky, results: Results) -> None:
    """Tests the best trial of each architecture, once, and logs what came of it."""
    best = []
    for contender in contenders:
        study, own = contender.study, results.runs[contender.code]
        reconcile(own, study, "its worker died")
        counts = study.counts()
        own.tags({"trials": ", ".join(f"{count} {state}" for state, count in counts.items())})
        if contender.out:
            results.notes[contender.code] = contender.out
        if study.best_trial():
            best.append(contender)
        else:
            results.notes[contender.code] = f"no trial completed ({counts['failed']} failed)"
            own.end()
    asked = [(c.spec, c.code, results.scratch / c.code / "model") for c in best]
    for contender, evaluation in zip(best, run_all(here, calls.evaluate_best, asked), strict=True):
        if isinstance(evaluation, str):
            results.notes[contender.code] = evaluation
        else:
            results.evaluations.append(latency.measured(evaluation))  # now that nothing else runs
            _log(results.evaluations[-1], results.runs[contender.code])
        results.runs[contender.code].end()


def _log(evaluation: Evaluation, own: Run) -> None:
    """Logs the metrics of an evaluation."""
    own.metrics(evaluation.metrics)
    trial = Run(evaluation.best.run_id, own.experiment)
    trial.metrics(evaluation.metrics, step=len(evaluation.best.history))
    trial.flush(wait=True)


def finish(run: Run, settings: SearchSettings, dataset: Dataset, results: Results) -> None:
    """Registers the candidate, logs the comparison, and says how it ended."""
    table = comparison(results.evaluations, results.notes)
    run.table(table, "comparison.csv")
    run.figure(figures.comparison(table), "comparison.png")
    if not results.evaluations:
        raise UserError(
            "Expected at least one trial to complete, but none did; see the tracebacks on the "
            "trials' runs, or give the search more time."
        )
    outcome = register(run, settings, dataset, results)
    run.json(summarise(run.id, dataset, table, outcome), "summary.json")
    verdicts = [*verdict_lines(outcome), *held_back_lines(outcome, settings)]
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
        known = registry.correctness(finalist.exported, dataset) if finalist is chosen else None
        model_id = registry.log(own, logged, finalist.exported, table, known)
        if finalist is chosen:
            chosen_table, chosen_model = table, model_id
    own = results.runs[chosen.code]
    candidate = registry.candidate(name, None, chosen.metrics, chosen_table)
    verdicts = gates.judge(candidate, settings)
    told = tracking.patiently(lambda: run.client.get_run(run.id)).data.tags
    origin = {RETRAINED: told[RETRAINED]} if RETRAINED in told else {}
    card = registry.card(
        dataset, chosen.title, chosen.metrics, chosen.best.params, *origin.values()
    )
    own_version = registry.registered_before(name, own.id, chosen.best.number)
    tags = {"best_trial": str(chosen.best.number)} | origin | feedback.tags(dataset)
    version = own_version or registry.register(name, own.id, chosen_model, verdicts, card, tags)
    alias = registry.settle(name, version, verdicts, promote=settings.promote)
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
