"""Makes a small synthetic chest X-ray dataset in the challenge's layout.

python -m tools.make_sample --output=build/sample --images=120 --seed=0
python -m tools.make_sample --output=build/findings --findings
"""

import collections
import pathlib

from cxr_data.commands import command
from cxr_data.commands.setting_flags import define_flags, from_flags
from cxr_data.core.shown import say
from cxr_data.core.wording import counted
from cxr_data.synthetic.sample import TABLE_NAME, SampleConfig, make_sample


def main() -> None:
    """Make the sample and print the folders and their numbers of images."""
    config = from_flags(SampleConfig)
    plan = make_sample(config)
    folders = collections.Counter(pathlib.PurePosixPath(image.path).parent.as_posix() for image in plan)
    for folder, images in folders.items():
        say(f"{config.output / folder}: {counted(images, 'image')}")
    if config.findings:
        say(f"{config.output / TABLE_NAME}: a row for each image")


def console_main() -> None:
    """Entry point of the command."""
    define_flags(SampleConfig)
    command.run(main)


if __name__ == "__main__":
    console_main()
