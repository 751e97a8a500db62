"""What README.md, BUILD.md and the pages of docs/ name and link to is there."""

import configparser
import html
import re

import pytest
from project import ROOT

from tools import front_picture

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


def test_the_description_of_the_package_has_no_link_that_is_dead_on_a_package_index():
    settings = configparser.ConfigParser()
    settings.read(ROOT / "setup.cfg")
    (name,) = re.findall(r"^file: (\S+)$", settings["metadata"]["long_description"])
    text = (ROOT / name).read_text()
    assert "not a medical device" in " ".join(text.split())
    assert not re.search(r"\]\((?!https://)", text)


@pytest.mark.parametrize("document", DOCUMENTS)
def test_no_line_of_prose_or_of_a_command_is_longer_than_110_columns(document):
    lines = (ROOT / document).read_text().splitlines()
    assert [line for line in lines if len(line) > 110 and not line.startswith("|")] == []


@pytest.mark.parametrize("document", DOCUMENTS)
def test_no_conflict_of_a_merge_is_left(document):
    assert not re.search(r"<{7} |>{7} ", (ROOT / document).read_text())


@pytest.mark.parametrize("document", DOCUMENTS)
def test_every_file_of_the_code_that_is_named_exists(document):
    text = (ROOT / document).read_text()
    named = re.findall(r"(?:cxr_data|cxr_train|tools|tests)/[\w/]+\.(?:py|jinja)", text)
    assert [name for name in named if not (ROOT / name).is_file()] == []


def test_the_numbers_of_the_readme_are_those_of_the_benchmarks():
    results = (ROOT / "README.md").read_text().partition("## Results")[2].partition("\n*The study*")[0]
    measured = set(re.findall(r"[\d.,]*\d", (ROOT / "docs/benchmarks.md").read_text()))
    numbers = re.findall(r"[\d.,]*\d", results)
    assert len(numbers) > 20
    assert [number for number in numbers if number not in measured] == []


def test_the_picture_has_the_ratios_of_the_benchmarks():
    drawn = html.unescape(front_picture.PICTURE.read_text())
    ratios = front_picture.ratios()
    assert len(ratios) >= 9
    for name, ratio in ratios.items():
        assert f">{name}<" in drawn
        assert f">{1 / ratio:.2g}<" in drawn, "python -m tools.front_picture draws it"
