"""Checkpoints: everything that a run needs to go on as if it had never stopped."""

import pathlib

import keras
import tensorflow as tf

from cxr_data.errors import DataError
from cxr_train.average import WeightAverage
from cxr_train.optimizers import ParameterGroups
from cxr_train.precision import LossScale


class Checkpoints:
    """The newest few states of a run.

    Saved are the model's variables (weights, BatchNorm statistics, the states of
    dropout's random generators), the optimizer's, the loss scale's, the position in
    the data and the best validation loss so far.

    Args:
      directory: receives the checkpoints.
      model, optimizer, loss_scale: whose variables are saved.
      average: the averaged weights, where the run has them.
      keep: how many of the newest states stay.

    Attributes:
      epoch: int64 [], epochs completed.
      step: int64 [], steps completed within the current epoch.
      best: float64 [], the lowest validation loss of the epochs completed.
    """

    def __init__(
        self,
        directory: pathlib.Path,
        model: keras.Model,
        optimizer: keras.optimizers.Optimizer | ParameterGroups,
        loss_scale: LossScale,
        average: WeightAverage | None = None,
        keep: int = 3,
    ) -> None:
        self.epoch = tf.Variable(0, trainable=False, dtype=tf.int64)
        self.step = tf.Variable(0, trainable=False, dtype=tf.int64)
        self.best = tf.Variable(float("inf"), trainable=False, dtype=tf.float64)
        checkpoint = tf.train.Checkpoint(
            model=[variable.value for variable in model.variables],
            optimizer=[variable.value for variable in optimizer.variables],
            loss_scale=loss_scale,
            epoch=self.epoch,
            step=self.step,
            best=self.best,
            **({"average": average} if average else {}),
        )
        self._checkpoint = checkpoint
        self._manager = tf.train.CheckpointManager(checkpoint, str(directory), max_to_keep=keep)

    @property
    def newest(self) -> str | None:
        """Path prefix of the newest checkpoint; None before the first."""
        newest: str | None = self._manager.latest_checkpoint
        return newest

    def save(self) -> str:
        """Saves the present state under a number that counts up; returns its path prefix."""
        return str(self._manager.save())

    def restore(self) -> bool:
        """Restores the newest state; False where there is none.

        Raises:
          DataError: it cannot be read, or is another network's.
        """
        if self.newest is None:
            return False
        try:
            self._checkpoint.restore(self.newest).assert_existing_objects_matched()
        except (tf.errors.OpError, AssertionError, ValueError) as error:
            raise DataError(
                f"cannot restore checkpoint {self.newest}: {str(error).splitlines()[0][:200]}"
            ) from error
        return True


def average_replica_statistics(model: keras.Model, strategy: tf.distribute.Strategy) -> None:
    """Gives all replicas the mean of their BatchNorm statistics.

    Each replica normalises with its own part of the batch and keeps moving statistics
    of its own; a saved model would hold those of replica 0 alone.
    """
    if strategy.num_replicas_in_sync == 1:
        return
    for variable in model.non_trainable_variables:
        if tf.as_dtype(variable.value.dtype).is_floating:
            copies = strategy.experimental_local_results(variable.value)
            variable.value.assign(tf.add_n([tf.identity(copy) for copy in copies]) / len(copies))
