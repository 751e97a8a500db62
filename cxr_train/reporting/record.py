"""What a run directory holds, as far as it holds it: the report's only source.

A part that is missing or damaged is None, and `problems` says so in words: a report is made
of runs that were stopped, of one epoch, without a test split, or without predictions.
"""

import dataclasses
import functools
import pathlib
from collections.abc import Callable
from typing import Any

import numpy as np

from cxr_data.core import storage
from cxr_data.core.errors import DataError
from cxr_data.core.schema import parse_json
from cxr_data.records.audit_document import read_audit
from cxr_data.records.layout import AUDIT_NAME, MANIFEST_NAME
from cxr_data.records.manifest import FINDINGS, read_manifest
from cxr_data.records.split_names import have_common_images
from cxr_train.evaluation.predictions import read_predictions
from cxr_train.evaluation.wording import is_of_findings
from cxr_train.runs.config import TrainConfig
from cxr_train.runs.documents import Environment, Explanation, Throughput, read_document
from cxr_train.runs.layout import BEST_NAME, EXPLANATION_NAME, EXTERNAL_NAME, RunLayout
from cxr_train.runs.metrics_document import Metrics
from cxr_train.runs.saved_run import best_epoch, epoch_rows, model_sha256

Document = dict[str, Any]


@dataclasses.dataclass(frozen=True)
class SplitRecord:
    """What is known of the best model on one split.

    Attributes:
      name: of the split.
      metrics: content of `metrics_{name}.json`.
      labels: int64 [N], true classes; None without `predictions_{name}.csv`.
      probabilities: float64 [N, C]; None without it.
      groups: number of patients; None without it, or where no patient is known.
      ids: [N], the images' ids; None without it.
      explanation: content of `explain/{name}/explain.json`.
    """

    name: str
    metrics: Document | None
    labels: np.ndarray | None
    probabilities: np.ndarray | None
    groups: int | None
    ids: tuple[str, ...] | None
    explanation: Document | None


@dataclasses.dataclass(frozen=True)
class RunRecord:
    """What is known of a run.

    Attributes:
      directory: of the run.
      config: what was asked for.
      manifest: the data that it was trained on, as written in `manifest.json`.
      epochs: rows of `metrics.jsonl`.
      splits: the evaluated splits, by name.
      external: evaluations of other data: content of `external/NAME/metrics_{split}.json`, by NAME and split.
      throughput, environment, audit: content of their files.
      flags: content of `flags.txt`.
      problems: what is missing or damaged, in words.
    """

    directory: pathlib.Path
    config: TrainConfig
    manifest: Document | None
    epochs: tuple[Document, ...]
    splits: tuple[SplitRecord, ...]
    external: tuple[tuple[str, str, Document], ...]
    throughput: Document | None
    environment: Document | None
    audit: Document | None
    flags: str | None
    problems: tuple[str, ...]

    @property
    def class_names(self) -> tuple[str, ...]:
        """In index order; of the manifest, or else of the first metrics."""
        for document in (self.manifest, *(split.metrics for split in self.splits)):
            if document:
                return tuple(document["class_names"])
        return ()

    @property
    def is_of_findings(self) -> bool:
        """Whether each image has a label of several findings, not one class."""
        if self.manifest:
            return bool(self.manifest.get("task") == FINDINGS)
        return any(is_of_findings(split.metrics) for split in self.splits if split.metrics)

    @property
    def embedding(self) -> str:
        """What made the features that the run was trained on; empty where it was trained on pictures."""
        return str((self.manifest or {}).get("embedding", ""))

    @property
    def best_epoch(self) -> Document | None:
        """The row of the epoch that `best.keras` is of."""
        return best_epoch(self.config, self.epochs)

    @classmethod
    def read(cls, directory: pathlib.Path) -> "RunRecord":
        """Read a run directory.

        Raises:
          DataError: it has no `config.json`: it is no run.
        """
        layout = RunLayout(directory)
        config = TrainConfig.load(layout.config)
        reader = _Reader(layout)
        manifest = reader.manifest("what the run was trained on is not known")
        epochs = reader.rows(layout.history)
        names = layout.splits()
        in_manifest = [shard["split"] for shard in manifest["shards"]] if manifest else []
        order = {name: number for number, name in enumerate(dict.fromkeys(in_manifest))}
        splits = [reader.split(name) for name in sorted(names, key=lambda n: (order.get(n, len(order)), n))]
        if not epochs:
            reader.problems.append("no epoch was completed: there are no curves")
        for name in order:
            if name not in names and not have_common_images(name, config.train_split):
                reader.problems.append(f"the {name} split was not evaluated")
        return cls(
            directory=directory,
            config=config,
            manifest=manifest,
            epochs=epochs,
            splits=tuple(splits),
            external=reader.external(),
            throughput=reader.document(layout.throughput, Throughput, "the throughput was not measured"),
            environment=reader.document(
                layout.environment, Environment, "versions and machine are not known"
            ),
            audit=_read_audit(config, reader),
            flags=reader.text(layout.flags),
            problems=tuple(reader.problems),
        )


