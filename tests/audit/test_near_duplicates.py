"""Near-duplicates: the tree against all pairs, and planted copies in synthetic and in real X-rays."""

import cv2
import numpy as np
import pytest
from audit_fixtures import chest
from hypothesis import given, settings
from hypothesis import strategies as st
from PIL import Image
from sharder_fixtures import encoded, save

from cxr_data.audit.audit import AuditConfig, audit_dataset
from cxr_data.audit.near_duplicates import (
    SAME_NCC,
    aligned_ncc,
    find_centres,
    find_pairs,
    normalised,
    pairs_within,
)
from cxr_data.convert.config import SharderConfig
from cxr_data.convert.convert import make_tfrecords
from cxr_data.images.decode import decode_pixels


def thumbnails_of(count, seed=0):
    return np.stack(
        [cv2.resize(chest(seed + i), (32, 32), interpolation=cv2.INTER_AREA) for i in range(count)]
    )


def test_the_tree_finds_what_all_pairs_find():
    rng = np.random.default_rng(0)
    images = thumbnails_of(60)
    noise = rng.normal(0, rng.uniform(0, 12, (60, 1, 1)), images.shape)
    near = np.clip(images + noise, 0, 255).astype(np.uint8)
    both = np.concatenate([images, near])
    found = find_pairs(both)
    first, second = np.triu_indices(len(both), 1)
    ncc = aligned_ncc(both[first], both[second])
    plain = np.corrcoef(both.reshape(len(both), -1))[first, second]
    expected = {(i, j) for i, j in zip(first[ncc > SAME_NCC], second[ncc > SAME_NCC], strict=True)}
    assert set(zip(found.first, found.second, strict=True)) == expected
    assert 10 < len(expected) < 60
    assert (plain > SAME_NCC).sum() <= len(expected)


