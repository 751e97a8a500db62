"""The recipe: refused values, the schedule at each step, decoupled decay, the objective, old runs."""

import dataclasses
import json
import math
import pathlib

import keras
import numpy as np
import pytest
import tensorflow as tf
from hypothesis import given
from hypothesis import strategies as st

from cxr_data.core.errors import UsageError
from cxr_data.core.tensorflow_private import take_reduced_gradients
from cxr_data.input.options import ReadOptions
from cxr_train.engine.strategy import choose_placement
from cxr_train.flags.read_flags import refuse_without_effect
from cxr_train.recipe.class_weights import resolve_class_weights, resolve_positive_weights
from cxr_train.recipe.loss import Objective
from cxr_train.recipe.optimizers import ParameterGroups, Schedule, make_optimizer
from cxr_train.recipe.recipe import Recipe
from cxr_train.runs.config import TrainConfig

CLASS_NAMES = ("covid", "normal", "pneumonia")


@pytest.mark.parametrize(
    ("values", "message"),
    [
        ({"optimizer": "lamb"}, "--optimizer=lamb: .*adam, adamw, sgd"),
        ({"schedule": "linear"}, "--schedule=linear: .*constant, cosine"),
        ({"freeze": "head"}, "--freeze=head: .*none, backbone .*until:LAYER"),
        ({"label_smoothing": 1.0}, "--label_smoothing=1.0: .*\\[0, 1\\)"),
        ({"ema": -0.1}, "--ema=-0.1: .*\\[0, 1\\)"),
        ({"warmup_epochs": -1.0}, "--warmup_epochs=-1.0: .*negative"),
        ({"warmup_epochs": math.inf}, "--warmup_epochs=inf: .*infinite"),
        ({"weight_decay": math.nan, "optimizer": "sgd"}, "--weight_decay=nan: "),
        ({"clip_norm": 0.0}, "--clip_norm=0.0: .*above 0"),
        ({"clip_norm": math.inf}, "--clip_norm=inf: .*finite"),
        ({"backbone_rate_factor": 0.0}, "--backbone_rate_factor=0.0: .*above 0"),
        ({"gradient_accumulation": 0}, "--gradient_accumulation=0: .*at least 1"),
        ({"momentum": 0.9}, "--momentum=0.9: .*--optimizer=sgd, .*adam"),
        ({"weight_decay": 0.01}, "--weight_decay=0.01: .*--optimizer=adamw .*adam"),
        ({"optimizer": "adamw"}, "--optimizer=adamw: needs --weight_decay"),
        ({"unfreeze_at_epoch": 3}, "--unfreeze_at_epoch=3: needs --freeze"),
        ({"unfreeze_at_epoch": 1, "freeze": "backbone"}, "--unfreeze_at_epoch=1: .*at least 2"),
        (
            {"backbone_rate_factor": 0.1, "freeze": "backbone"},
            "--backbone_rate_factor=0.1: --freeze=backbone .*--unfreeze_at_epoch",
        ),
        (
            {"augment": "rotation,zoom:0.1,rotation:5"},
            "--augment=.*: rotation .*twice",
        ),
        ({"augment": "rotation,blur"}, "--augment=.*'blur' .*rotation, shift, zoom, brightness, contrast"),
        ({"augment": "zoom:wide"}, "--augment=zoom:wide: 'wide' .*zoom:0.1"),
        ({"augment": "rotation:200"}, "--augment=rotation:200: rotation .*180"),
        ({"class_weights": "covid"}, "--class_weights=covid: .*none, balanced, .*covid:2"),
        ({"class_weights": "covid:-1"}, "--class_weights=covid:-1: .*covid .*negative"),
        ({"class_weights": "covid:1,covid:2"}, "--class_weights=covid:1,covid:2: covid .*twice"),
    ],
)
def test_a_value_that_no_run_could_use_is_one_line_that_names_its_flag(values, message):
    with pytest.raises(UsageError, match=message) as caught:
        Recipe(**values)
    assert "\n" not in str(caught.value)


