"""Which images belong to one patient: by a pattern in the path, the CSV or table, or the DICOM header."""

import re
from collections import Counter, defaultdict
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass
from functools import partial

from cxr_data.core import storage
from cxr_data.core.errors import DataError, UsageError
from cxr_data.core.wording import counted
from cxr_data.images import decode
from cxr_data.images.guarded import LOST, Limits, SourceFile, read_each
from cxr_data.images.source_file import read_head
from cxr_data.images.undecodable import Undecodable
from cxr_data.sources import dicom_patient
from cxr_data.sources.item import Item
from cxr_data.sources.names import is_nobody
from cxr_data.sources.quarantine import Quarantined

AUTO, NONE = "auto", "none"

KNOWN_PATTERNS = {
    "NIH ChestX-ray14 (PATIENT_FOLLOWUP.png)": r"(?:^|/)(\d{8})_\d{3}\.[^/]*$",
    "CheXpert (patient00001/study1/...)": r"(?:^|/)(patient\d+)/study\d+/",
    "MIMIC-CXR (p10000032/s50414267/...)": r"(?:^|/)(p\d{8})/s\d+",
    "Kermany pediatric (person1_virus_6.jpeg)": r"(?:^|/)(person\d+)_(?:virus|bacteria)_[^/]*$",
}
"""File names of public sets that carry the patient; `auto` looks for them. Taking each image
of such a set for a patient of its own leaks patients between splits."""

_NUMBERED_WITHIN_FOLDERS = ("Kermany pediatric (person1_virus_6.jpeg)",)
"""Those that number patients within each folder only: the same number in another folder is another patient.
The others number them in the whole set."""


@dataclass(frozen=True)
class Groups:
    """The group of every item, and how it was found.

    Attributes:
      of: {id: group}. An image without a known patient is a group of its own, named by its id.
      found_by: {id: the rule that found its patient}, "" where none is known.
      summary: one line for the user.
      warning: what may be wrong, or "".
      assumed: what was assumed against the names, or "".
    """

    of: Mapping[str, str]
    found_by: Mapping[str, str]
    summary: str
    warning: str = ""
    assumed: str = ""


def find_groups(items: Sequence[Item], group_regex: str, patients: Mapping[str, str]) -> Groups:
    """Find the group of every item; CSV or table before DICOM header before pattern.

    Args:
      items: the inputs.
      group_regex: a pattern that is searched in each id, its first parenthesis (or all that
        matched) being the group; "auto" tries `KNOWN_PATTERNS`, and tests what they say against splits
        and classes; "none" takes every image for a patient of its own.
      patients: {id: pseudonym}, from `patients_in_headers`.

    What names nobody (`names.is_nobody`) is no patient.

    Raises:
      UsageError: the pattern is no regular expression, or matches no id.
      DataError: a number of the CSV or table is written in two ways.
    """
    patterns = _patterns(group_regex)
    of: dict[str, str] = {}
    found_by: dict[str, str] = {}
    for item in items:
        found_by[item.id], of[item.id] = _group_of(item, patterns, patients)
    _refuse_two_ways(item.group for item in items if item.group)
    how = Counter(found_by.values())
    assumed = []
    for name in _NUMBERED_WITHIN_FOLDERS:
        own = [item for item in items if found_by[item.id] == name]
        twice = _in_two_places(own, of)
        if twice:
            of |= {item.id: f"{_place(item)}/{of[item.id]}" for item in own}
            assumed.append(_assumption(name, twice, own, of))
    if group_regex not in (AUTO, NONE) and not how["--group_regex"]:
        raise UsageError(
            f"--group_regex={group_regex} matches none of {len(items)} paths, such as {items[0].id!r}; "
            "correct it"
        )
    return Groups(of, found_by, _summary(of, how), _warning(of, how, group_regex), "; ".join(assumed))


def _place(item: Item) -> str:
    return f"{item.split}/{item.label}" if item.split else item.label


def _in_two_places(items: Sequence[Item], of: Mapping[str, str]) -> dict[str, list[str]]:
    """Return {group: its splits and classes} of the groups that are in two given splits or two classes."""
    places: dict[str, set[str]] = defaultdict(set)
    for item in items:
        places[of[item.id]].add(_place(item))
    return {group: sorted(found) for group, found in places.items() if len(found) > 1}


