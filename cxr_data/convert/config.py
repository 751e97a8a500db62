"""What to convert and how: the sharder's flags as one frozen value."""

import math
from dataclasses import dataclass

from cxr_data.convert.exclude import BALANCES
from cxr_data.core.errors import UsageError
from cxr_data.core.settings import check_settings, required, setting
from cxr_data.images import harmonize
from cxr_data.images.decode import COLORS
from cxr_data.images.guarded import Limits
from cxr_data.images.preprocess import MAX_PIXELS, PixelOptions
from cxr_data.records.example import DTYPES
from cxr_data.records.manifest import CLASSES
from cxr_data.sources import patients
from cxr_data.sources.duplicates import POLICIES
from cxr_data.sources.splits import parse_splits
from cxr_data.sources.tables.formats import FORMATS
from cxr_data.sources.tables.row import READERS, Reading
from cxr_data.sources.tables.table_list import TableOptions

RUNNERS = ("local", "beam")


def parse_share(text: str) -> float:
    """Parse `--max_bad`: `1%` or `0.01` as 0.01. Raise UsageError."""
    try:
        return float(text[:-1]) / 100 if text.endswith("%") else float(text)
    except ValueError as error:
        raise UsageError(f"--max_bad={text}: must be a share, such as 1% or 0.01") from error


