"""What a conversion can do about an audit's findings: the flags that apply, and the whole command."""

import csv
import io
import os
import re
import shlex
from collections import Counter, defaultdict
from collections.abc import Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import PurePosixPath
from typing import Any

import numpy as np

from cxr_data.audit.causes import BORDERS, COPIES, LABELS, MARKS, SOURCE, SPLITS, cause_of
from cxr_data.audit.findings import SOURCE as SOURCE_FEATURE
from cxr_data.audit.pictures import Pictures
from cxr_data.core import storage
from cxr_data.core.wording import tool
from cxr_data.images.harmonize import AUTO, NONE
from cxr_data.records.layout import AUDIT_NAME, MANIFEST_NAME

SMALLEST_EQUALIZED = 64
"""Pixels below which equalizing leaves too little of a chest to be advised."""

_LARGEST_EQUALIZED = 4096
_OUTER_TENTH = "0.1"
_UNKNOWN_SOURCE = "DIR_OR_CSV"


@dataclass(frozen=True)
class Conversion:
    """What shards were made from.

    Attributes:
      source: folder or CSV, absolute; empty where it is not known.
      flags: of make_tfrecords, as text: those that decide the output and are not the defaults.
    """

    source: str = ""
    flags: Mapping[str, str] = field(default_factory=dict)


@dataclass(frozen=True)
class Remedy:
    """A flag of make_tfrecords that does something about a finding.

    Attributes:
      flag, value: as they are typed.
      does: what it does, a clause without its subject.
    """

    flag: str
    value: str
    does: str


