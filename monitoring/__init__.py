"""Drift: whether the images that arrive still look like the ones a model was tested on."""
