"""Which images belong to one patient: by a pattern in the path, the CSV, or the DICOM header."""

import re
from collections import Counter
from collections.abc import Mapping, Sequence
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass

from cxr_data.core import storage
from cxr_data.core.errors import UsageError
from cxr_data.images import decode, dicom_header
from cxr_data.images.source_file import read_source
from cxr_data.images.undecodable import Undecodable
from cxr_data.sources import dicom_patient
from cxr_data.sources.discover import Item

AUTO, NONE = "auto", "none"

KNOWN_PATTERNS = {
    "NIH ChestX-ray14 (PATIENT_FOLLOWUP.png)": r"(?:^|/)(\d{8})_\d{3}\.[^/]*$",
    "CheXpert (patient00001/study1/...)": r"(?:^|/)(patient\d+)/study\d+/",
    "MIMIC-CXR (p10000032/s50414267/...)": r"(?:^|/)(p\d{8})/s\d+",
    "Kermany pediatric (person1_virus_6.jpeg)": r"(?:^|/)(person\d+)_(?:virus|bacteria)_[^/]*$",
}
"""File names of public sets that carry the patient; `auto` looks for them. Taking each image
of such a set for a patient of its own leaks patients between splits."""


@dataclass(frozen=True)
class Groups:
    """The group of every item, and how it was found.

    Attributes:
      of: {id: group}. An image without a known patient is a group of its own, named by its id.
      summary: one line for the user.
      warning: what may be wrong, or "".
    """

    of: Mapping[str, str]
    summary: str
    warning: str = ""


def find_groups(items: Sequence[Item], group_regex: str, patients: Mapping[str, str]) -> Groups:
    """Find the group of every item; CSV before DICOM header before pattern.

    Args:
      items: the inputs.
      group_regex: a pattern that is searched in each id, its first parenthesis (or all that
        matched) being the group; "auto" tries `KNOWN_PATTERNS`; "none" takes every image for a
        patient of its own.
      patients: {id: pseudonym}, from `patients_in_headers`.

    Raises:
      UsageError: the pattern is no regular expression, or matches no id.
    """
    patterns = _patterns(group_regex)
    of: dict[str, str] = {}
    how: Counter[str] = Counter()
    for item in items:
        source, group = _group_of(item, patterns, patients)
        of[item.id] = group
        how[source] += 1
    if group_regex not in (AUTO, NONE) and not how["--group_regex"]:
        raise UsageError(
            f"--group_regex={group_regex} matches none of {len(items)} paths, as {items[0].id!r}"
        )
    return Groups(of, _summary(of, how), _warning(of, how, group_regex))


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
    if item.group:
        return "CSV", item.group
    if item.id in patients:
        return "DICOM PatientID", patients[item.id]
    for name, pattern in patterns.items():
        match = pattern.search(item.id)
        if match:
            return name, match.group(1 if pattern.groups else 0) or match.group(0)
    return "", item.id


def _summary(of: Mapping[str, str], how: Counter[str]) -> str:
    named = [f"{count:,} by {source}" for source, count in how.items() if source]
    alone = [f"{how['']:,} stand alone"] if how[""] else []
    return f"patients: {len(set(of.values())):,} groups of {len(of):,} images ({', '.join(named + alone)})"


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


def patients_in_headers(items: Sequence[Item], threads: int) -> dict[str, str]:
    """Read the patients of DICOM files.

    Args:
      items: the inputs, of any format.
      threads: headers read at once.

    Returns:
      {id: pseudonym} of the DICOM files that state a patient.
    """
    heads = ((item, _head(item)) for item in items)
    files = [item for item, head in heads if decode.sniff(head) == "DICOM"]

    def identify(item: Item) -> tuple[str, str]:
        try:
            header = dicom_header.read_header(read_source(item.path, 1 << 28, item.bytes))
        except Undecodable:
            return "", ""  # it will be quarantined when it is converted
        return dicom_patient.patient_of(header), dicom_patient.identity_of(header)

    with ThreadPoolExecutor(threads) as pool:
        identities = list(pool.map(identify, files))
    salt = dicom_patient.salt_of(identity for _, identity in identities)
    pairs = zip(files, identities, strict=True)
    return {item.id: dicom_patient.pseudonym(patient, salt) for item, (patient, _) in pairs if patient}


def _head(item: Item) -> bytes:
    if not storage.store_of(item.path).is_local:  # where a whole object is read for its first bytes
        return (
            storage.read_bytes(item.path, item.bytes)[:132]
            if item.path.lower().endswith((".dcm", ".dicom"))
            else b""
        )
    try:
        with open(item.path, "rb", buffering=0) as file:
            return file.read(132)
    except OSError:
        return b""  # it will be quarantined when it is converted
