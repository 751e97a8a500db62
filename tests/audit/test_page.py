"""The page of a data set: what it says, that it escapes what comes from users, and that it loads nothing."""

import dataclasses
import subprocess
import sys
from html.parser import HTMLParser

import pytest
from audit_fixtures import synthetic
from project import ROOT
from shards import random_images, write_shards

from cxr_data.audit import audit, figures
from cxr_data.audit.page import write_page
from cxr_data.audit.repair import Conversion, repair_command
from cxr_data.core.page import breakable
from cxr_data.core.wording import capitalized

CLASSES = ("<b>x", "normal", "pneumonia")
NAME = "<script>alert('&')</script>\u202e\n.png"
DATE = "2026-11-27T16:40:09+00:00"


class Page(HTMLParser):
    """A page read as a browser reads it.

    Attributes:
      tags: (name, attributes) of every element.
      text: all text, without tags.
      inside: the text inside of each kind of element.
    """

    def __init__(self, content):
        super().__init__()
        self.tags, self.text, self.inside, self._open = [], "", {}, []
        self.feed(content)

    def handle_starttag(self, tag, attrs):
        self.tags.append((tag, dict(attrs)))
        if tag not in ("meta", "img", "wbr", "input"):
            self._open.append(tag)

    def handle_endtag(self, tag):
        assert self._open.pop() == tag

    def handle_data(self, data):
        self.text += data
        for tag in set(self._open):
            self.inside[tag] = self.inside.get(tag, "") + data


def shards(tmp_path, classes=CLASSES):
    made = write_shards(tmp_path / "in<i>", {"train": random_images(6, size=8)})
    return dataclasses.replace(
        made, class_names=classes, counts={"train": dict(zip(classes, (1000, 2, 3), strict=True))}
    )


def page_of(tmp_path, own, made, conversion=None, other=None):
    audited = audit.audit_pictures(own, other, conversion, quiet=True)
    drawn = figures.draw_figures(str(tmp_path / "audit"), audited)
    path = write_page(str(tmp_path / "audit"), audited, made, drawn, DATE)
    with open(path, encoding="utf-8") as file:
        return audit.as_document(audited), file.read()


@pytest.fixture(scope="module")
def hostile(tmp_path_factory):
    """The page of a set with a shortcut and 150 copies across its splits, whose names are HTML."""
    tmp_path = tmp_path_factory.mktemp("hostile")
    own = synthetic(0, images=400, strength=1.0)
    own.rows["thumbnail"][200:350] = own.rows["thumbnail"][:150]
    splits = ["train"] * 200 + ["test"] * 200
    ids = [NAME, *own.ids[1:]]
    own = dataclasses.replace(own, class_names=CLASSES, splits=splits, ids=ids)
    made = shards(tmp_path)
    conversion = Conversion("/data/a<u>b", {"size": "96"})
    return made, *page_of(tmp_path, own, made, conversion)


def test_the_page_has_the_data_the_findings_and_the_repair(hostile):
    made, document, content = hostile
    page = Page(content)
    assert page.inside["h1"] == "Data set in<i>: <b>x / normal / pneumonia"
    assert "audited on 27 November 2026, 16:40 UTC" in page.text
    assert "1,000" in page.inside["table"]
    assert page.inside["code"] == "/data/a<u>b"
    assert "--size=96" in page.inside["table"]
    kinds = {finding["kind"] for finding in document["findings"]}
    assert {"leakage", "shortcut"} <= kinds
    for finding in document["findings"]:
        assert capitalized(finding["text"]) in page.inside["li"]
    assert page.inside["pre"] == "\n".join(repair_command(made.directory, document))
    pictures = [attributes["src"] for tag, attributes in page.tags if tag == "img"]
    assert [source.partition(",")[0] for source in pictures] == ["data:image/png;base64"] * 2
    for said in ("not a medical device", "--against=DIR", *document["notes"]):
        assert said.lower() in page.text.lower()


def test_a_hundred_cases_are_folded_and_the_rest_is_counted(hostile):
    _, document, content = hostile
    (leak,) = [finding for finding in document["findings"] if finding["name"] == "pictures_in_two_splits"]
    assert leak["cases"] > 100
    folded = Page(content).inside["details"]
    assert folded.count("ncc ") >= 100
    assert f"{leak['cases'] - 100} more are in audit.json" in folded


def test_nothing_of_a_user_becomes_html_and_nothing_is_loaded(hostile):
    _, _, content = hostile
    page = Page(content)
    assert not {tag for tag, _ in page.tags} & {"script", "b", "i", "u", "link", "iframe", "object"}
    assert "<script>alert('&')</script>\\u202e\\n.png" in page.text
    assert "&amp;lt;" not in content
    for _, attributes in page.tags:
        assert not [name for name in attributes if name.startswith("on")]
        assert attributes.get("src", "data:").startswith("data:")
        assert attributes.get("href", "#").startswith("#")
    assert "url(" not in page.inside["style"]


def test_a_set_without_findings_says_whether_shortcuts_were_looked_for(tmp_path):
    made = shards(tmp_path)
    for images, said in ((240, "cannot rule them out"), (12, "No shortcut was looked for")):
        document, content = page_of(tmp_path, synthetic(0, images=images), made)
        assert document["findings"] == []
        page = Page(content)
        assert said in page.text
        assert "There is nothing to repair" in page.text
        assert not [tag for tag, _ in page.tags if tag in ("img", "pre")]


def test_what_is_not_known_is_said(tmp_path):
    own = synthetic(0, images=12, per_patient=1)
    own = dataclasses.replace(own, has_files=False, groups=own.ids, class_names=CLASSES)
    document, content = page_of(tmp_path, own, shards(tmp_path))
    page = Page(content)
    assert len(document["notes"]) == 3
    for note in document["notes"]:
        assert capitalized(note) in page.inside["li"]
    assert "is not known" in page.text


def test_a_second_data_set_is_named(tmp_path):
    own = synthetic(0, images=12)
    other = dataclasses.replace(synthetic(1, images=12), where="/data/other<b>")
    page = Page(page_of(tmp_path, own, shards(tmp_path), other=other)[1])
    assert page.inside["code"] == "/data/other<b>"
    assert "--against" not in page.text


def test_the_page_of_an_earlier_audit_goes_with_its_pictures(tmp_path):
    page_of(tmp_path, synthetic(0, images=12), shards(tmp_path))
    figures.remove_figures(str(tmp_path / "audit"))
    assert not list((tmp_path / "audit").iterdir())


def test_what_only_a_page_needs_is_imported_for_a_page():
    code = "import sys, cxr_data.commands.audit_dataset; print({'jinja2', 'matplotlib'} & set(sys.modules))"
    done = subprocess.run([sys.executable, "-c", code], cwd=ROOT, capture_output=True, text=True, check=True)
    assert done.stdout.strip() == "set()"


def test_a_long_name_breaks_behind_its_separators_only():
    assert breakable("a/b_c-1.png") == "a/<wbr>b_<wbr>c-<wbr>1.<wbr>png"
    assert breakable("<i>.png") == "&lt;i&gt;.<wbr>png"