@settings(max_examples=40, deadline=None)
@given(st.integers(0, 120), st.integers(1, 6), st.floats(0.05, 1), st.integers(0, 2**32))
def test_leaves_and_products_find_every_pair_within_the_radius(count, dimensions, spread, seed):
    rng = np.random.default_rng(seed)
    points = rng.normal(0, spread, (count, dimensions)).astype(np.float32)
    points[rng.integers(0, max(count, 1), count // 4)] = points[: count // 4]  # some lie on each other
    radius = 0.25
    near = list(pairs_within(radius, points, leaf_points=8, product_columns=20))
    found = [
        (min(a, b), max(a, b))
        for rows, columns in near
        for a, b in zip(rows.tolist(), columns.tolist(), strict=True)
    ]
    first, second = np.triu_indices(count, 1)
    distance = np.linalg.norm(points[first].astype(np.float64) - points[second], axis=1)
    surely = {
        pair for pair, d in zip(zip(first, second, strict=True), distance, strict=True) if d < radius - 1e-4
    }
    perhaps = {
        pair for pair, d in zip(zip(first, second, strict=True), distance, strict=True) if d < radius + 1e-4
    }
    assert len(found) == len(set(found))
    assert surely <= set(found) <= perhaps


def test_a_square_file_is_found_in_the_centre_of_a_longer_one():
    wide = [cv2.resize(chest(seed, 256), (320, 256)) for seed in range(30)]
    tall = [np.ascontiguousarray(picture.T) for picture in wide]
    files = [*wide, *tall, *(picture[:, 32:288] for picture in wide[:5]), tall[7][32:288], wide[9][:, :256]]

    def thumbnail(picture):
        return cv2.resize(picture, (32, 32), interpolation=cv2.INTER_AREA)

    thumbnails = np.stack([*map(thumbnail, files), thumbnail(files[60])])
    sizes = np.array([*(picture.shape[::-1] for picture in files), (256, 256)])
    found = find_centres(thumbnails, sizes)
    pairs = set(zip(found.first.tolist(), found.second.tolist(), strict=True))
    assert pairs == {(0, 60), (1, 61), (2, 62), (3, 63), (4, 64), (37, 65)}  # not what is off the centre
    assert not len(find_centres(thumbnails, np.zeros_like(sizes)).first)
    assert not len(find_centres(thumbnails, np.full_like(sizes, 256)).first)
    assert not len(find_centres(thumbnails[:0], sizes[:0]).first)


def test_correlation_is_that_of_numpy_and_flat_pictures_have_none():
    images = thumbnails_of(4)
    vectors = normalised(images)
    np.testing.assert_allclose(vectors @ vectors.T, np.corrcoef(images.reshape(4, -1)), atol=1e-5)
    assert not normalised(np.full((1, 32, 32), 9, np.uint8)).any()


def test_a_shift_of_half_a_pixel_is_aligned_and_a_large_one_is_not():
    large = chest(1, 512)
    thumbs = [
        cv2.resize(np.roll(large, shift, axis=1), (32, 32), interpolation=cv2.INTER_AREA)
        for shift in (0, 8, 64)
    ]
    near, far = aligned_ncc(np.stack([thumbs[0]] * 2), np.stack(thumbs[1:]))
    assert near > 0.995
    assert far < 0.9


def test_many_copies_of_one_picture_are_linked_without_all_pairs():
    images = np.concatenate([thumbnails_of(3), np.repeat(thumbnails_of(1, 50), 500, axis=0)])
    found = find_pairs(images)
    assert len(found.first) == 499
    assert set(found.second) == set(range(4, 503))


def png(pixels):
    return encoded(pixels, compress_level=1)


def shifted(pixels):
    """Two pixels to the right and down; the edge is repeated."""
    return np.pad(pixels, ((2, 0), (2, 0)), mode="edge")[:-2, :-2]


COPIES = {
    "exact": lambda p: encoded(p, "TIFF"),
    "reencoded": lambda p: encoded(p, "JPEG", quality=70),
    "resized": lambda p: png(
        Image.fromarray(p).resize((p.shape[1] * 3 // 5, p.shape[0] * 3 // 5), Image.Resampling.LANCZOS)
    ),
    "shifted": lambda p: png(shifted(p)),
    "brighter": lambda p: png(np.clip(p * 1.05, 0, 255).astype(np.uint8)),
}


def pairs_after_planting(source, planted, output):
    """{(copy, original)} that the audit finds, and those that were planted."""
    expected = set()
    for number, original in enumerate(planted):
        for name, make in COPIES.items():
            # The sharder's own gray: Pillow's of a colour JPEG is up to five levels off, no exact copy.
            gray = decode_pixels(original.read_bytes(), "gray", 100_000_000)
            copy = original.parent.with_name(f"copy_{number % 2}") / f"{original.stem}_{name}.img"
            save(copy, make(gray))
            expected.add((original.relative_to(source).as_posix(), copy.relative_to(source).as_posix()))
    config = SharderConfig(
        str(source), str(output), size=128, dtype="uint8", channels=1, quiet=True, audit=False
    )
    make_tfrecords(config)
    audit = audit_dataset(AuditConfig(str(output), quiet=True))
    return expected, audit


def check(expected, audit, already=frozenset()):
    ids = audit.own.ids
    root = {name: frozenset({name}) for name in ids}
    for pair in audit.pairs:
        joined = root[ids[pair.first]] | root[ids[pair.second]]
        root.update(dict.fromkeys(joined, joined))
    missed = [(a, b) for a, b in expected if b not in root[a]]
    assert missed == []  # recall 1.0
    original_of = {copy: original for original, copy in expected}
    false = {
        (ids[p.first], ids[p.second])
        for p in audit.pairs
        if original_of.get(ids[p.first], ids[p.first]) != original_of.get(ids[p.second], ids[p.second])
    }
    assert false <= already  # no false pair
    exact = {frozenset((ids[p.first], ids[p.second])) for p in audit.pairs if p.is_exact}
    assert {frozenset(pair) for pair in expected if pair[1].endswith("_exact.img")} <= exact


def test_planted_copies_of_synthetic_pictures_are_found_and_nothing_else(tmp_path):
    source = tmp_path / "in"
    for number in range(40):
        save(source / f"{'ab'[number % 2]}/{number}.png", encoded(chest(number, 256)))
    planted = sorted(source.rglob("*.png"))[::6]
    expected, audit = pairs_after_planting(source, planted, tmp_path / "out")
    assert len(expected) == 35
    check(expected, audit)
    assert any(f.name == "pictures_in_two_classes" for f in audit.found)


def test_planted_copies_of_real_x_rays_are_found_and_nothing_else(shared, tmp_path):
    source = tmp_path / "in"
    for path in sorted((shared / "data" / "cxr_sample").rglob("*.*"))[::8]:
        save(source / path.parent.name / path.name, path.read_bytes())
    planted = sorted(source.rglob("*.*"))[::5]
    expected, audit = pairs_after_planting(source, planted, tmp_path / "out")
    assert len(expected) == 5 * len(planted) >= 35
    check(expected, audit)


@pytest.mark.slow
def test_planted_copies_of_every_real_x_ray(shared, tmp_path):
    source = tmp_path / "in"
    for path in sorted((shared / "data" / "cxr_sample").rglob("*.*")):
        save(source / path.parent.name / path.name, path.read_bytes())
    expected, audit = pairs_after_planting(source, sorted(source.rglob("*.*")), tmp_path / "out")
    assert len(expected) == 5 * 274
    check(expected, audit)
