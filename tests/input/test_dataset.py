"""What programs import: a dataset, its batches and images, and the documents' examples of it."""

import doctest
import importlib.util
import re
import subprocess
import sys

import numpy as np
import pytest
import tensorflow as tf
from project import ROOT
from shards import CLASS_NAMES, labels_of, random_images, write_shards

import cxr_data
from cxr_data.core.errors import DataError, UsageError
from cxr_data.input import order
from cxr_data.synthetic.sample import SampleConfig, make_sample


@pytest.fixture(scope="module", params=[("float32", 3), ("uint8", 1), ("float16", 3)])
def stored(request, tmp_path_factory):
    """A dataset of each form, and the images that it stands for."""
    dtype, channels = request.param
    images = random_images(13, size=6, channels=channels)
    place = tmp_path_factory.mktemp("data")
    write_shards(place, {"train": images, "test": images[:5]}, dtype=dtype)
    if dtype == "uint8":
        images = np.rint(images * 255).astype(np.float32) / 255
    images = images.astype(dtype if dtype == "float16" else np.float32).astype(np.float32)
    return cxr_data.read_dataset(str(place)), np.repeat(images, 3 // channels, axis=-1)


def test_what_it_holds(stored):
    dataset, _ = stored
    assert dataset.class_names == CLASS_NAMES
    assert dataset.counts["test"] == {"covid": 2, "normal": 2, "pneumonia": 1}
    assert dataset.image_shape == (6, 6, 3)
    np.testing.assert_array_equal(dataset.labels("train"), labels_of(13))
    ids, groups = dataset.ids_and_groups("test")
    assert ids == [f"test/{i}.png" for i in range(5)]
    assert len(groups) == 5


def test_batches_are_those_of_the_order_that_the_arguments_decide(stored):
    dataset, images = stored
    expected = order.training_batches(np.arange(13), batch_size=4, seed=3, epoch=1)[1:]
    found = list(dataset.batches("train", 4, seed=3, epoch=1, first_step=1))
    assert len(found) == len(expected) == 2
    for batch, positions in zip(found, expected, strict=True):
        np.testing.assert_array_equal(batch["index"], positions)
        np.testing.assert_array_equal(batch["label"], labels_of(13)[positions])
        np.testing.assert_allclose(batch["image"], images[positions], atol=1e-7)
        assert batch["image"].dtype == tf.float32


def test_all_batches_give_each_image_once(stored):
    dataset, images = stored
    found = list(dataset.all_batches("train", 4))
    index = np.concatenate([batch["index"] for batch in found])
    np.testing.assert_array_equal(index, [*range(13), -1, -1, -1])
    np.testing.assert_allclose(np.concatenate([batch["image"] for batch in found])[:13], images, atol=1e-7)


def test_images_by_position(stored):
    dataset, images = stored
    np.testing.assert_allclose(dataset.images("train", np.array([7, 0, 12])), images[[7, 0, 12]], atol=1e-7)


def test_what_is_not_there_is_said(stored, tmp_path):
    dataset, _ = stored
    with pytest.raises(DataError, match="'validation'.*train, test"):
        dataset.batches("validation", 4)
    with pytest.raises(UsageError, match="14"):
        dataset.batches("train", 14)
    with pytest.raises(DataError, match=re.escape(str(tmp_path))):
        cxr_data.read_dataset(str(tmp_path))


def test_importing_it_costs_no_tensorflow_and_every_name_is_there():
    program = "import sys, cxr_data; assert 'tensorflow' not in sys.modules"
    subprocess.run([sys.executable, "-c", program], cwd=ROOT, check=True, timeout=120)
    assert "Dataset" in cxr_data.__all__
    assert all(hasattr(cxr_data, name) for name in cxr_data.__all__)


@pytest.mark.parametrize(("document", "least"), [("README.md", 1), ("docs/python.md", 4)])
def test_the_examples_of_the_documents_run(document, least, tiny, tmp_path, monkeypatch):
    blocks = re.findall(r"```python\n(>>>.*?)```", (ROOT / document).read_text(), re.DOTALL)
    assert len(blocks) >= least
    blocks = [block.replace('"mobilenet_v2"', '"tiny"') for block in blocks]
    if importlib.util.find_spec("torch") is None:
        blocks = [block for block in blocks if "import torch" not in block]
    make_sample(SampleConfig(output=tmp_path / "xrays", images=18, sizes=(128,)))
    monkeypatch.chdir(tmp_path)
    test = doctest.DocTestParser().get_doctest("\n".join(blocks), {}, document, document, 0)
    told: list[str] = []
    runner = doctest.DocTestRunner(optionflags=doctest.ELLIPSIS)
    runner.run(test, out=told.append)
    assert runner.summarize(verbose=False).failed == 0, "".join(told)
