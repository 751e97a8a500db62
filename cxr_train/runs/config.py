"""The configuration of a training run, frozen once the flags are parsed."""

import dataclasses
import json
import math
import os.path
import pathlib
from collections.abc import Iterable

from cxr_data.core import storage
from cxr_data.core.errors import DataError, UsageError
from cxr_data.core.schema import Text, checked, parse_json
from cxr_data.core.settings import check_choice, check_settings, setting
from cxr_data.input.options import ReadOptions
from cxr_data.records.split_names import have_common_images
from cxr_train.engine.placement_names import PRECISIONS, STRATEGIES, XLA
from cxr_train.engine.profiler import parse_steps
from cxr_train.models.added import POOLINGS, parse_attention
from cxr_train.models.backbones import INPUT_RANGES, NO_BACKBONE, find_backbone
from cxr_train.models.head import layers_before_logits
from cxr_train.recipe.recipe import Recipe
from cxr_train.runs.layout import RunLayout
from cxr_train.runs.monitor import MONITORS

BATCH_NORM_STATISTICS = ("moving", "precise")

# What a resumed run may change.
_FREE = (
    *("run_dir", "early_stopping", "save_minutes", "profile_steps"),
    *("cache", "cache_dir", "verify", "max_bad_records", "data_service"),
    *("batch_norm_statistics", "batch_norm_batches"),
)


def parse_head(text: str) -> tuple[int, ...]:
    """Parse `128-32` to (128, 32); an empty text is a head without hidden layers.

    Raises:
      UsageError: it is not a list of whole numbers.
    """
    try:
        return tuple(int(width) for width in text.split("-")) if text else ()
    except ValueError as error:
        raise UsageError(f"--head={text}: must be the widths of the hidden layers, such as 128-32") from error


