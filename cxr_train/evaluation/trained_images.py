"""Which of the evaluated images a run was trained on, whatever they are called now."""

import pathlib

import numpy as np

from cxr_data.core.errors import CxrError
from cxr_data.records.copies import are_in, tied_patients
from cxr_data.records.folds import positions_of
from cxr_data.records.manifest import Manifest, read_manifest
from cxr_data.records.split_names import parse_split
from cxr_train.evaluation.decisions import Counts
from cxr_train.runs.config import TrainConfig
from cxr_train.runs.layout import RunLayout
from cxr_train.runs.saved_run import is_own_data


def images_trained_on(
    run_dir: pathlib.Path, manifest: Manifest, split: str, index: Counts, train_split: str
) -> int | None:
    """Return how many images of an evaluation the run was trained on.

    Of other data, those with the very pixels of a training picture: after another conversion of the same
    pictures, the test split holds some that were trained on. Of a fold, or of some sources of its own data,
    those of a patient who was trained on, or of whom the audit found a picture in the training.

    Args:
      manifest, split: of the data.
      index: int64 [N], positions of the images in the split.
      train_split: of the run.

    Returns:
      None where it is not known, since the training data is not there any more or cannot be compared; and of
      whole splits of the run's own data, whose leakage the audit counts.
    """
    try:
        if is_own_data(run_dir, manifest):
            if not any(parse_split(name).is_part for name in (split, train_split)):
                return None
            trained = np.array(tied_patients(manifest, train_split), object)
            known = {*trained[positions_of(manifest, train_split)]}
            patients = tied_patients(manifest, split)
            return sum(patients[position] in known for position in index)
        training = read_manifest(TrainConfig.load(RunLayout(run_dir).config).data)
        if not is_own_data(run_dir, training):
            return None
        chosen = np.arange(training.count(train_split))
        shown = are_in(manifest, split, training, train_split, chosen)[index]
        # Which records are of a part of a split is told by the patient of every one.
        if shown.any() and parse_split(train_split).is_part:
            chosen = positions_of(training, train_split)
            shown = are_in(manifest, split, training, train_split, chosen)[index]
        return int(shown.sum())
    except CxrError:
        return None
