"""Which batch fits a device: `--batch_size=auto`, and the table of `--plan`."""

from collections.abc import Iterator

import keras
import tensorflow as tf

from cxr_data.core.choice import Choice
from cxr_data.core.errors import UsageError
from cxr_data.core.tensorflow_private import memory_limits
from cxr_data.core.wording import counted
from cxr_data.input.pipeline import Pipeline
from cxr_data.records.manifest import Manifest
from cxr_train.engine.strategy import GPU_BATCHES_AHEAD, Placement
from cxr_train.models.backbones import BACKBONES
from cxr_train.models.memory import Network, Setting, estimate, read_graph, trace
from cxr_train.recipe.recipe import Recipe
from cxr_train.runs.config import TrainConfig

# Published batch sizes of the study (Pal and Paul, 2021), at 360 px on a card of 11 GB.
STUDY_BATCHES = {
    "mobilenet_v2": 32,
    "vgg16": 32,
    "densenet201": 16,
    "xception": 16,
    "inception_resnet_v2": 16,
    "resnet152_v2": 8,
    "nasnet_large": 8,
    "inception_v3": 32,
}
_PLAN_SIZES = (360, 500)
_PLAN_POLICIES = ("float32", "mixed_float16")
# What is left to the driver, cuDNN's workspaces, fragmentation and the error of the estimate.
_USABLE = 0.9
_MULTIPLE = 8


def device_memory_gb() -> float | None:
    """Return the GB (1e9 bytes) that TensorFlow may use of the smallest GPU; None without a GPU."""
    if not tf.config.list_physical_devices("GPU"):
        return None
    return min((limit / 1e9 for limit in memory_limits("GPU")), default=None)


def state_slots(recipe: Recipe) -> int:
    """Return the Float32 copies of the trained weights that optimizer and accumulation keep."""
    moments = 2 if recipe.optimizer in ("adam", "adamw") else int(recipe.sgd_momentum > 0)
    return moments + (recipe.gradient_accumulation > 1)


def setting_of(recipe: Recipe, placement: Placement) -> Setting:
    """Return how a run computes, as far as its memory depends on it."""
    on_gpu = bool(tf.config.list_physical_devices("GPU"))
    ahead, parts = placement.batches_ahead, recipe.gradient_accumulation
    if parts > 1:  # whole batches wait, and the one that is computed lies beside its micro-batch
        ahead = (ahead + 1) * parts
    return Setting(placement.policy, placement.compile, on_gpu, state_slots(recipe), bool(recipe.ema), ahead)


def trace_of(config: TrainConfig, manifest: Manifest) -> Network:
    """Return the network of a run; what is unfrozen in the end counts as trained. Raises UsageError as
    `trace`.
    """
    recipe = config.recipe
    return trace(
        config.backbone,
        image_size=manifest.size,
        features=manifest.features,
        classes=len(manifest.class_names),
        head=config.head,
        input_range=config.input_range,
        of_findings=bool(manifest.findings),
        attention=config.attention,
        pooling=config.pooling,
        freeze="none" if recipe.unfreeze_at_epoch else recipe.freeze,
    )


def planned_memory(model: keras.Model, config: TrainConfig, placement: Placement) -> int:
    """Return the bytes that a replica's step of this run needs by the estimate, its layers trained as they
    are now.
    """
    images = config.images_at_once // placement.replicas
    return estimate(read_graph(model), images, setting_of(config.recipe, placement)).total


def largest_batch(network: Network, setting: Setting, memory_gb: float) -> int:
    """Return the largest batch of a replica that fits, a multiple of 8 where 8 fit; 0 if not even one
    does.
    """

    def fits(batch: int) -> bool:
        return estimate(network, batch, setting).total <= _USABLE * memory_gb * 1e9

    unit = _MULTIPLE if fits(_MULTIPLE) else 1
    low, high = 0, unit
    while fits(high):
        low, high = high, 2 * high
    while high - low > unit:
        middle = (low + high) // 2 // unit * unit
        low, high = (middle, high) if fits(middle) else (low, middle)
    return low


def choose_batch_size(
    network: Network,
    setting: Setting,
    *,
    memory_gb: float,
    replicas: int = 1,
    accumulation: int = 1,
    images: int | None = None,
) -> Choice:
    """Return the global batch of `--batch_size=auto`, and why.

    Args:
      network, setting: what is trained, and how.
      memory_gb: of one device.
      replicas, accumulation: how many parts a batch has.
      images: of the training split, or of its fold; a batch is not larger.

    Raises:
      UsageError: not even one image fits.
    """
    batch = largest_batch(network, setting, memory_gb)
    if not batch:
        least = estimate(network, 1, setting).total / 1e9 / _USABLE
        raise UsageError(
            f"--batch_size=auto: one image needs a device of {least:.2g} GB, and --memory_gb is "
            f"{memory_gb:.2g}; choose a smaller --backbone or --image_size"
        )
    parts = replicas * accumulation
    if images is not None and batch * parts > images >= parts:
        batch = images // parts
        return Choice("batch_size", str(batch * parts), f"the training split has {counted(images, 'image')}")
    needed = estimate(network, batch, setting).total / 1e9
    return Choice(
        "batch_size",
        str(batch * parts),
        f"{counted(batch, 'image needs', 'images at once need')} {needed:.1f} of {memory_gb:.1f} GB, "
        "a tenth of which is left free",
    )


def choose_batch_size_of(
    config: TrainConfig, pipeline: Pipeline, placement: Placement, memory_gb: float
) -> Choice:
    """Return the batch of a run on its data and its devices, as `choose_batch_size`."""
    manifest = pipeline.manifest
    return choose_batch_size(
        trace_of(config, manifest),
        setting_of(config.recipe, placement),
        memory_gb=memory_gb,
        replicas=placement.replicas,
        accumulation=config.recipe.gradient_accumulation,
        images=len(pipeline.positions(config.train_split)),
    )


def plan_table(memory_gb: float, *, on_gpu: bool = True) -> Iterator[str]:
    """Yield the lines of the table of every backbone at 360 and 500 px, in both precisions, compiled, with
    Adam.
    """
    yield f"one device of {memory_gb:.1f} GB, Adam, XLA; GB = 1e9 bytes; study: published, 360 px, float32"
    yield (
        f"{'backbone':21}{'px':>5}  {'precision':15}{'state GB':>9}{'MB/image':>10}{'largest batch':>15}"
        f"{'study batch':>13}{'its GB':>8}"
    )
    for name in BACKBONES:
        for size in _PLAN_SIZES:
            network = trace(name, image_size=size)
            for policy in _PLAN_POLICIES:
                ahead = GPU_BATCHES_AHEAD if on_gpu else 1
                setting = Setting(policy, compile=True, on_gpu=on_gpu, batches_ahead=ahead)
                yield _plan_row(name, size, network, setting, memory_gb)


def _plan_row(name: str, size: int, network: Network, setting: Setting, memory_gb: float) -> str:
    one = estimate(network, 1, setting)
    study = STUDY_BATCHES.get(name)
    its_gb = f"{estimate(network, study, setting).total / 1e9:8.1f}" if study else f"{'-':>8}"
    return (
        f"{name:21}{size:>5}  {setting.policy:15}{one.state / 1e9:9.2f}"
        f"{(one.activations + one.workspace) / 1e6:10.0f}{largest_batch(network, setting, memory_gb):15}"
        f"{study or '-':>13}{its_gb}"
    )
