"""Test-time methods: what the pictures of an evaluation change of a model, without their labels.

They have seen the pictures, other results have not: an evaluation with one of them is kept in a folder of its
own, and says so.
"""

import contextlib
import dataclasses
import logging
from collections.abc import Iterator
from typing import Any

import keras
import numpy as np

from cxr_data.core.errors import UsageError
from cxr_data.input.pipeline import Pipeline
from cxr_train.engine.batch_norm import PreciseStatistics
from cxr_train.engine.strategy import Placement
from cxr_train.evaluation import priors
from cxr_train.evaluation.options import EvaluationOptions
from cxr_train.evaluation.predictions import NamedPredictions, six_digits

logger = logging.getLogger(__name__)

_VANISHED = 0.001


@contextlib.contextmanager
def adapted_batch_norm(
    model: keras.Model,
    placement: Placement,
    pipeline: Pipeline,
    split: str,
    *,
    images: int,
    batch_size: int,
    seed: int,
) -> Iterator[int]:
    """Let the model normalise with the moments of a split while the context is open (AdaBN, Li et al., 2016).

    Every BatchNorm's moving statistics are measured again, layer by layer, as `engine.batch_norm` says.

    Args:
      model: loaded to be evaluated; its BatchNorm layers stay trainable.
      placement: where and how it computes.
      pipeline, split: of the images, whose labels are not looked at.
      images: how many of them, drawn by `seed`; all if there are fewer. 0: nothing is changed.
      batch_size: of a step; an odd last batch is left out.

    Yields:
      The number of images that were taken.

    Raises:
      UsageError: the model has no BatchNorm.
    """
    if not images:
        yield 0
        return
    layers = [layer for layer in model.layers if isinstance(layer, keras.layers.BatchNormalization)]
    if not layers:
        raise UsageError(f"--adapt_batch_norm={images}: {model.name} has no BatchNorm; leave it out")
    for layer in layers:
        layer.trainable = True  # also those that were frozen in training
    positions = pipeline.positions(split)
    images = min(images, len(positions))
    batch_size = min(batch_size, images)
    taken = images // batch_size * batch_size
    chosen = np.sort(np.random.default_rng(seed).permutation(positions)[:taken])
    batches = pipeline.evaluation_dataset(split, batch_size=batch_size, positions=chosen)
    with PreciseStatistics(model, placement).in_place(placement.distribute(batches)):
        yield taken


def with_corrected_prior(
    predictions: NamedPredictions, validation: NamedPredictions | None
) -> tuple[NamedPredictions, NamedPredictions, dict[str, Any]]:
    """Correct probabilities for the shares that classes have among these pictures, see `priors`.

    The temperature of the validation pictures comes first.

    Args:
      predictions: of the pictures.
      validation: of pictures like those of the training, which say what shares the model expects.

    Returns:
      The corrected predictions; those of the validation pictures at the same temperature; and the
      `temperature`, 1 where none is the best, and the shares `before` and `after`, by class.

    Raises:
      UsageError: there are no validation pictures.
    """
    if validation is None:
        raise UsageError(
            "--prior_correction: needs this run's predictions of its validation split; evaluate that first"
        )
    of_findings = predictions.labels.ndim == 2
    temperature, known = priors.calibrated(validation)
    cooled = priors.at_temperature(predictions.probabilities, temperature, of_findings)
    expected = known.mean(axis=0)
    corrected, new = priors.correct(cooled, expected, of_findings=of_findings)
    names = predictions.class_names
    if vanished := [name for name, share in zip(names, new, strict=True) if share < _VANISHED]:
        logger.warning(
            "--prior_correction: hardly any image seems to be of %s; if there are some, this class looks "
            "different here, and the corrected probabilities are wrong",
            ", ".join(vanished),
        )
    shares: dict[str, Any] = {"temperature": temperature or 1.0}
    for when, values in (("before", expected), ("after", new)):
        shares[when] = dict(zip(names, map(float, values), strict=True))
    changed = dataclasses.replace(predictions, probabilities=six_digits(corrected))
    return changed, dataclasses.replace(validation, probabilities=known), shares


def said_of(options: EvaluationOptions, images: int, shares: dict[str, Any] | None) -> dict[str, Any]:
    """Return what the metrics say of the methods: empty where none was used."""
    if not options.test_time:
        return {}
    return {"test_time": {"batch_norm_images": images, "prior": shares}}
