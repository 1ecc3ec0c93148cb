"""The verdict of a check: what it finds and names, and what it lets pass."""

from collections import Counter

import numpy as np
import pytest

from monitoring import correction, detectors
from monitoring.accuracy import Accuracy
from monitoring.detectors import Files
from monitoring.drift import DETECTORS, MINIMUM, check
from serving.settings import UserError
from tests.monitoring.rows import CLASSES, rows


def found(verdict) -> list[str]:
    return [finding.column for finding in verdict.moved]


@pytest.fixture
def few_draws(monkeypatch):
    """For simulations: a corrected p-value of 0.02 is the smallest."""
    monkeypatch.setattr(correction, "DRAWS", 49)
    monkeypatch.setattr(detectors, "TABLES", 499)


def test_alarms_of_a_whole_check_stay_below_alpha(few_draws):
    alarms = Counter()
    for seed in range(50):
        verdict = check(rows(200, seed), rows(60, 10_000 + seed), CLASSES, alpha=0.1)
        significant = [one for one in verdict.findings if one.corrected_p_value <= 0.1]
        alarms.update({one.detector for one in significant})
        alarms["any"] += bool(significant)
    assert alarms["any"] <= 10  # of a binomial with 0.1, more come once in a hundred
    assert alarms["any"] >= 1
    assert max(alarms[key] for key in DETECTORS) <= 6


def test_alarms_stay_below_alpha_where_the_draws_of_a_part_stand_for_all_rows(
    few_draws, monkeypatch
):
    monkeypatch.setattr(correction, "CELLS", 0)
    alarms = 0
    for seed in range(25):
        verdict = check(rows(900, seed), rows(700, 10_000 + seed), CLASSES, alpha=0.1)
        alarms += any(one.corrected_p_value <= 0.1 for one in verdict.findings)
    assert alarms <= 6


@pytest.mark.parametrize(("count", "by"), [(100, 1.0), (500, 0.4)])
def test_one_moved_feature_is_found_and_named(count, by):
    verdict = check(rows(1000, 0), rows(count, 2, brightness=by), CLASSES)
    assert found(verdict) == ["brightness"]
    assert verdict.sentence.startswith("Drift: 1 of 20 detectors moved, most of all brightness")


def test_a_tenth_of_novel_images_among_a_hundred_is_found_by_their_novelty():
    verdict = check(rows(1000, 0), rows(100, 3, novel=10), CLASSES)
    assert found(verdict) == ["novelty"]
    assert verdict.moved[0].effect_size == pytest.approx(0.1, abs=0.03)


def test_moved_embeddings_are_found_though_no_number_else_moves():
    current = rows(200, 4)
    current[["e_0", "e_3"]] += 1.5
    assert found(check(rows(1000, 0), current, CLASSES)) == ["embedding"]


def test_the_findings_that_moved_come_largest_effect_first():
    verdict = check(rows(500, 0), rows(200, 5, brightness=0.8, noise=3), CLASSES)
    assert found(verdict) == ["noise", "brightness"]


def test_a_hair_in_many_rows_is_significant_but_not_drift():
    verdict = check(rows(30_000, 0), rows(30_000, 1, brightness=0.1), CLASSES)
    hair = next(finding for finding in verdict.findings if finding.column == "brightness")
    assert hair.p_value < 1e-15
    assert hair.corrected_p_value == pytest.approx(0.001 / 0.98, rel=0.1)
    assert not verdict.drift
    assert verdict.sentence == "No drift: none of 20 detectors moved."


def test_more_unreadable_files_than_ever_are_drift():
    reference, current = rows(500, 0), rows(100, 7)
    verdict = check(reference, current, CLASSES, files=Files(500, 1, 120, 20))
    assert found(verdict) == ["unreadable"]
    assert verdict.moved[0].statistic == pytest.approx(1 / 6)
    calm = check(reference, current, CLASSES, files=Files(500, 1, 101, 1))
    assert not calm.drift
    assert [one.detector for one in calm.findings].count("unreadable") == 1


def test_values_that_one_side_keeps_less_exactly_are_equal():
    reference, current = rows(300, 0), rows(100, 1)
    assert reference["aspect"][0] != np.float32(reference["aspect"][0])
    kept = current.astype(dict.fromkeys(("aspect", "brightness", "width"), np.float32))
    verdict = check(reference, kept, CLASSES)
    assert not verdict.drift
    assert next(f for f in verdict.findings if f.column == "aspect").statistic == 0


def test_columns_that_one_side_lacks_are_not_asked():
    reference, current = rows(200, 0), rows(100, 1)
    without = current.drop(columns=["novelty", "e_7", "sharpness", "entropy"])
    asked = {finding.column for finding in check(reference, without, CLASSES).findings}
    assert asked.isdisjoint({"novelty", "embedding", "sharpness", "entropy"})
    assert {"label", "p_a", "confidence", "brightness"} < asked
    bare = reference[["label", "truth", *(f"p_{name}" for name in CLASSES), "confidence"]]
    assert len(check(bare, current, CLASSES).findings) == 1 + len(CLASSES) + 1


def test_classes_of_any_name_are_only_names():
    classes = ("label", "novelty", "e_0", "p_a", 'it\'s "so"', "ü/\n", "truth")
    reference, current = rows(200, 0, classes), rows(200, 1, classes)
    verdict = check(reference, current, classes)
    assert [f.column for f in verdict.findings if f.detector == "probabilities"] == [
        f"p_{name}" for name in classes
    ]
    assert not verdict.drift
    gone = rows(200, 1, classes)
    gone.loc[gone["label"] == "novelty", "label"] = "e_0"
    assert found(check(reference, gone, classes)) == ["label"]


def test_a_verdict_is_the_same_twice_and_leaves_the_rows_alone():
    reference, current = rows(100, 0), rows(60, 1)
    kept = reference.copy(), current.copy()
    assert check(reference, current, CLASSES) == check(reference, current, CLASSES)
    assert reference.equals(kept[0])
    assert current.equals(kept[1])


def test_verdict_carries_the_accuracies_and_the_counts():
    reference = rows(2000, 0)
    verdict = check(reference, reference.head(500), CLASSES)
    assert verdict.reference_accuracy == (reference["label"] == reference["truth"]).mean()
    assert verdict.estimated_accuracy == pytest.approx(verdict.reference_accuracy, abs=0.06)
    assert isinstance(verdict.estimated, Accuracy)
    assert (verdict.reference_images, verdict.images) == (2000, 500)


@pytest.mark.parametrize(
    ("reference", "current", "sentence"),
    [
        (
            rows(100, 0),
            rows(MINIMUM - 1, 1),
            "at least 30 answered images in the images to check, got 29",
        ),
        (rows(10, 0), rows(100, 1), "at least 30 answered images in the model's reference, got 10"),
        (rows(100, 0).drop(columns=["truth", "p_b"]), rows(100, 1), "columns p_b, truth in"),
        (rows(100, 0), rows(100, 1).drop(columns="label"), "columns label in the images to check"),
        (rows(100, 0), rows(0, 1), "in the images to check, got 0"),
    ],
)
def test_what_cannot_be_checked_is_refused_in_a_sentence(reference, current, sentence):
    with pytest.raises(UserError, match=sentence):
        check(reference, current, CLASSES)
