"""Draws the pictures people look at: the data, the training, the comparison, the mistakes.

Every function takes plain data and returns a `Figure` that no global state knows of; only `save`
touches the disk.
"""

from pipelines.figures.architectures import comparison
from pipelines.figures.classes import class_counts, class_scores
from pipelines.figures.curves import learning_curves
from pipelines.figures.galleries import MISTAKES, PREDICTIONS, mistakes, predictions
from pipelines.figures.layers import GROUPS, Layer, layer_flow
from pipelines.figures.matrix import confusion
from pipelines.figures.page import NONE, SPLITS, WRONG, save

__all__ = [
    "GROUPS",
    "MISTAKES",
    "NONE",
    "PREDICTIONS",
    "SPLITS",
    "WRONG",
    "Layer",
    "class_counts",
    "class_scores",
    "comparison",
    "confusion",
    "layer_flow",
    "learning_curves",
    "mistakes",
    "predictions",
    "save",
]
