"""From a configuration to what trains: the model, its optimizer, and the step."""

import dataclasses
from collections.abc import Mapping

import keras
import numpy as np
import tensorflow as tf

from cxr_data.core.errors import DataError, UsageError
from cxr_data.records.folds import class_counts, labels_of_split
from cxr_data.records.manifest import Manifest
from cxr_data.records.split_names import joined_splits, parse_split
from cxr_data.sources.finding_values import ABSENT, PRESENT, UNCERTAIN, UNKNOWN
from cxr_train.engine.replica_values import ReplicaValues
from cxr_train.engine.step import TrainStep
from cxr_train.engine.strategy import Placement
from cxr_train.models.backbones import check_input
from cxr_train.models.freeze import backbone_layers, layers_to_freeze, set_trainable
from cxr_train.models.head import POOLING
from cxr_train.models.parts import feature_layer
from cxr_train.recipe.augmentation import parse_augmentation
from cxr_train.recipe.class_weights import resolve_class_weights, resolve_positive_weights
from cxr_train.recipe.domain.fda import FourierAdaptation
from cxr_train.recipe.domain.make import make_domain_method
from cxr_train.recipe.domain.method import BalancedSources, DomainMethod
from cxr_train.recipe.domain.settings import NEED_FEATURES
from cxr_train.recipe.ema import WeightAverage
from cxr_train.recipe.loss import FindingsObjective, Objective
from cxr_train.recipe.loss_scale import LossScale
from cxr_train.recipe.optimizers import ParameterGroups, Schedule, make_optimizer
from cxr_train.recipe.recipe import Recipe
from cxr_train.recipe.uncertain import parse_uncertain
from cxr_train.runs.config import TrainConfig
from cxr_train.runs.network_notes import notes_on_network
from cxr_train.runs.run_model import build_run_model


@dataclasses.dataclass(frozen=True)
class Training:
    """What trains, and what of it a checkpoint holds.

    Attributes:
      model: images float32 [B, S, S, 3] in [0, 1] to logits float32 [B, C].
      optimizer, loss_scale: the step's state beside the weights.
      average: the averaged weights; None without `--ema`.
      domain: how the sources of a batch are treated; None without `--domain_method`.
      replica_values: what each replica has of its own.
      step: the training step.
      frozen: the layers that `--freeze` names.
      notes: what the recipe came to, a line each.
    """

    model: keras.Model
    optimizer: ParameterGroups
    loss_scale: LossScale
    average: WeightAverage | None
    domain: DomainMethod | None
    replica_values: ReplicaValues
    step: TrainStep
    frozen: list[keras.layers.Layer]
    notes: tuple[str, ...]

    def unfreeze(self, *, compile: bool) -> None:
        """Train the frozen layers from the next step on, which traces once more."""
        set_trainable(self.frozen, True)
        self.step.retrace(compile=compile)


def assemble_training(
    config: TrainConfig,
    manifest: Manifest,
    placement: Placement,
    steps_per_epoch: int,
    sources: Mapping[int, float] | None = None,
    adaptation: FourierAdaptation | None = None,
) -> Training:
    """Build all of it; the same configuration gives the same initial weights.

    Args:
      sources: see `Pipeline.balanced_sources`; needed for a `--domain_method`.
      adaptation: see `adaptation.read_adaptation`.

    Raises:
      UsageError: the batch does not divide by replicas and micro-batches, or the recipe names
        a layer or a class that is not there.
      DataError: the weights do not fit, or a class has no training image.
    """
    check_input(config.backbone, manifest)
    recipe = config.recipe
    _refuse_uneven_batch(config, placement.replicas)
    unseen = _absent_classes(config, manifest)
    objective, weights_note = _objective(config, manifest)
    keras.utils.set_random_seed(config.seed)
    with placement.strategy.scope():
        model = build_run_model(
            config,
            classes=len(manifest.class_names),
            image_size=manifest.size,
            features=manifest.features,
            of_findings=bool(manifest.findings),
            dtype_policy=placement.policy,
        )
        frozen = layers_to_freeze(model, recipe.freeze)
        optimizer = _parameter_groups(config, model, frozen, steps_per_epoch)
        loss_scale = LossScale.for_policy(placement.policy)
        average = WeightAverage(model, recipe.ema) if recipe.ema else None
        # Last, as it draws initial weights too.
        domain = _domain_method(config, model, frozen, sources, objective, config.epochs * steps_per_epoch)
    # Before the freezing, which makes weights non-trainable too.
    replica_values = ReplicaValues(_statistics(model, average), placement, _seeds(model))
    set_trainable(frozen, False)
    step = TrainStep(
        model,
        optimizer,
        loss_scale,
        placement.strategy,
        compile=placement.compile,
        global_batch=config.batch_size,
        objective=objective,
        accumulation=recipe.gradient_accumulation,
        clip_norm=recipe.clip_norm,
        augmentation=parse_augmentation(recipe.augment, recipe.augment_flip),
        seed=config.seed,
        average=average,
        in_flight=placement.steps_in_flight,
        domain=domain,
        adaptation=adaptation,
    )
    notes = [*unseen, *weights_note, *notes_on_network(config, model)]
    if domain and (domain.needs_features or domain.needs_slopes):
        images = config.images_at_once // placement.replicas
        notes.append(
            f"domain method {recipe.domain_method}: its penalty sees {images} images at once, of "
            f"{len(domain.sources.numbers)} sources"
        )
    if frozen:
        notes.append(_freezing(config, model, frozen))
    if config.batch_norm_momentum is not None and not _trains_batch_norm(config, model, frozen):
        notes.append("--batch_norm_momentum: of no effect, no BatchNorm is trained")
    elif config.batch_norm_momentum is not None and config.batch_norm_statistics == "precise":
        notes.append("--batch_norm_momentum: changes no result with --batch_norm_statistics=precise")
    return Training(model, optimizer, loss_scale, average, domain, replica_values, step, frozen, tuple(notes))


