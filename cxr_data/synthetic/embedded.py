"""The embedded sample, on which a run trains when no data is given."""

import pathlib

from cxr_data.convert.config import SharderConfig
from cxr_data.convert.convert import make_tfrecords
from cxr_data.records.layout import MANIFEST_NAME
from cxr_data.synthetic.sample import SampleConfig, make_sample

_IMAGES = 120


def make_embedded_sample(images: pathlib.Path, shards: pathlib.Path, image_size: int) -> None:
    """Make a synthetic sample and its shards, unless the shards are there.

    Args:
      images: folder that receives the images.
      shards: folder that receives the shards.
      image_size: height and width of the stored images, in pixels.
    """
    if not (shards / MANIFEST_NAME).exists():
        make_sample(SampleConfig(output=images, images=_IMAGES, overwrite=images.exists()))
        make_tfrecords(SharderConfig(str(images), str(shards), size=image_size, splits="folders"))
