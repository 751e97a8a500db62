"""Which files are left out, and why: no file disappears without a line that names it."""

from collections import Counter
from collections.abc import Iterable
from dataclasses import dataclass

REASONS = {
    "empty": "the file has no bytes",
    "not_an_image": "the content is of no known image format",
    "truncated": "the file ends too early",
    "damaged": "the decoder or a checksum refuses the content",
    "unsupported": "an image of a kind that is not converted; its line says which",
    "no_decoder": "an image in a compression without a decoder here",
    "too_large": "more pixels than --max_pixels, more memory than --image_memory_gb, or too large a file",
    "zero_variance": "every pixel is the same",
    "unreadable": "the operating system refuses to read it",
    "directory": "a directory with the name of an image",
    "outside_source": "a link or path that leads out of the source",
    "dangling_link": "a link to nothing",
    "link_to_directory": "a link to a directory that leads back to it, or in place of a file",
    "special_file": "a pipe, socket or device",
    "no_class": "an image outside of the class folders",
    "missing": "listed in the CSV or the table, but not there",
    "listed_twice": "a second line of the CSV or the table for the same file",
    "no_row": "a file, or a name in a list of a split, that no row of the table names",
    "other_view": "a picture of a view that --views leaves out",
    "ambiguous": "one of several files that a row of the table may mean",
    "conflicting_rows": "rows of the table that contradict each other on one picture",
    "conflicting_labels": "the same bytes under two labels",
    "duplicate": "the same bytes as another file, which was written",
    "excluded": "named by --exclude, --exclude_folders, --exclude_files or the audit of --exclude_findings, "
    "or not by --split_file",
    "balanced": "dropped by --balance",
    "decoder_crashed": "the decoder ended the worker process, twice",
    "timeout": "the decoder did not come back",
}
"""Every reason there is. "duplicate" and `EXCLUDED` are exclusions, all others are quarantine."""

EXCLUDED = ("excluded", "balanced", "other_view")
"""Left out because the user wished it."""

NOT_BAD = ("no_class", "no_row", "listed_twice", "duplicate", *EXCLUDED)
"""Reasons that say nothing against the file, and do not count for --max_bad."""


@dataclass(frozen=True, order=True)
class Quarantined:
    """One input that was not written.

    Attributes:
      id: path relative to the source.
      reason: one of `REASONS`.
      detail: what exactly was found.
      sha256: of the file's bytes, empty where they could not be read.
    """

    id: str
    reason: str
    detail: str
    sha256: str = ""


def reasons_table(entries: Iterable[Quarantined]) -> str:
    """Return a table of counts by reason, the most frequent first; empty if there are none."""
    counts = Counter(entry.reason for entry in entries)
    rows = sorted(counts.items(), key=lambda item: (-item[1], item[0]))
    return "\n".join(f"  {count:7,}  {reason:18}  {REASONS[reason]}" for reason, count in rows)