def remedies_for(names: Iterable[str], pictures: Pictures) -> list[Remedy]:
    """Return the flags that apply to findings of these names, and that the pictures do not have yet.

    `--exclude_findings` is not among them: its value is where the audit lies.
    """
    names = list(names)
    causes = {cause_of(name) for name in names}
    form: tuple[Any, ...] = pictures.stored or (0, "", "gray", NONE, 0)
    size, _, color, crop, equalized = form
    found = []
    if SPLITS in causes:
        found.append(Remedy("splits", _shares(pictures), "draws splits as large as these, by patient"))
    if SOURCE in causes and _has_source_of_all_classes(pictures):
        does = "drops pictures until each source has as many of every class"
        found.append(Remedy("balance", "source", does))
    if MARKS in causes and crop in (NONE, AUTO):
        found.append(Remedy("crop_border", _OUTER_TENTH, "cuts off a tenth of every side"))
    elif BORDERS in causes and crop == NONE:
        found.append(Remedy("crop_border", AUTO, "cuts off flat borders"))
    smallest = smallest_side(pictures)
    half = min(smallest // 2, _LARGEST_EQUALIZED)
    is_of_files = "sharpness" in names or any(n != SOURCE_FEATURE and cause_of(n) == SOURCE for n in names)
    if is_of_files and color == "gray" and half >= SMALLEST_EQUALIZED and not 0 < equalized <= half:
        does = (
            "brings all pictures through one resolution and JPEG quality; it is half of the shorter side of "
            f"the smallest picture, {smallest} pixels"
        )
        if half < size:
            does += f"; records of {size} pixels then show no finer detail"
        found.append(Remedy("equalize_to", str(half), does))
    return found


def smallest_side(pictures: Pictures) -> int:
    """Return the shorter side of the smallest file, in pixels; 0 where nothing is known of the files."""
    if not pictures.has_files or not len(pictures):
        return 0
    return int(np.minimum(pictures.rows["width"], pictures.rows["height"]).min())


def _shares(pictures: Pictures) -> str:
    """Return `train:0.7,validation:0.15,test:0.15`, as large as the splits are."""
    counts = Counter(pictures.splits)
    shares = {name: max(round(count / len(pictures), 2), 0.01) for name, count in counts.items()}
    largest = max(shares, key=lambda name: shares[name])
    shares[largest] += 1 - sum(shares.values())
    return ",".join(f"{name}:{round(share, 2):g}" for name, share in shares.items())


def _has_source_of_all_classes(pictures: Pictures) -> bool:
    """Return whether a source, or one of the folders CLASS/SOURCE/, is in all classes, so that these can be
    balanced.
    """
    if pictures.findings is not None:
        return False
    classes = {pictures.label_name(position) for position in range(len(pictures))}
    of_source: dict[str, set[str]] = defaultdict(set)
    for position, source in enumerate(pictures.sources):
        if source:
            of_source[source].add(pictures.label_name(position))
    for position, name in enumerate(pictures.ids):
        parts, label = PurePosixPath(name).parts, pictures.label_name(position)
        depth = next((at for at in (0, 1) if parts[at : at + 1] == (label,)), None)
        if depth is not None and len(parts) > depth + 2:
            of_source[parts[depth + 1]].add(label)
    return any(found == classes for found in of_source.values())


# -- the command -------------------------------------------------------------------------------


def repair_command(directory: str, document: Mapping[str, Any]) -> list[str]:
    """Return the lines of a command that makes better shards; none where no flag applies.

    Args:
      directory: of the shards and their `audit.json`.
      document: its content.
    """
    remedies = document.get("repair") or []
    has_pairs = _has_pairs(document)
    if not remedies and not has_pairs:
        return []
    conversion = document.get("conversion") or {"source": "", "flags": {}}
    given = dict(conversion["flags"])
    flags = {remedy["flag"]: remedy["value"] for remedy in remedies}
    # What earlier audits left out stays out.
    audits = [*earlier_audits(document), storage.join(absolute(directory), AUDIT_NAME)]
    flags["exclude_findings"] = joined(map(shown, dict.fromkeys(audits)))
    places = {"source": conversion["source"] or _UNKNOWN_SOURCE, "output": _new_output(absolute(directory))}
    words = [f"--{name}={shlex.quote(shown(value))}" for name, value in {**places, **given, **flags}.items()]
    return [
        f"python -m {tool('make_tfrecords')} \\",
        *(f"  {word} \\" for word in words[:-1]),
        f"  {words[-1]}",
    ]


def explained_flags(document: Mapping[str, Any]) -> Iterator[str]:
    """Yield a sentence for each flag that a repair adds: what it does here."""
    for remedy in document.get("repair") or []:
        yield f"--{remedy['flag']}={remedy['value']} {remedy['does']}."
    leaves_out = "leaves the copies out, and " if _has_pairs(document) else ""
    yield f"--exclude_findings {leaves_out}has the next audit show each finding before and after."
    conversion = document.get("conversion")
    if not conversion:
        yield f"Replace {_UNKNOWN_SOURCE}, and add the flags of the first conversion: neither is known here."
    elif not conversion["source"]:
        yield f"Replace {_UNKNOWN_SOURCE} by what these shards were made from, which is not known here."


def earlier_audits(document: Mapping[str, Any]) -> list[str]:
    """Return the audits whose findings the conversion has left out, the last one at the end."""
    given = ((document.get("conversion") or {}).get("flags") or {}).get("exclude_findings", "")
    return next(csv.reader([given]), [])


def joined(paths: Iterable[str]) -> str:
    """Return paths as one flag takes them: separated by commas, a path with a comma in quotes."""
    line = io.StringIO()
    csv.writer(line, lineterminator="").writerow(list(paths))
    return line.getvalue()


def _has_pairs(document: Mapping[str, Any]) -> bool:
    return any(cause_of(finding["name"]) in (COPIES, LABELS) for finding in document["findings"])


def absolute(path: str) -> str:
    """Return a local path as it is valid in every folder, and a remote one as it is."""
    return os.path.abspath(path) if storage.store_of(path).is_local else path


def shown(path: str) -> str:
    """Return an absolute path relative to where the user is, if it lies there."""
    return path.removeprefix(f"{os.getcwd()}/")


def _new_output(directory: str) -> str:
    """Return a folder beside the shards that holds no dataset yet."""
    stem = re.sub(r"_repaired\d*$", "", directory.rstrip("/"))
    number = 1
    while True:
        output = f"{stem}_repaired{number if number > 1 else ''}"
        if storage.size(storage.join(output, MANIFEST_NAME)) is None and output != directory.rstrip("/"):
            return output
        number += 1


# -- before and after --------------------------------------------------------------------------


def before_and_after(
    before: Mapping[str, Any], after: Mapping[str, Any]
) -> Sequence[tuple[str, str, str, str]]:
    """Compare two audits: the shards that were repaired, and the new ones.

    Args:
      before, after: contents of `audit.json`.

    Returns:
      A row for each finding of either: its name, its number before and after (of a shortcut the AUROC of
      the class that it predicted best before), and what became of it.
    """
    old, new = ({finding["name"]: finding for finding in one["findings"]} for one in (before, after))
    rows = []
    for name in {**old, **new}:
        became = "still there" if name in old and name in new else "gone" if name in old else "new"
        if (old.get(name) or new[name])["kind"] == "shortcut":
            first, second = _score_of(name, before, after)
            if became == "still there" and name != SOURCE_FEATURE and cause_of(name) == SOURCE:
                became = "stays: the files have it"
            elif became == "gone":
                became = "no longer above chance"
        else:
            first, second = (f"{one[name]['value']:.0f}" if name in one else "0" for one in (old, new))
        rows.append((name.replace("_", " "), first, second, became))
    return rows


def _score_of(name: str, before: Mapping[str, Any], after: Mapping[str, Any]) -> tuple[str, str]:
    found = [
        {s["label"]: s["auroc"] for s in one["shortcuts"] if s["feature"] == name} for one in (before, after)
    ]
    either = found[0] or found[1]
    label = max(either, key=lambda name: either[name])
    first, second = (f"{one[label]:.3f}" if label in one else "not known" for one in found)
    return f"{label} {first}", second
