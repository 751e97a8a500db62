"""Which runs an ablation has, the study's sixteen or a user's own, and on which shards.

A grid is a list of named sets of flags of `cxr_train.main`; a run is one of them with a seed.
"""

import dataclasses
import itertools
import re
from collections.abc import Mapping, Sequence
from typing import Any

from cxr_data.core.errors import UsageError
from cxr_data.core.settings import read_json
from cxr_data.records.manifest import Manifest, read_manifest
from cxr_train.runs.config import TrainConfig

STUDY = "study"
STUDY_SIZES = (360, 500)
_STUDY_BACKBONES = ("inception_v3", "vgg16")
_STUDY_HEADS = ("128-32", "1024-1024")
_STUDY_DROPOUTS = (0.0, 0.5)

# Looked for in this order.
_HELD_OUT = ("test", "validation")
# In --data.
_SIZE = "{size}"
RESERVED = (
    "data",
    "run_dir",
    "resume",
    "seed",
    "fold",
    "plan",
    "memory_gb",
    "emulate_step_ms",
    "emulate_images_per_second",
    "flagfile",
    "undefok",
)
"""What a grid itself decides for every run, or what trains nothing."""
_NAME = re.compile(r"[A-Za-z0-9_][A-Za-z0-9_.+=-]*")
# A name is part of a path, and the file system has its limit.
_LONGEST_NAME = 100


@dataclasses.dataclass(frozen=True)
class FlagSet:
    """A named set of flags: what a grid calls one configuration.

    Attributes:
      name: fit for a folder.
      flags: values by flag name, as text.
    """

    name: str
    flags: Mapping[str, str]


def study_grid(sizes: Sequence[int] = STUDY_SIZES) -> tuple[FlagSet, ...]:
    """Return the study's ablation: 2 backbones x 2 sizes x 2 heads x dropout or none, 100 epochs each.

    The dropout follows the pooling, but in VGG16 with the head 1024-1024 the first Dense layer.

    Args:
      sizes: in pixels, the study's 360 and 500 by default.
    """
    return tuple(
        _study_run(*choice)
        for choice in itertools.product(_STUDY_BACKBONES, sizes, _STUDY_HEADS, _STUDY_DROPOUTS)
    )


def _study_run(backbone: str, size: int, head: str, dropout: float) -> FlagSet:
    after_dense = dropout and backbone == "vgg16" and head == "1024-1024"
    chosen = {
        "backbone": backbone,
        "image_size": str(size),
        "head": head,
        "dropout": f"{dropout:g}",
        "dropout_after": "head_1" if after_dense else "pooling",
        "epochs": "100",
        "batch_size": "32",
    }
    name = f"{backbone}-{size}-{head}" + (f"-dropout{dropout:g}" if dropout else "")
    return FlagSet(name, chosen)


def read_grid(path: str) -> tuple[FlagSet, ...]:
    """Read a user's grid: JSON, by name of a configuration its flags.

        {"plain": {"backbone": "vgg16"}, "dropout": {"backbone": "vgg16", "dropout": 0.5}}

    Raises:
      UsageError: it cannot be read, or a name or a value is none that a run could have.
    """
    # An object becomes a tuple of pairs: a name that occurs twice must not be lost.
    pairs = read_json("grid", path, pairs=tuple, remedy=f"name a file, or {STUDY} for the study's")
    if not isinstance(pairs, tuple) or not pairs:
        raise UsageError(
            f'--grid={path}: must be an object of names and flags, as {{"plain": {{"dropout": 0}}}}'
        )
    _refuse_doubles(path, [name for name, _ in pairs], "run")
    return tuple(_flag_set(path, name, values) for name, values in pairs)


def _flag_set(path: str, name: str, values: Any) -> FlagSet:
    where = f"--grid={path}, run {name!r}"
    if not _NAME.fullmatch(name) or len(name) > _LONGEST_NAME:
        raise UsageError(
            f"{where}: names a folder; use up to {_LONGEST_NAME} letters, digits and _ . + = - for it"
        )
    if not isinstance(values, tuple):
        raise UsageError(f'{where}: must be an object of flags, as {{"dropout": 0.5}}')
    _refuse_doubles(path, [flag for flag, _ in values], f"run {name!r}: flag")
    flags = {}
    for flag, value in values:
        flags[flag] = flag_text(where, flag, value)
    return FlagSet(name, flags)


def flag_text(where: str, flag: str, value: Any) -> str:
    """Return a value of a JSON file as the text of a flag of a run.

    Raises:
      UsageError: what makes the runs decides this flag itself, or the value is no single one.
    """
    if flag in RESERVED:
        raise UsageError(f"{where}: --{flag} is not for a file; give it to the command, or leave it out")
    if not isinstance(value, (str, int, float)):
        raise UsageError(f"{where}: --{flag} must be a text, a number, true or false")
    return str(value).lower() if isinstance(value, bool) else str(value)


