"""How the weights are changed: optimizer, schedule, regularisation, freezing, augmentation."""

import dataclasses
import math

from cxr_data.core.errors import UsageError
from cxr_data.core.settings import check_settings, setting
from cxr_train.recipe.augmentation import DEFAULT_RANGES, parse_augmentation
from cxr_train.recipe.class_weights import parse_class_weights
from cxr_train.recipe.domain.settings import (
    DEFAULT_WARMUP_STEPS,
    METHODS,
    NONE,
    STRENGTHS,
    strength_of,
)
from cxr_train.recipe.uncertain import parse_uncertain

OPTIMIZERS = ("adam", "adamw", "sgd")
SCHEDULES = ("constant", "cosine")
UNTIL = "until:"

_DEFAULT_MOMENTUM = 0.9


_RANGES = ", ".join(f"{name}:{value:g}" for name, value in DEFAULT_RANGES.items())
_STRENGTHS = ", ".join(f"{name} {known.default:g} ({known.meaning})" for name, known in STRENGTHS.items())


@dataclasses.dataclass(frozen=True)
class Recipe:
    """How the weights change. The default is the recipe of the study: Adam at a constant rate.

    Raises:
      UsageError: a value that no run could use, or values that do not go together.
    """

    optimizer: str = setting("adam", "Optimizer; adamw is adam with --weight_decay.", choices=OPTIMIZERS)
    momentum: float | None = setting(None, "Momentum of --optimizer=sgd; 0.9 by default.")
    schedule: str = setting("constant", "Schedule of the learning rate after its warm-up.", choices=SCHEDULES)
    warmup_epochs: float = setting(
        0.0, "Epochs, or parts of one, in which the learning rate first rises linearly."
    )
    weight_decay: float = setting(
        0.0,
        "Decoupled weight decay, for adamw and sgd: a step takes rate * weight_decay of each weight, but "
        "nothing of biases and of BatchNorm's parameters.",
    )
    clip_norm: float | None = setting(None, "Largest global norm of the gradients; no limit by default.")
    gradient_accumulation: int = setting(
        1,
        "Number of parts into which each replica splits its share of a batch, to save memory; "
        "they are computed one after the other, and the step and the order of the data stay the "
        "same.",
        at_least=1,
    )
    label_smoothing: float = setting(
        0.0, "Share of the target that is spread over all classes, or over present and absent, below 1."
    )
    class_weights: str = setting(
        "none",
        "Weights of the classes in the loss: none, balanced (inversely to their training images), or "
        "NAME:WEIGHT,...; of findings, weights of their positive labels, balanced as negatives / positives.",
    )
    uncertain: str = setting(
        "ignore",
        "Target of uncertain labels of findings: ignore (masked), zeros, ones, or smooth:LOW:HIGH for a "
        "number between two, drawn once for each label.",
    )
    focal_gamma: float = setting(
        0.0, "Exponent of the focal loss of findings, such as 2; 0 for plain cross-entropy.", at_least=0
    )
    ema: float = setting(
        0.0, "Decay of the averaged weights that are evaluated and kept, below 1; 0: no averaging."
    )
    freeze: str = setting(
        "none",
        "Layers that are not trained: none, backbone, or until:LAYER for this layer and all before it.",
    )
    unfreeze_at_epoch: int | None = setting(
        None, "First epoch, counted from 1, that trains every layer; never by default.", at_least=2
    )
    backbone_rate_factor: float = setting(1.0, "Learning rate of the backbone, as a factor of the head's.")
    augment: str = setting(
        "none",
        "Random changes of training images: none, all, or a list such as rotation,zoom:0.2; at most so much "
        f"each way. Defaults: {_RANGES} (degrees; shares of the width, of the size, of the range of pixels, "
        "of the contrast).",
    )
    augment_flip: bool = setting(
        False,
        "Whether half of the training images are mirrored left to right; a mirrored chest is another "
        "finding, since the heart points to the other side.",
    )

    domain_method: str = setting(
        NONE,
        "Domain generalisation: how the sources of a batch are treated, see docs/domains.md; needs "
        "--balance_batches. balanced weighs each source the same.",
        choices=METHODS,
    )
    domain_strength: float | None = setting(
        None,
        f"Strength of --domain_method; 0 is balanced. Defaults: {_STRENGTHS}.",
    )
    domain_warmup_steps: int = setting(
        DEFAULT_WARMUP_STEPS,
        "Steps of --domain_method=irm in which the penalty weighs 1; then the optimizer begins as a new one.",
        at_least=0,
    )

    def __post_init__(self) -> None:
        check_settings(self)
        if self.freeze not in ("none", "backbone") and not self.freeze.startswith(UNTIL):
            raise UsageError(f"--freeze={self.freeze}: must be none, backbone or {UNTIL}LAYER")
        self._check_ranges()
        self._check_together()
        parse_augmentation(self.augment, self.augment_flip)
        parse_class_weights(self.class_weights)
        parse_uncertain(self.uncertain)

    @property
    def sgd_momentum(self) -> float:
        """The momentum in force with sgd."""
        return _DEFAULT_MOMENTUM if self.momentum is None else self.momentum

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

    def _check_together(self) -> None:
        if self.momentum is not None and self.optimizer != "sgd":
            raise UsageError(f"--momentum={self.momentum}: is for --optimizer=sgd, not {self.optimizer}")
        if self.weight_decay and self.optimizer == "adam":
            raise UsageError(f"--weight_decay={self.weight_decay}: is for --optimizer=adamw or sgd, not adam")
        if not self.weight_decay and self.optimizer == "adamw":
            raise UsageError(
                "--optimizer=adamw: needs --weight_decay, such as 0.01; without it, it is --optimizer=adam"
            )
        self._check_domain_method()
        if self.unfreeze_at_epoch is None:
            if self.freeze == "backbone" and self.backbone_rate_factor != 1:
                raise UsageError(
                    f"--backbone_rate_factor={self.backbone_rate_factor}: --freeze=backbone has no rate; "
                    "add --unfreeze_at_epoch"
                )
            return
        if self.freeze == "none":
            raise UsageError(f"--unfreeze_at_epoch={self.unfreeze_at_epoch}: needs --freeze")

    @property
    def stretched_by(self) -> str:
        """The flag by which more epochs change what each step does, with its value; empty for none."""
        if self.schedule != "constant":
            return f"--schedule={self.schedule}"
        return f"--domain_method={self.domain_method}" if self.domain_method == "dann" else ""

    def _check_domain_method(self) -> None:
        strength_of(self.domain_method, self.domain_strength)
        if self.domain_method != "irm":
            if self.domain_warmup_steps != DEFAULT_WARMUP_STEPS:
                raise UsageError(
                    f"--domain_warmup_steps={self.domain_warmup_steps}: is for --domain_method=irm, not "
                    f"{self.domain_method}"
                )
            return
        if self.schedule != "constant" or self.warmup_epochs:
            raise UsageError(
                "--domain_method=irm: begins with a new optimizer after --domain_warmup_steps, and with it "
                "the schedule; leave out --schedule and --warmup_epochs"
            )
        if self.focal_gamma:
            raise UsageError("--domain_method=irm: cannot go with the focal loss; leave out --focal_gamma")