def _assumption(
    name: str, twice: Mapping[str, Sequence[str]], items: Sequence[Item], of: Mapping[str, str]
) -> str:
    group, (first, second, *_) = next(iter(twice.items()))
    return (
        f"{len(twice):,} of the numbers that {name} gives persons are in two splits or classes, as {group} "
        f"in {first} and {second}: so each is taken for a person of its split and class only, "
        f"{counted(len({of[item.id] for item in items}), 'person')} of {len(items):,} images; "
        r"--group_regex='(person\d+)_' takes equal numbers for one person everywhere, --group_regex=none "
        "each image for a patient of its own"
    )


def _patterns(group_regex: str) -> dict[str, re.Pattern[str]]:
    if group_regex == NONE:
        return {}
    if group_regex == AUTO:
        return {name: re.compile(pattern) for name, pattern in KNOWN_PATTERNS.items()}
    try:
        return {"--group_regex": re.compile(group_regex)}
    except re.error as error:
        raise UsageError(f"--group_regex={group_regex}: {error}") from error


def _group_of(
    item: Item, patterns: Mapping[str, re.Pattern[str]], patients: Mapping[str, str]
) -> tuple[str, str]:
    if item.group and not is_nobody(item.group):
        return ("table" if item.labels else "CSV"), item.group
    if item.id in patients:
        return "DICOM PatientID", patients[item.id]
    for name, pattern in patterns.items():
        match = pattern.search(item.id)
        group = (match.group(1 if pattern.groups else 0) or match.group(0)) if match else ""
        if not is_nobody(group):
            return name, group
    return "", item.id


def _refuse_two_ways(groups: Iterable[str]) -> None:
    """Raise DataError for a patient `1` that is `1.0` elsewhere, as tables with gaps write it."""
    first_of: dict[str, str] = {}
    for group in groups:
        first = first_of.setdefault(re.sub(r"^(\d+)\.0$", r"\1", group), group)
        if first != group:
            raise DataError(
                f"the CSV or table has the patients {first!r} and {group!r}: write the number of a patient "
                "in one way only"
            )


def _summary(of: Mapping[str, str], how: Counter[str]) -> str:
    named = [f"{count:,} by {source}" for source, count in how.items() if source]
    alone = [f"{how['']:,} stand alone"] if how[""] else []
    groups = counted(len(set(of.values())), "group")
    return f"patients: {groups} of {counted(len(of), 'image')} ({', '.join(named + alone)})"


def _warning(of: Mapping[str, str], how: Counter[str], group_regex: str) -> str:
    largest, count = Counter(of.values()).most_common(1)[0]
    if len(of) > 10 and count > len(of) / 2:
        return f"group {largest!r} holds {count:,} of {len(of):,} images: is it one patient?"
    if how[""] == len(of) and group_regex == AUTO:
        return (
            "no patient is known, so every image counts as a patient of its own: if patients have "
            "several images, give --group_regex, or the same patient will be in training and test"
        )
    return ""


# -- DICOM headers -----------------------------------------------------------------------------


def patients_in_headers(
    items: Sequence[Item], max_pixels: int, limits: Limits, count: int
) -> tuple[dict[str, str], dict[str, Quarantined]]:
    """Read the patients of DICOM files, in worker processes.

    Args:
      items: the inputs, of any format.
      max_pixels: of an image.
      limits: of one file.
      count: of the processes.

    Returns:
      {id: pseudonym} of the DICOM files that state a patient, and {id: why} of those that end their reader:
      nobody knows whose they are, and they would be lost in the conversion. What is damaged otherwise gets
      its line there.
    """
    files = [item for item in items if _is_dicom(item)]
    read = partial(dicom_patient.read_patient, max_pixels=max_pixels, limits=limits)
    found = list(read_each(read, (SourceFile(item.path, item.bytes) for item in files), limits, count))
    salt = dicom_patient.salt_of(one.identity for one in found if not isinstance(one, Undecodable))
    patients: dict[str, str] = {}
    lost: dict[str, Quarantined] = {}
    for item, one in zip(files, found, strict=True):
        if not isinstance(one, Undecodable):
            if one.patient:
                patients[item.id] = dicom_patient.pseudonym(one.patient, salt)
        elif one.reason in LOST:
            lost[item.id] = Quarantined(item.id, one.reason, one.detail)
    return patients, lost


def _is_dicom(item: Item) -> bool:
    # Of an object, the first bytes cost requests.
    if not storage.store_of(item.path).is_local and not item.path.lower().endswith((".dcm", ".dicom")):
        return False
    try:
        return decode.sniff(read_head(item.path, item.bytes)) == "DICOM"
    except Undecodable:
        return False  # it will be quarantined when it is converted
