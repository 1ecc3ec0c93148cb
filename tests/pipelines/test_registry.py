"""Aliases: what moves them, what does not, and how they come back."""

import io
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import pandas as pd
import pytest
from mlflow.tracking import MlflowClient
from PIL import Image

from pipelines import promote, registry
from pipelines.config import GateSettings
from pipelines.gates import PASSED, refusals
from serving import registered
from serving.features import FEATURES
from serving.settings import UserError

NAME = "promoted"


@pytest.fixture
def versions(searched: Any, use_store: Callable) -> Iterator[MlflowClient]:
    """A registered model of three versions without an alias: the search's three finalists."""
    use_store(searched)
    client = searched.client
    order = {"cnn": 0, "transfer": 1, "lm": 2}
    runs = {run.info.run_id: run.data.tags["architecture"] for run in searched.runs("architecture")}
    models = client.search_logged_models(["1"])
    for model in sorted(models, key=lambda model: order[runs[model.source_run_id]]):
        registry.register(NAME, model.source_run_id, model.model_id, {"min_accuracy": PASSED}, "")
    yield client
    client.delete_registered_model(NAME)


def aliases(client: MlflowClient) -> dict[str, str]:
    found = client.get_registered_model(NAME).aliases
    return {alias: str(version) for alias, version in found.items()}


def test_a_version_that_passes_becomes_champion_and_the_old_one_previous(
    versions: MlflowClient,
) -> None:
    registry.settle(NAME, "1", {"a": PASSED})
    registry.settle(NAME, "2", {"a": PASSED})
    assert aliases(versions) == {"champion": "2", "previous": "1"}


def test_a_refused_version_becomes_challenger_and_moves_nothing_else(
    versions: MlflowClient,
) -> None:
    registry.settle(NAME, "1", {"a": PASSED})
    registry.settle(NAME, "2", {"a": PASSED, "b": "Expected more, got less."})
    assert aliases(versions) == {"champion": "1", "challenger": "2"}


def test_a_version_that_passes_stays_challenger_unless_it_is_to_be_promoted(
    versions: MlflowClient,
) -> None:
    registry.settle(NAME, "1", {"a": PASSED})
    assert registry.settle(NAME, "2", {"a": PASSED}, promote=False) == "challenger"
    assert aliases(versions) == {"champion": "1", "challenger": "2"}
    assert registry.settle(NAME, "2", {"a": PASSED}, promote=True) == "champion"
    assert aliases(versions) == {"champion": "2", "previous": "1"}


def test_a_challenger_that_becomes_champion_is_challenger_no_more(versions: MlflowClient) -> None:
    registry.settle(NAME, "1", {"a": "Expected more, got less."})
    registry.settle(NAME, "1", {"a": PASSED})
    assert aliases(versions) == {"champion": "1"}


def test_rollback_puts_the_last_champion_back_and_twice_is_as_before(
    versions: MlflowClient,
) -> None:
    registry.settle(NAME, "1", {"a": PASSED})
    registry.settle(NAME, "2", {"a": PASSED})
    assert registry.rollback(NAME) == ("1", "2")
    assert aliases(versions) == {"champion": "1", "previous": "2"}
    assert registry.rollback(NAME) == ("2", "1")


def test_rollback_without_a_previous_champion_is_refused_and_moves_nothing(
    versions: MlflowClient,
) -> None:
    registry.settle(NAME, "1", {"a": PASSED})
    with pytest.raises(UserError, match="Unknown model 'models:/promoted@previous'"):
        registry.rollback(NAME)
    assert aliases(versions) == {"champion": "1"}


def test_promote_sends_the_version_through_todays_gates(versions: MlflowClient) -> None:
    alias, verdicts = registry.promote(NAME, "1", GateSettings(max_overfit_gap=1.0))
    assert (alias, refusals(verdicts)) == ("champion", {})
    tags = versions.get_model_version(NAME, "1").tags
    assert tags["gate.not_worse"] == PASSED


def test_promote_refuses_by_a_bound_and_writes_the_refusal_on_the_version(
    versions: MlflowClient,
) -> None:
    registry.settle(NAME, "1", {"a": PASSED})
    bounds = GateSettings(max_size_mb=1e-6, max_overfit_gap=1.0)
    alias, verdicts = registry.promote(NAME, "2", bounds)
    assert alias == "challenger"
    assert "Expected at most 1e-06 MB" in verdicts["max_size_mb"]
    assert versions.get_model_version(NAME, "2").tags["gate.max_size_mb"].startswith("Expected")
    assert aliases(versions) == {"champion": "1", "challenger": "2"}


def test_a_champion_that_a_gate_refuses_later_stays_champion(versions: MlflowClient) -> None:
    registry.settle(NAME, "1", {"a": PASSED})
    alias, verdicts = registry.promote(NAME, "1", GateSettings(max_size_mb=1e-6))
    assert alias == "champion"
    assert refusals(verdicts)
    assert aliases(versions) == {"champion": "1"}


