"""Exports say what `predict` says, bit for bit in the pixels, in a process without this project."""

import dataclasses
import json
import subprocess
import sys
import warnings

import keras
import numpy as np
import onnxruntime
import pytest
import tensorflow as tf
from image_files import every_kind
from PIL import Image
from runs import make_run, probabilities_of
from sharder_fixtures import encoded, picture, save
from shards import random_images, write_shards
from staged import three_stages
from tiny import registered

from cxr_data.core.errors import CxrError, DataError, UsageError
from cxr_data.core.runtime import keep_large_allocations
from cxr_data.images import resize
from cxr_data.images.decode import decode_pixels
from cxr_data.records.manifest import write_manifest
from cxr_train.inference import export_formats, export_names, exporter, graph_preprocess, predictor
from cxr_train.inference.files import ImageFile
from cxr_train.models.classifier import build_model, to_probabilities
from cxr_train.runs.config import TrainConfig
from cxr_train.runs.run_model import load_best_model

SIZES = [(48, 40), (32, 32), (64, 64), (31, 77), (1, 200), (333, 500), (1024, 1024), (512, 700), (24, 2000)]


@pytest.mark.parametrize("size", [32, 99])
def test_the_kernel_in_the_graph_is_the_sharders_bit_for_bit(size):
    resized = tf.function(
        lambda image: graph_preprocess.resize(image, size),
        input_signature=[tf.TensorSpec([None, None, 1], tf.uint8)],
    )
    for seed, (height, width) in enumerate(SIZES):
        image = np.random.default_rng(seed).integers(0, 256, (height, width), np.uint8)
        expected = resize.resize_image(image, size)
        np.testing.assert_array_equal(
            resized(image[..., None])[..., 0], expected, err_msg=f"{height}x{width}"
        )


DECODED = [
    f"jpeg {name}{how}" for name in ("gray", "rgb") for how in ("", " progressive", " orientation 1")
] + [f"png {name}" for name in ("gray", "rgb", "gray alpha", "rgba", "palette", "interlaced", "animated")]


@pytest.mark.parametrize("color", ["gray", "keep"])
def test_every_kind_of_file_is_decoded_in_the_graph_as_by_the_sharder_or_refused(color):
    decode = tf.function(
        lambda data: graph_preprocess.decode(data, color), input_signature=[tf.TensorSpec([], tf.string)]
    )
    decoded = set()
    for name, data in every_kind().items():
        try:
            ours = decode(tf.constant(data)).numpy().squeeze()
        except tf.errors.InvalidArgumentError:
            continue
        decoded.add(name)
        np.testing.assert_array_equal(ours, decode_pixels(data, color, 10**8), err_msg=name)
    assert decoded >= set(DECODED)
    words = (
        "1 bit",
        "2 bit",
        "4 bit",
        "16 bit",
        "orientation 3",
        "orientation 6",
        "cmyk",
        "cut off",
        "DICOM",
    )
    assert not [name for name in decoded if any(word in name for word in words)]


def test_a_file_that_the_graph_would_decode_otherwise_is_refused():
    decode = tf.function(lambda data: graph_preprocess.decode(data, "gray"))
    gray = picture(0, 40, 30)
    assert decode(encoded(Image.fromarray(gray), "JPEG")).shape == (40, 30, 1)
    cmyk = tf.constant(encoded(Image.fromarray(gray).convert("CMYK"), "JPEG"))
    # The decoder fails on it too: run beside the check, it named its own reason 17 times in 5,000.
    for _ in range(1000):
        with pytest.raises(tf.errors.InvalidArgumentError, match="JPEG in CMYK: .*cxr_train.predict"):
            decode(cmyk)
    files = every_kind()
    for name, message in (
        ("png 16 bit of 12", "PNG .*8 bits"),
        ("png palette 4 bit", "PNG .*8 bits"),
        ("jpeg rgb orientation 6", "orientation"),
        ("TIFF gray", "neither JPEG nor PNG"),
        ("empty", "neither JPEG nor PNG"),
    ):
        with pytest.raises(tf.errors.InvalidArgumentError, match=f"{message}: .*cxr_train.predict"):
            decode(tf.constant(files[name]))


@pytest.fixture(scope="module")
def manifest(tmp_path_factory):
    keep_large_allocations()
    splits = {"train": random_images(4, 32), "validation": random_images(9, 32, seed=1)}
    return write_shards(tmp_path_factory.mktemp("data"), splits)


