"""Training steps with a domain method: against eager references, on replicas and in micro-batches."""

import keras
import numpy as np
import pytest
import tensorflow as tf
from tiny_steps import BATCH, CLASSES, batches, one, tiny_model, train, two

from cxr_data.core.errors import UsageError
from cxr_train.models.parts import early_layer
from cxr_train.recipe.domain.coral import Coral
from cxr_train.recipe.domain.dann import Dann
from cxr_train.recipe.domain.groupdro import GroupDro
from cxr_train.recipe.domain.irm import Irm
from cxr_train.recipe.domain.method import BalancedSources, DomainMethod
from cxr_train.recipe.domain.mixstyle import MixStyle
from cxr_train.recipe.loss import FindingsObjective, Objective
from cxr_train.recipe.loss_scale import LossScale

SOURCES = BalancedSources((5, 2), (0.5, 0.5))
UNEVEN = BalancedSources((5, 2), (0.75, 0.25))
FEATURES, ETA = 6, 0.5
MAKE = {
    "coral": lambda strength: Coral(SOURCES, Objective(), strength),
    "dann": lambda strength: Dann(SOURCES, Objective(), strength, features=FEATURES, rate=0.01),
    "irm": lambda strength: Irm(SOURCES, Objective(), strength, 0),
}


def sourced(count: int, *, findings: bool = False, ones: int = 4) -> list[dict[str, np.ndarray]]:
    """Batches of which `ones` examples are of the second source, in any order."""
    random = np.random.default_rng(7)
    items = batches(count)
    for item in items:
        item["source"] = random.permutation(np.where(np.arange(BATCH) < ones, 2, 5)).astype(np.int32)
        item["image"] += (item["source"] == 2)[:, None, None, None].astype(np.float32) / 2
        item["index"] = np.arange(BATCH)
        if findings:
            item["label"] = random.choice([1, 0, -1, -2], size=[BATCH, CLASSES]).astype(np.int32)
    return items


def trained(strategy, items, make, **options) -> tuple[keras.Model, DomainMethod, object]:
    with strategy.scope():
        domain = make()
    model, step, records = train(strategy, items, domain=domain, **options)
    return model, domain, (step, records)


def coral_penalty(features, logits, item, rows) -> tf.Tensor:
    moments = []
    for number in SOURCES.numbers:
        own = tf.gather(features, np.flatnonzero(item["source"][rows] == number))
        if own.shape[0] < 2:
            return tf.zeros([])
        mean = tf.reduce_mean(own, axis=0)
        centred = own - mean
        moments.append((mean, tf.matmul(centred, centred, transpose_a=True) / (own.shape[0] - 1)))
    return sum(tf.reduce_mean((a - b) ** 2) for a, b in zip(*moments, strict=True))


def irm_penalty(features, logits, item, rows) -> tf.Tensor:
    squares = []
    for number in SOURCES.numbers:
        own = np.flatnonzero(item["source"][rows] == number)
        if len(own) < 2:
            continue
        halves = []
        for half in (own[::2], own[1::2]):
            factor = tf.ones([])
            with tf.GradientTape() as tape:
                tape.watch(factor)
                loss = cross_entropy(item["label"][rows][half], tf.gather(logits, half) * factor)
            halves.append(tape.gradient(loss, factor))
        squares.append(halves[0] * halves[1])
    return tf.reduce_mean(squares) if squares else tf.zeros([])


def cross_entropy(label, logits) -> tf.Tensor:
    return tf.reduce_mean(tf.nn.sparse_softmax_cross_entropy_with_logits(label, logits))


def reference(items, penalty, strength: float, parts: int) -> list[np.ndarray]:
    """Eager descent on the mean loss and the mean penalty over the parts of a batch."""
    model = tiny_model()
    both = keras.Model(model.inputs[0], [model.get_layer("pooling").output, model.output])
    for item in items:
        with tf.GradientTape() as tape:
            loss = 0.0
            for rows in np.split(np.arange(BATCH), parts):
                features, logits = both(item["image"][rows], training=True)
                loss += cross_entropy(item["label"][rows], logits) / parts
                loss += strength * penalty(features, logits, item, rows) / parts
        gradients = tape.gradient(loss, model.trainable_variables)
        for variable, gradient in zip(model.trainable_variables, gradients, strict=True):
            variable.assign(variable - 0.1 * gradient)
    return model.get_weights()