@dataclass(frozen=True)
class SharderConfig(Limits):
    """What to convert, and how.

    `quiet`, which has no flag, turns off the progress on stderr.

    Raises:
      UsageError: a value that no conversion could use, or values that do not go together.
    """

    source: str = required(
        "Folder of CLASS/ or SPLIT/CLASS/ folders, or a CSV path,label[,group][,split][,source].",
        path=True,
    )
    output: str = required("Folder for the shards and the manifest; local, s3:// or gs://.", path=True)
    size: int = setting(360, "Height and width of the stored images, in pixels.", at_least=1, at_most=4096)
    dtype: str = setting(
        "float32", "Type of the stored pixels; the float types are in [0, 1].", choices=DTYPES
    )
    channels: int = setting(3, "Channels of the stored images: 3 (gray is repeated) or 1.", choices=(3, 1))
    color: str = setting(
        "gray",
        "Colour of the stored images: gray, as in the study, or keep for the colours of the file.",
        choices=COLORS,
    )
    splits: str = setting(
        "auto",
        "Splits by their shares, such as train:0.8,validation:0.1,test:0.1; folders: the source's own; "
        "auto: folders where the source has them, else these shares. Splits of the source that are not named "
        "stay: train:0.9,validation:0.1 divides its train and keeps its test.",
    )
    split_file: str = setting(
        "",
        "CSV that says the split of each image, by the columns sha256, id and split, as --write_split_file "
        "writes it; images that it does not name are left out.",
        path=True,
    )
    write_split_file: str = setting(
        "",
        "File to write the split of each image into, to publish with a study: a CSV sha256,id,split,fold. A "
        "finished output may be given it too, by the same command.",
        path=True,
    )
    classes: tuple[str, ...] = setting(
        (),
        "Class names in the order of their index; alphabetical by default. With --labels, the findings to "
        "keep; all of the table by default.",
    )
    labels: str = setting(
        CLASSES,
        "What says the labels: classes: the folders or the CSV of --source, one class a picture; else the "
        "format of --table, which says several findings of each picture below --source.",
        choices=(CLASSES, *FORMATS),
    )
    table: tuple[str, ...] = setting(
        (),
        "Tables of the findings, separated by commas, with --labels; also packed, as FILE.csv.gz.",
        path=True,
    )
    views: tuple[str, ...] = setting((), "Views to keep, as PA,AP, with --labels; all by default.")
    readers: str = setting(
        "majority",
        "What several readers of a picture say together, with --labels=vindr: majority, an equal number of "
        "either being uncertain; or any.",
        choices=READERS,
    )
    source_name: str = setting(
        "",
        "Name of the hospital or data set that the images come from, where neither a folder CLASS/SOURCE/ "
        "nor a column source says it.",
    )
    group_regex: str = setting(
        patients.AUTO,
        "Regular expression whose first group is the patient in a path; auto knows the public datasets; "
        "none: every image is a patient of its own.",
    )
    shard_mb: float = setting(
        100,
        "Smallest size of a shard, in millions of bytes; a split that has less is one shard. One worker at a "
        "time writes a shard.",
    )
    workers: int = setting(
        -1, "Worker processes; -1: one a core; 0: this process writes, and another one reads.", at_least=-1
    )
    seed: int = setting(0, "Seed of the splits and of the order of the images.")
    duplicates: str = setting("exclude", "Treatment of files with the same bytes.", choices=POLICIES)
    exclude: str = setting(
        "",
        "File that lists images to leave out, a line each: the id or the path, and after a tab the reason.",
        path=True,
    )
    exclude_folders: tuple[str, ...] = setting(
        (),
        "Names of folders to leave out anywhere in the source, such as masks; none: leave out no folder, "
        "even "
        "one that seems to hold masks.",
    )
    exclude_files: tuple[str, ...] = setting(
        (), "Patterns of file names to leave out anywhere in the source, such as *_mask.png."
    )
    follow_links: str = setting(
        "",
        "Folder in which the targets of links must lie for the links to be followed; without it, "
        "a link to a folder stops the run.",
        path=True,
        local=True,
    )
    exclude_findings: tuple[str, ...] = setting(
        (),
        "Audit files (audit.json), separated by commas, whose repeated and leaking images are left out; the "
        "new audit is compared with the last one.",
        path=True,
    )
    balance: str = setting(
        "none",
        "Groups in which images are dropped until all classes have equally many: class for the "
        "whole set, source for each source.",
        choices=BALANCES,
    )
    crop_border: str = setting(
        harmonize.NONE,
        "Borders to cut off: none; auto: flat ones, such as letter-boxes; or a share of each side, such "
        "as 0.05.",
    )
    equalize_to: int = setting(
        0,
        "Size in pixels to which all images are first reduced, then compressed with one JPEG quality, so "
        "that they keep no traces of their files; at most half of the smallest image; 0: leave them as they "
        "are.",
    )
    max_pixels: int = setting(
        MAX_PIXELS, "Largest number of pixels of an image; larger ones are quarantined."
    )
    max_bad: float = setting(
        "100%",
        "Largest share of the files, such as 1% or 0.01, that may be quarantined before the run stops.",
        parse=parse_share,
    )
    audit: bool = setting(
        True, "Whether to look for leakage and shortcuts at the end, and to write audit.json."
    )
    overwrite: bool = setting(
        False, "Whether to replace a finished output that was made with other flags or inputs."
    )
    retry_quarantined: bool = setting(
        False, "Whether to try the quarantined files of a finished output again."
    )
    log_json: str = setting(
        "", "File for the progress as JSON lines; -: standard output.", path=True, local=True
    )
    quiet: bool = False
    runner: str = setting(
        "local", "Program that does the work: processes on this machine, or Apache Beam.", choices=RUNNERS
    )
    beam_runner: str = setting(
        "DirectRunner", "Name of Beam's runner: DirectRunner, DaskRunner, FlinkRunner, SparkRunner, ..."
    )
    beam_options: str = setting(
        "", "Further flags for Beam, such as '--dask_client_address=tcp://HOST:8786'."
    )

    def __post_init__(self) -> None:
        super().__post_init__()
        check_settings(self)
        if self.color == "keep" and self.channels == 1:
            raise UsageError("--color=keep needs --channels=3")
        harmonize.parse_crop(self.crop_border)
        if self.splits != "auto":
            parse_splits(self.splits)  # now, and not after the source was read
        self._check_tables()
        if self.split_file and self.splits not in ("auto", "folders"):
            raise UsageError(
                f"--splits={self.splits}: --split_file={self.split_file} says the splits; leave one out"
            )
        if self.equalize_to and self.color == "keep":
            raise UsageError("--equalize_to makes images gray: it needs --color=gray")
        if self.equalize_to and not 16 <= self.equalize_to <= 4096:
            raise UsageError(
                f"--equalize_to={self.equalize_to}: must be from 16 to 4096, or 0 to leave the images as "
                "they are"
            )
        for name in ("shard_mb", "max_pixels"):
            if not 0 < getattr(self, name) < math.inf:
                raise UsageError(f"--{name}={getattr(self, name)}: must be above 0, and finite")
        if not 0 <= self.max_bad <= 1:
            raise UsageError(f"--max_bad={self.max_bad:.0%}: must be from 0% to 100%")
        if self.beam_options and self.runner != "beam":
            raise UsageError("--beam_options needs --runner=beam")

    def _check_tables(self) -> None:
        if self.labels == CLASSES:
            for name in ("table", "views"):
                if getattr(self, name):
                    given = ",".join(getattr(self, name))
                    raise UsageError(f"--{name}={given}: needs --labels, one of {', '.join(FORMATS)}")
        elif not self.table:
            raise UsageError(f"--labels={self.labels}: needs --table={FORMATS[self.labels].files}")
        elif self.balance != "none":
            raise UsageError(
                f"--balance={self.balance}: drops pictures of classes, and with --labels={self.labels} a "
                "picture has several findings; leave it out"
            )
        if self.readers != "majority" and self.labels != "vindr":
            raise UsageError(f"--readers={self.readers}: needs --labels=vindr, which has several readers")

    @property
    def tables(self) -> TableOptions | None:
        """Which tables say the findings; None where each picture has one class."""
        if self.labels == CLASSES:
            return None
        return TableOptions(self.labels, self.table, self.views, Reading(self.classes, self.readers))

    @property
    def pixel_options(self) -> PixelOptions:
        """The part that decides the bytes of a record."""
        return PixelOptions(
            self.size,
            self.channels,
            self.dtype,
            self.color,
            self.max_pixels,
            self.crop_border,
            self.equalize_to,
        )
