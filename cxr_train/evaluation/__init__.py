"""A model on a split: predictions, metrics with intervals, calibration, comparison."""
