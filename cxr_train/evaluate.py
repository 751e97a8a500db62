"""Evaluation: every image of a split once, its probabilities to a CSV, its metrics to JSON.

python -m cxr_train.evaluate --run_dir=RUN_DIR [--data=DIR] [--split=validation]
"""

import csv
import dataclasses
import json
import pathlib
from typing import Any

import keras
import numpy as np
from absl import flags
from tqdm import tqdm

from cxr_data import command
from cxr_data.errors import DataError
from cxr_data.manifest import MANIFEST_NAME, Manifest, read_manifest
from cxr_data.pipeline import Pipeline, clear_data_errors, read_split_fields
from cxr_data.runtime import start
from cxr_train import metrics
from cxr_train.config import TrainConfig
from cxr_train.read_flags import define_read_flags, read_options_from_flags
from cxr_train.step import PredictStep
from cxr_train.strategy import Placement, choose_placement


@dataclasses.dataclass(frozen=True)
class Predictions:
    """What a model says of a split.

    Attributes:
      index: int64 [N], the images' numbers within their split.
      labels: int64 [N], true classes.
      logits: float32 [N, C].
    """

    index: np.ndarray
    labels: np.ndarray
    logits: np.ndarray

    @property
    def log_probabilities(self) -> np.ndarray:
        """float64 [N, C], the log-softmax of the logits."""
        shifted = self.logits.astype(np.float64) - self.logits.max(axis=1, keepdims=True)
        return shifted - np.log(np.exp(shifted).sum(axis=1, keepdims=True))

    @property
    def probabilities(self) -> np.ndarray:
        """float64 [N, C] in [0, 1], rows sum to 1."""
        return np.exp(self.log_probabilities)

    @property
    def loss(self) -> float:
        """The mean cross-entropy, in nats."""
        return float(-self.log_probabilities[np.arange(len(self.labels)), self.labels].mean())

    def summarize(self, class_names: tuple[str, ...]) -> dict[str, Any]:
        """Returns `metrics.summarize` with the loss; ready for JSON."""
        return {"loss": self.loss, **metrics.summarize(self.labels, self.probabilities, class_names)}


