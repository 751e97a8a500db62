"""What a command shows: no character that is not visible, and no key of an object store.

The names of files and classes, manifests and DICOM headers come from strangers. A terminal obeys control
characters: it moves the cursor, changes its title, types. So the door of the commands puts `shown_streams`
around everything that is written to stdout and stderr, and no other place has to think of it.

This module imports nothing of the project: `chatter` runs it in a process of its own.
"""

import contextlib
import functools
import os
import re
import sys
from collections.abc import Iterable, Iterator
from typing import Any
from urllib.parse import quote

HIDDEN = "***"
KEYS_ELSEWHERE = (
    "holds a key or a password, which files and errors would repeat; give it as AWS_ACCESS_KEY_ID and "
    "AWS_SECRET_ACCESS_KEY in the environment, or in ~/.aws/credentials"
)
"""What is wrong with a path or flag that holds a key, and what to do."""

_SECRET_NAME = re.compile(r"(SECRET|TOKEN|PASSWORD|ACCESS_KEY)(?!.*(_FILE|_URI|_PATH)$)")
_SHORTEST_SECRET = 8  # a shorter value is a word of some other meaning
# Every repeat that another start could pass through again has a limit: a stranger's text takes linear time.
_SECRETS = re.compile(
    r"""
      (?<=://)[^\s/@:]{0,256}:[^\s@]{0,256}@             # user:password@ in a URL
    | (?<=://)[^\s/@:]{1,256}@                           # user@
    | (?-i:(?<![A-Z0-9])(?:AKIA|ASIA)[A-Z0-9]{16}(?![A-Z0-9]))  # an id that Amazon gave
    | (?<=[?&])(?:x-amz-[\w-]+|awsaccesskeyid|signature|sig)=[^\s&"']+
    | (?:secret|token|password|access_key)\w{0,256}=[^\s&"',]+
    """,
    re.VERBOSE | re.IGNORECASE,
)


def one_line(text: str) -> str:
    """Escape every character of a text that is not visible, such as those of the name of a file.

    These may be line breaks, the controls of a terminal, and bytes that are not UTF-8.
    """
    if text.isprintable():
        return text
    return "".join(c if c.isprintable() else c.encode("unicode_escape").decode() for c in text)


def say(line: str, stream: Any = None) -> None:
    """Print a line in which there may be names, and no other line break; to stdout by default."""
    print(one_line(line), file=stream, flush=True)


def visible(text: str) -> str:
    """Do as `one_line`, but keep line breaks and tabs."""
    return "".join(part if part in "\n\t" else one_line(part) for part in re.split(r"([\n\t])", text))


def visible_names(document: Any) -> Any:
    """Return a document of dictionaries and lists with `one_line` of each text in it, keys too."""
    if isinstance(document, str):
        return one_line(document)
    if isinstance(document, dict):
        return {visible_names(key): visible_names(value) for key, value in document.items()}
    if isinstance(document, list | tuple):
        return [visible_names(value) for value in document]
    return document


def shown(text: str) -> str:
    """Return a text as a terminal or log may have it."""
    return visible(without_keys(text))


def without_keys(text: str) -> str:
    """Return a text without the keys and passwords in it: those of the environment, and those in URLs."""
    for secret in _secrets():
        text = text.replace(secret, HIDDEN)

    def hidden(found: re.Match[str]) -> str:
        name, equals, _ = found[0].partition("=")
        return HIDDEN + "@" if found[0].endswith("@") else name + equals + HIDDEN if equals else HIDDEN

    return _SECRETS.sub(hidden, text)


def holds_key(text: str) -> bool:
    """Return whether a path or flag holds a key or a password; the id of a key may be a bucket's name too."""
    return bool(_SECRETS.search(text)) or any(secret in text for secret in _secrets(but="_ID"))


def _secrets(but: str | None = None) -> list[str]:
    """Return the secrets of the environment, longest first, but those of names with some end."""
    return _secrets_of(tuple(os.environb.items()), but)


@functools.lru_cache(4)  # of this environment, which is asked at every write
def _secrets_of(environment: tuple[tuple[bytes, bytes], ...], but: str | None) -> list[str]:
    values = {
        value
        for name, value in ((os.fsdecode(key).upper(), value) for key, value in environment)
        if len(value) >= _SHORTEST_SECRET and _SECRET_NAME.search(name) and not (but and name.endswith(but))
    }
    texts = {text for value in values for text in (os.fsdecode(value), quote(value, safe=""))}
    return sorted(texts, key=len, reverse=True)


class ShownStream:
    """A stream of text that writes what is visible and no secret into another one.

    Attributes:
      raw: the other one, for a progress bar, which moves the cursor.
    """

    def __init__(self, raw: Any) -> None:
        self.raw = raw

    def write(self, text: str) -> int:
        """Write a text, and return its length."""
        self.raw.write(shown(text))
        return len(text)

    def writelines(self, lines: Iterable[str]) -> None:
        """Write several texts."""
        for line in lines:
            self.write(line)

    def __getattr__(self, name: str) -> Any:
        return getattr(self.raw, name)

    # tqdm asks whether a bar and a line go to the same stream.
    def __eq__(self, other: object) -> bool:
        return other is self or other is self.raw

    def __hash__(self) -> int:
        return hash(self.raw)


@contextlib.contextmanager
def shown_streams() -> Iterator[None]:
    """Let `sys.stdout` and `sys.stderr` be shown streams for the length of a block.

    They stay after a defect of ours, so that its traceback is shown through them.
    """
    before = sys.stdout, sys.stderr
    sys.stdout, sys.stderr = (ShownStream(raw_stream(stream)) for stream in before)
    try:
        yield
    except Exception:
        raise
    except BaseException:
        sys.stdout, sys.stderr = before
        raise
    sys.stdout, sys.stderr = before


def raw_stream(stream: Any) -> Any:
    """Return what a shown stream writes into, and any other stream itself."""
    return stream.raw if isinstance(stream, ShownStream) else stream
