"""`best.keras` and `last.keras`: whole or not there, and never written to again."""

import os
import pathlib
import shutil

import keras

from cxr_data.core.storage import rename
from cxr_train.runs.layout import WRITING

_WRITING = f"{WRITING}.keras"


def save_model(model: keras.Model, path: pathlib.Path) -> None:
    """Saves a model as `path`, replacing what is there once the new file is on the disk."""
    temporary = path.with_name(_WRITING)
    # A run that was killed may have left it as a second name of a model that is to stay.
    temporary.unlink(missing_ok=True)
    model.save(temporary)
    _publish(temporary, path)


def link_model(existing: pathlib.Path, path: pathlib.Path) -> None:
    """Makes `path` the same file as `existing`; a copy where the file system has no hard links."""
    if path.exists() and path.samefile(existing):
        return  # to rename one name of a file to another of its names does nothing
    temporary = path.with_name(_WRITING)
    temporary.unlink(missing_ok=True)
    try:
        os.link(existing, temporary)
    except OSError:
        shutil.copyfile(existing, temporary)
    _publish(temporary, path)


def _publish(temporary: pathlib.Path, path: pathlib.Path) -> None:
    with open(temporary, "rb") as file:
        os.fsync(file.fileno())
    rename(temporary, path)