def predict_split(
    pipeline: Pipeline, split: str, predict: PredictStep, placement: Placement, *, batch_size: int
) -> Predictions:
    """Predicts every image of `split` exactly once, whatever the batch size and the replicas.

    Args:
      batch_size: global batch; rounded up to a multiple of the replicas.

    Raises:
      DataError: the split is not there, or a record is damaged.
    """
    replicas = placement.replicas
    batch_size = -(-min(batch_size, len(pipeline.positions(split))) // replicas) * replicas
    dataset = pipeline.evaluation_dataset(split, batch_size=batch_size)
    batches = placement.strategy.experimental_distribute_dataset(dataset)
    parts = []
    with clear_data_errors(pipeline.manifest):
        for batch in tqdm(batches, total=len(dataset), desc=f"evaluate {split}", unit="batch", leave=False):
            real = predict.gather(batch["weight"]) > 0
            columns = (predict.gather(batch["index"]), predict.gather(batch["label"]), predict(batch))
            parts.append([column[real] for column in columns])
    index, labels, logits = (np.concatenate(column) for column in zip(*parts, strict=True))
    return Predictions(index, labels.astype(np.int64), logits)


def write_predictions(path: pathlib.Path, manifest: Manifest, split: str, predictions: Predictions) -> None:
    """Writes one line an image: id, group, label, predicted class and a probability a class."""
    fields = read_split_fields(manifest, split)
    names = manifest.class_names
    with open(path, "w", newline="", encoding="utf-8", errors="surrogateescape") as file:
        writer = csv.writer(file, lineterminator="\n")
        writer.writerow(["id", "group", "label", "predicted", *(f"p_{name}" for name in names)])
        rows = zip(predictions.index, predictions.labels, predictions.probabilities, strict=True)
        for index, label, probabilities in rows:
            field = fields[index]
            row = [field.id, field.group, names[label], names[int(probabilities.argmax())]]
            writer.writerow([*row, *(f"{probability:.9g}" for probability in probabilities)])


def evaluate_split(
    run_dir: pathlib.Path,
    pipeline: Pipeline,
    split: str,
    model: keras.Model,
    placement: Placement,
    *,
    batch_size: int,
) -> dict[str, Any]:
    """Evaluates `model` on `split`; writes `predictions_{split}.csv` and `metrics_{split}.json`.

    Returns:
      The metrics, see `metrics.summarize`.
    """
    predict = PredictStep(model, placement.strategy, compile=placement.compile)
    manifest = pipeline.manifest
    predictions = predict_split(pipeline, split, predict, placement, batch_size=batch_size)
    write_predictions(run_dir / f"predictions_{split}.csv", manifest, split, predictions)
    summary = predictions.summarize(manifest.class_names)
    (run_dir / f"metrics_{split}.json").write_text(json.dumps(summary, indent=2) + "\n")
    return summary


def load_best_model(run_dir: pathlib.Path) -> keras.Model:
    """Loads `best.keras` of a run, which holds no code: safe mode stays on.

    Raises:
      DataError: there is none yet, or it is damaged.
    """
    path = run_dir / "best.keras"
    if not path.exists():
        raise DataError(f"{run_dir} has no best.keras: no epoch of this run was completed")
    try:
        return keras.saving.load_model(path, compile=False, safe_mode=True)
    except (OSError, ValueError, KeyError) as error:
        raise DataError(f"cannot load {path}: {str(error).splitlines()[0][:200]}") from error


def refuse_other_classes(run_dir: pathlib.Path, manifest: Manifest) -> None:
    """Checks that data fits the model of a run: the same classes in the same order, the same size.

    Raises:
      DataError: it does not, or the run directory lacks its copy of the manifest.
    """
    path = run_dir / MANIFEST_NAME
    try:
        trained_on = json.loads(path.read_text())
        expected = {"class_names": tuple(trained_on["class_names"]), "size": trained_on["size"]}
    except (OSError, ValueError, KeyError) as error:
        raise DataError(f"{path}: not the manifest that the run was trained on ({error})") from error
    for name, value in expected.items():
        if getattr(manifest, name) != value:
            raise DataError(
                f"{manifest.directory} has {name} {getattr(manifest, name)}, the run {run_dir} {value}"
            )


def table(summary: dict[str, Any]) -> str:
    """Renders the metrics of one split for the terminal."""
    columns = ("sensitivity", "specificity", "precision", "one_vs_rest_accuracy", "auroc")
    lines = [f"{'':14}" + "".join(f"{name:>22}" for name in ("images", *columns))]
    for name, row in summary["per_class"].items():
        lines.append(f"{name:14}" + "".join(_cell(row[key]) for key in ("images", *columns)))
    macro = {"images": summary["images"], **summary["macro"]}
    lines.append(f"{'macro':14}" + "".join(_cell(macro[key]) for key in ("images", *columns)))
    lines.append(f"accuracy {summary['accuracy']:.4f}, loss {summary['loss']:.4f}")
    return "\n".join(lines)


def _cell(value: float | int | None) -> str:
    if value is None:
        return f"{'undefined':>22}"
    return f"{value:>22d}" if isinstance(value, int) else f"{value:>22.4f}"


def main() -> int:
    """Evaluates a run directory from flags."""
    run_dir = pathlib.Path(flags.FLAGS.run_dir)
    start()
    config = TrainConfig.load(run_dir / "config.json")
    manifest = read_manifest(flags.FLAGS.data or config.data)
    model = load_best_model(run_dir)
    refuse_other_classes(run_dir, manifest)
    # One device: the model was loaded outside of any strategy's scope.
    chosen = choose_placement("one", config.precision, flags.FLAGS.xla)
    summary = evaluate_split(
        run_dir,
        Pipeline(manifest, read_options_from_flags()),
        flags.FLAGS.split,
        model,
        chosen,
        batch_size=flags.FLAGS.batch_size or config.batch_size,
    )
    print(f"{flags.FLAGS.split} split of {manifest.directory}\n{table(summary)}")
    print(f"written: {run_dir}/metrics_{flags.FLAGS.split}.json, predictions_{flags.FLAGS.split}.csv")
    return 0


def console_main() -> None:
    """Defines the flags and runs; the entry point of `cxr-evaluate`."""
    flags.DEFINE_string("run_dir", None, "Directory of a training run.", required=True)
    flags.DEFINE_string("data", None, "Directory of shards; the run's own by default.")
    flags.DEFINE_string("split", "validation", "Which split to evaluate.")
    flags.DEFINE_integer("batch_size", None, "Images a step; the run's own by default.", lower_bound=1)
    define_read_flags()
    flags.DEFINE_enum("xla", "auto", ["auto", "on", "off"], "Whether XLA compiles the prediction.")
    command.run(main)


if __name__ == "__main__":
    console_main()
