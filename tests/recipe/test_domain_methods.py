"""The penalties of the domain methods, against their definitions written out."""

import itertools

import numpy as np
import pytest
import tensorflow as tf

from cxr_data.core.errors import UsageError
from cxr_data.input.options import ReadOptions
from cxr_train.recipe.domain import coral, fda, groupdro, irm
from cxr_train.recipe.domain.dann import Dann, ramp, reverse_gradient
from cxr_train.recipe.domain.make import make_domain_method
from cxr_train.recipe.domain.method import BalancedSources
from cxr_train.recipe.domain.mixstyle import MixStyle, beta_quantiles, mixed
from cxr_train.recipe.domain.settings import STRENGTHS
from cxr_train.recipe.loss import FindingsObjective, Objective
from cxr_train.recipe.recipe import Recipe
from cxr_train.runs.config import TrainConfig

TWO = BalancedSources((0, 1), (0.5, 0.5))
SOURCES = 3


def members_of(source: np.ndarray) -> np.ndarray:
    return (source[:, None] == np.arange(SOURCES)).astype(np.float64)


def coral_reference(features: np.ndarray, source: np.ndarray) -> tuple[float, float]:
    """Mean over pairs of the distances of means and of covariances, as the definition says."""
    pairs = list(itertools.combinations([features[source == k] for k in range(SOURCES)], 2))
    of_means = [((a.mean(axis=0) - b.mean(axis=0)) ** 2).mean() for a, b in pairs]
    of_covariances = [((np.cov(a.T) - np.cov(b.T)) ** 2).mean() for a, b in pairs]
    return float(np.mean(of_means)), float(np.mean(of_covariances))


def coral_of(features: np.ndarray, source: np.ndarray) -> list[float]:
    there = tf.ones(SOURCES, tf.float64)
    both = coral.distances(tf.constant(features), tf.constant(members_of(source)))
    return [float(coral.pair_mean(one, there)) for one in both]


def test_coral_is_its_definition_and_its_covariances_grow_by_81():
    random = np.random.default_rng(0)
    source = random.permutation(np.repeat(np.arange(SOURCES), [8, 9, 12]))
    features = random.normal(size=[len(source), 20]) + source[:, None]
    found = coral_of(features, source)
    np.testing.assert_allclose(found, coral_reference(features, source), rtol=1e-12)
    of_means, of_covariances = coral_of(3 * features, source)
    np.testing.assert_allclose([of_means / found[0], of_covariances / found[1]], [9, 81], rtol=1e-12)
    # The paper's 1 / (4 d^2) of the squared Frobenius norm.
    a, b = (np.cov(features[source == k].T) for k in (0, 1))
    paper = np.linalg.norm(a - b) ** 2 / (4 * 20**2)
    one = coral.distances(tf.constant(features), tf.constant(members_of(source)))[1][0, 1]
    assert float(one) / 4 == pytest.approx(paper, rel=1e-12)


def test_coral_of_equal_features_is_0_and_a_source_without_two_examples_does_not_count():
    random = np.random.default_rng(1)
    features = np.tile(random.normal(size=[8, 5]), [SOURCES, 1])
    source = np.repeat(np.arange(SOURCES), 8)
    np.testing.assert_allclose(coral_of(features, source), 0, atol=1e-12)
    method = coral.Coral(BalancedSources((0, 1, 2), (1 / 3,) * 3), Objective(), 1.0)

    def penalty(of_source: list[int], values: np.ndarray) -> float:
        batch = {
            "source": tf.constant(of_source, tf.int32),
            "weight": tf.ones(len(of_source)),
            "label": tf.zeros(len(of_source), tf.int32),
        }
        part = method.part(batch, None, None, tf.constant(values, tf.float16))
        return float(method.penalty(part))

    values = random.normal(size=[7, 4])
    with_one = penalty([0, 0, 0, 1, 1, 1, 2], values)
    assert with_one == pytest.approx(penalty([0, 0, 0, 1, 1, 1], values[:6]), rel=1e-6)
    assert with_one > 0
    assert penalty([0] * 7, values) == 0


