"""The images of a target that a run adapts to, without their labels: `--fda_split`."""

import numpy as np

from cxr_data.core.errors import UsageError
from cxr_data.input.pipeline import Pipeline
from cxr_train.recipe.domain import fda
from cxr_train.runs.config import TrainConfig

MOST_IMAGES = 128
"""Images of the target whose frequencies are lent; they are a part of the compiled step."""


def read_adaptation(config: TrainConfig, pipeline: Pipeline) -> fda.FourierAdaptation | None:
    """Read the images of `--fda_split`, at most `MOST_IMAGES`, drawn by the seed; None without it.

    Raises:
      UsageError: the data holds embeddings.
      DataError: the split is not there, or an image is damaged.
    """
    manifest = pipeline.manifest
    reach = fda.reach_of(config.fda_beta, manifest.size)
    if not config.fda_split or reach < 0:
        return None
    if manifest.features:
        raise UsageError(
            f"--fda_split={config.fda_split}: {manifest.directory} holds embeddings, which have no "
            "frequencies; adapt when the pictures are trained on"
        )
    positions = pipeline.positions(config.fda_split)
    chosen = np.random.default_rng(config.seed).permutation(positions)[:MOST_IMAGES]
    images = pipeline.images(config.fda_split, np.sort(chosen))[..., : manifest.channels]
    return fda.FourierAdaptation(fda.low_amplitudes(images, reach))
