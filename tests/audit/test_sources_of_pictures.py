"""Pictures of several sources: the source as a shortcut, and how well the pictures tell it."""

import dataclasses

import numpy as np
import pytest
from audit_fixtures import synthetic

from cxr_data.audit.audit import as_document, audit_pictures, write_audit
from cxr_data.audit.causes import causes_of
from cxr_data.audit.repair import remedies_for
from cxr_data.audit.text import audit_as_text
from cxr_data.records.audit_document import read_audit


@pytest.fixture
def pictures():
    """240 pictures: all of covid and a tenth of the others are of `south`, whose pictures are brighter."""
    made = synthetic(0)
    is_south = (made.labels == 0) | (np.random.default_rng(0).random(len(made)) < 0.1)
    dark = made.rows["thumbnail"].astype(int) // 2
    made.rows["thumbnail"] = np.where(is_south[:, None, None], dark + 120, dark)
    return dataclasses.replace(made, sources=["south" if south else "" for south in is_south])


def test_the_source_is_named_as_a_shortcut_and_the_pictures_tell_it(pictures, tmp_path):
    write_audit(str(tmp_path), audit_pictures(pictures, quiet=True))
    document = read_audit(str(tmp_path))
    (found,) = [finding for finding in document["findings"] if finding["name"] == "source"]
    assert (found["kind"], found["cause"]) == ("shortcut", "source")
    of_source = {score["label"]: score for score in document["shortcuts"] if score["feature"] == "source"}
    covid = of_source["covid"]
    assert 0.9 < covid["low"] < covid["auroc"] == found["value"] < 1
    assert covid["p"] <= document["alpha"]
    counts = document["sources"]["pictures"]
    assert counts == {name or "unknown source": pictures.sources.count(name) for name in ("", "south")}
    told = {(score["label"], score["feature"]): score for score in document["sources"]["scores"]}
    assert ("south", "source") not in told
    assert told["south", "mean"]["auroc"] > 0.99
    text = " ".join(audit_as_text("data", document, 0).split())
    assert "2 sources" in text
    assert "south by " in text
    titles = [cause.title for cause in causes_of(document)]
    assert not [title for title in titles if "files" in title]  # nothing is known of them


def test_of_one_source_nothing_is_said(pictures):
    one = dataclasses.replace(pictures, sources=["south"] * len(pictures))
    document = as_document(audit_pictures(one, quiet=True))
    assert "sources" not in document
    assert "source" not in {score["feature"] for score in document["shortcuts"]}


def test_sources_of_all_classes_can_be_balanced_and_need_no_equal_files(pictures):
    known = dataclasses.replace(pictures, has_files=True, stored=(64, "area", "gray", "none", 0))
    known.rows["width"] = known.rows["height"] = 512
    assert [remedy.flag for remedy in remedies_for(["source"], known)] == ["balance"]
    assert [remedy.flag for remedy in remedies_for(["source", "size"], known)] == ["balance", "equalize_to"]
    apart = dataclasses.replace(known, sources=[known.label_name(at) for at in range(len(known))])
    assert not remedies_for(["source"], apart)
    unknown = dataclasses.replace(known, sources=[""] * len(known))
    assert [remedy.flag for remedy in remedies_for(["size"], unknown)] == ["equalize_to"]
