"""What README.md, BUILD.md and the pages of docs/ name and link to is there."""

import re

import pytest
from project import ROOT

DOCUMENTS = [path.relative_to(ROOT).as_posix() for path in (*ROOT.glob("*.md"), *ROOT.glob("docs/*.md"))]


def anchors(text: str) -> set[str]:
    """Return the anchors of the headings of a document, as mkdocs and GitHub make them."""
    prose = re.sub(r"^```.*?^```", "", text, flags=re.DOTALL | re.MULTILINE)
    headings = re.findall(r"^#+ (.*)$", prose, re.MULTILINE)
    return {re.sub(r"\s", "-", re.sub(r"[^\w\s-]", "", heading.lower())) for heading in headings}


@pytest.mark.parametrize("document", DOCUMENTS)
def test_every_link_leads_somewhere(document):
    path = ROOT / document
    for place, _, anchor in re.findall(r"\]\((?!https?:)([^)#\s]*)(#([^)\s]*))?\)", path.read_text()):
        target = (path.parent / place).resolve() if place else path
        assert target.exists(), place
        assert not anchor or anchor in anchors(target.read_text()), f"{place}#{anchor}"


@pytest.mark.parametrize("document", DOCUMENTS)
def test_every_file_of_the_code_that_is_named_exists(document):
    text = (ROOT / document).read_text()
    named = re.findall(r"(?:cxr_data|cxr_train|tools|tests)/[\w/]+\.(?:py|jinja)", text)
    assert [name for name in named if not (ROOT / name).is_file()] == []
