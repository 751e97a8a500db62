"""The occlusion check: passes for maps that tell the truth, fails for those that do not."""

import keras
import numpy as np
import pytest

from cxr_train.explanation.gradcam import GradCam
from cxr_train.explanation.occlusion import check_occlusion, paired_difference

SIZE = 24
GREY = np.full(3, 0.5)


class Told:
    """Stands for Grad-CAM: gives the map that it was told, whatever the network."""

    layers = ("told",)

    def __init__(self, heat: np.ndarray) -> None:
        self._heat = heat.astype(np.float32)

    def __call__(self, images, classes):
        return [np.broadcast_to(self._heat, [len(images), *self._heat.shape])], None


def corner_brightness(images: np.ndarray) -> np.ndarray:
    """A network that looks at the upper left quarter only."""
    score = images[:, : SIZE // 2, : SIZE // 2].mean(axis=(1, 2, 3))
    return np.stack([10 * score, -score], axis=1)


def check(heat: np.ndarray, groups: np.ndarray):
    images = np.random.default_rng(0).uniform(0.7, 1.0, [len(groups), SIZE, SIZE, 3]).astype(np.float32)
    return check_occlusion(Told(heat), corner_brightness, images.__getitem__, groups, GREY)


CORNER = np.zeros([SIZE, SIZE])
CORNER[:8, :8] = 1


def test_a_map_of_what_the_network_uses_passes():
    result = check(CORNER, np.arange(20))
    assert result.verdict == "passed"
    # 58 of the quarter's 144 pixels fall from about 0.85 to 0.5, ten times their share.
    assert result.hot_drop == pytest.approx(10 * 0.35 * 58 / 144, rel=0.05)
    assert 0 < result.random_drop < result.hot_drop
    assert result.interval[0] <= result.difference <= result.interval[1]
    assert str(result).startswith("occlusion check PASSED: ")


def test_a_map_of_what_the_network_ignores_fails_and_says_so():
    result = check(CORNER[::-1, ::-1], np.arange(20))
    assert result.verdict == "failed"
    assert result.difference < 0
    assert "FAILED: do NOT " in str(result)
    assert result.to_json()["verdict"] == "failed"


def test_a_flat_map_fails_and_is_counted():
    # The first tenth of the rows stands in for the hottest: part of it is in the corner by chance.
    result = check(np.zeros([SIZE, SIZE]), np.arange(20))
    assert result.flat_maps == 20
    assert "20 maps were flat" in str(result)


def test_few_patients_decide_nothing_however_many_images():
    result = check(CORNER, np.arange(20) % 5)
    assert (result.images, result.groups, result.verdict) == (20, 5, "undecided")
    assert "UNDECIDED: fewer than 6 patients" in str(result)


def test_the_interval_of_single_images_is_the_usual_one_and_grows_with_clusters():
    rng = np.random.default_rng(1)
    differences = np.repeat(rng.normal(0.3, 1.0, 100), 4)
    mean, (low, high), p_value = paired_difference(differences, np.arange(400), np.random.default_rng(2))
    error = 1.96 * differences.std(ddof=1) / np.sqrt(400)
    assert mean == pytest.approx(differences.mean())
    assert (mean - low, high - mean) == (pytest.approx(error, rel=0.1), pytest.approx(error, rel=0.1))
    clustered_mean, (low_4, high_4), clustered_p = paired_difference(
        differences, np.arange(400) // 4, np.random.default_rng(2)
    )
    assert clustered_mean == pytest.approx(mean)
    assert high_4 - low_4 == pytest.approx(2 * (high - low), rel=0.15)
    assert p_value < clustered_p


def test_without_a_difference_the_p_value_is_not_small():
    differences = np.random.default_rng(3).normal(0.0, 1.0, 60)
    _, _, p_value = paired_difference(
        differences - differences.mean(), np.arange(60), np.random.default_rng(0)
    )
    assert 0.3 < p_value < 0.7
    assert paired_difference(np.zeros(20), np.arange(20), np.random.default_rng(0))[2] == 1.0


def spots(count: int, seed: int) -> tuple[np.ndarray, np.ndarray]:
    """Noisy images, the half of them with a bright spot at a random place: the class."""
    rng = np.random.default_rng(seed)
    images = rng.normal(0.4, 0.05, [count, SIZE, SIZE, 1]).astype(np.float32)
    labels = np.arange(count) % 2
    for image, label in zip(images, labels, strict=True):
        row, column = rng.integers(0, SIZE - 6, 2)
        image[row : row + 6, column : column + 6] += 0.5 * label
    return np.repeat(np.clip(images, 0, 1), 3, axis=-1), labels


def test_grad_cam_of_a_network_that_learned_a_local_sign_passes_and_of_noise_fails():
    keras.utils.set_random_seed(0)
    inputs = keras.Input((SIZE, SIZE, 3))
    x = keras.layers.Rescaling(4.0, -1.6)(inputs)  # the background around 0
    x = keras.layers.Conv2D(8, 5, strides=2, activation="relu", padding="same")(x)
    x = keras.layers.Conv2D(16, 3, activation="relu", padding="same", name="last")(x)
    model = keras.Model(inputs, keras.layers.Dense(2)(keras.layers.GlobalAveragePooling2D()(x)))
    model.compile("adam", keras.losses.SparseCategoricalCrossentropy(from_logits=True))
    model.optimizer.learning_rate = 3e-3
    images, labels = spots(256, seed=1)
    model.fit(images, labels, batch_size=32, epochs=15, verbose=0)

    unseen, expected = spots(40, seed=2)
    predicted = model.predict(unseen, verbose=0).argmax(axis=1)
    assert (predicted == expected).mean() > 0.9
    shown = unseen[expected == 1]  # a spot can be blanked, its absence cannot

    def predict(batch):
        return model(batch, training=False).numpy()

    cam = GradCam(model, ["last"])
    result = check_occlusion(cam, predict, shown.__getitem__, np.arange(len(shown)), shown.mean((0, 1, 2)))
    assert result.verdict == "passed", str(result)

    noise = Told(np.random.default_rng(0).random([6, 6]))
    noise_result = check_occlusion(
        noise, predict, shown.__getitem__, np.arange(len(shown)), shown.mean((0, 1, 2))
    )
    assert noise_result.verdict == "failed", str(noise_result)
