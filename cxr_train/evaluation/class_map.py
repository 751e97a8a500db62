"""External data with other class folders: their classes, as ours.

    --class_map=COVID-19:covid,Lung_Opacity:-

gives the images of their `COVID-19` our label `covid`, and leaves out those of `Lung_Opacity`.
A class of the same name needs no entry. `*:-` leaves out all classes that have neither.
"""

import pathlib
from collections.abc import Mapping, Sequence
from dataclasses import dataclass

import numpy as np

from cxr_data.core.errors import DataError, UsageError
from cxr_data.core.wording import tool, typed
from cxr_data.records.manifest import CLASSES, FINDINGS, Manifest
from cxr_data.sources.finding_values import ABSENT, PRESENT, UNCERTAIN, UNKNOWN
from cxr_train.evaluation.decisions import Counts
from cxr_train.runs.saved_run import trained_on

DROP, OTHERS = "-", "*"
_DROPPED = -1


@dataclass(frozen=True)
class ClassMap:
    """From the labels of some data to those of a model.

    Attributes:
      index_of: int64 [their classes], our index, -1 for a class that is left out.
      theirs, ours: class names in index order.
    """

    index_of: Counts
    theirs: tuple[str, ...]
    ours: tuple[str, ...]

    def labels(self, labels: Counts) -> tuple[Counts, np.ndarray]:
        """Return our labels int64 [N], and which images are kept, bool [N]; -1 for the others.

        Of findings, [N, theirs] become [N, ours], and every image is kept: a finding of ours is present where
        one that stands for it is, and unknown where none stands for it.
        """
        if labels.ndim == 2:
            columns = [_joined(labels[:, self.index_of == index]) for index in range(len(self.ours))]
            return np.stack(columns, axis=1), np.ones(len(labels), bool)
        mapped = self.index_of[labels]
        return mapped, mapped != _DROPPED

    def dropped(self, labels: Counts) -> dict[str, int]:
        """Return how many images of each of their classes, or findings, are left out, by name."""
        names = (name for name, index in zip(self.theirs, self.index_of, strict=True) if index == _DROPPED)
        if labels.ndim == 2:
            return {name: int((labels[:, self.theirs.index(name)] == PRESENT).sum()) for name in names}
        return {name: int((labels == self.theirs.index(name)).sum()) for name in names}


def _joined(labels: Counts) -> Counts:
    """Return one label [N] of several findings [N, K]: present, else uncertain, else unknown, else absent."""
    joined = np.full(len(labels), UNKNOWN if not labels.shape[1] else ABSENT)
    for value in (UNKNOWN, UNCERTAIN, PRESENT):
        joined[(labels == value).any(axis=1)] = value
    return joined


def parse_class_map(entries: Sequence[str]) -> dict[str, str]:
    """Parse `theirs:ours` entries; a colon in their name is no trouble.

    Raises:
      UsageError: an entry is something else, or a class has two.
    """
    names: dict[str, str] = {}
    for entry in entries:
        theirs, colon, ours = entry.rpartition(":")
        if not (theirs and colon and ours):
            raise UsageError(f"--class_map={entry}: write theirs:ours, or theirs:{DROP} to leave a class out")
        if theirs in names:
            raise UsageError(f"--class_map: {theirs} has two entries")
        names[theirs] = ours
    return names