def _domain_method(
    config: TrainConfig,
    model: keras.Model,
    frozen: list[keras.layers.Layer],
    sources: Mapping[int, float] | None,
    objective: Objective | FindingsObjective,
    steps: int,
) -> DomainMethod | None:
    """Return how the sources of a batch are treated. Raises UsageError: as `make_domain_method`."""
    recipe = config.recipe
    layer = model.get_layer(POOLING)
    if recipe.domain_method in NEED_FEATURES:
        layer = feature_layer(model, frozen if recipe.unfreeze_at_epoch is None else [])
    domain = make_domain_method(
        recipe,
        BalancedSources(tuple(sources), tuple(sources.values())) if sources else None,
        objective,
        features=layer.output.shape[-1],
        rate=config.learning_rate,
        steps=steps,
    )
    if domain:
        domain.feature_layer = layer.name
    return domain


def _objective(config: TrainConfig, manifest: Manifest) -> tuple[Objective | FindingsObjective, list[str]]:
    """Return what is minimised, and the weights that it uses, in words.

    Raises:
      UsageError: a setting of the recipe is for findings, and the data has one class a picture.
    """
    recipe, names = config.recipe, manifest.class_names
    weights: tuple[float, ...]
    objective: Objective | FindingsObjective
    if manifest.findings:
        uncertain, kind = parse_uncertain(recipe.uncertain), "positive"
        labels = labels_of_split(manifest, config.train_split)
        weights = resolve_positive_weights(recipe.class_weights, names, labels, uncertain)
        objective = FindingsObjective(recipe.label_smoothing, weights, uncertain, recipe.focal_gamma)
    else:
        for flag in ("uncertain", "focal_gamma"):
            if getattr(recipe, flag) != getattr(Recipe, flag):
                raise UsageError(
                    f"--{flag}={getattr(recipe, flag)}: is for data with several findings a picture, and "
                    f"{manifest.directory} has one class a picture"
                )
        images = class_counts(manifest, config.train_split)
        weights, kind = resolve_class_weights(recipe.class_weights, names, images), "class"
        objective = Objective(recipe.label_smoothing, weights)
    pairs = ", ".join(f"{name} {weight:.3f}" for name, weight in zip(names, weights, strict=False))
    return objective, [f"{kind} weights: {pairs}"] if weights else []


def _statistics(model: keras.Model, average: WeightAverage | None) -> list[tf.Variable]:
    """Return the BatchNorm's moving statistics, and their averages."""
    values = [variable.value for variable in model.non_trainable_variables]
    statistics = [value for value in values if tf.as_dtype(value.dtype).is_floating]
    return statistics + (average.of(statistics) if average else [])


def _seeds(model: keras.Model) -> list[tf.Variable]:
    """Return the states of dropout's random generators."""
    return [variable.value for variable in model.variables if "seed_generator" in variable.path]


def _absent_classes(config: TrainConfig, manifest: Manifest) -> list[str]:
    """Say which classes cannot be validated, or are nowhere. Raise DataError: one cannot be learned."""
    notes, kind = [], "finding" if manifest.findings else "class"
    split = config.held_out_validation
    is_there = split is not None and {*joined_splits(split)} <= {*manifest.splits}
    validation = class_counts(manifest, split) if split is not None and is_there else None
    training = class_counts(manifest, config.train_split)
    trained = parse_split(config.train_split)
    way = "train without --fold" if trained.fold else "convert again with other --splits"
    way = "train on other sources" if trained.sources else way
    for name in manifest.class_names:
        if not any(by_class[name] for by_class in manifest.counts.values()):
            notes.append(f"{kind} {name!r} has no image at all: what the model says of it means nothing")
        elif not training[name] and manifest.findings:
            notes.append(
                f"finding {name!r} is in no image of the {config.train_split} split: what the model says of "
                "it means nothing"
            )
        elif not training[name]:
            raise DataError(
                f"{manifest.directory}: class {name!r} has no image in the {config.train_split} split, and "
                f"cannot be learned: {way}, or convert again without this class "
                f"(make_tfrecords --exclude_folders={name})"
            )
        elif validation is not None and not validation[name]:
            notes.append(
                f"{kind} {name!r} has no image in the {split} split: how well the model knows it has no "
                "part in choosing the best epoch"
            )
    return [*_nothing_to_learn(config, manifest), *notes]