def test_a_candidate_is_compared_with_the_champion_on_the_same_images(
    versions: MlflowClient,
) -> None:
    registry.settle(NAME, "1", {"a": PASSED})
    table = registered.load(f"models:/{NAME}/3").reference()
    champion = registered.load(f"models:/{NAME}/1")
    comparison = registry.against(champion, table)
    right = (table["label"] == table["truth"]).mean()
    assert comparison.images == len(table) == 27
    assert comparison.candidate_accuracy == pytest.approx(right)
    own = champion.reference()
    assert comparison.champion_accuracy == pytest.approx((own["label"] == own["truth"]).mean())


def test_a_champion_is_asked_about_images_that_it_was_not_tested_on(
    versions: MlflowClient, searched: Any
) -> None:
    table = registered.load(f"models:/{NAME}/2").reference().assign(content="another")
    comparison = registry.against(registered.load(f"models:/{NAME}/1"), table)
    assert comparison.images == len(table)


def test_images_that_are_gone_make_a_champion_incomparable(versions: MlflowClient) -> None:
    registry.settle(NAME, "1", {"a": PASSED})
    table = registered.load(f"models:/{NAME}/2").reference()
    lost = table.assign(content="another", path="gone.png")
    run = versions.get_model_version(NAME, "2").run_id
    candidate = registry.candidate(NAME, "2", versions.get_run(run).data.metrics, lost)
    assert "27 are gone, the first: gone.png" in candidate.incomparable


def test_the_reference_has_a_row_a_test_image_with_its_truth(versions: MlflowClient) -> None:
    table = registered.load(f"models:/{NAME}/1").reference()
    assert {Path(path).parent.name for path in table["path"]} == set(table["truth"])
    assert [Path(p).parent.name for p in table["path"]] == table["truth"].tolist()
    assert table.filter(like="p_").sum(axis=1).to_numpy() == pytest.approx(1, abs=1e-5)


def test_the_reference_has_what_monitoring_compares_and_a_few_pictures(
    versions: MlflowClient,
) -> None:
    table = registered.load(f"models:/{NAME}/1").reference()
    assert table.attrs == {"files": 181, "unreadable": 1}
    assert {"entropy", "novelty", "e_0", *FEATURES} < set(table)
    assert table["novelty"].between(0, 1).all()
    assert table["content"].is_unique
    pictures = [Image.open(io.BytesIO(content)) for content in table["thumbnail"]]
    assert {(picture.format, picture.size) for picture in pictures} == {("JPEG", (32, 32))}


def test_a_model_of_many_classes_carries_no_more_pictures(tmp_path: Path) -> None:
    image = io.BytesIO()
    Image.new("RGB", (9, 9)).save(image, "PNG")
    paths = [tmp_path / f"{number}.png" for number in range(2 * registry.THUMBNAILS)]
    for path in paths:
        path.write_bytes(image.getvalue())
    names = pd.Series(map(str, paths))
    classes = pd.Series([path.stem for path in paths], index=names)
    found = registry._thumbnails(names, classes)
    assert sum(content is not None for content in found) == registry.THUMBNAILS


def test_promote_of_a_model_that_does_not_exist_is_one_sentence(searched: Any) -> None:
    done = searched.run("pipelines.promote", name="nothing")
    assert done.returncode == 2
    assert "lookout: Unknown model 'models:/nothing@challenger'" in done.stderr
    assert "Traceback" not in done.stderr


def test_a_version_that_an_interrupted_search_made_is_found_again(versions: MlflowClient) -> None:
    version = versions.get_model_version(NAME, "1")
    tags = {"best_trial": "1"}
    model_id = version.source.removeprefix("models:/")
    again = registry.register(NAME, version.run_id, model_id, {}, "", tags)
    assert registry.registered_before(NAME, version.run_id, 1) == again
    assert registry.registered_before(NAME, version.run_id, 0) is None


def test_a_rollback_to_the_champion_itself_is_refused(versions: MlflowClient) -> None:
    for alias in ("champion", "previous"):
        versions.set_registered_model_alias(NAME, alias, "1")
    with pytest.raises(UserError, match="both are version 1"):
        registry.rollback(NAME)


def test_a_champion_that_cannot_be_loaded_makes_it_incomparable(versions: MlflowClient) -> None:
    registry.settle(NAME, "1", {"a": PASSED})
    folder = registered.load(f"models:/{NAME}/1").folder
    network = folder / "network.tflite"
    content = network.read_bytes()
    run = versions.get_model_version(NAME, "2").run_id
    table = registered.load(f"models:/{NAME}/2").reference()
    network.write_bytes(b"broken")
    try:
        found = registry.candidate(NAME, "2", versions.get_run(run).data.metrics, table)
    finally:
        network.write_bytes(content)
    assert "cannot be loaded" in found.incomparable


def test_promote_names_the_run_that_mlflow_made_for_it(
    versions: MlflowClient, monkeypatch: pytest.MonkeyPatch
) -> None:
    run_id = versions.create_run("1").info.run_id
    monkeypatch.setenv("MLFLOW_RUN_ID", run_id)
    assert promote.main(promote.PromoteSettings(name=NAME, version="1", max_overfit_gap=1.0)) == 0
    run = versions.get_run(run_id)
    assert run.info.run_name == "promote promoted v1"
    assert run.data.tags["level"] == "promote"
    assert run.data.tags["alias"] == "champion"
