"""Makes TFRecords that another program wrote readable here: one scan, an index and a manifest.

    python -m tools.index_tfrecords --data=DIR --classes=covid,normal,pneumonia

The files are named SPLIT*.tfrecord and hold tf.train.Example records with `image` and `label`;
they are only read. `index.npy` and `manifest.json` appear beside them.
"""

import os

from absl import flags
from tqdm import tqdm

from cxr_data.commands import command
from cxr_data.core.errors import UsageError
from cxr_data.records.example import DTYPES
from cxr_data.records.foreign import adopt

FLAGS = flags.FLAGS


def define_flags() -> None:
    """Defines the flags of this command."""
    flags.DEFINE_string("data", None, "Folder with SPLIT*.tfrecord files.")
    flags.DEFINE_list("classes", [], "Class names in the order of the label values.")
    flags.DEFINE_integer("size", 360, "Height and width of the stored images, in pixels.", lower_bound=1)
    flags.DEFINE_integer("channels", 3, "3 or 1.")
    flags.DEFINE_enum("dtype", "float32", DTYPES, "float32 is a FloatList, the others one bytes value.")


def main() -> None:
    """Reads the flags and scans."""
    if not FLAGS.data or not FLAGS.classes:
        raise UsageError("--data and --classes are needed (--help lists the flags)")
    if FLAGS.channels not in (1, 3):
        raise UsageError(f"--channels={FLAGS.channels}: choose from 3, 1")
    with tqdm(desc="scan", unit="file") as bar:
        adopted = adopt(
            FLAGS.data,
            tuple(FLAGS.classes),
            size=FLAGS.size,
            channels=FLAGS.channels,
            dtype=FLAGS.dtype,
            threads=len(os.sched_getaffinity(0)),
            tick=lambda _: bar.update(),
        )
    for split, counts in adopted.counts.items():
        print(f"{split:12}" + ", ".join(f"{count:,} {name}" for name, count in counts.items()))


def console_main() -> None:
    """The `cxr-index-tfrecords` command."""
    define_flags()
    command.run(main)
