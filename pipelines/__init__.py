"""The steps from a folder of labelled images to a registered model."""
