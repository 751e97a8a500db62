"""A page: one HTML file from templates, which runs nothing and loads nothing; its pictures and tables."""

import base64
import re
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from markupsafe import Markup

# Long names of files are to break here, and not within a word.
_AFTER_SEPARATOR = re.compile(r"(?<=[/._-])")


@dataclass(frozen=True)
class Picture:
    """A picture for an `img` element.

    Attributes:
      source: a data URI; nothing is loaded from anywhere.
      alt: what it shows, in words.
    """

    source: str
    alt: str


@dataclass(frozen=True)
class Shaded:
    """A cell of a table with a background.

    Attributes:
      text: what it says.
      shade: opacity of the background in [0, 1].
    """

    text: str
    shade: float


@dataclass(frozen=True)
class Grid:
    """A table: the first cell of each row names it."""

    caption: str
    header: Sequence[str]
    rows: Sequence[Sequence[str | Shaded]]


def embed(content: bytes, media_type: str, alt: str) -> Picture:
    """Put a picture's bytes into a data URI."""
    return Picture(f"data:{media_type};base64,{base64.b64encode(content).decode()}", alt)


def breakable(name: str) -> "Markup":
    """Return the name of a file as HTML that may break behind its separators; copied, it is the same name."""
    from markupsafe import Markup

    return Markup("<wbr>").join(_AFTER_SEPARATOR.split(name))


def render_page(package: str, template: str, content: Mapping[str, Any]) -> bytes:
    """Return what a template makes of its content, as UTF-8; everything in it is escaped.

    Args:
      package: whose folder `templates` has the template; head, style and macros are shared, from this wing.
      template: name of the file.
      content: what the template asks for.
    """
    import jinja2  # a tenth of a second, which only those wait for who want a page

    loaders = [jinja2.PackageLoader(package), jinja2.PackageLoader("cxr_data.core")]
    environment = jinja2.Environment(
        loader=jinja2.ChoiceLoader(loaders), autoescape=True, undefined=jinja2.StrictUndefined
    )
    environment.filters["breakable"] = breakable
    # The names of files may hold bytes that are no UTF-8; the page must not.
    return environment.get_template(template).render(content).encode("utf-8", errors="replace")
