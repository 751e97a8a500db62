"""Makes TFRecords that another program wrote readable here: one scan, an index and a manifest.

    python -m tools.index_tfrecords --data=DIR --classes=covid,normal,pneumonia

The name of each file holds its split (train-00000-of-00012.tfrecord, chest_val.tfrecord); each record is a
tf.train.Example with `image` and `label` (with --task=findings `labels`, an int64 for each finding), and
`id`, `group` (the patient) and `source` (the hospital) if it has them. Every value is read, nothing is
changed. `index.npy` and `manifest.json` appear beside the files.
"""

import dataclasses
import os

from cxr_data.commands import command
from cxr_data.commands.setting_flags import define_flags, from_flags
from cxr_data.core.errors import UsageError
from cxr_data.core.progress_bar import progress_bar
from cxr_data.core.settings import check_settings, required, setting
from cxr_data.core.shown import say
from cxr_data.records.example import DTYPES
from cxr_data.records.foreign import adopt
from cxr_data.records.manifest import CLASSES, TASKS
from cxr_data.records.value_range import VALUE_RANGES


@dataclasses.dataclass(frozen=True)
class IndexOptions:
    """What the records hold, since TFRecords do not say it."""

    data: str = required("Folder of TFRecord files with the split in their names.", path=True, local=True)
    classes: tuple[str, ...] = required(
        "Class names in the order of the label values; with --task=findings, the findings in the order of "
        "labels."
    )
    task: str = setting(
        CLASSES,
        "What a record says: classes: its feature label is the number of its one class; findings: its "
        "feature labels has a number for each finding, 1 present, 0 absent, -1 uncertain, -2 unknown.",
        choices=TASKS,
    )
    size: int = setting(360, "Height and width of the stored images, in pixels.", at_least=1)
    channels: int = setting(3, "Channels of the stored images: 3 or 1.", choices=(3, 1))
    dtype: str = setting(
        "float32",
        "Type of the stored pixels: float32 is a FloatList, the others are one bytes value.",
        choices=DTYPES,
    )
    value_range: str = setting(
        "0..1",
        "Range of the stored pixels where they are floats; any other than 0..1 is rescaled to 0..1 when "
        "they are read.",
        choices=tuple(VALUE_RANGES),
    )

    def __post_init__(self) -> None:
        check_settings(self)
        if self.dtype == "uint8" and self.value_range != "0..1":
            raise UsageError(f"--value_range={self.value_range}: is for floats; uint8 is in [0, 255]")


def main() -> None:
    """Scan the folder that the flags name."""
    options = from_flags(IndexOptions)
    with progress_bar("scan", "files", None) as bar:
        adopted = adopt(
            options.data,
            options.classes,
            size=options.size,
            channels=options.channels,
            dtype=options.dtype,
            value_range=VALUE_RANGES[options.value_range],
            task=options.task,
            threads=len(os.sched_getaffinity(0)),
            tick=lambda _: bar.update(),
        )
    for split, counts in adopted.counts.items():
        say(f"{split:12}" + ", ".join(f"{count:,} {name}" for name, count in counts.items()))


def console_main() -> None:
    """Entry point of the command."""
    define_flags(IndexOptions)
    command.run(main)


if __name__ == "__main__":
    console_main()
