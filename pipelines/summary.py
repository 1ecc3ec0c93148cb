"""How a search ended, in words: for the terminal, and as `summary.json`."""

from dataclasses import asdict, dataclass, fields

import pandas as pd

from pipelines import gates
from pipelines.config import ARCHITECTURES, GateSettings
from pipelines.data import Dataset, Feedback
from pipelines.evaluation import Evaluation

COMPARED = (
    "train_accuracy",
    "val_accuracy",
    "test_accuracy",
    "test_f1",
    "overfit_gap",
    "latency_ms",
    "size_mb",
)


@dataclass(frozen=True)
class Outcome:
    """What became of the candidate."""

    name: str
    version: str
    alias: str
    architecture: str
    verdicts: dict[str, str]
    mcnemar_p: float | None


def describe(dataset: Dataset) -> str:
    """The data set in a line."""
    counts = dataset.counts().sum()
    left_out = f", {len(dataset.excluded)} files left out" if len(dataset.excluded) else ""
    return (
        f"{dataset.name}, {len(dataset.classes)} classes, {counts.train} images to train on, "
        f"{counts.val} to validate, {counts.test} to test{left_out}"
    )


def comparison(evaluations: list[Evaluation], notes: dict[str, str]) -> pd.DataFrame:
    """A row an architecture, in the order of the codes; `note`: why it stopped."""
    rows = {evaluation.code: evaluation.metrics for evaluation in evaluations}
    rows = {code: {} for code in notes} | rows
    table = pd.DataFrame.from_dict(rows, orient="index")
    table.index.name = "architecture"
    there = [code for code in ARCHITECTURES if code in rows]
    table = table.reindex(index=there, columns=list(COMPARED))
    return table.assign(note=[notes.get(code, "") for code in table.index])


def closing_table(table: pd.DataFrame) -> str:
    """The comparison for a terminal."""
    shown = table.drop(columns="note").map("{:.4f}".format)
    for column in ("latency_ms", "size_mb"):
        shown[column] = table[column].map("{:.3g}".format)
    lines = shown.replace("nan", "-").to_string().splitlines()
    notes = [f"{code}: {note}" for code, note in table["note"].items() if note]
    return "\n".join([*lines, *notes])


def description(table: pd.DataFrame, verdicts: list[str]) -> str:
    """The description of the search's run, in Markdown."""
    shown = table[["val_accuracy", "test_accuracy", "overfit_gap", "latency_ms", "size_mb"]]
    rows = [["architecture", *shown], ["---"] * (1 + shown.shape[1])]
    for code, row in shown.iterrows():
        rows.append([str(code), *("" if pd.isna(value) else f"{value:.4g}" for value in row)])
    lines = [f"- {line.strip().replace('@', '')}" for line in verdicts]
    return "\n".join([*lines, "", *(f"| {' | '.join(row)} |" for row in rows)])


def verdict_lines(outcome: Outcome) -> list[str]:
    """Which alias the candidate got, and each refusal."""
    refused = gates.refusals(outcome.verdicts)
    p_value = "" if outcome.mcnemar_p is None else f", McNemar p = {outcome.mcnemar_p:.3g}"
    first = (
        f"{outcome.architecture} is {outcome.name} version {outcome.version}, "
        f"@{outcome.alias} ({len(outcome.verdicts) - len(refused)} of "
        f"{len(outcome.verdicts)} gates passed{p_value})"
    )
    return [first, *(f"  refused by {gate}: {verdict}" for gate, verdict in refused.items())]


def held_back_lines(outcome: Outcome, bounds: GateSettings) -> list[str]:
    """How a candidate becomes champion that passed every gate, but was not to become it."""
    if outcome.alias == "champion" or gates.refusals(outcome.verdicts):
        return []
    given = asdict(bounds)
    others = {f.name: given[f.name] for f in fields(GateSettings) if given[f.name] != f.default}
    bound = "".join(f" -P {name}={value:g}" for name, value in others.items())
    return [
        "  not promoted, since promote=false; to promote it: mlflow run . -e promote "
        f"--env-manager uv -P name={outcome.name} -P version={outcome.version}{bound}"
    ]


def feedback_line(feedback: Feedback) -> str:
    """What became of the corrections of people."""
    return (
        f"Feedback: {feedback.images} corrected images to train on; {feedback.left_out} left out "
        f"(excluded.csv says why), {feedback.unknown} of them since their label is no class"
    )


def next_lines(outcome: Outcome) -> list[str]:
    """What to do with it."""
    model = f"models:/{outcome.name}@{outcome.alias}"
    return [
        "Compare:  mlflow ui",
        f"Serve:    mlflow models serve -m {model} --env-manager uv",
        f"Label:    mlflow run . -e score --env-manager uv -P model={model} -P images=FOLDER",
    ]


def summarise(
    run_id: str, dataset: Dataset, table: pd.DataFrame, outcome: Outcome
) -> dict[str, object]:
    """What `summary.json` holds."""
    counts = dataset.counts()
    return {
        "run": run_id,
        "data": {
            "name": dataset.name,
            "digest": dataset.digest,
            "classes": list(dataset.classes),
            "images": {split: int(counts[split].sum()) for split in counts},
            "excluded": len(dataset.excluded),
        },
        "architectures": {
            code: {k: v for k, v in row.items() if v == v and v != ""}
            for code, row in table.to_dict("index").items()
        },
        "outcome": asdict(outcome),
    }


def say(*lines: str) -> None:
    """Prints at once, also into a pipe."""
    for line in lines:
        print(line, flush=True)
