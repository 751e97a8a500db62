"""How the weights are changed: optimizer, schedule, regularisation, freezing, augmentation."""

import dataclasses
import math

from cxr_data.core.errors import UsageError
from cxr_train.recipe.augmentation import parse_augmentation
from cxr_train.recipe.class_weights import parse_class_weights

OPTIMIZERS = ("adam", "adamw", "sgd")
SCHEDULES = ("constant", "cosine")
UNTIL = "until:"

_DEFAULT_MOMENTUM = 0.9


@dataclasses.dataclass(frozen=True)
class Recipe:
    """The training recipe; the default is the study's: Adam at a constant rate and nothing else.

    Attributes:
      optimizer: one of `OPTIMIZERS`; adamw is Adam with `weight_decay`.
      momentum: of sgd; None for 0.9.
      schedule: one of `SCHEDULES`, from the rate of `TrainConfig` on.
      warmup_epochs: the rate rises linearly for so long first; fractions are meant.
      weight_decay: decoupled; a step takes rate * weight_decay of each weight, but none of
        biases and of BatchNorm's parameters.
      clip_norm: the largest global norm of the gradients; None for any.
      gradient_accumulation: micro-batches into which a replica splits its part of a batch.
      label_smoothing: in [0, 1), see `loss.Objective`.
      class_weights: `none`, `balanced` or `NAME:WEIGHT,...`.
      ema: decay of the averaged weights that are evaluated and kept; 0 for none.
      freeze: `none`, `backbone` or `until:LAYER`, see `freeze`.
      unfreeze_at_epoch: the first epoch, counted from 1, that trains every layer; None for never.
      backbone_rate_factor: the backbone's learning rate, as a factor of the head's.
      augment: see `augmentation.parse_augmentation`.
      augment_flip: whether images are mirrored left to right at random. A mirrored chest is
        another finding: the heart points to the other side.

    Raises:
      UsageError: a value that no run could use, or values that do not go together.
    """

    optimizer: str = "adam"
    momentum: float | None = None
    schedule: str = "constant"
    warmup_epochs: float = 0.0
    weight_decay: float = 0.0
    clip_norm: float | None = None
    gradient_accumulation: int = 1
    label_smoothing: float = 0.0
    class_weights: str = "none"
    ema: float = 0.0
    freeze: str = "none"
    unfreeze_at_epoch: int | None = None
    backbone_rate_factor: float = 1.0
    augment: str = "none"
    augment_flip: bool = False

    def __post_init__(self) -> None:
        self._check_names()
        self._check_ranges()
        self._check_together()
        parse_augmentation(self.augment, self.augment_flip)
        parse_class_weights(self.class_weights)

    @property
    def sgd_momentum(self) -> float:
        """The momentum in force with sgd."""
        return _DEFAULT_MOMENTUM if self.momentum is None else self.momentum

    def _check_names(self) -> None:
        for flag, known in (("optimizer", OPTIMIZERS), ("schedule", SCHEDULES)):
            if getattr(self, flag) not in known:
                raise UsageError(f"--{flag}={getattr(self, flag)}: choose one of {', '.join(known)}")
        if self.freeze not in ("none", "backbone") and not self.freeze.startswith(UNTIL):
            raise UsageError(f"--freeze={self.freeze}: choose none, backbone or {UNTIL}LAYER")

    def _check_ranges(self) -> None:
        for flag in ("label_smoothing", "ema", "momentum"):
            value = getattr(self, flag)
            if value is not None and not 0 <= value < 1:
                raise UsageError(f"--{flag}={value}: must be in [0, 1)")
        for flag in ("warmup_epochs", "weight_decay"):
            if not 0 <= getattr(self, flag) < math.inf:
                raise UsageError(f"--{flag}={getattr(self, flag)}: must not be negative or infinite")
        for flag in ("clip_norm", "backbone_rate_factor"):
            value = getattr(self, flag)
            if value is not None and not 0 < value < math.inf:
                raise UsageError(f"--{flag}={value}: must be above 0 and finite")
        if self.gradient_accumulation < 1:
            raise UsageError(f"--gradient_accumulation={self.gradient_accumulation}: must be at least 1")

    def _check_together(self) -> None:
        if self.momentum is not None and self.optimizer != "sgd":
            raise UsageError(f"--momentum={self.momentum}: is for --optimizer=sgd, not {self.optimizer}")
        if self.weight_decay and self.optimizer == "adam":
            raise UsageError(f"--weight_decay={self.weight_decay}: is for --optimizer=adamw or sgd, not adam")
        if not self.weight_decay and self.optimizer == "adamw":
            raise UsageError(
                "--optimizer=adamw: needs --weight_decay, such as 0.01; without it, it is --optimizer=adam"
            )
        if self.unfreeze_at_epoch is None:
            if self.freeze == "backbone" and self.backbone_rate_factor != 1:
                raise UsageError(
                    f"--backbone_rate_factor={self.backbone_rate_factor}: --freeze=backbone has no rate; "
                    "add --unfreeze_at_epoch"
                )
            return
        if self.freeze == "none":
            raise UsageError(f"--unfreeze_at_epoch={self.unfreeze_at_epoch}: needs --freeze")
        if self.unfreeze_at_epoch < 2:
            raise UsageError(
                f"--unfreeze_at_epoch={self.unfreeze_at_epoch}: must be at least 2; epochs count from 1"
            )
