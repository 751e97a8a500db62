"""A result with its audit: what a shortcut alone reaches, and what the model reaches."""

import json

import pytest

from cxr_train.evaluation.beside_audit import audit_beside, beside_result, beside_runs, in_words, summarized

COMMAND = "python -m tools.audit_dataset --data=shards"


def score(feature, label, auroc, p=0.005):
    return {"feature": feature, "label": label, "auroc": auroc, "low": auroc, "high": auroc, "p": p}


def document(*scores, **cases):
    """An audit with these scores, of which those with a small p are findings, and these cases of leakage."""
    named = {one["feature"] for one in scores if one["p"] <= 0.01}
    found = [{"kind": "shortcut", "name": name, "text": "", "evidence": []} for name in named]
    found += [{"kind": "leakage", "name": name, "text": "", "evidence": some} for name, some in cases.items()]
    start = {"schema": "cxr.audit/1", "pictures": 9, "patients": 9, "notes": [], "alpha": 0.01}
    return {**start, "findings": found, "shortcuts": list(scores)}


def summary(audit, **aurocs):
    return {"audit": audit, "data": "shards", "per_class": {n: {"auroc": v} for n, v in aurocs.items()}}


def test_the_best_named_shortcut_of_each_class_is_kept(tmp_path):
    found = document(
        score("size", "covid", 0.97),
        score("aspect", "covid", 1.0),
        score("mean", "covid", 1.0, p=0.5),
        score("mean", "normal", 0.6, p=0.5),
    )
    assert audit_beside(str(tmp_path), "test") is None
    (tmp_path / "audit.json").write_text(json.dumps(found))
    kept = audit_beside(str(tmp_path), "test", {"normal": "healthy"})
    assert kept["shortcuts"]["covid"]["feature"] == "aspect"
    assert kept["shortcuts"]["covid"]["above_chance"]
    assert kept["shortcuts"]["healthy"]["feature"] == "mean"
    assert not kept["shortcuts"]["healthy"]["above_chance"]
    assert json.loads(json.dumps(kept)) == kept
    (tmp_path / "audit.json").write_text("[]")
    assert audit_beside(str(tmp_path), "test") is None


@pytest.mark.parametrize(
    ("split", "patients", "pictures"), [("test", 1, 1), ("train", 2, 2), ("train+test", 1, 0)]
)
def test_leakage_counts_what_is_in_this_split_and_another(split, patients, pictures):
    found = document(
        patients_in_two_splits=[{"splits": "test 1, train 2"}, {"splits": "train 3, validation 1"}],
        pictures_in_two_splits=[
            {"first": "a.png", "in": "test", "second": "b.png", "and": "train"},
            {"first": "c.png", "in": "train", "second": "a.png", "and": "test"},
        ],
    )
    kept = summarized(found, split)
    assert (kept["patients"], kept["pictures"]) == (patients, pictures)


def test_a_sentence_for_each_class_that_a_shortcut_tells():
    audit = summarized(
        document(
            score("size", "covid", 1.0),
            score("contrast", "normal", 0.65),
            score("mean", "pneumonia", 0.6, p=0.4),
            patients_in_two_splits=[{"splits": "test 1, train 2"}],
        ),
        "test",
    )
    covid, normal, leakage = beside_result(summary(audit, covid=0.988, normal=0.9, pneumonia=0.8), "shards")
    assert [number in covid for number in ("covid: ", "1.000", "0.988")] == [True] * 3
    assert covid.endswith("the image's size")
    assert "part of it" in normal
    assert normal.endswith("the contrast")
    assert "1 patient " in leakage
    weak, *_ = beside_result(summary(audit, normal=0.6), "shards")
    assert "learned" in weak
    assert weak.endswith("the contrast")
    undefined, *_ = beside_result(summary(audit, covid=None), "shards")
    assert "undefined" in undefined


def test_where_nothing_was_found_and_where_nobody_looked():
    audit = summarized(document(score("mean", "covid", 0.6, p=0.4)), "test")
    (nothing,) = beside_result(summary(audit, covid=0.9), "shards")
    assert nothing.startswith("audit: no shortcut named")
    (partly,) = beside_result(summary(audit, covid=0.9, rare=0.9), "shards")
    assert "rare" in partly
    (nobody,) = beside_result(summary(None, covid=0.9), "shards")
    assert COMMAND in nobody
    assert beside_result({"per_class": {}}, "shards") == []


def test_runs_have_the_smallest_and_the_largest_auroc():
    audit = summarized(document(score("size", "covid", 1.0)), "test")
    covid, _ = beside_runs(
        [summary(audit, covid=0.9), summary(audit, covid=0.95), summary(audit, covid=None)]
    )
    assert "0.900 to 0.950" in covid
    assert beside_runs([]) == []


def test_features_are_words():
    assert in_words("text top right").endswith("top right corner")
    assert in_words("pixel probe").startswith("the frame")
