"""Ten times the pictures: what a conversion holds of memory, files and threads."""

import numpy as np
import pytest
from measured_growth import growth_of
from sharder_fixtures import encoded, save

PICTURES = 500
# What the manifest, the index and the ledger need of a picture, at the end in several forms at once.
MOST_BYTES_A_PICTURE = 8_000
MOST_BYTES_OF_A_WORKER = 8 << 20


def make_pictures(root, count):
    """Small PNG in two classes."""
    rng = np.random.default_rng(0)
    for number in range(count):
        pixels = rng.integers(0, 256, (20, 20), np.uint8)
        save(root / f"{number % 2}/{number:06d}.png", encoded(pixels))
    return root


@pytest.mark.slow
def test_ten_times_the_pictures_take_no_more_of_a_worker_and_little_of_the_process(tmp_path):
    small, large = (
        growth_of("convert", make_pictures(tmp_path / f"in{count}", count), tmp_path / f"out{count}", 1)
        for count in (PICTURES, 10 * PICTURES)
    )
    assert (small[-1]["images"], large[-1]["images"]) == (PICTURES, 10 * PICTURES)
    assert large[-1]["bytes"] - small[-1]["bytes"] < 9 * PICTURES * MOST_BYTES_A_PICTURE
    # After each shard.
    assert len(large) > 50
    for number in ("files", "threads"):
        assert max(row[number] for row in large) == max(row[number] for row in small)
    workers = [row["children"] for row in large[5:-1]]
    assert max(workers) - min(workers) < MOST_BYTES_OF_A_WORKER