@pytest.mark.parametrize(
    ("method", "penalty", "strategy", "accumulation", "compile"),
    [
        pytest.param("coral", coral_penalty, one, 2, False, marks=pytest.mark.ci),
        ("coral", coral_penalty, two, 1, False),
        ("irm", irm_penalty, one, 1, True),
        pytest.param("coral", coral_penalty, one, 1, True, marks=pytest.mark.ci),
        pytest.param("irm", irm_penalty, one, 2, False, marks=pytest.mark.ci),
        pytest.param("irm", irm_penalty, two, 1, False, marks=pytest.mark.ci),
    ],
)
def test_a_penalty_is_its_mean_over_replicas_and_micro_batches(
    method, penalty, strategy, accumulation, compile
):
    items = sourced(3)
    strategy = strategy()
    model, _, (step, _) = trained(
        strategy, items, lambda: MAKE[method](3.0), accumulation=accumulation, compile=compile
    )
    parts = accumulation * strategy.num_replicas_in_sync
    expected = reference(items, penalty, 3.0, parts)
    for weight, value in zip(model.get_weights(), expected, strict=True):
        np.testing.assert_allclose(weight, value, atol=1e-5)
    plain = reference(items, penalty, 0.0, parts)
    assert max(np.abs(a - b).max() for a, b in zip(plain, expected, strict=True)) > 1e-3
    assert step.traces["step"] == 1


@pytest.mark.parametrize(
    ("strategy", "accumulation", "compile"),
    [
        (two, 1, True),
        pytest.param(one, 2, False, marks=pytest.mark.ci),
        pytest.param(one, 1, True, marks=pytest.mark.ci),
    ],
)
def test_dann_gives_the_network_the_discriminators_gradient_reversed(strategy, accumulation, compile):
    (item,), made = sourced(1), []

    def make() -> Dann:
        made.append(MAKE["dann"](2.0))
        made.append([variable.numpy() for variable in made[0].trained])
        return made[0]

    model, domain, _ = trained(strategy(), [item], make, accumulation=accumulation, compile=compile)
    layers = [tf.Variable(value) for value in made[1]]
    start = tiny_model()
    both = keras.Model(start.inputs[0], [start.get_layer("pooling").output, start.output])
    with tf.GradientTape(persistent=True) as tape:
        x, logits = both(item["image"], training=True)
        loss = cross_entropy(item["label"], logits)
        for kernel, bias in zip(layers[::2], layers[1::2], strict=True):
            x = tf.nn.relu(x @ kernel + bias) if kernel.shape[1] > 2 else x @ kernel + bias
        of_source = cross_entropy((item["source"] == 2).astype(np.int32), x)
    variables = start.trainable_variables
    gradients = zip(tape.gradient(loss, variables), tape.gradient(of_source, variables), strict=True)
    for variable, weight, (plain, of_features) in zip(
        variables, model.trainable_variables, gradients, strict=True
    ):
        of_features = 0 if of_features is None else of_features
        np.testing.assert_allclose(weight, variable - 0.1 * (plain - 2 * of_features), atol=1e-5)
    for variable, before, gradient in zip(
        domain.trained, made[1], tape.gradient(of_source, layers), strict=True
    ):
        clear = np.abs(gradient) > 1e-3  # Adam's first step is its rate, in the direction of descent
        step = (variable.numpy() - before)[clear]
        np.testing.assert_allclose(step, -0.01 * np.sign(gradient)[clear], rtol=5e-3)


def test_danns_factor_rises_with_the_steps_however_the_batch_is_split():
    items = sourced(3)

    def weights(strategy, steps: int, accumulation: int = 1) -> np.ndarray:
        def make() -> Dann:
            keras.utils.set_random_seed(0)
            # A discriminator that hardly learns: Adam would make a step of rounding errors.
            return Dann(SOURCES, Objective(), 2.0, features=FEATURES, rate=1e-7, steps=steps)

        model, domain, _ = trained(strategy(), items, make, accumulation=accumulation)
        assert int(domain.optimizer.iterations.numpy()) == 3
        return np.concatenate([np.ravel(weight) for weight in model.get_weights()])

    alone = weights(one, 8)
    np.testing.assert_allclose(weights(two, 8), alone, atol=1e-5)
    np.testing.assert_allclose(weights(one, 8, accumulation=2), alone, atol=1e-5)
    # Had two replicas counted each step twice, they would have been here.
    assert np.abs(weights(one, 4) - alone).max() > 1e-4
    assert np.abs(weights(one, 0) - alone).max() > 1e-3


