"""Checkpoints: everything that a run needs to go on as if it had never stopped.

A checkpoint is a directory, `ckpt-00007`, that appears under its name when it is whole: it is
written aside, every file is synced to the disk, and then it is renamed. `SHA256SUMS` tells damage
that comes later (`sha256sum -c` reads it too); `restore` passes a damaged checkpoint over and
takes the one before.
"""

import pathlib
import shutil

import keras
import numpy as np
import tensorflow as tf

from cxr_data.core.errors import CxrError, DataError, one_line
from cxr_data.core.local_store import publish, sha256_of
from cxr_train.engine.replica_values import ReplicaValues
from cxr_train.recipe.domain.method import DomainMethod
from cxr_train.recipe.ema import WeightAverage
from cxr_train.recipe.loss_scale import LossScale
from cxr_train.recipe.optimizers import ParameterGroups
from cxr_train.runs.layout import STATE_NAME, SUMS_NAME, WRITING, checkpoint_numbers, checkpoint_path
from cxr_train.runs.monitor import Monitor
from cxr_train.runs.run_model import link_model


class Checkpoints:
    """The newest few states of a run.

    Saved are the model's variables (weights, BatchNorm statistics, the states of
    dropout's random generators on replica 0), the optimizer's, the loss scale's, what each replica
    has of its own, the position in the data, the sums of the current epoch, and the
    best epoch so far.

    Every worker of a cluster calls the same methods at the same point. All of them
    restore; only the one that `writes` touches any file.

    Args:
      directory: receives the checkpoints.
      model, optimizer, loss_scale: whose variables are saved.
      average: the averaged weights, where the run has them.
      domain: the domain method, where the run has one.
      replica_values: of all replicas; none by default.
      writes: whether this process writes the files.
      monitor: decides which value of `best` any epoch improves on.
      best_model: the file of the best model. A checkpoint holds it as it was then (as a
        hard link, which costs nothing), so that what is restored fits together.
      keep: how many of the newest states stay.

    Attributes:
      epoch: int64 [], epochs completed.
      step: int64 [], steps completed within the current epoch.
      sums: float64 [3], the loss, the right predictions and the examples of these steps.
      best: float64 [], the best monitored value of the epochs completed.
      best_epoch: int64 [], the number of that epoch, from 1; 0 before the first.
    """

    def __init__(
        self,
        directory: pathlib.Path,
        model: keras.Model,
        optimizer: keras.optimizers.Optimizer | ParameterGroups,
        loss_scale: LossScale,
        average: WeightAverage | None = None,
        *,
        domain: DomainMethod | None = None,
        replica_values: ReplicaValues | None = None,
        writes: bool = True,
        monitor: Monitor,
        best_model: pathlib.Path,
        keep: int = 3,
    ) -> None:
        self._directory = directory
        self._replica_values = replica_values
        self._writes = writes
        self._monitor = monitor
        self._best_model = best_model
        self._keep = keep
        self._saved_position: tuple[int, int] | None = None
        self.epoch = tf.Variable(0, trainable=False, dtype=tf.int64)
        self.step = tf.Variable(0, trainable=False, dtype=tf.int64)
        self.sums = tf.Variable(np.zeros(3), trainable=False, dtype=tf.float64)
        self.best = tf.Variable(monitor.worst, trainable=False, dtype=tf.float64)
        self.best_epoch = tf.Variable(0, trainable=False, dtype=tf.int64)
        size = replica_values.size if replica_values else 0
        # [replicas, size]; a run may be resumed with another number of replicas.
        self._rows = tf.Variable(np.zeros([0, size], np.float32), trainable=False, shape=[None, size])
        self._checkpoint = tf.train.Checkpoint(
            model=[variable.value for variable in model.variables],
            optimizer=[variable.value for variable in optimizer.variables],
            loss_scale=loss_scale,
            epoch=self.epoch,
            step=self.step,
            sums=self.sums,
            best=self.best,
            best_epoch=self.best_epoch,
            replica_values=self._rows,
            **({"average": average} if average else {}),
            **({"domain": domain.state} if domain and domain.state else {}),
        )

    @property
    def newest(self) -> pathlib.Path | None:
        """The newest checkpoint, whole or damaged; None before the first."""
        return newest_checkpoint(self._directory)

    @property
    def position(self) -> tuple[int, int]:
        """Epochs completed, and steps completed within the current one."""
        return int(self.epoch.numpy()), int(self.step.numpy())

    @property
    def is_saved(self) -> bool:
        """Whether the present state is the one that was saved or restored last."""
        return self._saved_position == self.position

    def save(self) -> pathlib.Path:
        """Save the present state under a number that counts up, and remove the oldest.

        Raises:
          CxrError: it cannot be written; the earlier ones are as they were.
        """
        numbers = checkpoint_numbers(self._directory)
        target = checkpoint_path(self._directory, max(numbers, default=0) + 1)
        self.save_aside(target)
        if self._writes:
            for number in numbers[: max(len(numbers) + 1 - self._keep, 0)]:
                shutil.rmtree(checkpoint_path(self._directory, number))
        self._saved_position = self.position
        return target

    def save_aside(self, target: pathlib.Path) -> None:
        """Save the present state as `target`, a directory that is not there yet.

        Raises:
          CxrError: it cannot be written.
        """
        if self._replica_values:
            self._rows.assign(self._replica_values.read())
        if not self._writes:
            return
        writing = target.parent / WRITING
        try:
            shutil.rmtree(writing, ignore_errors=True)
            writing.mkdir(parents=True)
            self._checkpoint.write(str(writing / STATE_NAME))
            if self._best_model.exists():
                link_model(self._best_model, writing / self._best_model.name)
            _seal(writing)
            publish(writing, target)
        except (OSError, tf.errors.OpError) as error:
            reason = str(error).splitlines()[0][:200]
            raise CxrError(
                f"cannot save {target}: {reason}; the last saved state is {self.newest or 'none'}"
            ) from error

    def drop_older(self) -> None:
        """Remove every state but the newest, which a run that has ended goes on from.

        If the newest one is damaged, all stay: `restore` takes one before it.
        """
        states = [checkpoint_path(self._directory, number) for number in checkpoint_numbers(self._directory)]
        if self._writes and len(states) > 1 and not _damage(states[-1]):
            for state in states[:-1]:
                shutil.rmtree(state)

    def restore(self) -> list[str]:
        """Restore the newest state that is whole, and the best model of that time.

        Returns:
          What is damaged, and what was done about it, a line each.

        Raises:
          DataError: there are states but none is whole, or they are another network's.
        """
        warnings = []
        for number in reversed(checkpoint_numbers(self._directory)):
            path = checkpoint_path(self._directory, number)
            damage = _damage(path)
            best_damage = damage.pop(self._best_model.name, "")
            if not damage:
                self._read(path)
                if best_damage:
                    self._forget_best()
                    warnings.append(f"{path}: {best_damage}; the best epoch is picked from here on")
                return warnings
            warnings.append(f"{path} is passed over: {'; '.join(damage.values())}")
        if warnings:
            raise DataError(
                f"no checkpoint can be restored: {', '.join(warnings)}; "
                "to train from the start, choose another --run_dir"
            )
        self._put_back_best(None)
        return []

    def _read(self, path: pathlib.Path) -> None:
        try:
            self._checkpoint.read(str(path / STATE_NAME)).assert_existing_objects_matched()
        # What TensorFlow raises for a state of somebody else has no common class.
        except Exception as error:
            reason = one_line(str(error).partition("\n")[0][:200])
            raise DataError(f"cannot restore {path}: {reason}") from error
        if self._replica_values:
            self._replica_values.write(self._rows.numpy())
            self._replica_values.set_seeds_apart()
        self._saved_position = self.position
        self._put_back_best(path / self._best_model.name)

    def _forget_best(self) -> None:
        self.best.assign(self._monitor.worst)
        self.best_epoch.assign(self.epoch)
        self._put_back_best(None)

    def _put_back_best(self, kept: pathlib.Path | None) -> None:
        """Make the best model that of a checkpoint, where it has one."""
        if not self._writes:
            return
        if kept and kept.exists():
            link_model(kept, self._best_model)
        else:
            self._best_model.unlink(missing_ok=True)


