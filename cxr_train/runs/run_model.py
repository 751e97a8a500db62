"""The model of a run: built as it began, and saved as `best.keras` and `last.keras`.

A saved model gives probabilities: a user needs nothing else. Inside, a model gives logits: `save_model` adds
the softmax, or the sigmoid of findings, and `load_model` takes it off. A file is whole or not there, and
never written to again.
"""

import os
import pathlib
import shutil
import warnings

import keras

from cxr_data.core.errors import DataError, one_line
from cxr_data.core.local_store import publish
from cxr_train.models.classifier import build_model, with_probabilities, without_probabilities
from cxr_train.runs.config import TrainConfig
from cxr_train.runs.layout import WRITING
from cxr_train.runs.model_file import check_model_file
from cxr_train.runs.saved_run import find_best_model

_WRITING = f"{WRITING}.keras"


def build_run_model(
    config: TrainConfig,
    *,
    classes: int,
    image_size: int,
    features: int = 0,
    of_findings: bool = False,
    dtype_policy: str = "float32",
) -> keras.Model:
    """Build the model of a run as it is before the first step.

    Args:
      config: of the run.
      classes, image_size, features, of_findings, dtype_policy: see `build_model`.

    Raises:
      UsageError, DataError: as `build_model`.
    """
    return build_model(
        config.backbone,
        classes=classes,
        image_size=image_size,
        features=features,
        of_findings=of_findings,
        head=config.head,
        dropout=config.dropout,
        dropout_after=config.dropout_after,
        weights=config.weights,
        input_range=config.input_range,
        attention=config.attention,
        pooling=config.pooling,
        batch_norm_momentum=config.batch_norm_momentum,
        dtype_policy=dtype_policy,
    )


def save_model(model: keras.Model, path: pathlib.Path) -> None:
    """Save a model with probabilities as `path`, replacing what is there once the new file is on the disk.

    Args:
      model: images float32 [B, S, S, 3] in [0, 1] to logits float32 [B, C].
      path: receives the model from the same images to probabilities float32 [B, C].
    """
    temporary = path.with_name(_WRITING)
    # A run that was killed may have left it as a second name of a model that is to stay.
    temporary.unlink(missing_ok=True)
    with_probabilities(model).save(temporary)
    publish(temporary, path)


def link_model(existing: pathlib.Path, path: pathlib.Path) -> None:
    """Make `path` the same file as `existing`; a copy where the file system has no hard links."""
    if path.exists() and path.samefile(existing):
        return  # to rename one name of a file to another of its names does nothing
    temporary = path.with_name(_WRITING)
    temporary.unlink(missing_ok=True)
    try:
        os.link(existing, temporary)
    except OSError:
        shutil.copyfile(existing, temporary)
    publish(temporary, path)


def load_best_model(run_dir: pathlib.Path) -> keras.Model:
    """Load `best.keras` of a run, see `load_model`.

    Raises:
      DataError: there is none yet, or it is damaged.
    """
    return load_model(find_best_model(run_dir))


def load_model(path: pathlib.Path) -> keras.Model:
    """Load what `save_model` has written, without its softmax or sigmoid.

    The file is checked first, see `model_file`, and holds no code: safe mode stays on. A file of an older
    version, which has neither, gives the same model.

    Returns:
      A model from images float32 [B, S, S, 3] in [0, 1] to logits float32 [B, C].

    Raises:
      DataError: the file is damaged, or not of this program.
    """
    check_model_file(path)
    try:
        with warnings.catch_warnings():
            # Keras only warns of layers whose weights are not in the file, and leaves them as they began.
            warnings.filterwarnings("error", message="(?s).*freshly-initialized")
            return without_probabilities(keras.saving.load_model(path, compile=False, safe_mode=True))
    # Whatever a configuration says that Keras cannot make; what would be dangerous was refused before.
    except Exception as error:
        reason = one_line(str(error).partition("\n")[0][:200])
        raise DataError(f"cannot load {path}: {type(error).__name__}: {reason}") from error