@pytest.mark.parametrize(
    ("values", "message"),
    [
        (
            {"epochs": 3, "recipe": Recipe(freeze="backbone", unfreeze_at_epoch=4)},
            "--unfreeze_at_epoch=4: .*--epochs=3",
        ),
        (
            {"epochs": 3, "recipe": Recipe(warmup_epochs=3.0)},
            "--warmup_epochs=3.0: .*--epochs=3",
        ),
        ({"dropout_after": "head_1"}, "--dropout_after=head_1: .*--dropout"),
        ({"epochs": 10**20}, "--epochs=100000000000000000000: .*at most"),
        ({"seed": 2**32}, "--seed=4294967296: .*4294967295"),
        (
            {"deterministic": True, "read": ReadOptions(data_service="grpc://a:1")},
            "--deterministic.*data_service",
        ),
    ],
)
def test_a_value_of_no_effect_beside_the_others_is_one_line_that_names_its_flag(values, message):
    with pytest.raises(UsageError, match=message) as caught:
        TrainConfig("vgg16", "data", "run", **values)
    assert "\n" not in str(caught.value)


@pytest.mark.parametrize(
    ("values", "message"),
    [
        ({"max_bad_records": 3}, "--max_bad_records=3: .*--on_bad_record=skip"),
        ({"cache_dir": "there", "cache": "none"}, "--cache_dir=there: .*--cache=disk"),
        ({"shuffle_mb": 3, "reader": "indexed"}, "--shuffle_mb=3: .*--reader=stream"),
        ({"verify": "never", "reader": "stream"}, "--verify=never: .*stream"),
    ],
)
def test_a_flag_of_reading_without_effect_is_refused(values, message):
    refuse_without_effect(ReadOptions())
    with pytest.raises(UsageError, match=message):
        refuse_without_effect(ReadOptions(**values))


def config(**recipe) -> TrainConfig:
    return TrainConfig(backbone="vgg16", data="data", run_dir="run", recipe=Recipe(**recipe))


def test_a_configuration_round_trips_and_one_without_a_recipe_has_the_studys(tmp_path):
    path = tmp_path / "config.json"
    written = config(optimizer="sgd", weight_decay=0.1, schedule="cosine", augment="all")
    written.save(path)
    # Where the run lies is the folder of the file, wherever that was moved.
    assert TrainConfig.load(path) == dataclasses.replace(written, run_dir=str(tmp_path))
    values = json.loads(path.read_text())
    del values["recipe"]
    values["read"]["cache_dir"] = "~/cache"  # as earlier runs have it
    path.write_text(json.dumps(values))
    assert TrainConfig.load(path).recipe == Recipe()
    assert TrainConfig.load(path).read.cache_dir == str(pathlib.Path.home() / "cache")


def test_every_value_of_the_recipe_decides_the_result():
    decides = config().what_decides_the_result()
    assert {field.name for field in dataclasses.fields(Recipe)} <= set(decides)
    assert "epochs" not in decides
    assert "epochs" in config(schedule="cosine").what_decides_the_result()


@given(st.booleans(), st.integers(0, 7), st.integers(8, 40), st.integers(0, 5))
def test_the_schedule_follows_its_formula_at_each_step(cosine, warmup, total, start):
    schedule = Schedule(0.2, cosine=cosine, warmup=warmup, total=total, start=start)
    for step in range(start, total + 3):
        expected = 0.2
        if step < warmup:
            expected *= (step + 1) / warmup
        elif cosine:
            expected *= (1 + math.cos(math.pi * min((step - warmup) / (total - warmup), 1))) / 2
        assert float(schedule(tf.constant(step - start))) == pytest.approx(expected, abs=1e-7)


def test_the_default_is_adam_at_a_constant_rate():
    (variable,) = variables = [keras.Variable(np.ones([2, 2]), name="kernel")]
    optimizer = make_optimizer(Recipe(), TrainConfig.learning_rate, variables)
    assert optimizer.get_config() == keras.optimizers.Adam(1e-4).get_config() | {"name": optimizer.name}
    assert variable.shape == (2, 2)