class _Reader:
    """Reads the files of one run directory and notes what is wrong with them."""

    def __init__(self, layout: RunLayout) -> None:
        self._layout = layout
        self._model = model_sha256(layout.directory)
        self._class_names: tuple[str, ...] = ()
        self.problems: list[str] = []

    @property
    def manifest_bytes(self) -> bytes | None:
        """The run's copy of the manifest of its data."""
        path = self._layout.manifest
        return storage.read_bytes(str(path)) if path.exists() else None

    def manifest(self, without: str) -> Document | None:
        """Return the run's copy of the manifest of its data, as `document` does."""

        def read(path: pathlib.Path) -> Document:
            read_manifest(str(path.parent), check_shards=False)
            return dict(parse_json(storage.read_bytes(str(path))))

        found = self._document(self._layout.manifest, read, without)
        self._class_names = tuple(found["class_names"]) if found else ()
        return found

    def document(self, path: pathlib.Path, kind: Any, without: str = "") -> Document | None:
        """Return a document of a type of `runs.documents`; None if it is not there (noted as `without`) or
        damaged.
        """
        return self._document(path, functools.partial(read_document, kind=kind), without)

    def _document(
        self, path: pathlib.Path, read: Callable[[pathlib.Path], Document], without: str
    ) -> Document | None:
        if not path.exists():
            if without:
                name = path.relative_to(self._layout.directory).as_posix()
                self.problems.append(f"{without} (no {name})")
            return None
        try:
            return read(path)
        except DataError as error:
            self.problems.append(str(error))
            return None

    def text(self, path: pathlib.Path) -> str | None:
        """Return a text; None if it is not there or cannot be read."""
        try:
            return storage.read_bytes(str(path)).decode(errors="replace") if path.exists() else None
        except DataError as error:
            self.problems.append(str(error))
            return None

    def rows(self, path: pathlib.Path) -> tuple[Document, ...]:
        """Return JSON lines; those that were cut off by a crash are noted and left out."""
        rows, damaged = epoch_rows(path)
        self.problems += [f"line {number} of {path.name} is damaged and left out" for number in damaged]
        return tuple(rows)

    def split(self, name: str) -> SplitRecord:
        """Return everything that is there of one split, and of the model that is there."""
        metrics = self.document(
            self._layout.metrics(name), Metrics, f"the metrics of the {name} split are missing"
        )
        explanation = self._explanation(name)
        if self._is_of_another_model(explanation):
            self.problems.append(
                f"the explanation of the {name} split is of an earlier {BEST_NAME} and left out: "
                f"cxr_train.explain --split={name} --overwrite makes it again"
            )
            explanation = None
        if self._is_of_another_model(metrics):
            self.problems.append(
                f"the numbers of the {name} split are of an earlier {BEST_NAME} and left out: "
                f"cxr_train.evaluate --split={name} makes them again"
            )
            return SplitRecord(name, None, None, None, None, None, explanation)
        if metrics and not self._class_names:
            self._class_names = tuple(metrics["class_names"])
        return SplitRecord(name, metrics, *self._predictions(name), explanation)

    def external(self) -> tuple[tuple[str, str, Document], ...]:
        """Return the evaluations of other data by the model that is there."""
        found = []
        for place, split in self._layout.external_metrics():
            metrics = self.document(self._layout.external(place).metrics(split), Metrics)
            if self._is_of_another_model(metrics):
                self.problems.append(
                    f"the numbers of {EXTERNAL_NAME}/{place}, {split}, are of an earlier {BEST_NAME} and "
                    "left out"
                )
            elif metrics:
                found.append((place, split, metrics))
        return tuple(found)

    def _is_of_another_model(self, document: Document | None) -> bool:
        """Return a run that was resumed, or stopped before it was evaluated, has a newer model than its
        numbers.
        """
        said_by = (document or {}).get("model_sha256")
        return None not in (said_by, self._model) and said_by != self._model

    def _explanation(self, split: str) -> Document | None:
        """Return an explanation, if all of its pictures are there."""
        folder = self._layout.explanation(split)
        content = self.document(folder / EXPLANATION_NAME, Explanation)
        parts = [*content["cases"], content["depths"], content["filters"]] if content else []
        missing = [p["file"] for p in parts if p and not self._is_within(folder / p["file"])]
        if missing:
            self.problems.append(f"the explanation of the {split} split lacks {', '.join(missing)}")
            return None
        return content

    def _is_within(self, path: pathlib.Path) -> bool:
        """Return whether a file is there, and no link out of the run: its bytes go into the page."""
        return path.is_file() and path.resolve().is_relative_to(self._layout.directory.resolve())

    def _predictions(
        self, split: str
    ) -> tuple[np.ndarray | None, np.ndarray | None, int | None, tuple[str, ...] | None]:
        """Return the labels, probabilities, number of patients and ids; None for each if there are none."""
        try:
            stored = read_predictions(self._layout.predictions(split))
            if self._class_names and stored.class_names != self._class_names:
                raise DataError(f"{stored.source} is of other classes than the run")
        except DataError as error:
            self.problems.append(f"the curves of the {split} split cannot be drawn: {error}")
            return None, None, None, None
        known = stored.without_patient < len(stored.ids)
        patients = len(set(stored.groups)) if known else None
        return stored.labels, stored.probabilities, patients, stored.ids


def _read_audit(config: TrainConfig, reader: _Reader) -> Document | None:
    """Return the audit that stands beside the shards, where they are still there."""
    is_local = storage.store_of(config.data).is_local
    if not is_local or not (pathlib.Path(config.data) / AUDIT_NAME).exists():
        return None
    there = pathlib.Path(config.data) / MANIFEST_NAME
    try:
        here = reader.manifest_bytes
        if here is not None and there.exists() and storage.read_bytes(str(there)) != here:
            raise DataError(f"{config.data} is not the data that the run was trained on any more")
        return dict(read_audit(config.data))
    except DataError as error:
        reader.problems.append(f"no audit: {error}")
        return None
