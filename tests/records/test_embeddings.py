"""Records that hold embeddings: any finite floats, [1, 1, F], and a manifest that says what made them."""

import dataclasses
import json

import numpy as np
import pytest
from shards import random_images, write_shards

from cxr_data.core.errors import DataError
from cxr_data.input.batch import expand_image
from cxr_data.input.pipeline import Pipeline
from cxr_data.records.manifest import read_manifest, write_manifest
from cxr_data.records.verify import verify_dataset


def embeddings(directory, values, **changes):
    """Records whose `image` is `values`, float32 [N, F]."""
    made = write_shards(directory, {"train": values[:, np.newaxis, np.newaxis]})
    changed = dataclasses.replace(made, embedding="an encoder", **{"mean": (), "std": (), **changes})
    write_manifest(changed)
    return changed


def test_embeddings_are_any_floats_and_pictures_say_nothing_of_them(tmp_path):
    made = embeddings(tmp_path / "made", np.full([4, 5], -7.5, np.float32))
    assert read_manifest(made.directory) == made
    assert (made.features, made.image_shape) == (5, (1, 1, 5))
    (batch,) = Pipeline(made).evaluation_dataset("train", batch_size=4)
    np.testing.assert_array_equal(expand_image(batch["image"]), np.full([4, 1, 1, 5], -7.5, np.float32))
    assert not any("value" in problem for problem in verify_dataset(made.directory, 1).problems)
    pictures = write_shards(tmp_path / "pictures", {"train": random_images(4)})
    assert pictures.features == 0
    assert "embedding" not in json.loads((tmp_path / "pictures/manifest.json").read_text())


def test_a_feature_that_is_no_number_is_found(tmp_path):
    values = np.zeros([4, 5], np.float32)
    values[2, 3] = np.inf
    problems = verify_dataset(embeddings(tmp_path / "made", values).directory, 1).problems
    assert any("record 2" in problem and "feature 3 is inf" in problem for problem in problems)


@pytest.mark.parametrize("changes", [{"size": 2}, {"channels": 1}, {"dtype": "uint8"}, {"embedding": ""}])
def test_embeddings_of_another_shape_are_refused(tmp_path, changes):
    made = dataclasses.replace(embeddings(tmp_path / "made", np.zeros([4, 5], np.float32)), **changes)
    write_manifest(made)
    with pytest.raises(DataError, match="channels"):
        read_manifest(made.directory)
