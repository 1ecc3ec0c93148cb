"""What a check found, as drift.json and as MLflow's metrics: a contract.

A change to a name here goes into the changelog.
"""

import itertools
import re
from dataclasses import dataclass, field
from typing import Any

from monitoring.accuracy import Accuracy
from monitoring.drift import DETECTORS, EXCESS, FISHER, Verdict
from monitoring.window import Window

NUMBERS = ("statistic", "p_value", "corrected_p_value", "effect_size")
NAME_LENGTH = 200  # MLflow's bound is 250


@dataclass(frozen=True)
class Checked:
    """One check. unreadable: files, None where the source cannot know; real, by_class: accuracies
    on the images whose right label is known, if there are any.
    """

    verdict: Verdict
    model_name: str
    model_version: str
    source: str
    window: Window
    unreadable: int | None
    left_out: tuple[str, ...] = ()
    real: Accuracy | None = None
    by_class: dict[str, Accuracy] = field(default_factory=dict)


def record(checked: Checked) -> dict[str, Any]:
    """drift.json."""
    verdict, window = checked.verdict, checked.window
    found: dict[str, Any] = {
        "drift": verdict.drift,
        "verdict": verdict.sentence,
        "checked_at": window.until.isoformat(timespec="seconds"),
        "since": window.after.isoformat(timespec="seconds") if window.after else None,
        "model_name": checked.model_name,
        "model_version": checked.model_version,
        "source": checked.source,
        "alpha": verdict.alpha,
        "images": verdict.images,
    }
    if checked.unreadable is not None:
        files = verdict.images + checked.unreadable
        found |= {
            "unreadable": checked.unreadable,
            "share_unreadable": checked.unreadable / files,
        }
    found |= {
        "reference_images": verdict.reference_images,
        "reference_accuracy": verdict.reference_accuracy,
        "estimated_accuracy": verdict.estimated.value,
        "estimated_accuracy_low": verdict.estimated.low,
        "estimated_accuracy_high": verdict.estimated.high,
    }
    if checked.real:
        found |= _accuracy("accuracy", checked.real) | {"labelled": checked.real.images}
        found["accuracy_by_class"] = {
            name: {**_accuracy("accuracy", of_class), "labelled": of_class.images}
            for name, of_class in checked.by_class.items()
        }
    return found | {
        "left_out": list(checked.left_out),
        "detectors": [_detector(finding) for finding in verdict.findings],
    }


def metrics(found: dict[str, Any]) -> dict[str, float]:
    """The numbers of drift.json under the same names, as MLflow takes them.

    A detector's are NUMBERS of its column, as `effect_size.COLUMN`; what MLflow does not allow
    in a name becomes `_`, and columns that this makes alike are numbered.
    """
    numbers = {
        key: float(value) for key, value in found.items() if isinstance(value, bool | int | float)
    }
    taken: set[str] = set()
    for finding in found["detectors"]:
        name = _name(finding["column"], taken)
        for number in NUMBERS:
            numbers[f"{number}.{name}"] = finding[number]
    taken = set()
    for label, of_class in found.get("accuracy_by_class", {}).items():
        numbers[f"accuracy.{_name(label, taken)}"] = of_class["accuracy"]
    return numbers


def _name(text: str, taken: set[str]) -> str:
    """A name that MLflow takes, another than those taken, which it joins."""
    plain = re.sub(r"[^\w\-. ]", "_", text)[:NAME_LENGTH]
    numbered = (f"{plain}_{number}" for number in itertools.count(2))
    name = next(name for name in itertools.chain([plain], numbered) if name not in taken)
    taken.add(name)
    return name


def _accuracy(name: str, accuracy: Accuracy) -> dict[str, float]:
    return {name: accuracy.value, f"{name}_low": accuracy.low, f"{name}_high": accuracy.high}


def _detector(finding: Any) -> dict[str, Any]:
    line = DETECTORS.get(finding.detector)
    return {
        "detector": finding.detector,
        "column": finding.column,
        "test": line.name if line else FISHER,
        "statistic": finding.statistic,
        "p_value": finding.p_value,
        "corrected_p_value": finding.corrected_p_value,
        "effect_size": finding.effect_size,
        "effect": line.unit if line else EXCESS,
        "floor": finding.floor,
        "verdict": "moved" if finding.moved else "steady",
    }
