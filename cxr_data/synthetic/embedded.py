"""The embedded sample: what a run trains on when it is given no data."""

import pathlib

from cxr_data.convert.config import SharderConfig
from cxr_data.convert.convert import make_tfrecords
from cxr_data.records.manifest import MANIFEST_NAME
from cxr_data.synthetic.sample import SampleConfig, make_sample

_IMAGES = 120


def make_embedded_sample(directory: pathlib.Path, image_size: int) -> pathlib.Path:
    """Makes a synthetic sample and its shards in `directory`, unless they are there.

    Args:
      directory: receives `sample/` (images) and `sample_tfrecords/` (shards).
      image_size: height and width of the stored images, in pixels.

    Returns:
      The directory of the shards.
    """
    shards = directory / "sample_tfrecords"
    if not (shards / MANIFEST_NAME).exists():
        images = directory / "sample"
        make_sample(SampleConfig(output=images, images=_IMAGES, overwrite=images.exists()))
        make_tfrecords(SharderConfig(str(images), str(shards), size=image_size, splits="folders"))
    return shards
