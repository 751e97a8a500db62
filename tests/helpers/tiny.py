"""A network of one convolution, and whole runs with it on data of a few images."""

import contextlib
import json
import pathlib
import shutil
from collections.abc import Callable, Iterator

import keras
import pytest

from cxr_data.input.pipeline import Pipeline
from cxr_data.records.layout import MANIFEST_NAME
from cxr_data.records.manifest import Manifest
from cxr_train.engine.strategy import Placement, choose_placement
from cxr_train.loop.stop import StopRequest
from cxr_train.loop.trainer import Trainer
from cxr_train.models import backbones
from cxr_train.runs.config import TrainConfig


def with_batch_norm(*, include_top, weights, input_tensor) -> keras.Model:
    x = keras.layers.Conv2D(4, 3, activation="relu")(input_tensor)
    return keras.Model(input_tensor, keras.layers.BatchNormalization()(x))


def plain(*, include_top, weights, input_tensor) -> keras.Model:
    return keras.Model(input_tensor, keras.layers.Conv2D(4, 3, activation="relu")(input_tensor))


def backbone(name: str, build: Callable[..., keras.Model], smallest_image: int = 4) -> backbones.Backbone:
    return backbones.Backbone(name, build, f"https://none/{name}.h5", smallest_image)


@contextlib.contextmanager
def registered(name: str, build: Callable[..., keras.Model], smallest_image: int = 4) -> Iterator[None]:
    """`--backbone=name` builds such a network, for the length of a block."""
    with pytest.MonkeyPatch.context() as patch:
        patch.setitem(backbones.BACKBONES, name, backbone(name, build, smallest_image))
        yield


def make_trainer(
    manifest: Manifest, run_dir: pathlib.Path, placement: Placement | None = None, **changes: object
) -> Trainer:
    """A trainer of the backbone `tiny`, in a run directory as a run begins in one.

    Args:
      manifest: of the data.
      run_dir: is made.
      placement: by default, what the flags come to.
      changes: fields of the TrainConfig that are not as below.
    """
    values = {"epochs": 2, "batch_size": 4, "weights": "none", "head": (6,), "learning_rate": 1e-2} | changes
    values = {"backbone": "tiny", "data": manifest.directory, "run_dir": str(run_dir), **values}
    config = TrainConfig(**values)
    run_dir.mkdir(exist_ok=True)
    config.save(run_dir / "config.json")
    shutil.copy(pathlib.Path(manifest.directory, MANIFEST_NAME), run_dir)
    placement = placement or choose_placement(config.strategy, config.precision, config.xla)
    return Trainer(config, Pipeline(manifest, config.read), placement)


def train_whole(
    begin: Callable[..., Trainer], manifest: Manifest, run_dir: pathlib.Path, **changes: object
) -> tuple[Trainer, pathlib.Path]:
    """A run that was never stopped, and its directory; `begin` makes the trainer, as `make_trainer`."""
    trainer = begin(manifest, run_dir, **changes)
    trainer.run(StopRequest())
    return trainer, run_dir


class StopAfter(StopRequest):
    """Asks to stop once it was asked `calls` times."""

    def __init__(self, calls: int) -> None:
        super().__init__()
        self.calls = calls

    def __bool__(self) -> bool:
        self.calls -= 1
        return self.calls < 0


def rows(run_dir: pathlib.Path) -> list[dict]:
    """What the epochs of a run came to."""
    return [json.loads(line) for line in (run_dir / "metrics.jsonl").read_text().splitlines()]


def results(run_dir: pathlib.Path) -> list[dict]:
    """The rows without what depends on the clock."""
    return [
        {**row, "train": {key: row["train"][key] for key in ("loss", "accuracy", "images")}}
        for row in rows(run_dir)
    ]
