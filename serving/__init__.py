"""Answers: images in, labels and probabilities out, without TensorFlow."""