def test_a_graph_that_could_not_do_what_the_sharder_did_is_refused(manifest, tmp_path):
    for name, value in (("crop_border", "auto"), ("equalize_to", 64)):
        run_dir = tmp_path / name
        make_run(run_dir, manifest)
        write_manifest(dataclasses.replace(manifest, directory=str(run_dir), **{name: value}))
        config = TrainConfig.load(run_dir / "config.json")
        with pytest.raises(UsageError, match=f"--format=savedmodel: .*--{name}={value}"):
            exporter.export_model(config, run_dir, "savedmodel", tmp_path / "out", [])
        assert not (tmp_path / "out").exists()


def test_a_run_whose_data_is_gone_is_checked_on_images_that_are_named(manifest, tmp_path):
    config = TrainConfig("mobilenet_v2", str(tmp_path / "gone"), str(tmp_path), weights="none")
    with pytest.raises(DataError, match=r"gone.*--images=FILE"):
        exporter.images_to_check(config, manifest, [])
    path = save(tmp_path / "1.png", encoded(picture(0), "PNG"))
    assert len(exporter.images_to_check(config, manifest, [str(path)])) == 1


STRANGER = """
import sys, numpy as np, tensorflow as tf
assert not any(name.startswith("cxr") for name in sys.modules)
serve = tf.saved_model.load(sys.argv[1]).signatures["serving_default"]
files = [open(name, "rb").read() for name in sys.argv[3:]]
said = serve(image_bytes=tf.constant(files))
assert said["class_names"].numpy().tolist() == [b"covid", b"normal", b"pneumonia"]
np.save(sys.argv[2], said["probabilities"].numpy())
"""


@pytest.mark.ci
def test_a_saved_model_serves_image_bytes_without_this_project(manifest, tmp_path):
    model = make_run(tmp_path / "run", manifest)
    # As the networks of Keras, which take a list of one input.
    keras.Model([model.inputs[0]], model.output).save(tmp_path / "run" / "best.keras")
    config = TrainConfig.load(tmp_path / "run" / "config.json")
    with warnings.catch_warnings():
        warnings.filterwarnings("error", message="The structure of `inputs`")
        exporter.export_model(config, tmp_path / "run", "savedmodel", tmp_path / "served", [])
    names = [
        save(tmp_path / f"{seed}.jpg", encoded(picture(seed, 100 + 60 * seed, 90), "JPEG"))
        for seed in range(4)
    ]
    line = [sys.executable, "-I", "-c", STRANGER, tmp_path / "served", tmp_path / "said.npy", *names]
    result = subprocess.run(
        list(map(str, line)), cwd=tmp_path, capture_output=True, text=True, timeout=300, check=False
    )
    assert result.returncode == 0, result.stderr
    rows = predictor.predict_files([ImageFile(str(n), str(n)) for n in names], tmp_path / "run")
    expected = [list(row["probabilities"].values()) for row in rows]
    np.testing.assert_allclose(np.load(tmp_path / "said.npy"), expected, rtol=0, atol=1e-5)


@pytest.mark.parametrize(
    ("form", "policy"),
    [
        *((form, "float32") for form in export_names.FORMATS),
        ("savedmodel", "mixed_float16"),
        pytest.param("tflite", "mixed_bfloat16", marks=pytest.mark.ci),
        pytest.param("savedmodel", "mixed_bfloat16", marks=pytest.mark.ci),
        pytest.param("tflite", "mixed_float16", marks=pytest.mark.ci),
        *(
            pytest.param("onnx", policy, marks=pytest.mark.ci)
            for policy in ("mixed_float16", "mixed_bfloat16")
        ),
    ],
)
def test_every_format_says_the_same_as_the_model_in_every_precision(manifest, tmp_path, form, policy):
    make_run(tmp_path / "run", manifest, policy=policy)
    config = TrainConfig.load(tmp_path / "run" / "config.json")
    assert {layer.dtype_policy.name for layer in load_best_model(tmp_path / "run").layers} >= {policy}
    difference = exporter.export_model(config, tmp_path / "run", form, tmp_path / "exported", [])
    assert difference <= exporter.TOLERANCES[policy]
    # The other precisions would not pass for float32.
    assert (policy == "float32" or form == "savedmodel") == (difference <= exporter.TOLERANCES["float32"])


