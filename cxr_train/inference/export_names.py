"""The formats of an export by name, and what is checked of them before TensorFlow is loaded."""

import importlib
import pathlib
from collections.abc import Callable
from types import ModuleType

from cxr_data.core.errors import UsageError

FORMATS = ("savedmodel", "tflite", "onnx")


def is_export(form: str) -> Callable[[pathlib.Path], bool]:
    """Return a test of whether a path has an export in that format, which another may replace."""
    if form == "savedmodel":
        return lambda path: (path / "saved_model.pb").is_file()
    return pathlib.Path.is_file


def refuse_missing_extra(form: str) -> None:
    """Check that what a format needs is installed. Raises UsageError if not."""
    if form == "onnx":
        for name in ("onnx", "tf2onnx", "onnxruntime"):
            extra(name)


def extra(name: str) -> ModuleType:
    """Import a package of the extra `export`. Raises UsageError: it is not installed."""
    try:
        return importlib.import_module(name)
    except ImportError as error:
        raise UsageError(f"--format=onnx: {name} is not installed: pip install 'cxr[export]'") from error
