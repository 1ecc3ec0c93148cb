"""The parser that all entry points share."""

import subprocess
import sys
from dataclasses import dataclass
from pathlib import Path

import pytest

from serving.settings import UserError, describe, parse, require

ROOT = Path(__file__).parents[2]


@dataclass(frozen=True)
class Bake:
    """Bakes a loaf."""

    flour: str = describe("which flour")
    grams: int = describe("weight", 500)
    heat: float = describe("degrees", 230.5)
    seeds: bool = describe("on top", False)

    def __post_init__(self) -> None:
        require(self.grams > 0, f"Expected grams above 0, got {self.grams}.")


def bake(*arguments: str) -> Bake:
    return parse(Bake, arguments, "python -m bake")


def test_fields_without_a_flag_keep_their_defaults() -> None:
    assert bake("--flour", "rye") == Bake("rye", 500, 230.5, False)


def test_values_arrive_in_the_types_of_the_fields() -> None:
    loaf = bake("--flour", "7", "--grams", "750", "--heat", "200", "--seeds", "true")
    assert loaf == Bake("7", 750, 200.0, True)
    assert [type(value) for value in vars(loaf).values()] == [str, int, float, bool]


def test_an_empty_text_is_a_value() -> None:
    assert bake("--flour", "").flour == ""


@pytest.mark.parametrize(
    ("value", "texts"),
    [(True, ("true", "True", "1", "yes")), (False, ("false", "FALSE", "0", "no"))],
)
def test_a_boolean_is_what_it_says(value: bool, texts: tuple[str, ...]) -> None:
    for text in texts:
        assert bake("--flour", "rye", "--seeds", text).seeds is value


@pytest.mark.parametrize(
    ("arguments", "sentence"),
    [
        ([], "The following arguments are required: --flour; see `python -m bake --help`."),
        (["--flour", "rye", "--salt", "2"], "Unrecognized arguments: --salt 2;"),
        (["--flour", "rye", "--gram", "2"], "Unrecognized arguments: --gram 2;"),
        (["--flour", "rye", "more"], "Unrecognized arguments: more;"),
        (["--flour", "rye", "--grams", "many"], "--grams: invalid int value: 'many';"),
        (["--flour", "rye", "--grams", "1.5"], "--grams: invalid int value: '1.5';"),
        (["--flour", "rye", "--heat", "hot"], "--heat: invalid float value: 'hot';"),
        (["--flour", "rye", "--seeds", "perhaps"], "expected true or false, got 'perhaps';"),
        (["--flour"], "--flour: expected one argument;"),
        (["--flour", "rye", "--grams", "0"], "Expected grams above 0, got 0."),
    ],
)
def test_a_wrong_command_line_is_refused_in_a_sentence(arguments: list[str], sentence: str) -> None:
    with pytest.raises(UserError) as refused:
        bake(*arguments)
    assert sentence in str(refused.value)
    assert "\n" not in str(refused.value)


def test_help_gives_each_flag_its_line_and_default(capsys: pytest.CaptureFixture[str]) -> None:
    with pytest.raises(SystemExit) as ended:
        bake("--help")
    assert ended.value.code == 0
    shown = capsys.readouterr().out
    for line in (
        "Bakes a loaf.",
        "which flour",
        "weight (default: 500)",
        "on top (default: False)",
    ):
        assert line in shown


@pytest.mark.parametrize(
    ("arguments", "sentence"),
    [
        (["--model", "m", "--images", "i", "--colour", "red"], "lookout: Unrecognized arguments"),
        (["--model", "m", "--images", "missing"], "lookout: Expected a folder of images, but"),
    ],
)
def test_an_entry_point_ends_a_mistake_with_one_sentence_and_status_2(
    arguments: list[str], sentence: str
) -> None:
    command = [sys.executable, "-m", "pipelines.score", *arguments]
    ended = subprocess.run(command, cwd=ROOT, capture_output=True, text=True, check=False)
    assert ended.returncode == 2
    assert ended.stdout == ""
    assert ended.stderr.startswith(sentence)
    assert ended.stderr.count("\n") == 1
