"""The check of a `.keras` file before Keras opens it: a model that somebody else made may be anything.

A file is what `run_model.save_model` writes, or it is refused: three stored members, layers of Keras that
neither hold code nor read other files, and weights that lie in the file and are as large as it says.
"""

import io
import pathlib
import zipfile
from collections.abc import Iterator, Mapping
from typing import Any, NotRequired, TypedDict

import h5py

from cxr_data.core.errors import DataError, one_line
from cxr_data.core.schema import checked, parse_json
from cxr_train.runs.layout import CONFIG_NAME

# Keras has the same name for the configuration in its files as a run for its own.
_CONFIG, _WEIGHTS = CONFIG_NAME, "model.weights.h5"
_MEMBERS = {"metadata.json", _CONFIG, _WEIGHTS}
_MODULES = ("keras", "keras.layers", "keras.initializers", "keras.regularizers", "keras.constraints")
_MODELS = {
    ("keras.src.models.functional", "Functional"),
    ("keras.src.models.sequential", "Sequential"),
    ("keras", "Functional"),
    ("keras", "Sequential"),
}
# Layers of this program, which `classifier` registers at Keras.
_OWN = {("cxr_train.models.pooling", "GeneralizedMean"), ("cxr_train.models.convnext", "LayerScale")}
# What Keras has no public name for: the flip of `--input_range=imagenet`, and the sum of a backbone's block.
_UNNAMED = {
    ("keras.src.ops.numpy", "Flip"),
    ("keras.src.applications.inception_resnet_v2", "CustomScaleLayer"),
}
# Layers that hold code, or read files that they name.
_REFUSED = {
    *("Lambda", "TFSMLayer", "JaxLayer", "FlaxLayer", "TorchModuleWrapper"),
    *("StringLookup", "IntegerLookup", "TextVectorization"),
}
# Settings of layers that are sizes of their weights.
_SIZES = ("units", "filters")
_LARGEST_KERNEL = 64


class _Object(TypedDict):
    module: NotRequired[str | None]
    class_name: str
    config: NotRequired[Any]


def check_model_file(path: pathlib.Path) -> None:
    """Check a `.keras` file, without making what it claims to hold.

    Raises:
      DataError: it is not a file that `save_model` writes; names the file and what is wrong in it.
    """
    try:
        with zipfile.ZipFile(path) as file:
            _check_members(path, file)
            dimensions = _check_weights(file.read(_WEIGHTS))
            for found in _objects(parse_json(file.read(_CONFIG))):
                _check_object(found, dimensions)
    except FileNotFoundError as error:
        raise DataError(f"{path} is not there") from error
    # zipfile and h5py raise all of these for files that somebody made up.
    except (
        *(ValueError, OSError, KeyError, RuntimeError, TypeError, AttributeError, IndexError),
        *(RecursionError, MemoryError, NotImplementedError, EOFError, OverflowError, zipfile.BadZipFile),
    ) as error:
        reason = one_line(str(error).partition("\n")[0][:200])
        raise DataError(f"{path} is damaged, or not a model that this program saved ({reason})") from error


def _check_members(path: pathlib.Path, file: zipfile.ZipFile) -> None:
    names = [member.filename for member in file.infolist()]
    if sorted(names) != sorted(_MEMBERS):
        raise ValueError(f"it holds {', '.join(names)[:80] or 'nothing'}, not {', '.join(sorted(_MEMBERS))}")
    size = path.stat().st_size
    for member in file.infolist():
        if member.compress_type != zipfile.ZIP_STORED or member.file_size > size:
            raise ValueError(f"{member.filename}: must be stored, not compressed")


def _check_weights(content: bytes) -> set[int]:
    """Check that all weights lie in the file itself; return all lengths of their axes."""
    dimensions: set[int] = set()
    total = 0

    def visit(group: h5py.Group, place: str) -> None:
        nonlocal total
        for name in group:
            link = group.get(name, getlink=True)
            if not isinstance(link, h5py.HardLink):
                raise ValueError(f"{_WEIGHTS}: {place}{name}: is a link to another place")
            found = group[name]
            if isinstance(found, h5py.Group):
                if place.count("/") > 30:
                    raise ValueError(f"{_WEIGHTS}: {place}: is nested too deeply")
                visit(found, f"{place}{name}/")
                continue
            if found.dtype.kind not in "fiub" or found.external or found.is_virtual:
                raise ValueError(f"{_WEIGHTS}: {place}{name}: is no array of numbers in this file")
            total += found.nbytes
            if total > len(content):
                raise ValueError(f"{_WEIGHTS}: {place}{name}: claims more numbers than the file holds")
            dimensions.update(found.shape)

    with h5py.File(io.BytesIO(content), "r") as file:
        visit(file, "")
    return dimensions


def _objects(value: Any) -> Iterator[Mapping[str, Any]]:
    """Yield everything in a configuration that Keras would make."""
    if isinstance(value, dict):
        if "class_name" in value:
            yield value
        for part in value.values():
            yield from _objects(part)
    elif isinstance(value, list):
        for part in value:
            yield from _objects(part)


def _check_object(found: Mapping[str, Any], dimensions: set[int]) -> None:
    kind = checked(_Object, dict(found))
    module, name = kind.get("module"), kind["class_name"]
    is_known = module in _MODULES and name not in _REFUSED
    is_listed = (module, name) in _MODELS | _OWN | _UNNAMED | {(None, "__keras_tensor__")}
    if not (is_known or is_listed):
        raise ValueError(f"{_CONFIG}: {module}.{name}: is no layer that this program saves")
    config = kind.get("config")
    if not isinstance(config, dict):
        return
    for field in _SIZES:
        size = config.get(field)
        if size is not None and not (isinstance(size, int) and size in dimensions):
            raise ValueError(f"{_CONFIG}: {name}.{field}: {size} is the size of no weights in {_WEIGHTS}")
    if name == "EinsumDense" and not {*config.get("output_shape", [])} <= {*dimensions, None}:
        raise ValueError(f"{_CONFIG}: {name}.output_shape: is the size of no weights in {_WEIGHTS}")
    kernel = config.get("kernel_size")
    for size in kernel if isinstance(kernel, list) else []:
        if not isinstance(size, int) or not 1 <= size <= _LARGEST_KERNEL:
            raise ValueError(f"{_CONFIG}: {name}.kernel_size: must be from 1 to {_LARGEST_KERNEL}")
