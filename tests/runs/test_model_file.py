"""A `.keras` file of somebody else: what is no plain network with its own weights is one line."""

import io
import json
import zipfile

import h5py
import numpy as np
import pytest
from runs import tiny_model
from staged import three_stages
from tiny import registered

from cxr_data.core.errors import DataError
from cxr_train.models.classifier import build_model
from cxr_train.runs.run_model import load_model, save_model

CONFIG, WEIGHTS = "config.json", "model.weights.h5"


@pytest.fixture(scope="module")
def whole(tmp_path_factory):
    path = tmp_path_factory.mktemp("model") / "best.keras"
    save_model(tiny_model(3, 8), path)
    with zipfile.ZipFile(path) as file:
        return {name: file.read(name) for name in file.namelist()}


def write(path, members, compression=zipfile.ZIP_STORED):
    with zipfile.ZipFile(path, "w", compression) as file:
        for name, content in members.items():
            file.writestr(name, content)


def refused(path, named):
    with pytest.raises(DataError) as raised:
        load_model(path)
    assert str(path) in str(raised.value)
    assert named in str(raised.value)
    assert str(raised.value).isprintable()


def with_layer(whole, **changes):
    """The members with the first convolution changed."""
    config = json.loads(whole[CONFIG])
    layer = next(one for one in config["config"]["layers"] if one["class_name"] == "Conv2D")
    layer["config"] |= changes.pop("config", {})
    layer |= changes
    return {**whole, CONFIG: json.dumps(config)}


def with_weights(whole, change):
    content = io.BytesIO(whole[WEIGHTS])
    with h5py.File(content, "r+") as file:
        change(file)
    return {**whole, WEIGHTS: content.getvalue()}


def test_what_was_saved_is_loaded(whole, tmp_path):
    write(tmp_path / "best.keras", whole)
    assert load_model(tmp_path / "best.keras").count_params() == tiny_model(3, 8).count_params()


@pytest.mark.parametrize(
    ("changes", "named"),
    [
        ({"class_name": "Lambda"}, "Lambda"),
        ({"class_name": "TFSMLayer"}, "TFSMLayer"),
        ({"class_name": "TextVectorization"}, "TextVectorization"),
        ({"module": "os", "class_name": "system"}, "os.system"),
        ({"module": "builtins", "class_name": "function"}, "builtins"),
        ({"module": "keras.utils", "class_name": "get_file"}, "get_file"),
        ({"module": None}, "Conv2D"),
        ({"class_name": ["Conv2D"]}, "class_name"),
        ({"config": {"filters": 10**9}}, "filters"),
        ({"config": {"filters": [8]}}, "filters"),
        ({"config": {"kernel_size": [10**6, 10**6]}}, "kernel_size"),
        ({"config": {"padding": 7}}, "best.keras"),
        ({"config": {"activation": "no such"}}, "best.keras"),
    ],
)
def test_a_layer_that_is_none_of_ours(whole, tmp_path, changes, named):
    write(tmp_path / "best.keras", with_layer(whole, **changes))
    refused(tmp_path / "best.keras", named)


@pytest.mark.parametrize(
    ("change", "named"),
    [
        (lambda file: file.__setitem__("vars/x", h5py.ExternalLink("/etc/passwd", "/")), "vars/x"),
        (lambda file: file.__setitem__("vars/x", h5py.SoftLink("/")), "vars/x"),
        (lambda file: file["vars"].create_dataset("x", (2**40,), "f4", chunks=(1024,)), "vars/x"),
        (
            lambda file: file["vars"].create_dataset("x", (9,), "u1", external=[("/etc/passwd", 0, 9)]),
            "vars/x",
        ),
        (lambda file: file["vars"].create_dataset("x", (2,), h5py.string_dtype()), "vars/x"),
        (lambda file: file["layers/conv2d/vars"].pop("0"), "best.keras"),
        (lambda file: file["layers"].pop("conv2d"), "best.keras"),
        (lambda file: file["layers"].pop("dense"), "best.keras"),
    ],
)
def test_weights_that_are_not_in_the_file(whole, tmp_path, change, named):
    write(tmp_path / "best.keras", with_weights(whole, change))
    refused(tmp_path / "best.keras", named)


@pytest.mark.parametrize(
    ("members", "named"),
    [
        ({}, "nothing"),
        ({CONFIG: "{}"}, CONFIG),
        ({"../../x": "", CONFIG: "{}", WEIGHTS: ""}, "../../x"),
        ({"metadata.json": "{}", CONFIG: "[" * 100_000, WEIGHTS: None}, "nested"),
        ({"metadata.json": "{}", CONFIG: "\0", WEIGHTS: None}, "best.keras"),
        ({"metadata.json": "{}", CONFIG: "{}", WEIGHTS: b"\x89HDF\r\n\x1a\n" + bytes(500)}, "best.keras"),
        ({"metadata.json": "{}", CONFIG: "{}", WEIGHTS: None}, "best.keras"),
    ],
)
def test_a_file_of_other_members(whole, tmp_path, members, named):
    filled = {name: whole[name] if content is None else content for name, content in members.items()}
    write(tmp_path / "best.keras", filled)
    refused(tmp_path / "best.keras", named)


def test_a_bomb_is_not_inflated(whole, tmp_path):
    write(tmp_path / "best.keras", {**whole, CONFIG: bytes(10**8)}, zipfile.ZIP_DEFLATED)
    refused(tmp_path / "best.keras", "compressed")


def test_damage_anywhere_is_one_line_or_none(whole, tmp_path):
    path = tmp_path / "best.keras"
    write(path, whole)
    content = path.read_bytes()
    rng = np.random.default_rng(0)
    for position in rng.integers(0, len(content), 12):
        damaged = bytearray(content)
        damaged[position] ^= 1 << int(rng.integers(8))
        path.write_bytes(damaged)
        try:
            load_model(path)
        except DataError as error:
            assert str(path) in str(error)
    for size in (0, 10, len(content) // 2, len(content) - 1):
        path.write_bytes(content[:size])
        refused(path, "best.keras")


@pytest.mark.parametrize("backbone", ["vgg16", pytest.param("inception_resnet_v2", marks=pytest.mark.slow)])
def test_a_network_with_what_keras_does_not_name_is_loaded(backbone, tmp_path):
    model = build_model(backbone, classes=2, image_size=75, head=(), input_range="imagenet")
    save_model(model, tmp_path / "best.keras")
    assert load_model(tmp_path / "best.keras").count_params() == model.count_params()


def test_a_sum_of_another_size_than_its_weights_is_refused(tmp_path):
    options = {"of_findings": True, "pooling": "attention", "head": ()}
    with registered("staged", three_stages):
        model = build_model("staged", classes=3, image_size=8, **options)
    save_model(model, tmp_path / "best.keras")
    with zipfile.ZipFile(tmp_path / "best.keras") as file:
        members = {name: file.read(name) for name in file.namelist()}
    config = members[CONFIG].decode()
    assert '"output_shape": [3]' in config
    changed = config.replace('"output_shape": [3]', '"output_shape": [1000000007]')
    write(tmp_path / "best.keras", {**members, CONFIG: changed})
    refused(tmp_path / "best.keras", "EinsumDense.output_shape")
