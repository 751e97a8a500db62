"""The benchmark of the read side: what it times does not end, however few images there are."""

import pytest
import tensorflow as tf
from shards import random_images, write_shards

from tools.bench.pipeline import SPLIT, pipeline_batches


@pytest.mark.parametrize("reader", ["indexed", "stream"])
def test_batches_of_few_images_do_not_end(tmp_path, reader):
    made = write_shards(tmp_path, {SPLIT: random_images(4, size=4)})
    batches = pipeline_batches(made, 2, reader=reader)
    assert batches.cardinality() == tf.data.INFINITE_CARDINALITY
    assert sum(1 for _ in batches.take(20)) == 20
