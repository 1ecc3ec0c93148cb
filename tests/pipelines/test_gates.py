"""Gates: each refuses what it is for, in a sentence, and lets the rest pass."""

from dataclasses import replace

import pandas as pd
import pytest

from pipelines.config import GateSettings
from pipelines.gates import GATES, PASSED, Candidate, Comparison, compare, judge, refusals

GOOD = Candidate(
    test_accuracy=0.9, overfit_gap=0.02, latency_ms=5.0, size_mb=2.0, largest_class=0.3
)
BOUNDS = GateSettings(min_accuracy=0.8, max_latency_ms=10, max_size_mb=3)
WORSE = Comparison("3", 100, 0.90, 0.95, only_candidate=2, only_champion=7)
BETTER = replace(WORSE, only_candidate=7, only_champion=2)

REFUSED = {
    "min_accuracy": replace(GOOD, test_accuracy=0.79),
    "max_overfit_gap": replace(GOOD, overfit_gap=0.051),
    "max_latency_ms": replace(GOOD, latency_ms=10.1),
    "max_size_mb": replace(GOOD, size_mb=3.1),
    "not_worse": replace(GOOD, comparison=WORSE),
}


def test_every_gate_has_its_case() -> None:
    assert REFUSED.keys() == GATES.keys()


@pytest.mark.parametrize("gate", GATES)
def test_a_gate_passes_a_good_candidate(gate: str) -> None:
    assert GATES[gate](GOOD, BOUNDS) == ""


@pytest.mark.parametrize("gate", GATES)
def test_a_gate_refuses_what_it_is_for_in_one_sentence_and_no_other_does(gate: str) -> None:
    refused = refusals(judge(REFUSED[gate], BOUNDS))
    assert refused.keys() == {gate}
    assert refused[gate].startswith("Expected")
    assert "got" in refused[gate]
    assert refused[gate].endswith(".")


def test_bounds_of_zero_are_none_for_latency_and_size() -> None:
    slow = replace(GOOD, latency_ms=1e6, size_mb=1e6)
    assert set(judge(slow, GateSettings()).values()) == {PASSED}


def test_a_candidate_no_better_than_the_largest_class_is_refused() -> None:
    constant = replace(GOOD, test_accuracy=0.3)
    assert "largest class" in judge(constant, GateSettings())["min_accuracy"]


def test_a_better_or_equal_candidate_passes_the_champion() -> None:
    equal = replace(WORSE, only_candidate=5, only_champion=5)
    for comparison in (BETTER, equal):
        assert judge(replace(GOOD, comparison=comparison), BOUNDS)["not_worse"] == PASSED


def test_a_champion_that_cannot_be_compared_refuses() -> None:
    lost = replace(GOOD, incomparable="Expected the test images, but they are gone.")
    assert judge(lost, BOUNDS)["not_worse"] == lost.incomparable


@pytest.mark.parametrize(
    ("only_candidate", "only_champion", "p_value"),
    [
        (0, 0, 1.0),
        (5, 5, 1.0),
        (1, 9, 22 / 1024),  # 2 * (C(10,0) + C(10,1)) / 2**10
        (0, 6, 2 / 64),
    ],
)
def test_mcnemar_p_values_are_those_computed_by_hand(
    only_candidate: int, only_champion: int, p_value: float
) -> None:
    comparison = Comparison("1", 100, 0.5, 0.5, only_candidate, only_champion)
    assert comparison.p_value == pytest.approx(p_value)


def test_comparison_counts_images_that_one_alone_gets_right() -> None:
    truth = pd.Series(["a", "a", "b", "b", "b"])
    candidate = pd.Series(["a", "b", "b", "a", "b"])
    champion = pd.Series(["a", "a", "a", "a", "b"])
    found = compare("7", truth, candidate, champion)
    assert (found.only_candidate, found.only_champion) == (1, 1)
    assert (found.candidate_accuracy, found.champion_accuracy) == (0.6, 0.6)
    assert (found.champion_version, found.images) == ("7", 5)
