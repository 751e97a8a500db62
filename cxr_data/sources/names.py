"""What the name of a folder or a label says: a split, a class, or neither."""

import math
import re
import unicodedata
from collections.abc import Mapping

from cxr_data.core.errors import DataError

SPLIT_FOLDERS = {
    "train": "train",
    "training": "train",
    "validation": "validation",
    "valid": "validation",
    "val": "validation",
    "test": "test",
    "testing": "test",
    "test_set": "test",
}
"""Names of splits, in small letters, and the split's name in the output."""


def split_of(name: str) -> str | None:
    """Return the split that the name of a folder, or a word, stands for; None for any other."""
    return SPLIT_FOLDERS.get(name.strip().lower())


MISSING = frozenset({"nan", "null", "n/a", "<na>", "#n/a"})
"""What programs write, in small letters, where a cell of a table has no value."""

_NOBODY = MISSING | {"na", "none", "nil", "unknown", "anonymous", "anonymized", "anonymised", "?", "-", "-1"}


def is_nobody(patient: str) -> bool:
    """Return whether the text in place of a patient names nobody: it is empty, or a word for nothing.

    All images of such a "patient" would count as one person's.
    """
    return patient.strip().lower() in {"", *_NOBODY}


def check_split_names(found: Mapping[str, str]) -> None:
    """Refuse names that cannot be a split, and names that are one split written in two ways.

    Args:
      found: an image of each split, by the split's name.

    Raises:
      DataError: naming the split and an image of it, or both names.
    """
    for name, image in found.items():
        if not re.fullmatch(r"\w[\w .-]*", name):
            raise DataError(
                f"{name!r} cannot be the name of a split (such as of {image}), since files are named "
                "after it: "
                "write letters, digits, -, _ or ."
            )
    _refuse_two_ways("splits", found)


def check_class_names(found: Mapping[str, str]) -> None:
    """Refuse names that cannot be a class, and names that are one class written in two ways.

    Args:
      found: an image of each class, by the class's name.

    Raises:
      DataError: naming the class and an image of it, or both names.
    """
    for name, image in found.items():
        reason = _not_a_class(name)
        if reason:
            raise DataError(f"{name!r} cannot be the name of a class (such as of {image}): {reason}")
    _refuse_two_ways("classes", found)


def _refuse_two_ways(what: str, found: Mapping[str, str]) -> None:
    first_of: dict[str, str] = {}
    for name, image in found.items():
        first = first_of.setdefault(_folded(name), name)
        if first != name:
            raise DataError(
                f"the {what} {first!r} (of {found[first]}) and {name!r} (of {image}) differ only by case, "
                "blanks, hyphens or the encoding of letters: give both one name"
            )


def _not_a_class(name: str) -> str:
    """Return why a name is that of no class; empty if it may be."""
    number = _number(name)
    if not name.strip():
        return "it is empty"
    if "|" in name:
        return "the sign | separates findings; give each picture one class, or a table of findings (--labels)"
    if name.strip().lower() in MISSING or (number is not None and math.isnan(number)):
        return "it stands for a missing label; leave such pictures out"
    if number is not None and number < 0:
        return "it stands for an uncertain or unknown finding; leave such pictures out, or give them a class"
    return ""


def _number(name: str) -> float | None:
    try:
        return float(name)
    except ValueError:
        return None


_BETWEEN_WORDS = re.compile(r"(?<=[^\W_])[\s_-]+(?=[^\W\d_])|(?<=[^\W\d_])[\s_-]+(?=[^\W_])")
"""What separates words, or a word and a number; between two numbers it may be all that tells names apart."""


def _folded(name: str) -> str:
    """Return what is left of a name without case, separators of words, Unicode's forms and `.0`."""
    number = _number(name)
    if number is not None and math.isfinite(number):
        return repr(number)
    visible = "".join(letter for letter in name if unicodedata.category(letter) != "Cf")
    folded = unicodedata.normalize("NFC", unicodedata.normalize("NFC", visible).casefold()).strip()
    return _BETWEEN_WORDS.sub("", folded)
