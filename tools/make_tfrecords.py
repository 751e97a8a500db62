"""Converts a folder or CSV of chest X-rays to TFRecord shards.

    python -m tools.make_tfrecords --source=DIR_OR_CSV --output=DIR

Stopped at any moment, the same command finishes the rest.
"""

from absl import flags

from cxr_data.commands import command
from cxr_data.convert.config import RUNNERS, SharderConfig
from cxr_data.convert.convert import make_tfrecords
from cxr_data.convert.exclude import BALANCES
from cxr_data.core.errors import UsageError
from cxr_data.images.decode import COLORS
from cxr_data.records.example import DTYPES
from cxr_data.sources.duplicates import POLICIES

FLAGS = flags.FLAGS


def define_flags() -> None:
    """Defines the flags of this command."""
    flags.DEFINE_string(
        "source",
        None,
        "Folder of CLASS/ or SPLIT/CLASS/ folders, or a CSV path,label[,group][,split][,source].",
    )
    flags.DEFINE_string("output", None, "Folder for the shards and the manifest.")
    flags.DEFINE_integer("size", 360, "Height and width of the stored images, in pixels.")
    flags.DEFINE_enum("dtype", "float32", DTYPES, "How pixels are stored; the float types in [0, 1].")
    flags.DEFINE_integer("channels", 3, "3 (gray is repeated) or 1.")
    flags.DEFINE_enum(
        "color", "gray", COLORS, "Make colour images gray, as the study did, or keep their colours."
    )
    flags.DEFINE_string(
        "splits", "auto", "train:0.8,validation:0.1,test:0.1; folders; auto: folders where there are."
    )
    flags.DEFINE_list("classes", [], "Class names in index order; alphabetical if not given.")
    flags.DEFINE_string("group_regex", "auto", "Finds the patient in a path; auto knows public sets; none.")
    flags.DEFINE_float("shard_mb", 100, "Largest size of a shard, in millions of bytes.")
    flags.DEFINE_integer("workers", -1, "Worker processes; -1: one a core; 0: all in this process.")
    flags.DEFINE_integer("seed", 0, "Decides splits and order.")
    flags.DEFINE_enum("duplicates", "exclude", POLICIES, "What to do with files of the same bytes.")
    flags.DEFINE_string(
        "exclude", "", "List of images to leave out, a line each: id or path, and behind a tab the reason."
    )
    flags.DEFINE_string(
        "exclude_findings", "", "An audit.json whose repeated and leaking images are left out."
    )
    flags.DEFINE_enum(
        "balance", "none", BALANCES, "Drop images until each class has as many: overall, or in each source."
    )
    flags.DEFINE_string(
        "crop_border",
        "none",
        "none; auto: flat borders, as letter-boxes; or the share of each side, as 0.05.",
    )
    flags.DEFINE_integer(
        "equalize_to",
        0,
        "Bring all images through this size and one JPEG quality first, so that they show no traces of "
        "their files; at most half of the smallest image; 0: no.",
    )
    flags.DEFINE_integer("max_pixels", 100_000_000, "Images of more pixels are quarantined.")
    flags.DEFINE_string("max_bad", "100%", "Stop when more than this share of the files is bad, as 1%.")
    flags.DEFINE_float("image_timeout", 120, "Seconds that an image may take; then it is quarantined.")
    flags.DEFINE_bool("audit", True, "Look for leakage and shortcuts at the end; writes audit.json.")
    flags.DEFINE_bool("overwrite", False, "Replace an output of other flags or inputs.")
    flags.DEFINE_bool("retry_quarantined", False, "Try the quarantined files of a finished output again.")
    flags.DEFINE_enum("runner", "local", RUNNERS, "Processes of this machine, or Apache Beam.")
    flags.DEFINE_string("beam_runner", "DirectRunner", "DirectRunner, FlinkRunner, SparkRunner, ...")
    flags.DEFINE_string("beam_options", "", "Further flags of Beam, as '--flink_master=HOST:8081'.")
    flags.DEFINE_string("log_json", "", "File for progress as JSON lines; - is stdout.")


def parse_share(text: str) -> float:
    """`1%` or `0.01` as 0.01. Raises UsageError."""
    try:
        return float(text[:-1]) / 100 if text.endswith("%") else float(text)
    except ValueError as error:
        raise UsageError(f"--max_bad={text}: give a share, as 1% or 0.01") from error


def main() -> None:
    """Reads the flags and converts."""
    for name in ("source", "output"):
        if not FLAGS[name].value:
            raise UsageError(f"--{name} is missing (--help lists the flags)")
    make_tfrecords(
        SharderConfig(
            source=FLAGS.source,
            output=FLAGS.output,
            size=FLAGS.size,
            dtype=FLAGS.dtype,
            channels=FLAGS.channels,
            color=FLAGS.color,
            splits=FLAGS.splits,
            classes=tuple(FLAGS.classes),
            group_regex=FLAGS.group_regex,
            shard_mb=FLAGS.shard_mb,
            workers=FLAGS.workers,
            seed=FLAGS.seed,
            duplicates=FLAGS.duplicates,
            exclude=FLAGS.exclude,
            exclude_findings=FLAGS.exclude_findings,
            balance=FLAGS.balance,
            crop_border=FLAGS.crop_border,
            equalize_to=FLAGS.equalize_to,
            max_pixels=FLAGS.max_pixels,
            max_bad=parse_share(FLAGS.max_bad),
            image_timeout=FLAGS.image_timeout,
            audit=FLAGS.audit,
            overwrite=FLAGS.overwrite,
            retry_quarantined=FLAGS.retry_quarantined,
            log_json=FLAGS.log_json,
            runner=FLAGS.runner,
            beam_runner=FLAGS.beam_runner,
            beam_options=FLAGS.beam_options,
        )
    )


def console_main() -> None:
    """Entry point of the command."""
    define_flags()
    command.run(main)


if __name__ == "__main__":
    console_main()
