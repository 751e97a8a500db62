"""How well the source itself can be told from the embeddings: a bound of what may leak into a prediction."""

import numpy as np

from cxr_data.audit.shortcuts import ridge_aurocs
from cxr_data.records.copies import tied_patients
from cxr_data.records.manifest import Manifest
from cxr_data.sources.splits import place_groups

_FOLDS = 5


def told_apart(manifest: Manifest) -> dict[str, float]:
    """Return by source the AUROC of a ridge regression on embeddings, this source against all others.

    Each picture is scored by a regression that has not seen its patient.
    """
    from cxr_data.input.pipeline import Pipeline  # which needs TensorFlow

    pipeline = Pipeline(manifest)
    pool = "+".join(manifest.splits)
    positions, reader = pipeline.positions(pool), pipeline.reader(pool)
    features = np.asarray(reader.read(positions), np.float32).reshape(len(positions), -1)
    spread = features.std(axis=0)
    features = (features - features.mean(axis=0)) / np.where(spread > 0, spread, 1)
    sources = reader.sources[positions]
    patients = tied_patients(manifest, pool)
    groups = [patients[position] for position in positions]
    shares = {str(number): 1 / _FOLDS for number in range(_FOLDS)}
    fold_of = place_groups(groups, [str(number) for number in sources], shares, seed=0)
    folds = np.unique([int(fold_of[group]) for group in groups], return_inverse=True)[1]
    areas = ridge_aurocs(features, sources[None], folds, len(manifest.sources))[0]
    return {name: float(area) for name, area in zip(manifest.sources, areas, strict=True) if name}
