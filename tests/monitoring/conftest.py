"""A model with an embedding, as a check loads it."""

from pathlib import Path

import pytest

from serving.predictor import Classifier
from serving.registered import RegisteredModel


@pytest.fixture(scope="session")
def tints(embedded_folder: Path) -> RegisteredModel:
    return RegisteredModel("tints", "1", "", Classifier(embedded_folder), embedded_folder)
