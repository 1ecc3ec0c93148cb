import numpy as np
import pandas as pd
import pytest

from monitoring import figures, words
from monitoring.drift import Finding


def finding(column: str) -> Finding:
    return Finding("features", column, 0.5, 0.001, 0.01, 0.5, 0.1, moved=True)


def frame(**columns) -> pd.DataFrame:
    return pd.DataFrame(columns)


@pytest.mark.parametrize(
    ("column", "before", "now", "sentence"),
    [
        ("sharpness", [400, 420], [90, 100], "Mean sharpness fell from 410 to 95."),
        ("p_sea", [0.1, 0.2], [0.3, 0.5], "Mean probability of sea rose from 15% to 40%."),
        ("confidence", [0.9, 0.92], [0.89, 0.90], "Mean confidence fell from 91.0% to 89.5%."),
        (
            "brightness",
            [90, 110],
            [60, 140],
            "Brightness varies more: standard deviation 10 → 40, mean 100 → 100.",
        ),
        ("label", list("abbb"), list("abaa"), "The share of a rose from 25% to 75%."),
        ("noise", [1, np.nan, np.inf], [3, -np.inf], "Mean noise rose from 1 to 3."),
        ("noise", [np.nan], [1], "Noise changed."),
    ],
)
def test_what_moved_is_one_sentence(column, before, now, sentence):
    sides = frame(**{column: before}), frame(**{column: now})
    assert words.moved(finding(column), *sides) == sentence


def test_numbers_have_the_digits_that_a_reader_needs():
    assert [words.number(n) for n in (2436.4, 41.26, 1.5, 0.0123, -5.813, 0, 3, 1e12)] == [
        "2,436",
        "41.3",
        "1.50",
        "0.012",
        "\N{MINUS SIGN}5.81",
        "0",
        "3",
        "1e+12",
    ]
    assert [words.p_text(p) for p in (0, 0.00012, 0.001, 0.0234, 0.5, 1)] == [
        "< 0.0001",
        "0.0001",
        "0.001",
        "0.023",
        "0.5",
        "1",
    ]


def test_names_are_shortened_and_what_cannot_be_seen_is_spelled_out():
    assert words.shortened("a" * 100 + "end") == "a" * 39 + "…" + "a" * 17 + "end"
    assert words.clean("\udc80\u202e\x00\u200dé") == "\\udc80\\u202e\\x00\u200dé"


@pytest.mark.parametrize(
    ("low", "high", "found"),
    [
        (0, 1, [0, 0.5, 1]),
        (0.713, 0.948, [0.75, 0.8, 0.85, 0.9]),
        (130, 520, [200, 300, 400, 500]),
        (0.35, 0.96, [0.4, 0.6, 0.8]),
    ],
)
def test_ticks_are_round_numbers_inside_the_axis(low, high, found):
    assert figures.ticks(low, high) == pytest.approx(found)


@pytest.mark.parametrize("value", [0.0, 150.0, -1e299, 1e299, 1e-300])
def test_a_constant_has_a_histogram(value):
    sides = np.full(40, value), np.append(np.full(39, value), 0.0)
    drawn = [figures.histogram(*sides, "words", share=False) for _ in range(2)]
    assert drawn[0] == drawn[1]
    assert "nan" not in drawn[0]
    assert "inf" not in drawn[0]
