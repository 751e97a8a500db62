"""What is taken out of pictures: borders, and the traces of resolution and compression."""

import cv2
import numpy as np
import pytest
from audit_fixtures import chest
from hypothesis import given, settings
from hypothesis import strategies as st
from sharder_fixtures import encoded
from sklearn.linear_model import LogisticRegression
from sklearn.metrics import roc_auc_score
from sklearn.model_selection import cross_val_predict
from sklearn.pipeline import make_pipeline
from sklearn.preprocessing import StandardScaler

from cxr_data.convert.config import SharderConfig
from cxr_data.core.errors import UsageError
from cxr_data.images import measure
from cxr_data.images.harmonize import crop, equalize, parse_crop
from cxr_data.images.preprocess import PixelOptions, small_image
from cxr_data.images.resize import resize_image


def content_by_rows(pixels):
    """`auto`, slowly: takes one flat row or column at a time off any side, until there is none."""
    left = pixels
    while left.size:
        for side in range(4):
            turned = np.rot90(left, side)
            if turned[0].astype(int).max() - turned[0].min() <= 24:
                left = np.rot90(turned[1:], -side)
                break
        else:
            return left
    return pixels


@settings(max_examples=60, deadline=None)
@given(st.data())
def test_auto_takes_flat_borders_off_and_nothing_else(data):
    shape = data.draw(st.tuples(st.integers(1, 12), st.integers(1, 12)))
    levels = data.draw(st.lists(st.sampled_from([0, 20, 90, 255]), min_size=1, max_size=4))
    inner = np.random.default_rng(data.draw(st.integers(0, 99))).choice(levels, shape).astype(np.uint8)
    pixels = inner
    for _ in range(data.draw(st.integers(0, 3))):
        widths = data.draw(st.tuples(*[st.integers(0, 3)] * 4))
        level = data.draw(st.integers(0, 255))
        pixels = np.pad(pixels, (widths[:2], widths[2:]), constant_values=level)
    np.testing.assert_array_equal(crop(pixels, "auto"), content_by_rows(pixels))
    np.testing.assert_array_equal(
        crop(np.dstack([pixels] * 3), "auto"), np.dstack([content_by_rows(pixels)] * 3)
    )


@pytest.mark.parametrize("quality", [60, 75, 95])
def test_a_compressed_letter_box_is_taken_off(quality):
    picture = np.pad(chest(0, 200), ((37, 50), (21, 0)))
    decoded = cv2.imdecode(np.frombuffer(encoded(picture, "JPEG", quality=quality), np.uint8), 0)
    height, width = crop(decoded, "auto").shape
    assert 195 <= height <= 208  # within the block of the edge
    assert 195 <= width <= 208
    row = measure.row_of(resize_image(crop(decoded, "auto"), 96))
    assert (row["border_rows"], row["border_columns"]) == (0, 0)
    assert measure.row_of(resize_image(decoded, 96))["border_rows"] > 0.2


@given(st.floats(0.001, 0.25), st.integers(1, 60), st.integers(1, 60))
def test_a_share_is_the_same_of_all_sides(share, height, width):
    pixels = np.arange(height * width, dtype=np.uint16).reshape(height, width)
    rows, columns = round(share * height), round(share * width)
    left = crop(pixels, str(share))
    assert left.shape == (height - 2 * rows, width - 2 * columns)
    assert left[0, 0] == pixels[rows, columns]
    assert left.size


@pytest.mark.parametrize("text", ["some", "0", "-0.1", "0.3", "nan", ""])
def test_a_wrong_share_is_one_line(text):
    with pytest.raises(UsageError, match="--crop_border="):
        parse_crop(text)


def spectrum(image):
    """Log power in rings of equal frequency: what a network can tell resolution and compression by."""
    window = np.hanning(len(image))
    power = np.abs(np.fft.rfft2((image - image.mean()) * window[:, None] * window)) ** 2
    radius = np.hypot(np.fft.fftfreq(len(image))[:, None], np.fft.rfftfreq(len(image)))
    rings = np.minimum((radius * 40).astype(int), 20).ravel()
    levels = np.log(np.bincount(rings, power.ravel(), 21) / np.bincount(rings) + 1e-3)
    return np.append(levels - levels[1:6].mean(), measure.row_of(image)["sharpness"])


def auroc_of(originals, changed, is_changed):
    """How well a linear classifier tells the changed pictures from the others by their frequencies."""
    rows = [spectrum(changed[i] if yes else originals[i]) for i, yes in enumerate(is_changed)]
    model = make_pipeline(StandardScaler(), LogisticRegression(max_iter=1000))
    scores = cross_val_predict(model, np.array(rows), is_changed, cv=5, method="decision_function")
    return roc_auc_score(is_changed, scores)


CHANGES = {
    "a third of the size": lambda p: cv2.resize(p, None, fx=1 / 3, fy=1 / 3, interpolation=cv2.INTER_AREA),
    "quality 50": lambda p: cv2.imdecode(cv2.imencode(".jpg", p, [cv2.IMWRITE_JPEG_QUALITY, 50])[1], 0),
}


@pytest.mark.parametrize("change", CHANGES)
def test_equalized_pictures_show_neither_resolution_nor_compression(change):
    pictures = [chest(number, 256) for number in range(160)]
    is_changed = np.random.default_rng(0).permutation(len(pictures)) % 2 == 0
    others = [CHANGES[change](picture) for picture in pictures]
    plain = auroc_of(
        [resize_image(p, 96) for p in pictures], [resize_image(p, 96) for p in others], is_changed
    )
    equal = auroc_of(
        *([resize_image(equalize(p, 40), 96) for p in some] for some in (pictures, others)), is_changed
    )
    assert plain > 0.95
    assert equal < 0.7


@pytest.mark.slow
@pytest.mark.parametrize("change", CHANGES)
def test_equalized_x_rays_show_neither_resolution_nor_compression(shared, change):
    paths = sorted((shared / "data" / "cxr_sample").rglob("*.png"))
    pictures = [p for p in (cv2.imread(str(path), 0) for path in paths) if p.shape == (1024, 1024)][:160]
    is_changed = np.random.default_rng(0).permutation(len(pictures)) % 2 == 0
    others = [CHANGES[change](picture) for picture in pictures]
    plain = auroc_of(*([resize_image(p, 360) for p in some] for some in (pictures, others)), is_changed)
    equal = auroc_of(
        *([resize_image(equalize(p, 160), 360) for p in some] for some in (pictures, others)), is_changed
    )
    print(f"{change}: {plain:.2f} -> {equal:.2f}")
    assert plain > 0.95
    assert equal < 0.65


def test_a_record_is_cropped_then_equalized_then_resized():
    picture = np.pad(chest(3, 160), ((0, 40), (16, 0)))
    options = PixelOptions(48, 1, "uint8", "gray", 10**6, "auto", 64)
    expected = resize_image(equalize(crop(picture, "auto"), 64), 48)
    np.testing.assert_array_equal(small_image(encoded(picture), options), expected)
    assert not np.array_equal(
        expected, small_image(encoded(picture), PixelOptions(48, 1, "uint8", "gray", 10**6))
    )


@pytest.mark.parametrize(
    ("options", "message"),
    [
        ({"crop_border": "much"}, "--crop_border=much"),
        ({"equalize_to": 8}, "--equalize_to=8"),
        ({"equalize_to": 64, "color": "keep"}, "--color=gray"),
        ({"balance": "all"}, "--balance=all: "),
    ],
)
def test_wrong_flags_are_one_line(options, message):
    with pytest.raises(UsageError, match=message):
        SharderConfig("in", "out", **options)
