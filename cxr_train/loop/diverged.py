"""A loss that is not finite: which step, which images, and the state that shows it again."""

import contextlib
import json
import shutil

from cxr_data.core import storage
from cxr_data.core.errors import CxrError, DataError
from cxr_data.core.wording import listed
from cxr_data.input.pipeline import Pipeline
from cxr_data.records.index import read_split_fields
from cxr_train.engine.strategy import Placement
from cxr_train.loop.checkpoint import Checkpoints
from cxr_train.runs.config import TrainConfig
from cxr_train.runs.layout import batch_ids_of

_NAMED = 4


def keep_evidence(
    checkpoints: Checkpoints,
    pipeline: Pipeline,
    config: TrainConfig,
    placement: Placement,
    *,
    loss: float,
) -> CxrError:
    """Save the present state apart from the checkpoints, and name the batch.

    The state is that before the step, weights and position; only BatchNorm's statistics and dropout's
    counters have seen the batch, on an accelerator the next one too. It is not resumed from.

    Args:
      checkpoints: at the step whose loss is not finite.
      pipeline, config, placement: what is trained, and where. All workers must call this.
      loss: of the step.

    Returns:
      The error to raise.
    """
    epoch, step = checkpoints.position
    known = pipeline.reader(config.train_split).is_repeatable
    ids = batch_ids(pipeline, config, placement, epoch, step) if known else []
    good = checkpoints.newest
    directory = config.layout.not_finite(epoch + 1, step + 1)
    list_of_ids = batch_ids_of(directory)
    if placement.cluster.is_chief:
        shutil.rmtree(directory, ignore_errors=True)
    checkpoints.save_aside(directory)
    if placement.cluster.is_chief:
        batch = {"epoch": epoch + 1, "step": step + 1, "loss": str(loss), "ids": ids}
        storage.replace(list_of_ids, (json.dumps(batch, indent=2) + "\n").encode())
    found = f"{listed(ids, _NAMED)} (all in {list_of_ids}, with the state before it)"
    if not known:
        found = f"--data_service, which gives none twice (the state before it is {directory})"
    return CxrError(
        f"the loss is {loss} in step {step + 1} of epoch {epoch + 1}, a batch of {found}: start again with "
        f"a lower --learning_rate or --precision=float32; "
        f"the last good state is {good or 'none: nothing was saved before'}"
    )


def batch_ids(
    pipeline: Pipeline, config: TrainConfig, placement: Placement, epoch: int, step: int
) -> list[str]:
    """Return the ids of a training batch, found by taking it again: the order of the examples is fixed.

    Args:
      epoch, step: from 0.

    Returns:
      An id for each example in its order; its place, such as `train[17]`, for remote shards and where names
      are damaged, which must not hide the loss.
    """
    split = config.train_split
    dataset = pipeline.training_dataset(
        split, batch_size=config.batch_size, seed=config.seed, epoch=epoch, first_step=step
    )
    positions = placement.gather(next(dataset.as_numpy_iterator())["index"]).ravel()
    if pipeline.manifest.is_local:
        with contextlib.suppress(DataError):
            fields = read_split_fields(pipeline.manifest, split)
            return [fields[position].id for position in positions]
    return [f"{split}[{position}]" for position in positions]
