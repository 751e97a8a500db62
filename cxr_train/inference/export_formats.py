"""The formats of an export: how each is written, and how it is run to check it.

`savedmodel` takes image bytes; `tflite` and `onnx` take pixels, float32 [B, S, S, 3] in [0, 1], and
compute in float32, whatever the model was trained in: neither has all operations in 16 bits.
"""

import json
import logging
import pathlib
from collections.abc import Callable, Sequence

import keras
import numpy as np
import tensorflow as tf

from cxr_data.core.tensorflow_private import with_constant_variables
from cxr_data.records.manifest import Manifest
from cxr_train.inference.export_names import extra
from cxr_train.inference.graph_preprocess import preprocess
from cxr_train.models.classifier import in_float32, to_probabilities

_ONNX_OPSET = 18  # the newest that tf2onnx is tested with
_SOURCE, _TARGET = "pixels", "probabilities"


def pixel_model(model: keras.Model, size: int) -> Callable[[tf.Tensor], tf.Tensor]:
    """Return the model from pixels float32 [B, size, size, 3] in [0, 1] to probabilities float32 [B, C]."""

    @tf.function(input_signature=[tf.TensorSpec([None, size, size, 3], tf.float32, name="pixels")])
    def probabilities(pixels: tf.Tensor) -> tf.Tensor:
        return to_probabilities(model, model(pixels, training=False))

    return probabilities


def write_saved_model(model: keras.Model, manifest: Manifest, path: pathlib.Path) -> None:
    """Write a SavedModel with the preprocessing inside of its graph."""
    from_pixels = pixel_model(model, manifest.size)

    @tf.function(input_signature=[tf.TensorSpec([None], tf.string, name="image_bytes")])
    def serve(image_bytes: tf.Tensor) -> dict[str, tf.Tensor]:
        pixels = tf.map_fn(
            lambda data: preprocess(data, manifest),
            image_bytes,
            fn_output_signature=tf.TensorSpec([manifest.size, manifest.size, 3], tf.float32),
        )
        return {
            "probabilities": from_pixels(pixels),
            "class_names": tf.constant(manifest.class_names, tf.string),
        }

    module = tf.Module()
    module.variables_of_model = [variable.value for variable in model.variables]
    tf.saved_model.save(module, str(path), signatures={"serving_default": serve})


def _frozen(model: keras.Model, size: int) -> tf.types.experimental.ConcreteFunction:
    """Return the model on pixels in float32, its weights constants: converters crash on Keras 3's
    variables.
    """
    concrete = pixel_model(in_float32(model), size).get_concrete_function()  # type: ignore[attr-defined]
    return with_constant_variables(concrete)


def write_tflite(model: keras.Model, manifest: Manifest, path: pathlib.Path) -> None:
    """Write a TensorFlow Lite file; the model computes in float32 afterwards."""
    converter = tf.lite.TFLiteConverter.from_concrete_functions([_frozen(model, manifest.size)])
    path.write_bytes(converter.convert())


def write_onnx(model: keras.Model, manifest: Manifest, path: pathlib.Path) -> None:
    """Write an ONNX file, with the class names in its metadata; the model computes in float32 afterwards."""
    tf2onnx, onnx = extra("tf2onnx"), extra("onnx")
    frozen = _frozen(model, manifest.size)
    ((source,), (target,)) = frozen.inputs, frozen.outputs
    tensorflow = logging.getLogger("tensorflow")
    level = tensorflow.level
    tensorflow.setLevel(logging.ERROR)  # tf2onnx works through functions that TensorFlow calls old
    try:
        proto, _ = tf2onnx.convert.from_graph_def(
            frozen.graph.as_graph_def(),
            name=model.name,
            input_names=[source.name],
            output_names=[target.name],
            opset=_ONNX_OPSET,
            tensors_to_rename={source.name: _SOURCE, target.name: _TARGET},
        )
    finally:
        tensorflow.setLevel(level)
    onnx.helper.set_model_props(proto, {"class_names": json.dumps(manifest.class_names)})
    path.write_bytes(proto.SerializeToString())


def run_saved_model(path: pathlib.Path, images: Sequence[bytes]) -> np.ndarray:
    """Return the probabilities float32 [N, C] that an exported SavedModel gives image files."""
    serve = tf.saved_model.load(str(path)).signatures["serving_default"]
    return np.concatenate([serve(image_bytes=tf.constant([data]))["probabilities"] for data in images])


def run_tflite(path: pathlib.Path, pixels: np.ndarray) -> np.ndarray:
    """Return the probabilities float32 [N, C] that an exported TensorFlow Lite file gives pixels."""
    interpreter = tf.lite.Interpreter(str(path))
    interpreter.allocate_tensors()
    (source,), (target,) = interpreter.get_input_details(), interpreter.get_output_details()
    said = []
    for image in pixels:
        interpreter.set_tensor(source["index"], image[np.newaxis])
        interpreter.invoke()
        said.append(interpreter.get_tensor(target["index"]))
    return np.concatenate(said)


def run_onnx(path: pathlib.Path, pixels: np.ndarray) -> np.ndarray:
    """Return the probabilities float32 [N, C] that an exported ONNX file gives pixels."""
    session = extra("onnxruntime").InferenceSession(str(path), providers=["CPUExecutionProvider"])
    said: np.ndarray = session.run([_TARGET], {_SOURCE: pixels})[0]
    return said


def write_export(form: str, model: keras.Model, manifest: Manifest, path: pathlib.Path) -> None:
    """Write a model in one of `export_names.FORMATS`."""
    writers = {"savedmodel": write_saved_model, "tflite": write_tflite, "onnx": write_onnx}
    writers[form](model, manifest, path)


def run_export(form: str, path: pathlib.Path, images: Sequence[bytes], pixels: np.ndarray) -> np.ndarray:
    """Return the probabilities float32 [N, C] of an export: of image files, or of their pixels [N, S, S,
    3].
    """
    if form == "savedmodel":
        return run_saved_model(path, images)
    return (run_tflite if form == "tflite" else run_onnx)(path, pixels)
