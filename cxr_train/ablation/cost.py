"""What a grid costs, before it is run: images, floating-point operations, and time.

The operations are those of `models.network_flops`. Time is operations over a rate: a stated one, or that
of finished runs.
"""

import dataclasses
import statistics
from collections.abc import Iterator, Sequence

from cxr_data.core.wording import counted
from cxr_data.records.folds import count_images
from cxr_data.records.manifest import Manifest
from cxr_train.ablation.runner import GridRun
from cxr_train.models.network_flops import flops_per_image
from cxr_train.runs.config import TrainConfig
from cxr_train.runs.documents import Throughput, read_document


@dataclasses.dataclass(frozen=True)
class Cost:
    """What a whole run costs.

    Attributes:
      training_images, evaluated_images: over all epochs.
      flops_per_image: of a training step, forward and backward.
      flops: of all of it.
    """

    training_images: int
    evaluated_images: int
    flops_per_image: int
    flops: int


def count_flops(config: TrainConfig, manifest: Manifest) -> tuple[int, int]:
    """Return the operations an image of a run on the data of `manifest`: forward, and of a training step."""
    return flops_per_image(
        config.backbone,
        manifest.size,
        config.head,
        len(manifest.class_names),
        manifest.features,
        of_findings=bool(manifest.findings),
        attention=config.attention,
        pooling=config.pooling,
    )


def cost_of(config: TrainConfig, manifest: Manifest) -> Cost:
    """Return the cost of a run on the data of `manifest`; without early stopping."""
    forward, step = count_flops(config, manifest)
    steps = count_images(manifest, config.train_split) // config.batch_size
    trained = config.epochs * steps * config.batch_size
    validated = config.held_out_validation
    evaluated = config.epochs * count_images(manifest, validated) if validated else 0
    return Cost(trained, evaluated, step, trained * step + evaluated * forward)


def measured_rates(runs: Sequence[GridRun]) -> dict[tuple[str, str], float]:
    """Return the floating-point operations a second of finished runs, by backbone and data; the newest
    counts.
    """
    rates = {}
    for run in runs:
        if run.is_finished:
            measured = read_document(run.layout.throughput, Throughput).get("flops_per_second")
            if measured:
                rates[run.config.backbone, run.config.data] = float(measured)
    return rates


def _seconds(
    run: GridRun, cost: Cost, rates: dict[tuple[str, str], float], tflops: float | None
) -> float | None:
    """Return how long the rest of a run takes; None where no rate is known."""
    if run.is_finished:
        return 0.0
    rate = _rate(run, rates, tflops)
    left = 1 - min(run.epochs_done / run.config.epochs, 1)
    return None if rate is None else left * cost.flops / rate


def _rate(run: GridRun, rates: dict[tuple[str, str], float], tflops: float | None) -> float | None:
    """Operation a second: stated, or measured of this network and size, or the median of all measured."""
    if tflops is not None:
        return tflops * 1e12
    measured = rates.get((run.config.backbone, run.config.data))
    if measured is None and rates:
        measured = statistics.median(rates.values())
    return measured


def seconds_to_go(runs: Sequence[GridRun], data: Sequence[Manifest], tflops: float | None) -> float | None:
    """Return how long runs take that are not finished; None where no rate is known.

    Args:
      runs: some.
      data: their manifests.
      tflops: 1e12 operations a second; None for what finished runs measured.
    """
    rates = measured_rates(runs)
    manifests = {manifest.directory: manifest for manifest in data}
    each = [_seconds(run, cost_of(run.config, manifests[run.config.data]), rates, tflops) for run in runs]
    return None if any(one is None for one in each) else sum(one for one in each if one is not None)


def cost_lines(runs: Sequence[GridRun], data: Sequence[Manifest], tflops: float | None) -> Iterator[str]:
    """Yield the lines of the table of what there is to run and what it costs; see `seconds_to_go`."""
    manifests = {manifest.directory: manifest for manifest in data}
    costs = [cost_of(run.config, manifests[run.config.data]) for run in runs]
    rates = measured_rates(runs)
    width = max(len(run.label) for run in runs) + 2
    yield (
        f"{'run':{width}}{'state':>22}{'trained images':>16}{'evaluated':>12}{'GFLOP/image':>13}"
        f"{'PFLOP':>11}{'hours':>11}"
    )
    for run, cost in zip(runs, costs, strict=True):
        seconds = _seconds(run, cost, rates, tflops)
        hours = "?" if seconds is None else f"{seconds / 3600:.3g}"
        yield (
            f"{run.label:{width}}{_state(run):>22}{cost.training_images:>16,}{cost.evaluated_images:>12,}"
            f"{cost.flops_per_image / 1e9:>13.2f}{cost.flops / 1e15:>11.3g}{hours:>11}"
        )
    total = seconds_to_go(runs, data, tflops)
    yield (
        f"{sum(run.is_finished for run in runs)} of {counted(len(runs), 'run')} finished; all of them "
        f"{sum(cost.flops for cost in costs) / 1e15:,.3g} PFLOP (convolutions and products, forward and "
        f"backward, all layers trained); {_time(total, tflops)}"
    )


def _state(run: GridRun) -> str:
    if run.is_finished:
        return "finished"
    return (
        f"after {run.epochs_done} of {counted(run.config.epochs, 'epoch')}" if run.is_begun else "not begun"
    )


def _time(seconds: float | None, tflops: float | None) -> str:
    if seconds is None:
        return "no time without a rate: give --tflops=N, or run one first"
    source = f"--tflops={tflops:g}" if tflops is not None else "the rates of finished runs"
    return f"{seconds / 3600:.3g} h to go at {source}, loading, compiling and saving left out"