@pytest.mark.parametrize("compile", [False, True])
def test_coral_in_float32_does_not_suffer_from_a_large_mean(compile):
    random = np.random.default_rng(8)
    source = random.permutation(np.repeat(np.arange(SOURCES), [8, 9, 12]))
    features = (1e4 + random.normal(size=[len(source), 20]) + 0.1 * source[:, None]).astype(np.float32)
    run = tf.function(coral.distances, jit_compile=compile)
    both = run(tf.constant(features), tf.constant(members_of(source), tf.float32))
    found = [float(coral.pair_mean(one, tf.ones(SOURCES))) for one in both]
    np.testing.assert_allclose(found, coral_reference(features.astype(np.float64), source), rtol=1e-4)


@pytest.mark.parametrize(("eta", "expected"), [(0.0, 0.75), (0.01, np.sqrt(3) / (1 + np.sqrt(3)))])
def test_groupdro_finds_the_minimax_of_two_quadratics(eta, expected):
    @tf.function
    def descend() -> tf.Tensor:
        w, q = tf.constant(0.0), tf.constant([0.5, 0.5])
        for _ in tf.range(6000):
            losses = tf.stack([w**2, 3 * (w - 1) ** 2])
            w -= 0.05 * tf.tensordot(q, tf.stack([2 * w, 6 * (w - 1)]), 1)
            q = groupdro.moved(q, losses, eta)
        return w

    assert float(descend()) == pytest.approx(expected, abs=1e-5)


def test_groupdro_survives_losses_of_any_size():
    q = groupdro.moved(tf.constant([0.5, 0.5]), tf.constant([2e4, 0.0]), 1.0)
    np.testing.assert_array_equal(q, [1, 0])


def test_groupdro_leaves_the_weight_of_a_source_that_is_not_there():
    before = tf.constant([0.2, 0.3, 0.5])
    q = groupdro.moved(before, tf.constant([3.0, np.nan, 1.0]), 0.1).numpy()
    assert q[1] == before[1].numpy()
    assert q.sum() == pytest.approx(1, abs=1e-6)
    assert q[0] / q[2] == pytest.approx(0.2 / 0.5 * np.exp(0.2), rel=1e-6)
    np.testing.assert_array_equal(groupdro.moved(before, tf.fill([3], np.nan), 0.1), before)


def slopes_by_two_tapes(loss, logits: tf.Tensor) -> tf.Tensor:
    """The derivative of each example's loss by a factor of its logits, and its own by the logits."""
    with tf.GradientTape() as outer:
        outer.watch(logits)
        factors = tf.ones([logits.shape[0], 1], tf.float64)
        with tf.GradientTape() as inner:
            inner.watch(factors)
            losses = loss(logits * factors)
        slopes = tf.squeeze(inner.gradient(losses, factors), 1)
        square = tf.reduce_sum(slopes**2)
    return slopes, outer.gradient(square, logits)


@pytest.mark.parametrize("weights", [(), (0.5, 1.0, 3.0)])
@pytest.mark.parametrize("smoothing", [0.0, 0.1])
@pytest.mark.parametrize("findings", [False, True])
def test_irms_closed_form_equals_nested_tapes(findings, smoothing, weights):
    random = np.random.default_rng(2)
    logits = tf.constant(random.normal(0, 3, size=[12, 3]))
    index = tf.range(12, dtype=tf.int64)
    factors = tf.constant(weights or (1.0,) * 3, tf.float64)
    if findings:
        labels = tf.constant(random.choice([1, 0, -1, -2], size=[12, 3]), tf.int32)
        objective = FindingsObjective(smoothing, weights, (0.7, 0.7))
        target = tf.where(labels == -1, np.float64(np.float32(0.7)), tf.cast(labels == 1, tf.float64))
        target = (1 - smoothing) * target + smoothing / 2

        def loss(z: tf.Tensor) -> tf.Tensor:
            each = factors * target * tf.nn.softplus(-z) + (1 - target) * tf.nn.softplus(z)
            return tf.reduce_sum(tf.where(labels > -2, each, 0), axis=1)
    else:
        labels = tf.constant(random.integers(0, 3, 12), tf.int32)
        objective = Objective(smoothing, weights)
        target = (1 - smoothing) * tf.one_hot(labels, 3, dtype=tf.float64) + smoothing / 3

        def loss(z: tf.Tensor) -> tf.Tensor:
            return -tf.reduce_sum(target * tf.nn.log_softmax(z), axis=1) * tf.gather(factors, labels)

    with tf.GradientTape() as tape:
        tape.watch(logits)
        slopes = objective.slopes(labels, logits, index)
        square = tf.reduce_sum(slopes**2)
    expected, expected_gradient = slopes_by_two_tapes(loss, logits)
    np.testing.assert_allclose(slopes, expected, atol=1e-8)
    np.testing.assert_allclose(tape.gradient(square, logits), expected_gradient, atol=1e-8)