@dataclasses.dataclass(frozen=True)
class TrainConfig:
    """Everything that decides what a run computes.

    Attributes that are no settings of their own, as they are what the command's flags come to:
      backbone: a key of `backbones.BACKBONES`, or `backbones.NO_BACKBONE`.
      data: directory of the shards.
      run_dir: directory that receives everything the run writes.
      batch_size: global batch, over all replicas.
      weights: `none`, `imagenet` or a file.
      recipe: how the weights are changed.
      read: how the shards are read.

    Raises:
      UsageError: a value that no run could use, or values that do not go together.
    """

    backbone: str
    data: Text
    run_dir: Text
    epochs: int = setting(50, "Passes over the training split.", at_least=1, at_most=2**31 - 1)
    batch_size: int = 32
    learning_rate: float = setting(1e-4, "Peak learning rate of the head, reached at the end of the warm-up.")
    head: tuple[int, ...] = setting(
        "128-32", "Widths of the hidden dense layers; none if it is empty.", parse=parse_head
    )
    dropout: float = setting(0.0, "Rate of the one dropout layer, below 1; 0: no such layer.")
    dropout_after: str = setting(
        "pooling", "Layer that the dropout layer follows: pooling, or head_1 for the first of --head."
    )
    weights: str = "imagenet"
    input_range: str = setting(
        "unit",
        "Range of the pixels that the backbone gets: unit is [0, 1], as in the study; imagenet is "
        "the range that its pretrained weights were trained on.",
        choices=INPUT_RANGES,
    )
    attention: str = setting(
        "none",
        "Gates at the ends of the backbone's stages: se, eca, cbam or none; se:4+5 for stages 4 and 5 "
        "alone. They begin as 1 and are trained with the head.",
    )
    pooling: str = setting(
        "gap",
        "How the last map becomes features: gap, its mean; gem, a generalized mean with a learned power; or "
        "attention, a mean with learned weights, one map for each finding.",
        choices=tuple(POOLINGS),
    )
    batch_norm_momentum: float | None = setting(
        None, "Momentum of BatchNorm's moving statistics; the network's own by default."
    )
    batch_norm_statistics: str = setting(
        "precise",
        "Statistics with which BatchNorm is evaluated: moving, kept while training, as in the study; or "
        "precise, measured before each evaluation on --batch_norm_batches.",
        choices=BATCH_NORM_STATISTICS,
    )
    batch_norm_batches: int = setting(
        50,
        "Training batches for --batch_norm_statistics=precise, at most those of an epoch; not augmented.",
        at_least=1,
    )
    precision: str = setting("auto", "Keras dtype policy.", choices=PRECISIONS)
    xla: str = setting("auto", "Whether XLA compiles the step.", choices=XLA)
    strategy: str = setting(
        "auto",
        "Devices that compute the run: one, all of this machine, or those of all machines in TF_CONFIG.",
        choices=STRATEGIES,
    )
    seed: int = setting(0, "Seed of everything that is drawn at random.", at_least=0, at_most=2**32 - 1)
    train_split: str = setting(
        "train", "Split to train on, or several joined by +, such as train+validation."
    )
    validation_split: str = setting("validation", "Split that picks the best epoch, unless it is trained on.")
    recipe: Recipe = dataclasses.field(default_factory=Recipe)
    read: ReadOptions = dataclasses.field(default_factory=ReadOptions)
    fda_split: str = setting(
        "",
        "Split of the same data whose images, without their labels, lend training images their low "
        "frequencies (FDA, unsupervised adaptation), such as train@only=nih; none by default.",
    )
    fda_beta: float = setting(
        0.01, "Share of the width up to which frequencies are of --fda_split; 0 for none."
    )
    monitor: str = setting(
        "loss", "Validation metric that picks the best epoch, kept as best.keras.", choices=MONITORS
    )
    early_stopping: int = setting(
        0,
        "Number of epochs in a row without improvement that ends the run; 0: it never ends early.",
        at_least=0,
    )
    save_minutes: float = setting(10.0, "Minutes between two saved states, at most.", at_least=0)
    deterministic: bool = setting(False, "Whether two runs on the same device end with the same bits.")
    profile_steps: str = setting(
        "", "Steps to write a TensorBoard trace of, such as 10:20; steps are counted from 0."
    )

    def __post_init__(self) -> None:
        if self.backbone != NO_BACKBONE:
            find_backbone(self.backbone)
        check_settings(self)
        if self.batch_size < 1:
            raise UsageError(f"--batch_size={self.batch_size}: must be at least 1")
        if not 0 < self.learning_rate < math.inf:
            raise UsageError(f"--learning_rate={self.learning_rate}: must be above 0 and finite")
        if not 0 <= self.dropout < 1:
            raise UsageError(f"--dropout={self.dropout}: must be in [0, 1)")
        if self.batch_norm_momentum is not None and not 0 <= self.batch_norm_momentum < 1:
            raise UsageError(f"--batch_norm_momentum={self.batch_norm_momentum}: must be in [0, 1)")
        for flag in ("early_stopping", "monitor"):
            if self.held_out_validation is None and getattr(self, flag) != getattr(TrainConfig, flag):
                raise UsageError(
                    f"--{flag}={getattr(self, flag)}: needs a validation split, and --train_on="
                    f"{self.train_split} trains on it"
                )
        if not 0 <= self.fda_beta < 0.5:
            raise UsageError(f"--fda_beta={self.fda_beta}: must be at least 0 and below 0.5, such as 0.01")
        if self.fda_beta != TrainConfig.fda_beta and not self.fda_split:
            raise UsageError(f"--fda_beta={self.fda_beta}: needs --fda_split, the images to adapt to")
        parse_steps(self.profile_steps)
        parse_attention(self.attention)
        if any(width < 1 for width in self.head):
            raise UsageError(f"--head={'-'.join(map(str, self.head))}: widths must be at least 1")
        check_choice("dropout_after", self.dropout_after, layers_before_logits(self.head))
        self._check_together()

    def _check_together(self) -> None:
        """Refuses what would be of no effect beside the other values."""
        if self.backbone == NO_BACKBONE:
            self._check_without_backbone()
        if self.dropout_after != TrainConfig.dropout_after and not self.dropout:
            raise UsageError(f"--dropout_after={self.dropout_after}: needs a --dropout above 0")
        unfreeze = self.recipe.unfreeze_at_epoch
        if unfreeze and unfreeze > self.epochs:
            raise UsageError(f"--unfreeze_at_epoch={unfreeze}: the last epoch is --epochs={self.epochs}")
        if self.recipe.domain_method != Recipe.domain_method and not self.read.balance_batches:
            raise UsageError(
                f"--domain_method={self.recipe.domain_method}: needs batches of known sources; add "
                "--balance_batches"
            )
        if self.recipe.warmup_epochs >= self.epochs:
            raise UsageError(
                f"--warmup_epochs={self.recipe.warmup_epochs}: must be less than --epochs={self.epochs}"
            )
        if self.deterministic and self.read.data_service:
            raise UsageError(
                "--deterministic: the order of a data service's examples is never the same; "
                "leave out --data_service"
            )

    def _check_without_backbone(self) -> None:
        """Refuse settings of a backbone, and of pictures."""
        if self.weights != "none":
            raise UsageError(f"--weights={self.weights}: --backbone={NO_BACKBONE} has none; leave it out")
        for settings, flags in (
            (self, ("input_range", "attention", "pooling", "batch_norm_momentum", "fda_split")),
            (self.recipe, ("freeze", "backbone_rate_factor", "augment", "augment_flip")),
        ):
            for flag in flags:
                if (value := getattr(settings, flag)) != getattr(type(settings), flag):
                    raise UsageError(
                        f"--{flag}={value}: is for a backbone and pictures; leave it out with "
                        f"--backbone={NO_BACKBONE}"
                    )

    @property
    def layout(self) -> RunLayout:
        """The paths in the run directory."""
        return RunLayout(pathlib.Path(self.run_dir))

    @property
    def images_at_once(self) -> int:
        """Images of a micro-batch over all replicas: what the devices have memory for, in evaluation too."""
        return self.batch_size // self.recipe.gradient_accumulation

    @property
    def held_out_validation(self) -> str | None:
        """The split that picks epoch, temperature and thresholds; None where the run trains on it."""
        split = self.validation_split
        return None if have_common_images(split, self.train_split) else split

    def evaluated_splits(self, splits: Iterable[str]) -> list[str]:
        """Return the splits that the best model is evaluated on: those held out, that of validation first.

        Args:
          splits: of the data.
        """
        # A fold is validated on, and is no split of the data's own.
        names = dict.fromkeys([*filter(None, [self.held_out_validation]), *splits])
        return [split for split in names if not have_common_images(split, self.train_split)]

    def what_decides_the_result(self) -> dict[str, object]:
        """Return the values by flag that a resumed run must share with the run that it continues.

        More epochs continue the same run, unless they stretch its schedule or DANN's; more patience does; the
        directory may have been moved, and caches, checks, saves and statistics to evaluate with change no
        pixel and no weight.
        """
        values = dataclasses.asdict(self)
        values |= values.pop("read") | values.pop("recipe")
        free = [*_FREE, "epochs"] if not self.recipe.stretched_by else _FREE
        for name in free:
            del values[name]
        return values

    def save(self, path: pathlib.Path) -> None:
        """Write the configuration as JSON."""
        storage.replace(path, (json.dumps(dataclasses.asdict(self), indent=2) + "\n").encode())

    @classmethod
    def load(cls, path: pathlib.Path) -> "TrainConfig":
        """Read what `save` wrote.

        Raises:
          DataError: the file is missing or not such a configuration.
        """
        if storage.size(str(path)) is None:
            raise _no_run(path)
        try:
            values = parse_json(storage.read_bytes(str(path)))
            if isinstance(values, dict):
                if isinstance(read := values.get("read"), dict) and isinstance(read.get("cache_dir"), str):
                    read["cache_dir"] = os.path.expanduser(read["cache_dir"])  # earlier files have ~
                # Of a run that knew no others; and where it lies now, it may have been moved.
                values = {"batch_norm_statistics": "moving", **values, "run_dir": str(path.parent)}
            return checked(cls, values)
        except (DataError, ValueError, UsageError) as error:
            raise DataError(f"{path} is not the configuration of a run: {error}") from error


def _no_run(config: pathlib.Path) -> DataError:
    """Return the error for a directory without the configuration of a run, with the ways out."""
    run_dir = config.parent
    if not run_dir.is_dir():
        return DataError(f"{run_dir}: no such folder; give the directory of a run")
    runs = sorted(str(path.parent) for path in run_dir.glob(f"*/{config.name}"))
    below = f"give that of a run in it: {', '.join(runs[:3])}" if runs else "give one that a training wrote"
    return DataError(f"{run_dir} is not a run directory, since it has no {config.name}: {below}")
