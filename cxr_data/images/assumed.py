"""What was assumed about a file that does not say it, as letters in its `Facts` and words for users.

docs/assumed.md has a table of what each means.
"""

from collections import Counter
from collections.abc import Iterable

from cxr_data.core.wording import counted

RANGE = "R"
TABLE = "L"
WINDOW = "W"
DEFAULT = "D"

WORDS = {
    RANGE: "range taken from the pixels",
    TABLE: "range taken from the data of a lookup table, which claims more bits",
    WINDOW: "window or lookup table that cannot be applied left out",
    DEFAULT: "default for a DICOM tag that is absent, empty or unreadable",
}
"""Every assumption there is, by its letter."""


def assumed_words(letters: str) -> str:
    """Return the words for the letters of one file."""
    return "; ".join(WORDS.get(letter, letter) for letter in letters) or "nothing assumed"


def assumed_summary(files: Iterable[str]) -> str:
    """Return how many files each assumption was made about, empty for none.

    Args:
      files: the letters of each file.
    """
    counts = Counter(letter for letters in files for letter in letters)
    named = (letter for letter in WORDS if counts[letter])
    return "; ".join(f"{WORDS[letter]}: {counted(counts[letter], 'file')}" for letter in named)