def test_irms_penalty_is_the_product_over_two_halves_of_each_source():
    random = np.random.default_rng(3)
    source = random.permutation(np.repeat(np.arange(SOURCES), [5, 8, 1]))
    slopes, labels = random.normal(size=14), random.integers(1, 3, 14).astype(np.float64)
    expected = []
    for number in (0, 1):  # the third has no second half
        rows = np.flatnonzero(source == number)
        first, second = (slopes[half].sum() / labels[half].sum() for half in (rows[::2], rows[1::2]))
        expected.append(first * second)
    found = irm.penalty_of(tf.constant(slopes), tf.constant(labels), tf.constant(members_of(source)))
    assert float(found) == pytest.approx(np.mean(expected), rel=1e-12)


def test_mixed_maps_have_the_mixed_style_and_a_share_of_1_changes_nothing():
    random = np.random.default_rng(5)
    maps = random.normal(random.uniform(-3, 3, [6, 1, 1, 4]), 2, [6, 9, 7, 4]).astype(np.float32)
    partner, share = np.array([3, 0, 5, 1, 2, 4]), np.linspace(0, 1, 6, dtype=np.float32)
    result = mixed(tf.constant(maps), tf.constant(partner), tf.constant(share)).numpy()
    own = share[:, None, None]
    for statistic in (np.mean, np.std):
        of = statistic(maps, axis=(1, 2))[:, None]
        expected = own * of + (1 - own) * of[partner]
        np.testing.assert_allclose(statistic(result, axis=(1, 2))[:, None], expected, atol=1e-4)
    np.testing.assert_allclose(result[5], maps[5], atol=1e-5)
    with tf.GradientTape() as tape:  # statistics are constants: the gradient is a factor of each channel
        values = tf.constant(maps)
        tape.watch(values)
        total = tf.reduce_sum(mixed(values, tf.constant(partner), tf.constant(share)))
    gradient = tape.gradient(total, values).numpy()
    np.testing.assert_allclose(gradient, np.broadcast_to(gradient[:, :1, :1], maps.shape), rtol=1e-5)


def test_the_shares_are_of_the_beta_distribution():
    shares = beta_quantiles()
    assert shares.mean() == pytest.approx(0.5, abs=1e-3)
    assert shares.var() == pytest.approx(1 / (4 * (2 * 0.1 + 1)), rel=1e-2)
    np.testing.assert_allclose(beta_quantiles(1.0, 100), (np.arange(100) + 0.5) / 100, atol=1e-3)


@pytest.mark.parametrize("step", [0, 7])
def test_a_step_mixes_all_or_nothing_and_its_draws_follow_its_number(step):
    method = MixStyle(TWO, Objective(), 0.5)
    draws = method.draw(3, tf.constant(step, tf.int64), 8)
    np.testing.assert_array_equal(draws, method.draw(3, tf.constant(step, tf.int64), 8))
    assert (draws.numpy() != method.draw(3, tf.constant(step + 1, tf.int64), 8).numpy()).all()
    maps = tf.random.stateless_normal([8, 4, 4, 2], [1, 2])
    run = tf.function(method.mix, jit_compile=True)
    for coin, is_mixed in ((0.7, False), (0.3, True)):
        tossed = tf.concat([draws[:, :2], tf.fill([8, 1], coin)], axis=1)
        assert (run(maps, tossed).numpy() != maps.numpy()).any() == is_mixed


