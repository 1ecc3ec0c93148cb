"""Settings refuse what cannot work, in one sentence."""

from pathlib import Path

import pytest

from pipelines.config import SearchSettings, TrainSettings
from serving.settings import UserError, parse


@pytest.mark.parametrize(
    ("flags", "sentence"),
    [
        (["--architectures", "vgg"], "Unknown architecture 'vgg'; choose one of cnn, dcnn"),
        (["--trials", "0"], "Expected trials of at least 1, got 0"),
        (["--epochs", "-1"], "Expected epochs of at least 1, got -1"),
        (["--timeout", "nan"], "Expected timeout of at least 0, got nan"),
        (["--trials", "many"], "Argument --trials: invalid int value: 'many'"),
        (["--max_overfit_gap", "5"], "Expected max_overfit_gap from 0 to 1, got 5.0"),
        (["--name", "a/b"], "Expected a name without / and :, got 'a/b'"),
        (["--storage", "optuna.db"], "Expected storage as a URL, got 'optuna.db'"),
        (["--feedback", "log.db"], "Expected feedback as the URL of an inference log, or env"),
        (["--promote", "maybe"], "expected true or false, got 'maybe'"),
        (["--image_sise", "64"], "Unrecognized arguments: --image_sise 64"),
    ],
)
def test_a_wrong_setting_is_refused_in_one_sentence(flags: list[str], sentence: str) -> None:
    with pytest.raises(UserError) as refusal:
        parse(SearchSettings, flags, "main")
    assert sentence in str(refusal.value)
    assert "\n" not in str(refusal.value)


def test_weights_that_are_no_file_are_refused_where_they_are_used() -> None:
    settings = parse(SearchSettings, ["--weights", "nowhere.h5"], "main")
    with pytest.raises(UserError, match=r"none, or a file, but nowhere\.h5 is no file"):
        settings.require_weights()


@pytest.mark.parametrize("params", ["[1]", "{units", "3"])
def test_params_that_are_no_json_object_are_refused(params: str) -> None:
    with pytest.raises(UserError, match="Expected params as a JSON object"):
        TrainSettings(params=params)


def test_quick_architectures_are_searched_first_and_none_twice() -> None:
    assert SearchSettings(architectures="dcnn, lm,dcnn").codes == ("lm", "dcnn")
    assert SearchSettings().codes[0] == "lm"
    assert SearchSettings().codes[-1] == "dcnn"


def test_transfer_counts_as_asked_for_only_by_name() -> None:
    assert SearchSettings(architectures="transfer,lm").asks_for_transfer
    assert not SearchSettings().asks_for_transfer


def test_settings_survive_the_way_through_json(tmp_path: Path) -> None:
    weights = tmp_path / "w.h5"
    weights.touch()
    settings = SearchSettings(data="there", weights=str(weights), trials=3, min_accuracy=0.5)
    again = SearchSettings.from_json(settings.to_json(), "abc")
    assert again == SearchSettings(
        data="there", weights=str(weights), trials=3, min_accuracy=0.5, resume="abc"
    )
