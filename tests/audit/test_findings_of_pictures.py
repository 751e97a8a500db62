"""The audit of pictures with several findings each: shortcuts a finding, contradictions, co-occurrence."""

import dataclasses
import json
import re

import numpy as np
import pytest
from finding_tables import make_nih

from cxr_data.audit import figures, shortcuts
from cxr_data.audit.audit import as_document, audit_pictures
from cxr_data.audit.leakage import Pair, find_leakage
from cxr_data.audit.page import write_page
from cxr_data.audit.pictures import Pictures, pictures_of_shards
from cxr_data.audit.text import audit_as_text
from cxr_data.convert.config import SharderConfig
from cxr_data.convert.convert import make_tfrecords
from cxr_data.images import measure
from cxr_data.records.in_words import counts_table
from cxr_data.stats.co_occurrence import both_present, value_counts

NAMES = ("edema", "mass", "rare")


@pytest.fixture
def pictures() -> Pictures:
    """300 pictures of noise, whose width alone says `edema` where it is known."""
    rng = np.random.default_rng(0)
    rows = np.zeros(300, measure.FEATURES_DTYPE)
    rows["thumbnail"] = rng.integers(0, 256, rows["thumbnail"].shape, np.uint8)
    rows["height"], rows["crc32c"] = 1024, np.arange(300)
    findings = rng.integers(0, 2, (300, 3))
    findings[:, 2] = np.arange(300) < 4
    findings[:4, :2] = [[0, 0], [0, 0], [0, 0], [0, 1]]  # so that the rare one is seldom with another one
    rows["width"] = np.where(findings[:, 0] == 1, 700, 1024)
    findings[::5, 0], findings[1::5, 0] = -1, -2
    rows["width"][::5] = 900
    ids = [f"{number}.png" for number in range(300)]
    return Pictures(
        "data", ids, list(ids), ["train"] * 300, (findings == 1).any(axis=1).astype(int), NAMES, rows, True,
        findings=findings,
    )  # fmt: skip


def test_a_shortcut_is_of_one_finding_and_of_the_pictures_in_which_it_is_known(pictures):
    scores = shortcuts.find_shortcuts(pictures, quiet=True)
    assert {score.label for score in scores} == {"edema", "mass"}
    above = [(score.feature, score.label, score.auroc) for score in scores if score.is_above_chance]
    assert above == [("size", "edema", 1.0), ("aspect", "edema", 1.0)]
    assert shortcuts.too_few(pictures) == ["rare"]
    found = shortcuts.shortcut_findings(pictures, scores)
    assert [finding.name for finding in found] == ["size", "aspect"]
    assert "edema" in found[0].text
    assert "no edema 0 of" in found[0].text


def test_chance_is_that_of_the_best_of_all_findings(pictures):
    rng = np.random.default_rng(1)
    noise = dataclasses.replace(pictures, findings=rng.integers(0, 2, (300, 3)))
    assert not [score for score in shortcuts.find_shortcuts(noise, quiet=True) if score.is_above_chance]


def test_copies_contradict_each_other_only_where_both_are_known(pictures):
    pictures.findings[:4] = [[1, 0, 0], [0, 0, 0], [-1, 0, 0], [-2, 0, 0]]
    pairs = [Pair(0, 1, 1.0, True), Pair(0, 2, 1.0, True), Pair(1, 3, 1.0, True)]
    found = {finding.name: finding for finding in find_leakage(pictures, pairs)}
    assert found.keys() == {"pictures_in_two_classes", "repeated_pictures"}
    (case,) = found["pictures_in_two_classes"].evidence
    assert (case["in"], case["and"]) == ("edema", "no finding")
    assert found["repeated_pictures"].value == 2


def test_a_patient_may_have_a_finding_at_one_time_only(pictures):
    same = dataclasses.replace(pictures, groups=["p"] * 300)
    assert not find_leakage(same, [])


def test_the_document_counts_findings_together(pictures, tmp_path):
    audit = audit_pictures(pictures, quiet=True)
    known = json.loads(json.dumps(as_document(audit)))["co_occurrence"]
    present = pictures.findings == 1
    assert known["findings"] == list(NAMES)
    assert known["both_present"][0][1] == int((present[:, 0] & present[:, 1]).sum())
    assert [known["both_present"][k][k] for k in range(3)] == present.sum(axis=0).tolist()
    assert known["counts"][0] == {
        "present": int(present[:, 0].sum()), "absent": int((pictures.findings[:, 0] == 0).sum()),
        "uncertain": 60, "unknown": 60,
    }  # fmt: skip
    text = audit_as_text("data", as_document(audit), 2)
    assert re.search(r"3 findings; most often together: (edema with mass|mass with edema) in \d+ of", text)
    assert "separates edema perfectly" in text
    assert len(figures.draw_figures(str(tmp_path), audit)) == 1


def test_co_occurrence_of_a_small_table():
    labels = np.array([[1, 1, -1], [1, 0, -2], [0, 1, 1]])
    np.testing.assert_array_equal(both_present(labels), [[2, 1, 0], [1, 2, 1], [0, 1, 1]])
    np.testing.assert_array_equal(
        value_counts(labels, (1, 0, -1, -2)), [[2, 1, 0, 0], [2, 1, 0, 0], [1, 0, 1, 1]]
    )


def test_a_conversion_with_tables_is_audited_and_has_a_page(tmp_path):
    source = make_nih(tmp_path)
    config = SharderConfig(
        str(source.source), str(tmp_path / "out"), size=8, workers=0, quiet=True, **source.flags
    )
    made = make_tfrecords(config)
    document = json.loads((tmp_path / "out/audit.json").read_text())
    assert document["co_occurrence"]["findings"] == list(made.class_names)
    audit = audit_pictures(pictures_of_shards(made, quiet=True), quiet=True)
    path = write_page(str(tmp_path / "page"), audit, made, [], "2026-01-01T00:00:00+00:00")
    page = (tmp_path / "page" / path.rsplit("/", 1)[1]).read_text()
    assert "two findings are present" in page
    assert "14 findings" in page
    counts = counts_table(dataclasses.asdict(made))
    assert {row[0]: row[-1] for row in counts.rows} == {"train": "3", "test": "2"}