def assert_exported(form, model, manifest, path):
    """Check an export of a model, its added layers and scales set to what makes them count."""
    generator = np.random.default_rng(0)
    for variable in model.trainable_variables:
        if variable.path.startswith(("attention_", "pooling")) or "layer_scale" in variable.path:
            variable.assign(generator.random(variable.shape) + 0.1)
    pixels = random_images(2, manifest.size, seed=9)
    expected = to_probabilities(model, model(pixels)).numpy()
    assert np.ptp(expected) > 1e-3
    export_formats.write_export(form, model, manifest, path)
    np.testing.assert_allclose(export_formats.run_export(form, path, [], pixels), expected, rtol=0, atol=1e-5)


@pytest.mark.parametrize(
    ("form", "attention", "pooling"),
    [
        ("tflite", "cbam", "attention"),
        ("onnx", "eca:2", "gem"),
        pytest.param("onnx", "cbam", "attention", marks=pytest.mark.ci),
    ],
)
def test_gates_and_poolings_are_exported(manifest, tmp_path, form, attention, pooling):
    keras.utils.set_random_seed(0)
    options = {"classes": 3, "head": (16,), "of_findings": True, "attention": attention, "pooling": pooling}
    with registered("staged", three_stages):
        model = build_model("staged", image_size=manifest.size, **options)
    assert_exported(form, model, manifest, tmp_path / "model")


@pytest.mark.slow
@pytest.mark.parametrize("form", ["tflite", "onnx"])
def test_a_convnext_is_exported(manifest, tmp_path, form):
    keras.utils.set_random_seed(0)
    larger = dataclasses.replace(manifest, size=64)  # of more than one pixel at the end
    model = build_model("convnext_tiny", classes=3, image_size=64, head=(16,), input_range="imagenet")
    assert_exported(form, model, larger, tmp_path / "model")


def test_an_onnx_file_says_what_it_takes_and_gives(manifest, tmp_path):
    model = make_run(tmp_path / "run", manifest)
    config = TrainConfig.load(tmp_path / "run" / "config.json")
    exporter.export_model(config, tmp_path / "run", "onnx", tmp_path / "model.onnx", [])
    session = onnxruntime.InferenceSession(tmp_path / "model.onnx", providers=["CPUExecutionProvider"])
    assert [(one.name, one.shape[1:], one.type) for one in session.get_inputs()] == [
        ("pixels", [32, 32, 3], "tensor(float)")
    ]
    assert [(one.name, one.shape[1:]) for one in session.get_outputs()] == [("probabilities", [3])]
    names = session.get_modelmeta().custom_metadata_map["class_names"]
    assert json.loads(names) == list(manifest.class_names)
    pixels = random_images(5, 32, seed=9)
    said = session.run(None, {"pixels": pixels})[0]
    np.testing.assert_allclose(said, probabilities_of(model, pixels), rtol=0, atol=1e-5)


def test_without_the_extra_it_says_what_to_install(manifest, tmp_path, monkeypatch):
    monkeypatch.setitem(sys.modules, "tf2onnx", None)
    with pytest.raises(UsageError, match=r"--format=onnx: tf2onnx .*pip install 'cxr\[export\]'"):
        export_names.refuse_missing_extra("onnx")
    export_names.refuse_missing_extra("tflite")


def test_images_to_check_with_that_cannot_be_used_are_told_from_the_others(manifest, tmp_path):
    make_run(tmp_path / "run", manifest)
    config = TrainConfig.load(tmp_path / "run" / "config.json")
    good = save(tmp_path / "good.jpg", encoded(picture(1, 100, 90), "JPEG"))
    text = save(tmp_path / "text.png", b"hello")
    deep = save(tmp_path / "deep.png", encoded(Image.fromarray(picture(2).astype(np.uint16) * 256), "PNG"))
    for bad, message in (
        (text, "image 2 of 2 .*not_an_image"),
        (deep, "--images: .*16 bits"),
    ):
        with pytest.raises(DataError, match=message):
            exporter.export_model(
                config, tmp_path / "run", "savedmodel", tmp_path / "out", [str(good), str(bad)]
            )
        assert not list(tmp_path.glob("out*"))


def test_an_export_that_says_something_else_is_refused(manifest, tmp_path, monkeypatch):
    make_run(tmp_path / "run", manifest)
    config = TrainConfig.load(tmp_path / "run" / "config.json")
    monkeypatch.setattr(export_formats, "run_tflite", lambda path, pixels: np.full((len(pixels), 3), 1 / 3))
    with pytest.raises(CxrError, match=f"--output={tmp_path}/model.tflite: .*1e-05"):
        exporter.export_model(config, tmp_path / "run", "tflite", tmp_path / "model.tflite", [])
    assert [path.name for path in tmp_path.iterdir()] == ["run"]