def balanced_reference(items, eta: float, *, findings: bool = False) -> tuple[list[np.ndarray], np.ndarray]:
    """Eager descent on sum_d q_d L_d over the whole batch; q moves after each step."""
    model, q = tiny_model(), np.full(2, 0.5)
    for item in items:
        losses = []
        with tf.GradientTape() as tape:
            logits = model(item["image"], training=True)
            for number in SOURCES.numbers:
                own = np.flatnonzero(item["source"] == number)
                label, mine = item["label"][own], tf.gather(logits, own)
                if findings:
                    each = tf.nn.sigmoid_cross_entropy_with_logits(np.float32(label == 1), mine)
                    losses.append(tf.reduce_mean(each[label >= 0]))
                else:
                    losses.append(cross_entropy(label, mine))
            loss = q[0] * losses[0] + q[1] * losses[1]
        for variable, gradient in zip(
            model.trainable_variables, tape.gradient(loss, model.trainable_variables), strict=True
        ):
            variable.assign(variable - 0.1 * gradient)
        q = q * np.exp(eta * np.array(losses))
        q /= q.sum()
    return model.get_weights(), q


@pytest.mark.parametrize(
    ("findings", "strategy", "accumulation", "compile"),
    [
        (False, one, 1, True),
        (True, two, 2, False),
        pytest.param(False, one, 4, False, marks=pytest.mark.ci),
        pytest.param(False, two, 2, False, marks=pytest.mark.ci),
        pytest.param(True, one, 1, True, marks=pytest.mark.ci),
        pytest.param(True, one, 4, False, marks=pytest.mark.ci),
    ],
)
def test_groupdro_is_the_same_however_the_batch_is_split(findings, strategy, accumulation, compile):
    items = sourced(4, findings=findings)
    objective = FindingsObjective() if findings else Objective()
    model, domain, _ = trained(
        strategy(),
        items,
        lambda: GroupDro(SOURCES, objective, ETA),
        objective=objective,
        accumulation=accumulation,
        compile=compile,
    )
    weights, q = balanced_reference(items, ETA, findings=findings)
    np.testing.assert_allclose(domain.q.numpy(), q, rtol=1e-5)
    assert abs(q[0] - 0.5) > 1e-3
    for weight, value in zip(model.get_weights(), weights, strict=True):
        np.testing.assert_allclose(weight, value, atol=1e-5)


@pytest.mark.parametrize(("strategy", "accumulation"), [(two, 2)])
@pytest.mark.parametrize(
    ("findings", "sources", "ones"),
    [(False, UNEVEN, 2), pytest.param(True, SOURCES, 4, marks=pytest.mark.ci)],
)
def test_balanced_gives_each_source_the_same_weight(findings, sources, ones, strategy, accumulation):
    items = sourced(3, findings=findings, ones=ones)
    objective = FindingsObjective() if findings else Objective()
    make = lambda: DomainMethod(sources, objective)  # noqa: E731
    model, _, _ = trained(strategy(), items, make, objective=objective, accumulation=accumulation)
    weights, _ = balanced_reference(items, 0.0, findings=findings)
    for weight, value in zip(model.get_weights(), weights, strict=True):
        np.testing.assert_allclose(weight, value, atol=1e-5)


@pytest.mark.parametrize(
    ("strategy", "compile"),
    [(one, False), *(pytest.param(*each, marks=pytest.mark.ci) for each in ((two, False), (one, True)))],
)
def test_balanced_with_equal_shares_and_every_strength_of_0_is_erm_bit_for_bit(strategy, compile):
    items = sourced(2)
    plain, _, _ = train(strategy(), items, compile=compile)
    makes = [lambda: DomainMethod(SOURCES, Objective())]
    if strategy is one and not compile:
        makes += [lambda make=make: make(0.0) for make in MAKE.values()]
    for make in makes:
        model, _, _ = trained(strategy(), items, make, compile=compile)
        for weight, value in zip(model.get_weights(), plain.get_weights(), strict=True):
            np.testing.assert_array_equal(weight, value)