@pytest.mark.parametrize(("replicas", "compile"), [(1, False), (1, True), (2, False)])
@pytest.mark.parametrize("decay", [0.0, 0.1])
def test_adam_in_one_pass_is_keras_adam(decay, replicas, compile):
    strategy = choose_placement("one" if replicas == 1 else "mirrored", "float32", "off").strategy
    assert strategy.num_replicas_in_sync == replicas
    generator = np.random.default_rng(0)
    start = [generator.normal(size=shape).astype(np.float32) for shape in ([5, 4], [4])]
    gradients = [[generator.normal(size=value.shape).astype(np.float32) for value in start] for _ in range(4)]
    recipe = Recipe(optimizer="adamw" if decay else "adam", weight_decay=decay)
    with strategy.scope():
        kernel, bias = variables = [keras.Variable(value) for value in start]
        ours = make_optimizer(recipe, 0.01, variables)
        ours.build(variables)
    reference = [keras.Variable(value) for value in start]
    keras_class = keras.optimizers.AdamW if decay else keras.optimizers.Adam
    theirs = keras_class(0.01, weight_decay=decay or None)
    if decay:
        theirs.exclude_from_weight_decay(var_list=reference[1:])
    theirs.build(reference)
    update = tf.function(lambda *values: ours.apply(list(values), variables), jit_compile=compile)
    take_reduced_gradients(ours)
    for values in gradients:
        strategy.run(update, args=tuple(map(tf.constant, values)))
        theirs.apply(list(map(tf.constant, values)), reference)
    np.testing.assert_allclose(kernel, reference[0], atol=1e-6)
    np.testing.assert_allclose(bias, reference[1], atol=1e-6)
    for part in strategy.experimental_local_results(kernel.value):
        np.testing.assert_array_equal(part.numpy(), kernel)


@pytest.mark.parametrize("name", ["adamw", "sgd"])
def test_decay_is_decoupled_and_spares_biases(name):
    kernel, bias = variables = [keras.Variable(np.full([2, 2], 3.0)), keras.Variable(np.full([2], 3.0))]
    optimizer = make_optimizer(Recipe(optimizer=name, weight_decay=0.5), 0.1, variables)
    optimizer.build(variables)
    optimizer.apply([tf.zeros([2, 2]), tf.zeros([2])], variables)
    np.testing.assert_allclose(kernel, 3 - 0.1 * 0.5 * 3, rtol=1e-6)
    np.testing.assert_array_equal(bias, 3.0)


def test_a_group_that_joins_later_moves_as_with_a_new_optimizer():
    first, later = keras.Variable([1.0]), keras.Variable([1.0])
    groups = ParameterGroups([(keras.optimizers.Adam(0.01), [first]), (keras.optimizers.Adam(0.01), [later])])
    groups.build([first])
    groups.optimizers[0].iterations.assign(1000)
    groups.apply([tf.constant([1.0]), tf.constant([1.0])], [later, first])
    np.testing.assert_allclose(later, 0.99, rtol=1e-6)
    assert int(groups.iterations) == 1001


def test_the_objective_equals_keras_with_smoothing_and_weights():
    generator = np.random.default_rng(0)
    labels = generator.integers(0, 3, 9).astype(np.int32)
    logits = generator.normal(size=[9, 3]).astype(np.float32)
    expected = keras.losses.categorical_crossentropy(
        np.eye(3)[labels], logits, from_logits=True, label_smoothing=0.2
    )
    weights = np.array([1.0, 2.0, 0.5])
    np.testing.assert_allclose(Objective(0.2)(labels, logits).loss, expected, rtol=1e-5)
    weighted = Objective(0.2, tuple(weights))(labels, logits).loss
    np.testing.assert_allclose(weighted, expected * weights[labels], rtol=1e-5)


def test_class_weights_balance_the_training_images_or_are_named():
    images = {"covid": 10, "normal": 30, "pneumonia": 20}
    balanced = resolve_class_weights("balanced", CLASS_NAMES, images)
    assert balanced == pytest.approx((2.0, 2 / 3, 1.0))
    assert np.average(balanced, weights=list(images.values())) == pytest.approx(1)
    assert resolve_class_weights("none", CLASS_NAMES, images) == ()
    assert resolve_class_weights("normal:0.5", CLASS_NAMES, images) == (1.0, 0.5, 1.0)
    with pytest.raises(UsageError, match="--class_weights=.*'healthy'.*covid, normal, pneumonia"):
        resolve_class_weights("healthy:1", CLASS_NAMES, images)
    with pytest.raises(UsageError, match="--class_weights=covid:0,normal:0,pneumonia:0: "):
        resolve_class_weights("covid:0,normal:0,pneumonia:0", CLASS_NAMES, images)


def test_a_finding_without_positive_or_without_negative_targets_keeps_its_weight():
    labels = np.array([[1, 1, 0, -1], [1, 0, 0, 0], [1, 0, -2, -2]])
    names = ("always", "some", "never", "uncertain")
    assert resolve_positive_weights("balanced", names, labels) == (1, 2, 1, 1)
    assert resolve_positive_weights("balanced", names, labels, (0.2, 0.3)) == pytest.approx((1, 2, 1, 7))
    assert resolve_positive_weights("balanced", names, labels, (0.0, 0.0)) == (1, 2, 1, 1)