@pytest.mark.parametrize("size", [16, 15])
def test_fda_replaces_the_low_amplitudes_and_nothing_else(size):
    random = np.random.default_rng(6)
    images, target = random.random([2, 3, size, size, 2]).astype(np.float32)
    reach = fda.reach_of(0.15, size)
    low = fda.low_amplitudes(target, reach)
    result = tf.function(fda.with_low_amplitudes, jit_compile=True)(images, low).numpy()
    # The authors' own code: shifted, with a window around the middle.
    axes = (1, 2)
    spectra = [np.fft.fftshift(np.fft.fft2(one, axes=axes), axes=axes) for one in (images, target)]
    amplitude, phase = np.abs(spectra[0]), np.angle(spectra[0])
    rows = slice(size // 2 - reach, size // 2 + reach + 1)
    amplitude[:, rows, rows] = np.abs(spectra[1])[:, rows, rows]
    changed = np.fft.ifftshift(amplitude * np.exp(1j * phase), axes=axes)
    np.testing.assert_allclose(result, np.fft.ifft2(changed, axes=axes).real, atol=1e-5)
    # Parseval: the energy is that of the new amplitudes.
    np.testing.assert_allclose((result**2).sum(), (amplitude**2).sum() / size**2, rtol=1e-5)
    itself = fda.with_low_amplitudes(tf.constant(images), fda.low_amplitudes(images, reach))
    np.testing.assert_allclose(itself, images, atol=1e-5)


def test_fda_draws_an_image_of_the_target_for_each_image_and_beta_0_is_nothing():
    assert fda.reach_of(0.0, 224) == -1
    assert fda.reach_of(0.01, 224) == 2
    target = np.ones([2, 8, 8, 1], np.float32) * np.array([0.2, 0.9], np.float32)[:, None, None, None]
    adaptation = fda.FourierAdaptation(fda.low_amplitudes(target, 0))
    images = tf.constant(np.random.default_rng(7).integers(0, 256, [4, 8, 8, 1]), tf.uint8)
    changed = adaptation.change(images, tf.constant([0.0, 0.49, 0.5, 0.99]))
    np.testing.assert_allclose(np.mean(changed, axis=(1, 2, 3)), [0.2, 0.2, 0.9, 0.9], atol=1e-6)
    first = adaptation.draw(3, tf.constant(5, tf.int64), 4)
    np.testing.assert_array_equal(first, adaptation.draw(3, tf.constant(5, tf.int64), 4))
    assert (first.numpy() != adaptation.draw(3, tf.constant(6, tf.int64), 4).numpy()).all()


@pytest.mark.parametrize("replicas", [1, 2])
def test_the_gradient_is_reversed_exactly_under_xla(replicas):
    devices = [device.name for device in tf.config.list_logical_devices("CPU")][:replicas]
    reduce = tf.distribute.HierarchicalCopyAllReduce()
    strategy = tf.distribute.MirroredStrategy(devices, cross_device_ops=reduce)
    upstream = tf.constant(np.random.default_rng(4).normal(size=[3, 5]).astype(np.float32))

    @tf.function(jit_compile=True)
    def gradient(factor: tf.Tensor) -> tuple[tf.Tensor, tf.Tensor]:
        values = tf.ones([3, 5])
        with tf.GradientTape() as tape:
            tape.watch(values)
            same = reverse_gradient(values, factor)
            loss = tf.reduce_sum(same * upstream)
        return same, tape.gradient(loss, values)

    run = tf.function(lambda factor: strategy.run(lambda one: gradient(one), args=(factor,)))
    for factor in (0.0, 0.3, 2.0):
        same, found = run(tf.constant(factor))
        for one, forward in zip(*map(strategy.experimental_local_results, (found, same)), strict=True):
            np.testing.assert_array_equal(one, -np.float32(factor) * upstream)
            np.testing.assert_array_equal(forward, np.ones([3, 5]))


def test_the_reversed_gradient_grows_over_the_run():
    published = {0.0: 0.0, 0.25: 0.8483, 0.5: 0.9866, 1.0: 0.9999}
    for progress, expected in published.items():
        assert float(ramp(tf.constant(progress))) == pytest.approx(expected, abs=1e-4)
    random = np.random.default_rng(9)
    features = tf.constant(random.normal(size=[8, 4]).astype(np.float32))
    batch = {
        "source": tf.constant([0, 1] * 4, tf.int32),
        "weight": tf.ones(8),
        "label": tf.zeros(8, tf.int32),
    }

    def gradient(method: Dann) -> np.ndarray:
        with tf.GradientTape() as tape:
            tape.watch(features)
            penalty = method.penalty(method.part(batch, None, None, features))
        return tape.gradient(penalty, features).numpy()

    method = Dann(TWO, Objective(), 2.0, features=4, rate=0.1, steps=8)
    np.testing.assert_array_equal(gradient(method), 0)
    method.optimizer.iterations.assign(4)
    halfway = gradient(method)
    method.optimizer.iterations.assign(99)  # of a run that was resumed with more epochs
    at_the_end = gradient(method)
    assert np.abs(at_the_end).max() > 0
    np.testing.assert_allclose(halfway / at_the_end, 0.98661 / 0.99991, rtol=1e-3)
    assert any(variable is method.optimizer.iterations.value for variable in method.state)


def test_more_epochs_are_another_run_of_dann_alone():
    def decides(method: str) -> dict[str, object]:
        read = ReadOptions(balance_batches=True)
        config = TrainConfig("xception", "data", "run", recipe=Recipe(domain_method=method), read=read)
        return config.what_decides_the_result()

    assert "epochs" in decides("dann")
    assert "epochs" not in decides("coral")


@pytest.mark.parametrize(
    ("values", "flag"),
    [
        ({"domain_method": "mmd"}, "--domain_method=mmd: "),
        ({"domain_strength": 1.0}, "--domain_strength=1.0: "),
        ({"domain_method": "balanced", "domain_strength": 1.0}, "--domain_strength=1.0: "),
        ({"domain_method": "coral", "domain_strength": -1.0}, "--domain_strength=-1.0: "),
        ({"domain_method": "coral", "domain_strength": np.inf}, "--domain_strength=inf: "),
        ({"domain_method": "coral", "domain_strength": np.nan}, "--domain_strength=nan: "),
        ({"domain_method": "coral", "domain_warmup_steps": 3}, "--domain_warmup_steps=3: "),
        ({"domain_method": "irm", "schedule": "cosine"}, "--domain_method=irm: "),
        ({"domain_method": "irm", "focal_gamma": 2.0}, "--domain_method=irm: "),
    ],
    ids=str,
)
def test_what_no_method_can_do_is_refused(values, flag):
    with pytest.raises(UsageError, match=flag):
        Recipe(**values)


@pytest.mark.parametrize("method", ["balanced", *STRENGTHS])
def test_a_method_needs_balanced_batches_and_two_sources(method):
    recipe = Recipe(domain_method=method)
    with pytest.raises(UsageError, match=f"--domain_method={method}: .*--balance_batches"):
        TrainConfig("xception", "data", "run", recipe=recipe)
    assert TrainConfig("xception", "data", "run", recipe=recipe, read=ReadOptions(balance_batches=True))
    one = BalancedSources((3,), (1.0,))
    if method == "balanced":
        assert not make_domain_method(recipe, one, Objective(), features=4, rate=0.1).reweighs
    else:
        with pytest.raises(UsageError, match=f"--domain_method={method}: .*balanced"):
            make_domain_method(recipe, one, Objective(), features=4, rate=0.1)


@pytest.mark.parametrize("method", STRENGTHS)
def test_at_strength_0_a_method_is_group_balanced(method):
    recipe = Recipe(domain_method=method, domain_strength=0.0)
    made = make_domain_method(recipe, TWO, Objective(), features=4, rate=0.1)
    assert not made.reweighs
    assert not made.state
    assert not made.needs_features
