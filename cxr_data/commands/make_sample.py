"""Makes a small synthetic chest X-ray dataset in the challenge's layout.

python -m tools.make_sample --output=build/sample --images=120 --seed=0
"""

import collections
import pathlib

from absl import flags

from cxr_data.commands import command
from cxr_data.core.errors import UsageError
from cxr_data.synthetic.sample import SampleConfig, make_sample

_OUTPUT = flags.DEFINE_string("output", None, "Folder to make.", required=True)
_IMAGES = flags.DEFINE_integer("images", SampleConfig.images, "Labelled images in train and validation.")
_SEED = flags.DEFINE_integer("seed", SampleConfig.seed, "The same flags and seed give the same bytes.")
_SIZE = flags.DEFINE_list(
    "size", [str(size) for size in SampleConfig.sizes], "Sizes in pixels, mixed evenly."
)
_TEST_IMAGES = flags.DEFINE_integer("test_images", 0, "Unlabelled images in test_set/.")
_OVERWRITE = flags.DEFINE_bool("overwrite", False, "Replace an earlier sample at --output.")


def config_from_flags() -> SampleConfig:
    """Reads the parsed flags.

    Raises:
      UsageError: a value is not a number or out of range.
    """
    try:
        sizes = tuple(int(size) for size in _SIZE.value)
    except ValueError as error:
        raise UsageError(f"--size={','.join(_SIZE.value)}: must be whole numbers, as 512,1024") from error
    return SampleConfig(
        output=pathlib.Path(_OUTPUT.value),
        images=_IMAGES.value,
        seed=_SEED.value,
        sizes=sizes,
        test_images=_TEST_IMAGES.value,
        overwrite=_OVERWRITE.value,
    )


def main() -> None:
    """Makes the sample and says what is where."""
    config = config_from_flags()
    plan = make_sample(config)
    folders = collections.Counter(pathlib.PurePosixPath(image.path).parent.as_posix() for image in plan)
    for folder, images in folders.items():
        print(f"{config.output / folder}: {images} images")


def console_main() -> None:
    """The `cxr-make-sample` command."""
    command.run(main)
