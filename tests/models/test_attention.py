"""Gates: they begin as 1, have the published numbers of parameters, and go wherever a model goes."""

import keras
import numpy as np
import pytest
import tensorflow as tf
from staged import SIZE, three_stages
from tiny import registered

from cxr_data.core.errors import UsageError
from cxr_train.explanation.gradcam import GradCam
from cxr_train.models.added import Attention, eca_kernel, is_added, parse_attention
from cxr_train.models.attention import GATES, eca_gate
from cxr_train.models.backbones import BACKBONES
from cxr_train.models.classifier import build_model
from cxr_train.models.freeze import backbone_layers, layers_to_freeze, set_trainable
from cxr_train.models.memory import read_graph, trace
from cxr_train.models.order import own_order
from cxr_train.models.stages import stage_ends, stage_outputs
from cxr_train.runs.config import TrainConfig
from cxr_train.runs.run_model import load_model, save_model

KINDS = tuple(GATES)
# Blocks of a ResNet-50 by the channels that they put out.
RESNET_50 = {256: 3, 512: 4, 1024: 6, 2048: 3}


@pytest.fixture(scope="module", autouse=True)
def staged():
    with registered("staged", three_stages, smallest_image=SIZE):
        yield


def model_of(attention="none", backbone="staged", image_size=SIZE, seed=0, **options) -> keras.Model:
    keras.utils.set_random_seed(seed)
    options = {"classes": 3, "head": (16,), **options}
    return build_model(backbone, image_size=image_size, attention=attention, **options)


def images_of(size=SIZE) -> np.ndarray:
    return np.random.default_rng(0).random([2, size, size, 3], np.float32)


def parameters_in_resnet_50(gate) -> int:
    total = 0
    for channels, blocks in RESNET_50.items():
        x = keras.Input((2, 2, channels))
        total += blocks * keras.Model(x, gate(x, "attention_1")).count_params()
    return total


def test_the_flag_is_a_kind_and_stages():
    assert parse_attention("none") == Attention("none")
    assert parse_attention("eca") == Attention("eca")
    assert parse_attention("cbam:2+10") == Attention("cbam", (2, 10))


@pytest.mark.parametrize(
    "text", ["", "bam", "se:", "se:0", "se:a", "se:4+", "se:4+4", "se:5+4", "se:-1", "none:1"]
)
def test_another_flag_is_refused_before_anything_is_built(text):
    with pytest.raises(UsageError, match=f"--attention={text}: must ".replace("+", r"\+")) as caught:
        TrainConfig("staged", "data", "run", attention=text)
    assert "\n" not in str(caught.value)


@pytest.mark.parametrize("kind", KINDS)
@pytest.mark.parametrize("policy", ["mixed_float16", pytest.param("float32", marks=pytest.mark.ci)])
def test_the_network_puts_out_what_it_does_without_gates(kind, policy):
    plain, gated = (model_of(one, dtype_policy=policy) for one in ("none", kind))
    assert len(gated.layers) > len(plain.layers)
    np.testing.assert_array_equal(gated(images_of()), plain(images_of()))


@pytest.mark.slow
@pytest.mark.parametrize("kind", KINDS)
@pytest.mark.parametrize("backbone", BACKBONES)
def test_every_backbone_puts_out_what_it_does_without_gates(backbone, kind):
    size = max(64, BACKBONES[backbone].smallest_image)
    models = []
    for attention in ("none", kind):
        keras.utils.clear_session(free_memory=False)  # which numbers the layers that have no name
        models.append(model_of(attention, backbone, size))
    plain, gated = models
    assert len(gated.layers) > len(plain.layers)
    assert stage_outputs(gated) == stage_outputs(plain)
    np.testing.assert_array_equal(gated(images_of(size)), plain(images_of(size)))
    keras.backend.clear_session()


@pytest.mark.parametrize("kind", KINDS)
def test_a_gradient_reaches_every_gate_at_the_first_step(kind):
    model = model_of(kind)
    labels = np.array([0, 2])
    with tf.GradientTape() as tape:
        logits = model(images_of(), training=True)
        loss = tf.reduce_mean(tf.nn.sparse_softmax_cross_entropy_with_logits(labels, logits))
    variables = [v for layer in model.layers if is_added(layer.name) for v in layer.trainable_variables]
    last = {"se": "excite/kernel", "eca": "neighbours/kernel", "cbam": "/gamma"}[kind]
    reached = [
        float(tf.reduce_max(tf.abs(gradient))) > 0
        for variable, gradient in zip(
            variables, tape.gradient(loss, [v.value for v in variables]), strict=True
        )
        if variable.path.endswith(last)
    ]
    assert reached == [True] * 3


