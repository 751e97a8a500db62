"""What to convert and how: the sharder's flags as one frozen value."""

import math
from dataclasses import dataclass

from cxr_data.convert import exclude
from cxr_data.core.errors import UsageError
from cxr_data.images import decode, harmonize
from cxr_data.images.preprocess import MAX_PIXELS, PixelOptions
from cxr_data.records import example
from cxr_data.sources import duplicates, patients

RUNNERS = ("local", "beam")


@dataclass(frozen=True)
class SharderConfig:
    """What to convert, and how.

    Attributes:
      source: a folder or a CSV file.
      output: a local or remote folder.
      size: height and width of the records' images.
      dtype: one of `example.DTYPES`.
      channels: 3 or 1.
      color: "gray" or "keep".
      splits: `train:0.8,...`, "folders", or "auto": folders where the source has them.
      classes: class names in index order; empty for alphabetical order.
      group_regex: see `patients.find_groups`.
      shard_mb: the largest size of a shard, in millions of bytes.
      workers: processes; -1 for one a core, 0 for none (all in this process).
      seed: of the split and the order.
      duplicates: "exclude", "keep" or "fail".
      exclude: a list of images to leave out, see `exclude.read_exclusions`; empty for none.
      exclude_findings: an audit whose pairs are to go, see `exclude.read_findings`; empty for none.
      balance: one of `exclude.BALANCES`.
      crop_border: "none", "auto" or a share, see `harmonize.crop`.
      equalize_to: see `harmonize.equalize`; 0 for no.
      max_pixels: larger images are quarantined.
      max_bad: the share of quarantined images at which the run stops.
      image_timeout: seconds that one image may take.
      audit: whether to look for leakage and shortcuts at the end.
      overwrite: whether an output of other flags or inputs may be replaced.
      retry_quarantined: whether to try the quarantined files of a finished output again.
      log_json: file for JSON lines, "-" for stdout.
      quiet: no progress on stderr.
      runner: one of `RUNNERS`.
      beam_runner: the Beam runner's name.
      beam_options: further flags of Beam, as on a command line.
    """

    source: str
    output: str
    size: int = 360
    dtype: str = "float32"
    channels: int = 3
    color: str = "gray"
    splits: str = "auto"
    classes: tuple[str, ...] = ()
    group_regex: str = patients.AUTO
    shard_mb: float = 100
    workers: int = -1
    seed: int = 0
    duplicates: str = "exclude"
    exclude: str = ""
    exclude_findings: str = ""
    balance: str = "none"
    crop_border: str = harmonize.NONE
    equalize_to: int = 0
    max_pixels: int = MAX_PIXELS
    max_bad: float = 1.0
    image_timeout: float = 120
    audit: bool = True
    overwrite: bool = False
    retry_quarantined: bool = False
    log_json: str = ""
    quiet: bool = False
    runner: str = "local"
    beam_runner: str = "DirectRunner"
    beam_options: str = ""

    def __post_init__(self) -> None:
        for name, allowed in (
            ("dtype", example.DTYPES),
            ("channels", (1, 3)),
            ("color", decode.COLORS),
            ("duplicates", duplicates.POLICIES),
            ("balance", exclude.BALANCES),
            ("runner", RUNNERS),
        ):
            if getattr(self, name) not in allowed:
                raise UsageError(
                    f"--{name}={getattr(self, name)}: choose from {', '.join(map(str, allowed))}"
                )
        if self.color == "keep" and self.channels == 1:
            raise UsageError("--color=keep needs --channels=3")
        harmonize.parse_crop(self.crop_border)
        if self.equalize_to and self.color == "keep":
            raise UsageError("--equalize_to makes images gray: it needs --color=gray")
        if self.equalize_to and not 16 <= self.equalize_to <= 4096:
            raise UsageError(f"--equalize_to={self.equalize_to}: choose from 16 to 4096, or 0 for no")
        if not 1 <= self.size <= 4096:
            raise UsageError(f"--size={self.size}: choose from 1 to 4096")
        if not all(0 < x < math.inf for x in (self.shard_mb, self.max_pixels, self.image_timeout)):
            raise UsageError("--shard_mb, --max_pixels and --image_timeout must be above 0, and finite")
        if self.workers < -1:
            raise UsageError(
                f"--workers={self.workers}: give a number, 0 for this process, or -1 for one a core"
            )
        if not 0 <= self.max_bad <= 1:
            raise UsageError(f"--max_bad={self.max_bad:.0%}: choose from 0% to 100%")
        if self.beam_options and self.runner != "beam":
            raise UsageError("--beam_options needs --runner=beam")

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
