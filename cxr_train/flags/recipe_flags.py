"""The flags of the recipe."""

from absl import flags

from cxr_train.recipe.augmentation import DEFAULT_RANGES
from cxr_train.recipe.recipe import OPTIMIZERS, SCHEDULES, Recipe


def define_recipe_flags() -> None:
    """Defines the flags; called once, by the command's main module."""
    flags.DEFINE_enum("optimizer", Recipe.optimizer, OPTIMIZERS, "adamw is adam with --weight_decay.")
    flags.DEFINE_float("momentum", None, "Of --optimizer=sgd; 0.9 by default.")
    flags.DEFINE_enum(
        "schedule", Recipe.schedule, SCHEDULES, "How --learning_rate goes on after its warm-up."
    )
    flags.DEFINE_float(
        "warmup_epochs", Recipe.warmup_epochs, "Epochs, or parts of one, in which the rate rises first."
    )
    flags.DEFINE_float(
        "weight_decay", Recipe.weight_decay, "Decoupled; not on biases or BatchNorm. For adamw and sgd."
    )
    flags.DEFINE_float("clip_norm", None, "Largest global norm of the gradients; any by default.")
    flags.DEFINE_integer(
        "gradient_accumulation",
        Recipe.gradient_accumulation,
        "Computes a batch in so many parts, to fit memory; the step and the data order stay the same.",
    )
    flags.DEFINE_float(
        "label_smoothing", Recipe.label_smoothing, "Share of the target spread over all classes."
    )
    flags.DEFINE_string(
        "class_weights",
        Recipe.class_weights,
        "none, balanced (inversely to the classes' training images), or NAME:WEIGHT,...",
    )
    flags.DEFINE_float("ema", Recipe.ema, "Evaluates and keeps averaged weights, of this decay; 0: does not.")
    flags.DEFINE_string(
        "freeze", Recipe.freeze, "none, backbone, or until:LAYER for it and all layers before it."
    )
    flags.DEFINE_integer(
        "unfreeze_at_epoch", None, "First epoch, from 1, that trains every layer; never by default."
    )
    flags.DEFINE_float(
        "backbone_rate_factor", Recipe.backbone_rate_factor, "The backbone's learning rate over the head's."
    )
    ranges = ", ".join(f"{name}:{value:g}" for name, value in DEFAULT_RANGES.items())
    flags.DEFINE_string(
        "augment",
        Recipe.augment,
        f"none, all, or a list such as rotation,zoom:0.2; at most that much each way. Defaults: {ranges} "
        "(degrees; shares of the width, of the size, of the range of pixels, of the contrast).",
    )
    flags.DEFINE_bool(
        "augment_flip", Recipe.augment_flip, "Mirrors images at random; a chest is not symmetric."
    )


def recipe_from_flags() -> Recipe:
    """Reads the parsed flags. Raises UsageError for values that no run could use."""
    values = flags.FLAGS
    return Recipe(
        optimizer=values.optimizer,
        momentum=values.momentum,
        schedule=values.schedule,
        warmup_epochs=values.warmup_epochs,
        weight_decay=values.weight_decay,
        clip_norm=values.clip_norm,
        gradient_accumulation=values.gradient_accumulation,
        label_smoothing=values.label_smoothing,
        class_weights=values.class_weights,
        ema=values.ema,
        freeze=values.freeze,
        unfreeze_at_epoch=values.unfreeze_at_epoch,
        backbone_rate_factor=values.backbone_rate_factor,
        augment=values.augment,
        augment_flip=values.augment_flip,
    )