def test_se_adds_the_published_parameters_to_a_resnet_50():
    assert parameters_in_resnet_50(GATES["se"]) == 2_514_944


def test_eca_adds_the_parameters_of_the_papers_formula_or_of_the_authors_kernels():
    assert [eca_kernel(channels) for channels in RESNET_50] == [5, 5, 5, 7]
    assert parameters_in_resnet_50(GATES["eca"]) == 86
    kernels = {256: 3, 512: 5, 1024: 5, 2048: 7}
    assert parameters_in_resnet_50(lambda x, prefix: eca_gate(x, prefix, kernels[x.shape[-1]])) == 80


@pytest.mark.parametrize("channels", [128, 256])
def test_cbam_has_the_parameters_of_its_formula(channels):
    x = keras.Input((4, 4, channels))
    gate = keras.Model(x, GATES["cbam"](x, "attention_1"))
    reduced = channels // 16
    of_channels = 2 * channels * reduced + reduced + channels
    assert gate.count_params() == of_channels + 98 + 4  # a BatchNorm of one channel
    assert sum(int(np.prod(v.shape)) for v in gate.trainable_variables) == of_channels + 98 + 2


def test_a_gate_is_what_its_formula_says():
    generator = np.random.default_rng(1)
    x = generator.normal(size=[2, 3, 5, 32]).astype(np.float32)
    inputs = keras.Input(x.shape[1:])
    for kind in KINDS:
        gate = keras.Model(inputs, GATES[kind](inputs, "attention_1"))
        values = {}
        for variable in gate.variables:
            values[variable.path.removeprefix("attention_1_")] = generator.random(variable.shape, np.float32)
            variable.assign(values[variable.path.removeprefix("attention_1_")])
        np.testing.assert_allclose(gate(x), by_hand(kind, x, values), rtol=2e-5, atol=1e-5)


def gate_of(z: np.ndarray) -> np.ndarray:
    return 2 / (1 + np.exp(-z))


