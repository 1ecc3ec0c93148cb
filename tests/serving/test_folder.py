"""Answers for a folder."""

import os
from collections.abc import Callable
from pathlib import Path

import numpy as np
import pytest

from serving import folder, predictor
from serving.predictor import Classifier, ImageError
from serving.settings import UserError


@pytest.fixture(scope="module")
def colours(model_folder: Path) -> Classifier:
    return Classifier(model_folder)


def test_files_are_sorted_and_what_is_hidden_or_the_systems_is_left_out(tmp_path: Path) -> None:
    for name in ("b/2.png", "a.txt", "b/1.png", ".hidden", ".git/x.png", "b/Thumbs.db"):
        (tmp_path / name).parent.mkdir(exist_ok=True)
        (tmp_path / name).touch()
    (tmp_path / "c").symlink_to(tmp_path / "b")
    names = [str(path.relative_to(tmp_path)) for path in folder.files(tmp_path)]
    assert names == ["a.txt", "b/1.png", "b/2.png"]


def test_a_folder_that_cannot_be_answered_is_refused_in_a_sentence(tmp_path: Path) -> None:
    (tmp_path / "file").touch()
    (tmp_path / "empty").mkdir()
    for name, reason in (
        ("missing", "does not exist."),
        ("file", "is a file."),
        ("empty", "it holds no file."),
    ):
        with pytest.raises(UserError, match=f"Expected .*images.*{reason}"):
            folder.files(tmp_path / name)


def test_an_answer_a_path_in_order_over_several_chunks(
    colours: Classifier, painted: Callable[..., Path]
) -> None:
    paths = folder.files(painted("many", 2 * folder.CHUNK + 3, seed=5))
    answers = list(folder.answer(colours, paths))
    assert [answer.path for answer in answers] == paths
    for answer in (answers[0], answers[folder.CHUNK], answers[-1]):
        alone = colours.probabilities(colours.decode(answer.path.read_bytes())[None])[0]
        assert answer.probabilities == pytest.approx(alone, abs=1e-5)
        assert answer.content == answer.path.read_bytes()


def test_a_file_that_cannot_be_read_has_a_reason_and_the_rest_goes_on(
    colours: Classifier, painted: Callable[..., Path], monkeypatch: pytest.MonkeyPatch
) -> None:
    images = painted("mixed", 3, seed=5)
    (images / "a-text.png").write_text("no image")
    (images / "b-empty.png").touch()
    (images / "c-gone.png").symlink_to(images / "nowhere.png")
    os.mkfifo(images / "d-pipe.png")
    (images / "e-large.png").write_bytes(b"x" * 3000)
    monkeypatch.setattr(folder, "MAX_BYTES", 2500)
    answers = {answer.path.name: answer for answer in folder.answer(colours, folder.files(images))}
    errors = {name: answer.error for name, answer in answers.items() if answer.error}
    assert errors == {
        "a-text.png": f"not an image of a known format ({', '.join(predictor.FORMATS)})",
        "b-empty.png": "empty file",
        "c-gone.png": "cannot be read (No such file or directory)",
        "d-pipe.png": "not a regular file",
        "e-large.png": "3,000 bytes, more than the bound of 2,500",
    }
    assert all((answer.probabilities is None) == bool(answer.error) for answer in answers.values())
    assert len(answers) == 8


def test_a_folder_in_which_nothing_can_be_read_has_reasons_alone(
    colours: Classifier, tmp_path: Path
) -> None:
    (tmp_path / "text.png").write_text("no image")
    (answer,) = folder.answer(colours, folder.files(tmp_path))
    assert answer.probabilities is None
    assert answer.error


def test_read_says_why_a_file_cannot_be_read(tmp_path: Path) -> None:
    with pytest.raises(ImageError, match="not a regular file"):
        folder.read(tmp_path)


def test_probabilities_do_not_depend_on_what_else_is_in_the_folder(
    colours: Classifier, painted: Callable[..., Path]
) -> None:
    paths = folder.files(painted("images", 40, seed=6))
    forward = {answer.path: answer.probabilities for answer in folder.answer(colours, paths)}
    for answer in folder.answer(colours, paths[::-3]):
        np.testing.assert_allclose(answer.probabilities, forward[answer.path], atol=1e-5)