def map_classes(theirs: Sequence[str], ours: Sequence[str], names: Mapping[str, str]) -> ClassMap:
    """Make the map from their class names to ours.

    Args:
      theirs: of the data, in index order.
      ours: of the model, in index order.
      names: from `parse_class_map`; a class that is not in it keeps its name.

    Raises:
      UsageError: an entry names a class that neither side has, or all classes are left out.
      DataError: one of their classes is unknown to the model and has no entry.
    """
    for their, our in names.items():
        if their == OTHERS and OTHERS not in theirs:
            if our != DROP:
                raise UsageError(
                    f"--class_map={OTHERS}:{our}: must be {OTHERS}:{DROP}, since all other classes can only "
                    "be left out; give each that the model knows an entry of its own"
                )
            continue
        if their not in theirs:
            raise UsageError(
                f"--class_map={their}:{our}: the data has no class {their}, only {_list(theirs)}"
            )
        if our not in ours and our != DROP:
            raise UsageError(f"--class_map={their}:{our}: the model has no class {our}, only {_list(ours)}")
    index_of = []
    for their in theirs:
        our = names.get(their, their)
        if their not in names and our not in ours:
            our = names.get(OTHERS, our)
        if our not in ours and our != DROP:
            raise DataError(
                f"the data has a class {their} that the model does not know ({_list(ours)}): say which it "
                f"is with --class_map={their}:CLASS, or leave its images out with --class_map={their}:{DROP} "
                f"(all others: {OTHERS}:{DROP})"
            )
        index_of.append(_DROPPED if our == DROP else ours.index(our))
    if all(index == _DROPPED for index in index_of):
        entries = ",".join(f"{their}:{our}" for their, our in names.items())
        raise UsageError(f"--class_map={entries}: leaves all classes out; keep one of {_list(theirs)}")
    return ClassMap(np.array(index_of, np.int64), tuple(theirs), tuple(ours))


def class_map_for(
    run_dir: pathlib.Path, manifest: Manifest, names: Mapping[str, str] | None = None
) -> ClassMap:
    """Check that data fits the model of a run, and say which of its classes is which of the model's.

    Args:
      manifest: of the data.
      names: see `map_classes`.

    Raises:
      DataError: the labels are of another kind, the images have another size, or a class is unknown to the
        model.
      UsageError: `names` do not fit.
    """
    expected = trained_on(run_dir)
    if manifest.task != expected.task:
        says = {CLASSES: "one class a picture", FINDINGS: "several findings a picture"}
        raise DataError(
            f"{manifest.directory} has {says[manifest.task]}, the data of the run {run_dir} "
            f"{says[expected.task]}: give data with labels of the same kind"
        )
    refuse_other_records(run_dir, manifest)
    return map_classes(manifest.class_names, expected.class_names, names or {})


def refuse_other_records(run_dir: pathlib.Path, manifest: Manifest) -> None:
    """Check that the records of data are such as a run was trained on.

    Raises:
      DataError: they are embeddings of another encoder, or pictures of another size, or made otherwise.
    """
    expected = trained_on(run_dir)
    if (manifest.embedding, manifest.features) != (expected.embedding, expected.features):
        held, wanted = (one.embedding or "pictures" for one in (manifest, expected))
        raise DataError(
            f"{manifest.directory} holds {held}, the data of the run {run_dir} {wanted}: give data that "
            "holds the same"
        )
    if manifest.size != expected.size:
        raise DataError(
            f"{manifest.directory} has images of {manifest.size} px, the run {run_dir} was trained on "
            f"{expected.size}: convert with python -m {tool('make_tfrecords')} {typed(size=expected.size)}"
        )
    for name in ("kernel", "color", "crop_border", "equalize_to"):
        if getattr(manifest, name) != getattr(expected, name):
            raise DataError(
                f"{manifest.directory} was made with {name} {getattr(manifest, name)!r}, the data of the run "
                f"{run_dir} with {getattr(expected, name)!r}: convert it the same way"
            )


def refuse_other_classes(run_dir: pathlib.Path, manifest: Manifest) -> None:
    """Check that data has the model's own classes, in its order. Raises as `class_map_for`."""
    expected = trained_on(run_dir).class_names
    if manifest.class_names != expected:
        raise DataError(
            f"{manifest.directory} has the classes {', '.join(manifest.class_names)}, the run {run_dir} "
            f"{', '.join(expected)}"
        )
    class_map_for(run_dir, manifest)


def _list(names: Sequence[str]) -> str:
    return ", ".join(names)