def _refuse_doubles(path: str, names: Sequence[str], what: str) -> None:
    for name in names:
        if names.count(name) > 1:
            raise UsageError(f"--grid={path}: {what} {name!r} occurs twice")


def varied_flags(grid: Sequence[FlagSet]) -> tuple[str, ...]:
    """Return the flags that differ between configurations, in the order in which they first appear."""
    names = dict.fromkeys(name for one in grid for name in one.flags)
    return tuple(name for name in names if len({one.flags.get(name) for one in grid}) > 1)


def override(grid: Sequence[FlagSet], given: Mapping[str, str]) -> tuple[FlagSet, ...]:
    """Return the grid with the flags of the command line in place of its own.

    Raises:
      UsageError: the grid varies one of them: it would be no grid any more.
    """
    for name in varied_flags(grid):
        if name in given:
            raise UsageError(
                f"--{name}={given[name]}: the grid varies it; leave it out, or write a --grid file"
            )
    return tuple(FlagSet(one.name, {**one.flags, **given}) for one in grid)


def find_data(given: str, grid: Sequence[FlagSet]) -> dict[int, Manifest]:
    """Return the manifests of a grid's data, by image size.

    Args:
      given: one directory, several separated by commas, or a pattern with `{size}`.
      grid: whose `image_size` flags say which sizes are needed; without them, there must be one.

    Raises:
      UsageError: a size has no directory, or not exactly one; or they are not of the same images.
      DataError: a directory is no finished dataset.
    """
    sizes = sorted({_size_of(one) for one in grid if "image_size" in one.flags})
    if _SIZE in given:
        if not sizes:
            raise UsageError(f"--data={given}: no run has --image_size, so there is no size to put there")
        directories = [given.replace(_SIZE, str(size)) for size in sizes]
    else:
        directories = [directory for directory in given.split(",") if directory]
    found: dict[int, Manifest] = {}
    for directory in directories:
        manifest = read_manifest(directory)
        if manifest.size in found:
            raise UsageError(
                f"--data: {found[manifest.size].directory} and {directory} both hold {manifest.size} px"
            )
        found[manifest.size] = manifest
    for size in sizes:
        if size not in found:
            raise UsageError(
                f"--data={given}: holds no {size} px images; make them with the command that made "
                f"{directories[0]}, with another --output and --size={size}"
            )
    unsized = [one.name for one in grid if "image_size" not in one.flags]
    if unsized and len(found) > 1:
        raise UsageError(f"--data={given}: several sizes, and run {unsized[0]!r} has no --image_size")
    _refuse_other_images(list(found.values()))
    return found


def _size_of(one: FlagSet) -> int:
    text = one.flags["image_size"]
    if not text.isdecimal():
        raise UsageError(f"run {one.name!r}: --image_size={text} must be a number of pixels")
    return int(text)


def _refuse_other_images(manifests: Sequence[Manifest]) -> None:
    """Run can be compared on the same images only, split in the same way."""
    first = manifests[0]
    for other in manifests[1:]:
        for name in ("class_names", "counts", "inputs_hash", "seed"):
            if getattr(first, name) != getattr(other, name):
                raise UsageError(
                    f"--data: {first.directory} and {other.directory} are not of the same images in the same "
                    f"splits (their {name} differ): make both from one source with the same flags except "
                    "--size"
                )


def held_out_split(manifest: Manifest, configs: Sequence[TrainConfig], asked: str | None) -> str:
    """Return the split whose images the table is about: every run is evaluated on it.

    Args:
      manifest: of the data.
      configs: of the runs.
      asked: the user's choice; None for the usual one.

    Raises:
      UsageError: not every run is evaluated on it, or on any.
      DataError: the data has no such split.
    """
    each = [config.evaluated_splits(manifest.splits) for config in configs]
    of_all = [split for split in each[0] if all(split in splits for splits in each)]
    if not of_all:
        raise UsageError("--train_split: no split is held out of all runs, so nothing compares them")
    usual = next((split for split in (*_HELD_OUT, configs[0].validation_split) if split in of_all), None)
    choices = f"one of {', '.join(of_all)}"
    if asked is None:
        if usual is None:
            raise UsageError(f"--split: name the split to compare the runs on, {choices}")
        return usual
    manifest.shards_of(asked)
    if asked not in of_all:
        raise UsageError(
            f"--split={asked}: not every run holds it out and is evaluated on it; choose {choices}"
        )
    return asked