def by_hand(kind: str, x: np.ndarray, values: dict[str, np.ndarray]) -> np.ndarray:
    mean, most = x.mean(axis=(1, 2), keepdims=True), x.max(axis=(1, 2), keepdims=True)
    if kind == "eca":
        kernel = values["neighbours/kernel"][:, 0, 0]
        row = np.pad(mean[:, 0, 0], [(0, 0), (len(kernel) // 2,) * 2])
        z = np.stack([row[:, c : c + len(kernel)] @ kernel for c in range(x.shape[-1])], axis=-1)
        return x * gate_of(z[:, None, None])

    def excite(row):
        hidden = np.maximum(row @ values["reduce/kernel"] + values.get("reduce/bias", 0), 0)
        return hidden @ values["excite/kernel"] + values.get("excite/bias", 0)

    if kind == "se":
        return x * gate_of(excite(mean))
    x = x * gate_of(excite(mean) + excite(most))
    maps = np.stack([x.max(axis=-1), x.mean(axis=-1)], axis=-1)
    z = tf.nn.conv2d(maps, values["spatial_neighbours/kernel"], 1, "SAME").numpy()
    scale = values["spatial_bn/gamma"] / np.sqrt(values["spatial_bn/moving_variance"] + 1e-3)
    return x * gate_of((z - values["spatial_bn/moving_mean"]) * scale + values["spatial_bn/beta"])


def test_the_stages_are_those_that_the_flag_names():
    assert stage_ends(model_of()) == ("end1", "end2", "end3")
    model = model_of("se:1+3")
    gates = [layer for layer in model.layers if layer.name.endswith("_gated")]
    assert [layer.name for layer in gates] == ["attention_1_gated", "attention_3_gated"]
    assert [layer.output.shape[1:] for layer in gates] == [(16, 16, 8), (4, 4, 32)]
    with pytest.raises(UsageError, match=r"--attention=se:2\+4: .*from 1 to 3 .*end1, end2, end3"):
        model_of("se:2+4")


@pytest.mark.parametrize("kind", KINDS)
def test_gates_are_no_layers_of_the_backbone(kind):
    plain, gated = model_of(), model_of(kind)
    assert stage_outputs(gated) == stage_outputs(plain)
    names = [layer.name for layer in backbone_layers(gated)]
    assert names == [layer.name for layer in backbone_layers(plain)]
    set_trainable(layers_to_freeze(gated, "backbone"), False)
    trained = {layer.name for layer in gated.layers if layer.trainable_variables}
    assert any(name.startswith("attention_1_") for name in trained)
    assert not trained.intersection(names)


def two_merges(*, include_top, weights, input_tensor) -> keras.Model:
    """Two merges side by side at one resolution, as NASNet has them; the stage ends at the shorter path's."""
    x = keras.layers.Conv2D(8, 3, padding="same", name="start")(input_tensor)
    sides = {
        name: keras.layers.Add(name=f"{name}_add")([x, keras.layers.Conv2D(8, 1, name=name)(x)])
        for name in ("longer", "shorter")
    }
    x = keras.layers.Conv2D(8, 3, strides=2, padding="same", name="longer_down")(sides["longer"])
    x = keras.layers.Conv2D(8, 1, name="longer_more")(x)
    side = keras.layers.Conv2D(8, 3, strides=2, padding="same", name="shorter_down")(sides["shorter"])
    return keras.Model(input_tensor, keras.layers.Concatenate(name="together")([x, side]))


@pytest.mark.parametrize("kind", KINDS)
def test_gates_do_not_change_the_order_of_paths_side_by_side(kind):
    with registered("two_merges", two_merges, smallest_image=SIZE):
        plain, gated = (model_of(one, "two_merges") for one in ("none", kind))
    assert stage_outputs(plain) == ("start", "shorter_add", "together")
    assert own_order(plain) == plain.operations
    names = [layer.name for layer in gated.layers]
    assert names.index("longer_add") > names.index("shorter_add")  # as Keras sorts them
    assert stage_outputs(gated) == stage_outputs(plain)
    for rule in ("backbone", "until:longer_add"):
        frozen = [[layer.name for layer in layers_to_freeze(model, rule)] for model in (plain, gated)]
        assert frozen[0] == frozen[1]


def test_pretrained_weights_are_in_the_network_with_gates(tmp_path):
    source = BACKBONES["staged"].build(
        include_top=False, weights=None, input_tensor=keras.Input((SIZE, SIZE, 3))
    )
    source.save_weights(tmp_path / "staged.weights.h5")
    model = model_of("cbam", seed=1, weights=str(tmp_path / "staged.weights.h5"))
    for layer in source.layers[1:]:
        for expected, found in zip(
            layer.get_weights(), model.get_layer(layer.name).get_weights(), strict=True
        ):
            np.testing.assert_array_equal(found, expected)


@pytest.mark.parametrize(
    "kind", ["cbam", *(pytest.param(kind, marks=pytest.mark.ci) for kind in ("se", "eca"))]
)
def test_a_saved_model_is_the_same_and_can_be_explained(kind, tmp_path):
    model = model_of(kind)
    generator = np.random.default_rng(0)
    for layer in model.layers:
        if is_added(layer.name):
            layer.set_weights([generator.random(value.shape, np.float32) for value in layer.get_weights()])
    save_model(model, tmp_path / "best.keras")
    loaded = load_model(tmp_path / "best.keras")
    np.testing.assert_allclose(loaded(images_of()), model(images_of()), rtol=1e-6)
    assert not np.allclose(model(images_of()), model_of()(images_of()))
    maps, _ = GradCam(loaded, stage_outputs(loaded))(images_of(), np.array([0, 1]))
    assert [each.shape[1] for each in maps] == [16, 16, 8, 4]
    assert any(each.max() > 0 for each in maps)


@pytest.mark.parametrize("kind", KINDS)
def test_the_plan_counts_the_gates(kind):
    planned = trace("staged", image_size=SIZE, head=(16,), attention=kind)
    assert planned.variables == model_of(kind).count_params()
    assert planned == read_graph(model_of(kind))
