"""The shards of a grid: a directory for each image size, of the same images, shared by all runs."""

from collections.abc import Sequence

from cxr_data.core.errors import UsageError
from cxr_data.records.manifest import Manifest, read_manifest
from cxr_train.ablation.grid import FlagSet

_SIZE = "{size}"


def find_data(given: str, grid: Sequence[FlagSet]) -> dict[int, Manifest]:
    """The manifests of a grid's data, by image size.

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
                f"{directories[0]}, its --output another and --size={size}"
            )
    unsized = [one.name for one in grid if "image_size" not in one.flags]
    if unsized and len(found) > 1:
        raise UsageError(f"--data={given}: several sizes, and run {unsized[0]!r} has no --image_size")
    _refuse_other_images(list(found.values()))
    return found


def _size_of(one: FlagSet) -> int:
    text = one.flags["image_size"]
    if not text.isdecimal():
        raise UsageError(f"run {one.name!r}: --image_size={text} is no number of pixels")
    return int(text)


def _refuse_other_images(manifests: Sequence[Manifest]) -> None:
    """Runs can be compared on the same images only, split in the same way."""
    first = manifests[0]
    for other in manifests[1:]:
        for name in ("class_names", "counts", "inputs_hash", "seed"):
            if getattr(first, name) != getattr(other, name):
                raise UsageError(
                    f"--data: {first.directory} and {other.directory} are not of the same images in the same "
                    f"splits (their {name} differ): make both from one source with the same flags but --size"
                )
