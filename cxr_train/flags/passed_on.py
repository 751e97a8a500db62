"""The flags that `cxr_train.run` passes on: those of the conversion, and those of the trainer."""

from collections.abc import Mapping, Sequence
from typing import Any

from absl import flags

from cxr_data.commands.command import flag_error_in_words
from cxr_data.commands.setting_flags import define_flags, from_flags
from cxr_data.convert.config import SharderConfig
from cxr_data.core.errors import UsageError
from cxr_train.flags.training import config_from_flags, define_training_flags

# What the command decides; a --seed is the trainer's.
_OF_CONVERSION = {"source": "", "output": "", "seed": 0, "audit": False, "overwrite": False}
_OF_TRAINING = (
    "data",
    "run_dir",
    "resume",
    "plan",
    "explain",
    "emulate_step_ms",
    "emulate_images_per_second",
)


class PassedOn:
    """The arguments that are not flags of the command itself.

    Args:
      arguments: as `["xrays/", "--epochs=20"]`.

    Attributes:
      names: the arguments that are no flags.
      conversion: what is given to `make_tfrecords`, by flag, as text.
      training: what is given to `cxr_train.main`.

    Raises:
      UsageError: a flag that neither has, or a value that it cannot have.
    """

    def __init__(self, arguments: Sequence[str]) -> None:
        self._conversion, training = flags.FlagValues(), flags.FlagValues()
        define_flags(SharderConfig, leave_out=_OF_CONVERSION, flag_values=self._conversion)
        define_training_flags(training)
        words = [word for word in arguments if word != "--"]  # behind which flags may be written too
        try:
            of_training = self._conversion(["run", *words], known_only=True)
            self.names = training(of_training)[1:]
        except flags.Error as error:
            raise UsageError(
                f"{flag_error_in_words(error)} (--help lists the flags, and names the commands with others)"
            ) from error
        self.conversion, self.training = _given(self._conversion), _given(training)
        self.training.pop("train_on", None)  # which is --train_split
        for name in _OF_TRAINING:
            if name in self.training:
                raise UsageError(f"--{name}: is not for this command, which decides it: leave it out")

    def sharder_config(self, source: str, output: str) -> SharderConfig:
        """Return the conversion as given, without the command's own defaults. Raises UsageError."""
        values: dict[str, Any] = {**_OF_CONVERSION, "source": source, "output": output}
        return from_flags(SharderConfig, flag_values=self._conversion, **values)


def check_training(settings: Mapping[str, str]) -> None:
    """Check settings of the trainer, by flag. Raises UsageError: no run could use them."""
    values = flags.FlagValues()
    define_training_flags(values)
    values(["run", "--data=shards", *(f"--{name}={value}" for name, value in settings.items())])
    config_from_flags(values)


def _given(values: flags.FlagValues) -> dict[str, str]:
    """Return the flags that were given, by name, as text."""
    given = {name: values[name] for name in values if values[name].present and values[name].name == name}
    return {
        name: str(flag.value).lower() if flag.boolean else flag.serialize().partition("=")[2]
        for name, flag in given.items()
    }