def _nothing_to_learn(config: TrainConfig, manifest: Manifest) -> list[str]:
    """Say where no training image has a finding that another lacks. Raise DataError: all are of one class."""
    where = f"{manifest.directory}: in the {config.train_split} split"
    if manifest.findings:
        uncertain = config.recipe.uncertain
        targets = {PRESENT: (1.0, 1.0), ABSENT: (0.0, 0.0), UNKNOWN: None}
        targets[UNCERTAIN] = parse_uncertain(uncertain)
        columns = labels_of_split(manifest, config.train_split).T
        if any(len({targets[label] for label in column.tolist()} - {None}) > 1 for column in columns):
            return []
        return [
            f"{where}, no finding is present in one image and absent in another, as --uncertain={uncertain} "
            "counts them: there is nothing to learn"
        ]
    present = [name for name, images in class_counts(manifest, config.train_split).items() if images]
    if len(present) == 1:
        raise DataError(
            f"{where}, all images are of one class, {present[0]!r}: there is nothing to learn; convert "
            "images of two classes or more"
        )
    return []


def _refuse_uneven_batch(config: TrainConfig, replicas: int) -> None:
    if config.batch_size % replicas:
        raise UsageError(f"--batch_size={config.batch_size}: must be a multiple of the {replicas} replicas")
    parts = replicas * config.recipe.gradient_accumulation
    if config.batch_size % parts:
        raise UsageError(
            f"--gradient_accumulation={config.recipe.gradient_accumulation}: --batch_size="
            f"{config.batch_size} must be a multiple of {parts}, micro-batches times replicas"
        )


def _parameter_groups(
    config: TrainConfig, model: keras.Model, frozen: list[keras.layers.Layer], steps_per_epoch: int
) -> ParameterGroups:
    """Return one optimizer for all variables that share a rate and the step from which on they are
    trained.
    """
    recipe = config.recipe
    in_backbone = _variable_ids(backbone_layers(model))
    in_frozen = _variable_ids(frozen)
    groups: dict[tuple[float, int], list[keras.Variable]] = {}
    for variable in model.trainable_variables:
        start = 0
        if id(variable) in in_frozen:
            if recipe.unfreeze_at_epoch is None:
                continue
            start = (recipe.unfreeze_at_epoch - 1) * steps_per_epoch
        factor = recipe.backbone_rate_factor if id(variable) in in_backbone else 1.0
        groups.setdefault((factor, start), []).append(variable)
    # The group that is trained from the first step on comes first: it counts the steps.
    ordered = sorted(groups.items(), key=lambda item: item[0][1])
    return ParameterGroups(
        [
            (make_optimizer(recipe, _rate(config, factor, start, steps_per_epoch), variables), variables)
            for (factor, start), variables in ordered
        ]
    )


def learning_rate_at(config: TrainConfig, step: int, steps_per_epoch: int) -> float:
    """Return the learning rate of the head at a step of the run, from 0."""
    rate = _rate(config, 1.0, 0, steps_per_epoch)
    return float(rate(tf.constant(step))) if isinstance(rate, Schedule) else rate


def _rate(config: TrainConfig, factor: float, start: int, steps_per_epoch: int) -> float | Schedule:
    """Return a number where it never changes, as in the study; epochs become steps here and only here."""
    recipe = config.recipe
    peak = config.learning_rate * factor
    if recipe.schedule == "constant" and not recipe.warmup_epochs:
        return peak
    return Schedule(
        peak,
        cosine=recipe.schedule == "cosine",
        warmup=round(recipe.warmup_epochs * steps_per_epoch),
        total=config.epochs * steps_per_epoch,
        start=start,
    )


def _variable_ids(layers: list[keras.layers.Layer]) -> set[int]:
    return {id(variable) for layer in layers for variable in layer.variables}


def _trains_batch_norm(config: TrainConfig, model: keras.Model, frozen: list[keras.layers.Layer]) -> bool:
    never = [] if config.recipe.unfreeze_at_epoch else frozen
    return any(
        isinstance(layer, keras.layers.BatchNormalization) for layer in model.layers if layer not in never
    )


def _freezing(config: TrainConfig, model: keras.Model, frozen: list[keras.layers.Layer]) -> str:
    count = sum(int(np.prod(variable.shape)) for layer in frozen for variable in layer.variables)
    line = f"frozen: {len(frozen)} of {len(model.layers)} layers, {count:,} parameters"
    until = config.recipe.unfreeze_at_epoch
    return line + (f", until epoch {until}" if until else "")