def newest_checkpoint(directory: pathlib.Path) -> pathlib.Path | None:
    """Return the newest checkpoint in a directory, whole or damaged; None if there is none."""
    numbers = checkpoint_numbers(directory)
    return checkpoint_path(directory, numbers[-1]) if numbers else None


def _seal(directory: pathlib.Path) -> None:
    """Write the checksums."""
    files = sorted(directory.iterdir())
    (directory / SUMS_NAME).write_text("".join(f"{sha256_of(file)}  {file.name}\n" for file in files))


def _damage(checkpoint: pathlib.Path) -> dict[str, str]:
    """Return what is wrong with the files of a checkpoint, by name; empty if they are as they were
    written.
    """
    try:
        lines = (checkpoint / SUMS_NAME).read_text().splitlines()
        digests = {name: digest for digest, name in (line.split("  ") for line in lines)}
    except (OSError, ValueError) as error:
        return {SUMS_NAME: f"{SUMS_NAME} cannot be read ({error})"}
    present = {path.name for path in checkpoint.iterdir() if path.is_file() and not path.is_symlink()}
    damage = {}
    for name in sorted(digests.keys() | {path.name for path in checkpoint.iterdir()} - {SUMS_NAME}):
        if name not in present:  # somebody else's sums may name any path, and their folder hold a pipe
            damage[name] = f"{name} is missing, or no file"
            continue
        try:
            if digests.get(name) != sha256_of(checkpoint / name):
                damage[name] = f"{name} is not what was written (its SHA-256 is another)"
        except OSError as error:
            damage[name] = f"{name}: {error.strerror}"
    return damage