@pytest.mark.parametrize(
    ("method", "strategy", "compile"),
    [
        ("dann", two, False),
        ("groupdro", one, True),
        pytest.param("dann", one, True, marks=pytest.mark.ci),
        pytest.param("groupdro", two, False, marks=pytest.mark.ci),
    ],
)
def test_a_step_that_overflows_leaves_the_methods_state_as_it_was(method, strategy, compile):
    items = sourced(1)
    items[0]["image"][0] = 3e38
    made = []

    def make() -> DomainMethod:
        made.append(GroupDro(SOURCES, Objective(), ETA) if method == "groupdro" else MAKE["dann"](1.0))
        made.append([value.numpy() for value in made[0].state])
        return made[0]

    strategy = strategy()
    _, domain, (step, _) = trained(strategy, items, make, policy="mixed_float16", compile=compile)
    assert step.loss_scale.skipped_steps.numpy() == 1
    for value, before in zip(domain.state, made[1], strict=True):
        for copy in strategy.experimental_local_results(value):
            np.testing.assert_array_equal(copy.numpy(), before)


@pytest.mark.parametrize(
    "method", ["coral", *(pytest.param(method, marks=pytest.mark.ci) for method in ("dann", "irm"))]
)
def test_in_16_bits_a_penalty_is_near_its_value_in_float32(method):
    items = sourced(1)
    for item in items:
        item["image"] *= 30  # the squares of its features' covariances overflow float16
    exact, _, _ = trained(one(), items, lambda: MAKE[method](0.01))
    scale = lambda: LossScale(1.0)  # noqa: E731
    found, _, (step, _) = trained(
        one(), items, lambda: MAKE[method](0.01), policy="mixed_float16", scale=scale
    )
    assert step.loss_scale.skipped_steps.numpy() == 0
    for weight, value in zip(found.get_weights(), exact.get_weights(), strict=True):
        np.testing.assert_allclose(weight, value, atol=0.05 * (1 + np.abs(value).max()))


def test_irms_optimizer_begins_as_a_new_one_after_its_warm_up():
    items = sourced(1) * 6
    make = lambda: Irm(SOURCES, Objective(), 50.0, 4)  # noqa: E731
    adam = lambda: keras.optimizers.Adam(1e-3)  # noqa: E731
    _, _, (step, records) = trained(one(), items, make, optimizer=adam)
    (optimizer,) = step.optimizers
    assert int(optimizer.iterations.numpy()) == 2
    assert float(optimizer.learning_rate) == pytest.approx(1e-3)
    # A step that is taken alone knows its number, and with it the weight.
    model, _, _ = trained(one(), items[:5], make, optimizer=adam)
    assert np.isfinite(records.loss).all()
    assert all(np.isfinite(weight).all() for weight in model.get_weights())


@pytest.mark.parametrize(
    ("strategy", "compile"), [(one, True), pytest.param(two, False, marks=pytest.mark.ci)]
)
def test_mixstyle_changes_the_training_and_nothing_of_the_model(strategy, compile):
    items = sourced(2)
    saved = tiny_model().get_config()
    plain, _, _ = train(strategy(), items, compile=compile)
    for strength in (0.0, 1.0):
        model, _, (step, _) = trained(
            strategy(), items, lambda s=strength: MixStyle(SOURCES, Objective(), s), compile=compile
        )
        same = [np.array_equal(*pair) for pair in zip(model.get_weights(), plain.get_weights(), strict=True)]
        assert all(same) == (strength == 0)
        assert step.traces["step"] == 1
        assert [layer["class_name"] for layer in model.get_config()["layers"]] == [
            layer["class_name"] for layer in saved["layers"]
        ]


def test_mixstyle_needs_an_early_stage():
    assert early_layer(tiny_model()).startswith("conv2d")
    inputs = keras.Input([1, 1, 16])
    with pytest.raises(UsageError, match="--domain_method=mixstyle: "):
        early_layer(keras.Model(inputs, keras.layers.Flatten(name="pooling")(inputs)))
