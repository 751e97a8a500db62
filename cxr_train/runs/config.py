"""The configuration of a training run, frozen once the flags are parsed."""

import dataclasses
import json
import math
import pathlib

from cxr_data.core import storage
from cxr_data.core.errors import DataError, UsageError
from cxr_data.input.options import ReadOptions
from cxr_data.input.order import InputWorker
from cxr_data.records.manifest import joined_splits
from cxr_train.engine.profiler import parse_steps
from cxr_train.models.backbones import INPUT_RANGES, find_backbone
from cxr_train.models.head import layers_before_logits
from cxr_train.recipe.recipe import Recipe
from cxr_train.runs.layout import RunLayout
from cxr_train.runs.monitor import MONITORS

# What a resumed run may change.
_FREE = (
    *("run_dir", "early_stopping", "save_minutes", "profile_steps"),
    *("cache", "cache_dir", "verify", "max_bad_records", "data_service"),
)


@dataclasses.dataclass(frozen=True)
class TrainConfig:
    """Everything that decides what a run computes.

    Attributes:
      backbone: a key of `backbones.BACKBONES`.
      data: directory of the shards.
      run_dir: directory that receives everything the run writes.
      epochs: passes over the training split.
      batch_size: global batch, over all replicas.
      learning_rate: of the head, and of the backbone times the recipe's factor.
      head: widths of the hidden dense layers.
      dropout: rate of the one dropout layer; 0 for none.
      dropout_after: name of the layer that it follows, `pooling` or `head_N`, see `classifier.build_model`.
      weights: `none`, `imagenet` or a file.
      input_range: `unit` or `imagenet`.
      batch_norm_momentum: of BatchNorm's moving statistics; None for the network's own.
      precision, xla, strategy: see `strategy.choose_placement`.
      seed: of the initial weights, the order of the examples and the dropout.
      train_split: a split in the manifest, or several joined by `+`.
      validation_split: the split that picks the best epoch, unless it is trained on.
      recipe: how the weights are changed.
      read: how the shards are read.
      monitor: one of `monitor.MONITORS`; its best epoch is kept as best.keras.
      early_stopping: ends the run after so many epochs in a row without a better one; 0 for never.
      save_minutes: the state is saved at least so often while training.
      deterministic: whether every operation is, see `strategy.make_deterministic`.
      profile_steps: which steps are traced, such as `10:20`; empty for none.
    """

    backbone: str
    data: str
    run_dir: str
    epochs: int = 50
    batch_size: int = 32
    learning_rate: float = 1e-4
    head: tuple[int, ...] = (128, 32)
    dropout: float = 0.0
    dropout_after: str = "pooling"
    weights: str = "imagenet"
    input_range: str = "unit"
    batch_norm_momentum: float | None = None
    precision: str = "auto"
    xla: str = "auto"
    strategy: str = "auto"
    seed: int = 0
    train_split: str = "train"
    validation_split: str = "validation"
    recipe: Recipe = dataclasses.field(default_factory=Recipe)
    read: ReadOptions = dataclasses.field(default_factory=ReadOptions)
    monitor: str = "loss"
    early_stopping: int = 0
    save_minutes: float = 10.0
    deterministic: bool = False
    profile_steps: str = ""

    def __post_init__(self) -> None:
        """Raises UsageError for a value that no run could use, naming its flag."""
        find_backbone(self.backbone)
        if self.input_range not in INPUT_RANGES:
            raise UsageError(f"--input_range={self.input_range}: choose one of {', '.join(INPUT_RANGES)}")
        for flag in ("epochs", "batch_size"):
            if getattr(self, flag) < 1:
                raise UsageError(f"--{flag}={getattr(self, flag)}: must be at least 1")
        if self.epochs >= 2**31:
            raise UsageError(f"--epochs={self.epochs}: must be below 2**31")
        if not 0 < self.learning_rate < math.inf:
            raise UsageError(f"--learning_rate={self.learning_rate}: must be above 0 and finite")
        if not 0 <= self.dropout < 1:
            raise UsageError(f"--dropout={self.dropout}: must be in [0, 1)")
        if self.batch_norm_momentum is not None and not 0 <= self.batch_norm_momentum < 1:
            raise UsageError(f"--batch_norm_momentum={self.batch_norm_momentum}: must be in [0, 1)")
        if self.monitor not in MONITORS:
            raise UsageError(f"--monitor={self.monitor}: choose one of {', '.join(MONITORS)}")
        for flag in ("early_stopping", "monitor"):
            if self.held_out_validation is None and getattr(self, flag) != getattr(TrainConfig, flag):
                raise UsageError(
                    f"--{flag}={getattr(self, flag)}: needs a validation split, and --train_on="
                    f"{self.train_split} trains on it"
                )
        if self.early_stopping < 0:
            raise UsageError(f"--early_stopping={self.early_stopping}: must be at least 0")
        if not self.save_minutes >= 0:
            raise UsageError(f"--save_minutes={self.save_minutes}: must be at least 0")
        parse_steps(self.profile_steps)
        if any(width < 1 for width in self.head):
            raise UsageError(f"--head={'-'.join(map(str, self.head))}: widths must be at least 1")
        places = layers_before_logits(self.head)
        if self.dropout_after not in places:
            raise UsageError(f"--dropout_after={self.dropout_after}: choose one of {', '.join(places)}")
        if not 0 <= self.seed < 2**32:
            raise UsageError(f"--seed={self.seed}: must be at least 0 and below 2**32")
        self._check_together()

    def _check_together(self) -> None:
        """Refuses what would be of no effect beside the other values."""
        if self.dropout_after != TrainConfig.dropout_after and not self.dropout:
            raise UsageError(f"--dropout_after={self.dropout_after}: needs a --dropout above 0")
        unfreeze = self.recipe.unfreeze_at_epoch
        if unfreeze and unfreeze > self.epochs:
            raise UsageError(f"--unfreeze_at_epoch={unfreeze}: the last epoch is --epochs={self.epochs}")
        if self.recipe.warmup_epochs >= self.epochs:
            raise UsageError(
                f"--warmup_epochs={self.recipe.warmup_epochs}: must be less than --epochs={self.epochs}"
            )
        if self.deterministic and self.read.data_service:
            raise UsageError(
                "--deterministic: the order of a data service's examples is never the same; "
                "leave out --data_service"
            )

    @property
    def layout(self) -> RunLayout:
        """The paths in the run directory."""
        return RunLayout(pathlib.Path(self.run_dir))

    @property
    def held_out_validation(self) -> str | None:
        """The split that picks epoch, temperature and thresholds; None where the run trains on it."""
        return None if self.validation_split in joined_splits(self.train_split) else self.validation_split

    def what_decides_the_result(self) -> dict[str, object]:
        """The values by flag that a resumed run must share with the run that it continues.

        More epochs continue the same run, unless they stretch its schedule; more patience does; the
        directory may have been moved, and caches, checks and saves change no pixel and no weight.
        """
        values = dataclasses.asdict(self)
        values |= values.pop("read") | values.pop("recipe")
        free = [*_FREE, "epochs"] if self.recipe.schedule == "constant" else _FREE
        for name in free:
            del values[name]
        return values

    def save(self, path: pathlib.Path) -> None:
        """Writes the configuration as JSON."""
        storage.replace(path, (json.dumps(dataclasses.asdict(self), indent=2) + "\n").encode())

    @classmethod
    def load(cls, path: pathlib.Path) -> "TrainConfig":
        """Reads what `save` wrote.

        Raises:
          DataError: the file is missing or not such a configuration.
        """
        try:
            values = json.loads(path.read_text())
            read = values["read"]
            options = ReadOptions(**{**read, "worker": InputWorker(**read["worker"])})
            recipe = Recipe(**values.get("recipe", {}))
            return cls(**{**values, "head": tuple(values["head"]), "read": options, "recipe": recipe})
        except FileNotFoundError as error:
            raise DataError(f"{path.parent} is not a run directory: it has no {path.name}") from error
        except (ValueError, TypeError, KeyError) as error:
            raise DataError(f"{path} is not the configuration of a run: {error}") from error


def parse_head(text: str) -> tuple[int, ...]:
    """Parses `128-32` to (128, 32); an empty text is a head without hidden layers.

    Raises:
      UsageError: it is not a list of whole numbers.
    """
    try:
        return tuple(int(width) for width in text.split("-")) if text else ()
    except ValueError as error:
        raise UsageError(f"--head={text}: write the widths of the hidden layers like 128-32") from error
