"""The kernel against Pillow, and against exact integer arithmetic."""

import subprocess
import sys

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from PIL import Image

from cxr_data.images import resize as module
from cxr_data.images.resize import resize_image


def noise(height, width, seed=0):
    return np.random.default_rng(seed).integers(0, 256, (height, width), np.uint8)


def pillow(image, size):
    """Pillow's passes in our order; alone it takes the vertical one first where that costs less."""
    wide = Image.fromarray(image).resize((size, image.shape[0]), Image.Resampling.BICUBIC)
    return np.asarray(wide.resize((size, size), Image.Resampling.BICUBIC))


def pillow_alone(image, size):
    return np.asarray(Image.fromarray(image).resize((size, size), Image.Resampling.BICUBIC))


def exact(image, size):
    """The same passes in 64-bit integers, one output after the other."""
    for _ in range(2):  # each pass shrinks the rows and turns the picture
        low, taps = module.coefficients_of(image.shape[1], size)
        weights = np.rint(taps * module.SCALE).astype(np.int64)
        out = np.empty((size, image.shape[0]), np.uint8)
        for i in range(size):
            window = image[:, low[i] : low[i] + weights.shape[1]].astype(np.int64)
            sums = window @ weights[i, : window.shape[1]]
            out[i] = np.clip((sums + module.SCALE // 2) // module.SCALE, 0, 255)
        image = out
    return image


SIDE = st.integers(1, 90)


@settings(max_examples=80, deadline=None)
@given(height=SIDE, width=SIDE, size=st.integers(1, 70), seed=st.integers(0, 99))
def test_float32_gives_the_exact_integers(height, width, size, seed):
    image = noise(height, width, seed)
    np.testing.assert_array_equal(resize_image(image, size), exact(image, size))


@settings(max_examples=80, deadline=None)
@given(height=SIDE, width=SIDE, size=st.integers(1, 70), seed=st.integers(0, 99))
def test_at_most_two_levels_from_pillow(height, width, size, seed):
    image = noise(height, width, seed)
    # One in the first pass, 1.25 times that in the second, and the rounding of both.
    assert np.abs(resize_image(image, size).astype(int) - pillow(image, size)).max() <= 2


@pytest.mark.parametrize(
    ("height", "width"), [(1024, 1024), (512, 512), (700, 1300), (1, 2000), (360, 360), (3000, 7)]
)
def test_common_and_odd_sizes_to_360(height, width):
    image = noise(height, width)
    difference = np.abs(resize_image(image, 360).astype(int) - pillow(image, 360))
    assert difference.max() <= 1
    assert difference.mean() < 0.05


@pytest.mark.parametrize("value", [0, 1, 127, 254, 255])
def test_a_flat_picture_stays_flat(value):
    assert (resize_image(np.full((5000, 33), value, np.uint8), 40) == value).all()


def test_the_sums_fit_into_24_bits():
    for inputs, outputs in [(1024, 360), (65535, 360), (3, 360), (361, 360)]:
        _, taps = module.coefficients_of(inputs, outputs)
        assert np.abs(taps).sum(axis=1).max() * 255 * module.SCALE < 2**24


def test_colour_is_three_gray_pictures():
    image = np.random.default_rng(0).integers(0, 256, (50, 60, 3), np.uint8)
    for channel in range(3):
        expected = resize_image(np.ascontiguousarray(image[..., channel]), 24)
        np.testing.assert_array_equal(resize_image(image, 24)[..., channel], expected)


@pytest.mark.parametrize("threads", ["1", "2"])
def test_any_number_of_blas_threads_gives_the_same_bytes(threads, tmp_path):
    code = (
        "import numpy as np, sys; from cxr_data.images.resize import resize_image;"
        "image = np.random.default_rng(0).integers(0, 256, (1500, 1400), np.uint8);"
        "sys.stdout.buffer.write(resize_image(image, 360).tobytes())"
    )
    environment = {"OPENBLAS_NUM_THREADS": threads, "PYTHONPATH": ":".join(sys.path)}
    done = subprocess.run([sys.executable, "-c", code], env=environment, capture_output=True, check=True)
    np.testing.assert_array_equal(
        np.frombuffer(done.stdout, np.uint8).reshape(360, 360), resize_image(noise(1500, 1400), 360)
    )


def test_fidelity_on_real_images(shared):
    paths = sorted((shared / "data" / "cxr_sample").rglob("*.*"))[::12]
    differences = []
    for path in paths:
        gray = np.asarray(Image.open(path).convert("L"))
        differences.append(np.abs(resize_image(gray, 360).astype(int) - pillow_alone(gray, 360)).mean())
    assert len(differences) > 20
    assert max(differences) < 0.5
    assert np.mean(differences) < 0.01
