"""A task trains what it says: heads on features, whole networks, and the top of a backbone."""

from pathlib import Path

import numpy as np
import pytest
from PIL import Image

from models import ARCHITECTURES
from pipelines import data, tasks
from pipelines.config import TrainingSettings
from pipelines.tasks import Task

START = ARCHITECTURES["transfer"].start


@pytest.fixture(scope="module")
def transfer(tmp_path_factory: pytest.TempPathFactory) -> Task:
    """Two classes of noise that their colour tells apart, on a random backbone."""
    folder: Path = tmp_path_factory.mktemp("shades")
    generator = np.random.default_rng(0)
    for level, name in ((60, "dark"), (190, "light")):
        (folder / name).mkdir()
        for i in range(30):
            pixels = generator.normal(level, 20, (32, 32, 3)).clip(0, 255).astype(np.uint8)
            Image.fromarray(pixels).save(folder / name / f"{i}.png")
    settings = TrainingSettings(weights="none", backbone="mobilenet", alpha=0.25, image_size=32)
    return tasks.make("transfer", data.prepare(str(folder), 0), settings)


def test_a_head_is_trained_on_features_and_joined_to_its_backbone(transfer: Task) -> None:
    model, fit = transfer.train(START, epochs=2, seed=0)
    assert model.input_shape == (None, 256)
    assert len(fit.history) == 2
    whole = transfer.whole(model)
    assert whole.input_shape == (None, 32, 32, 3)
    answers = [transfer.probabilities(network, "test") for network in (model, whole)]
    assert answers[0] == pytest.approx(answers[1], abs=1e-3)


def test_fine_tuning_goes_on_after_the_head_and_keeps_the_better_of_the_two(
    transfer: Task,
) -> None:
    seen: list[int] = []
    before = [weight.copy() for weight in transfer.backbone.network.get_weights()]
    params = START | {"fine_tune_blocks": 1}
    model, fit = transfer.train(
        params, epochs=4, seed=0, on_epoch=lambda epoch, metrics: seen.append(epoch)
    )
    assert seen == [1, 2, 3, 4, 5, 6]
    assert fit.best("val_loss") == min(fit.history["val_loss"])
    assert transfer.whole(model).input_shape == (None, 32, 32, 3)
    after = transfer.backbone.network.get_weights()
    assert all(np.array_equal(a, b) for a, b in zip(before, after, strict=True))


def test_fine_tuning_that_helps_changes_the_top_block_alone(
    transfer: Task, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(tasks, "FINE_TUNE_RATE", 1.0)
    params = START | {"fine_tune_blocks": 1, "learning_rate": 1e-3}
    model, _ = transfer.train(params, epochs=6, seed=0)
    if model.input_shape == (None, 256):
        pytest.skip("the head alone validated better")
    tuned = next(layer for layer in model.layers if layer.name == "backbone")
    pairs = zip(transfer.backbone.network.get_weights(), tuned.get_weights(), strict=True)
    changed = [not np.array_equal(a, b) for a, b in pairs]
    assert any(changed)
    assert not any(changed[: len(changed) // 2])
