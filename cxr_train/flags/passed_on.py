"""The flags that `cxr_train.run` passes on: those of the conversion, and those of the trainer."""

from collections.abc import Mapping, Sequence
from typing import Any

from absl import flags

from cxr_data.commands.setting_flags import define_flags, from_flags
from cxr_data.convert.config import SharderConfig
from cxr_data.core.errors import UsageError
from cxr_data.input.options import ReadOptions
from cxr_train.recipe.recipe import Recipe
from cxr_train.runs.config import TrainConfig

# What the command decides; a --seed is the trainer's.
_OF_CONVERSION = {"source": "", "output": "", "seed": 0, "audit": False, "overwrite": False}
# Of `cxr_train.main` itself.
_OF_MAIN = ("batch_size", "try_batch", "memory_gb", "image_size", "compilation_cache")


class PassedOn:
    """The arguments that are no flags of the command itself.

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
        self._conversion, self._training = flags.FlagValues(), flags.FlagValues()
        define_flags(SharderConfig, leave_out=_OF_CONVERSION, flag_values=self._conversion)
        define_flags(TrainConfig, Recipe, ReadOptions, flag_values=self._training)
        flags.DEFINE_alias("train_on", "train_split", flag_values=self._training)
        for name in _OF_MAIN:
            flags.DEFINE_string(name, None, "", flag_values=self._training)
        words = [word for word in arguments if word != "--"]  # behind which flags may be written too
        try:
            of_training = self._conversion(["run", *words], known_only=True)
            self.names = self._training(of_training)[1:]
        except flags.Error as error:
            raise UsageError(
                f"{error} (--help lists the flags, and names the commands with others)"
            ) from error
        self.conversion = _given(self._conversion)
        self.training = _given(self._training)

    def sharder_config(self, source: str, output: str) -> SharderConfig:
        """Return the conversion as given, without the command's own defaults. Raises UsageError."""
        values: dict[str, Any] = {**_OF_CONVERSION, "source": source, "output": output}
        return from_flags(SharderConfig, flag_values=self._conversion, **values)

    def check_training(self, settings: Mapping[str, str]) -> None:
        """Raise UsageError for settings of the trainer, by flag, that no run could use."""
        own = ("backbone", "weights", *_OF_MAIN)
        values = flags.FlagValues()
        define_flags(TrainConfig, Recipe, ReadOptions, flag_values=values)
        values(["run", *(f"--{name}={value}" for name, value in settings.items() if name not in own)])
        from_flags(
            TrainConfig,
            flag_values=values,
            backbone=settings["backbone"],
            data="",
            run_dir="",
            batch_size=_whole_number(settings["batch_size"]),
            weights=settings["weights"],
            recipe=from_flags(Recipe, flag_values=values),
            read=from_flags(ReadOptions, flag_values=values),
        )


def _whole_number(batch_size: str) -> int:
    try:
        return TrainConfig.batch_size if batch_size == "auto" else int(batch_size)
    except ValueError as error:
        raise UsageError(f"--batch_size={batch_size}: give a whole number or auto") from error


def _given(values: flags.FlagValues) -> dict[str, str]:
    """Return the flags that were given, by name, as text."""
    given = {name: values[name] for name in values if values[name].present and values[name].name == name}
    return {
        name: str(flag.value).lower() if flag.boolean else flag.serialize().partition("=")[2]
        for name, flag in given.items()
    }
