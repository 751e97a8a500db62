"""What a run says of its network before the first step: what was added, and what to compare it with."""

import keras

from cxr_train.models.added import parse_attention
from cxr_train.models.backbones import NO_BACKBONE, find_backbone
from cxr_train.models.equal_head import added_parameters, equal_head, head_parameters
from cxr_train.models.freeze import backbone_layers
from cxr_train.runs.config import TrainConfig


def notes_on_network(config: TrainConfig, model: keras.Model) -> list[str]:
    """Return a line for each thing to know, none for the study's network.

    Args:
      config: of the run.
      model: of that run, see `classifier.build_model`.
    """
    if config.backbone == NO_BACKBONE:
        return []
    notes = []
    backbone = find_backbone(config.backbone)
    if backbone.has_se and parse_attention(config.attention).kind == "se":
        notes.append(
            f"--attention={config.attention}: {config.backbone} has squeeze and excitation in its blocks; "
            "these gates come on top, at the ends of its stages"
        )
    if added := added_parameters(model):
        notes.append(_compared(config, model, added))
    if backbone.sees_black(config.input_range) and config.weights != "none":
        notes.append(
            f"--input_range=unit: {config.backbone} expects pixels in [0, 255], to which its weights "
            "belong; pass --input_range=imagenet to give it these"
        )
    return notes


def _compared(config: TrainConfig, model: keras.Model, added: int) -> str:
    chosen = [f"--attention={config.attention}"] if config.attention != "none" else []
    chosen += [f"--pooling={config.pooling}"] if config.pooling != "gap" else []
    said = f"{' '.join(chosen)}: {'add' if len(chosen) > 1 else 'adds'} {added:,} parameters"
    features, outputs = backbone_layers(model)[-1].output.shape[-1], model.output.shape[-1]
    head = equal_head(features, config.head, outputs, added)
    if head == config.head:
        return f"{said}, less than a unit of the head: compare with the same run without"
    more = head_parameters(features, head, outputs) - head_parameters(features, config.head, outputs)
    widths = "-".join(map(str, head))
    return f"{said}; compare with --head={widths} without, which adds {more:,}"
