"""Leakage and shortcuts of a dataset, found before anything is trained on it."""
