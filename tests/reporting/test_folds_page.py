"""The page of joined folds: their spread, and the X-rays of the most doubtful labels."""

import dataclasses

import numpy as np
import pytest
from embedded_sources import write_embedded_sources
from shards import random_images, write_shards
from written_run import Page

from cxr_train.evaluation.analysis import analyse
from cxr_train.evaluation.options import EvaluationOptions
from cxr_train.evaluation.out_of_fold import label_issues, spread
from cxr_train.evaluation.predictions import NamedPredictions
from cxr_train.reporting.folds_page import write_folds_page

IMAGES = 60


@pytest.fixture(scope="module")
def data(tmp_path_factory):
    splits = {"train": random_images(IMAGES - 20), "validation": random_images(20, seed=1)}
    return write_shards(tmp_path_factory.mktemp("folds"), splits, dtype="uint8")


def joined() -> tuple[NamedPredictions, dict]:
    """Predictions of both splits, ten of them of another class than the label, and their metrics."""
    labels = np.arange(IMAGES) % 3
    said = np.where(np.arange(IMAGES) < 10, (labels + 1) % 3, labels)
    scores = np.random.default_rng(0).random([IMAGES, 3]) + 3 * np.eye(3)[said]
    ids = [f"train/{n}.png" for n in range(IMAGES - 20)] + [f"validation/{n}.png" for n in range(20)]
    names = ("covid", "normal", "pneumonia")
    probabilities = scores / scores.sum(axis=1, keepdims=True)
    whole = NamedPredictions("folds", names, tuple(ids), tuple(ids), labels, probabilities)
    folds = {}
    for k in range(3):
        rows = slice(k * 20, k * 20 + 20)
        folds[f"runs/plain-fold{k + 1}"] = dataclasses.replace(
            whole,
            ids=whole.ids[rows],
            groups=whole.groups[rows],
            labels=labels[rows],
            probabilities=probabilities[rows],
        )
    summary = analyse(whole, EvaluationOptions(resamples=100, validation_split=None))
    return whole, {**summary, "spread": spread(folds)}


def test_the_page_has_the_spread_and_the_doubtful_x_rays(data, tmp_path):
    whole, summary = joined()
    issues = label_issues(whole)
    assert issues
    path = write_folds_page(tmp_path, summary, issues, data.directory, "train+validation")
    page = Page(path.read_text())
    found = summary["spread"]["auroc"]
    for name, value in found["folds"].items():
        assert name.split("/")[1] in page.text
        assert f"{value:.3f}" in page.text
    for end in ("mean", "low", "high"):
        assert f"{found[end]:.3f}" in page.text
    x_rays = [alt for alt in page.alts if alt.startswith("X-ray ")]
    assert len(x_rays) == min(len(issues), 24)
    for issue, alt in zip(issues, x_rays, strict=False):
        assert issue["id"] in alt
        assert issue["suggested"] in alt
    assert not [address for address in page.addresses if not address.startswith("data:")]


@pytest.mark.parametrize("there", ["nothing", "embeddings", "other images"])
def test_without_the_pictures_the_labels_are_listed_alone(there, tmp_path):
    whole, summary = joined()
    place = tmp_path / there.replace(" ", "_")
    if there == "embeddings":
        write_embedded_sources(place, patients=(20, 20, 6))
    elif there == "other images":
        write_shards(place, {"train": random_images(4)}, dtype="uint8")
    path = write_folds_page(tmp_path, summary, label_issues(whole), str(place), "train")
    page = Page(path.read_text())
    assert not [alt for alt in page.alts if alt.startswith("X-ray ")]
    assert str(place) in page.text
    assert whole.ids[0] in page.text
