"""The data of the stress test: the correlation, its reverse, the oracle, and no patient in two splits."""

import collections
import dataclasses
import json
import pathlib

import embedded_sources
import numpy as np
import pytest
from embedded_sources import CLASSES, SOURCES, write_embedded_sources

from cxr_data.core.errors import UsageError
from cxr_data.input.pipeline import Pipeline
from cxr_data.records.copies import tied_patients
from cxr_data.records.folds import positions_of
from cxr_data.records.index import read_split_fields, read_split_index
from cxr_data.records.manifest import read_manifest
from cxr_data.records.verify import verify_dataset
from cxr_train.runs.config import TrainConfig
from cxr_train.transferring import plan
from cxr_train.transferring.methods import KINDS, METHODS
from cxr_train.transferring.stress import (
    Correlated,
    choose_correlated,
    parse_correlated,
    stress_splits,
    write_stress,
)
from cxr_train.transferring.targets import FEW_PATIENTS, batch_of, find_targets, left_out_notes

PAIR = Correlated((SOURCES[0], SOURCES[1]), (CLASSES[0], CLASSES[1]))


def test_the_source_says_the_class_and_then_the_reverse(tmp_path):
    manifest = write_embedded_sources(tmp_path / "all", patients=(250, 250, 4))
    write_stress(manifest, stress_splits(manifest, PAIR), str(tmp_path))
    data, oracle = read_manifest(str(tmp_path / "data")), read_manifest(str(tmp_path / "oracle_data"))
    originals = {}
    for split in manifest.splits:
        images = Pipeline(manifest).images(split, np.arange(manifest.count(split)))
        names = [record.id for record in read_split_fields(manifest, split)]
        originals |= dict(zip(names, images, strict=True))
    split_of = {}
    for made in (data, oracle):
        assert verify_dataset(made.directory, 1).problems == ()
        for split in made.splits:
            fields = read_split_fields(made, split)
            cells = collections.Counter((record.source, CLASSES[record.label]) for record in fields)
            share = cells[SOURCES[0], CLASSES[0]] / sum(cells[source, CLASSES[0]] for source in SOURCES)
            expected = 0.1 if split == "test" else 0.9 if made is data else 0.5
            assert share == pytest.approx(expected, abs=0.04), (made.directory, split)
            for record in fields:
                assert split_of.setdefault(record.group, split) == split
            images = Pipeline(made).images(split, np.arange(len(fields)))
            for record, image in zip(fields, images, strict=True):
                np.testing.assert_array_equal(image, originals[record.id])
    assert data.count("test") == oracle.count("test")
    assert abs(data.count("train") - oracle.count("train")) <= 4
    before = (tmp_path / "data" / "manifest.json").stat().st_mtime_ns
    write_stress(manifest, stress_splits(manifest, PAIR), str(tmp_path))
    assert (tmp_path / "data" / "manifest.json").stat().st_mtime_ns == before
    reverse = Correlated(PAIR.sources, PAIR.classes[::-1])
    with pytest.raises(UsageError, match="--run_dir"):
        write_stress(manifest, stress_splits(manifest, reverse), str(tmp_path))


def test_which_pair_is_stressed(tmp_path):
    manifest = write_embedded_sources(tmp_path, patients=(60, 60, 4))
    patients = {
        target.source: target.patients for target in find_targets(manifest, "train", "validation", "test")
    }
    assert patients[SOURCES[2]] == {"normal": 3, "pneumonia": 0, "covid": 1}
    assert choose_correlated(patients) is None
    enough = {"a": {"no": 50, "yes": 60}, "b": {"no": 41, "yes": 90}, "c": {"no": 400, "yes": 2}}
    assert choose_correlated(enough) == Correlated(("a", "b"), ("no", "yes"))
    assert parse_correlated(f"pneumonia:{SOURCES[2]},normal:nih", manifest).classes == ("pneumonia", "normal")
    written = parse_correlated("pneumonia:Köln%2C Süd,normal:nih", manifest)
    assert written == Correlated((SOURCES[1], "nih"), ("pneumonia", "normal"))
    for text in ("", "pneumonia:nih", "pneumonia:nih,normal:nih", "pneumonia:nih,none:rare/site"):
        with pytest.raises(UsageError, match="--stress="):
            parse_correlated(text, manifest)
    with pytest.raises(UsageError, match="--stress"):
        stress_splits(manifest, PAIR)


def write_audit(manifest, *pairs):
    """Write an audit that found these pairs of ids."""
    evidence = [{"first": first, "second": second} for first, second in pairs]
    finding = {"kind": "repeats", "name": "repeated_pictures", "text": "", "evidence": evidence}
    document = {"schema": "cxr.audit/1", "pictures": 0, "patients": 0, "notes": [], "shortcuts": []}
    (pathlib.Path(manifest.directory) / "audit.json").write_text(
        json.dumps({**document, "findings": [finding]})
    )


def test_a_source_with_all_training_pictures_is_not_held_out(tmp_path):
    manifest = write_embedded_sources(tmp_path, patients=(60, 0, 0))
    nih, *_ = find_targets(manifest, "train", "validation", "test")
    assert nih.training_sources == 0
    assert "training split" in nih.obstacle


def test_a_source_without_which_a_class_is_lost_is_not_held_out(tmp_path):
    """All its runs would be refused, and the same command again could not help."""
    manifest = write_embedded_sources(tmp_path, patients=(60, 60, 60))  # covid in the third alone
    *others, rare = find_targets(manifest, "train", "validation", "test")
    assert [target.obstacle for target in others] == ["", ""]
    assert "covid" in rare.obstacle


def test_copies_of_held_out_pictures_are_not_trained_on_and_are_counted(tmp_path):
    manifest = write_embedded_sources(tmp_path / "data", patients=(60, 60, 4))
    splits = ("train", "validation", "test")
    plain = find_targets(manifest, *splits)
    assert plain[0].train_split == "train@without=nih"
    assert "embed them again" in " ".join(left_out_notes(manifest, plain))
    manifest = write_embedded_sources(tmp_path / "audited", patients=(60, 60, 4))
    copies = [(f"test-nih-0-{n}", f"train-{SOURCES[1]}-{n}-0") for n in (0, 1)]
    write_audit(manifest, *copies)
    nih, other, rare = find_targets(manifest, *splits)
    assert nih.train_split == "train@disjoint=nih"
    assert nih.shared == 4  # two patients with two pictures each
    assert other.shared == 0  # the copies are in its test split
    assert rare.train_split.startswith("train@without=")
    fields = read_split_fields(manifest, "train")
    kept = {fields[position].group for position in positions_of(manifest, nih.train_split)}
    assert not kept & {f"train-{SOURCES[1]}-{n}" for n in (0, 1)}
    assert len(kept) == 30 + 2 - 2
    notes = left_out_notes(manifest, [nih, other, rare])
    assert len(notes) == 1
    assert "4 images" in notes[0]
    # In the stress test the two names are one patient, who is in one part.
    groups = tied_patients(manifest, "train+validation+test")
    every = read_split_fields(manifest, "train+validation+test")
    of = {record.group: group for record, group in zip(every, groups, strict=True)}
    assert of["test-nih-0"] == of[f"train-{SOURCES[1]}-0"] == of[f"train-{SOURCES[1]}-1"]


def test_methods_that_balance_sources_are_said_to_see_few_images_often(tmp_path):
    manifest = write_embedded_sources(tmp_path, patients=(60, 130, 4))
    nih, _, rare = find_targets(manifest, "train", "validation", "test")
    assert nih.smallest == (SOURCES[2], 4)
    assert nih.training_images == 2 * (65 + 2)
    (note,) = (note for note in left_out_notes(manifest, [nih]) if SOURCES[2] in note)
    assert f"{(130 + 4) / 2 / 4:.0f} times" in note
    assert not [note for note in left_out_notes(manifest, [rare]) if "times" in note]


def test_a_drawn_warm_up_is_at_most_half_of_the_run(tmp_path):
    manifest = write_embedded_sources(tmp_path, patients=(100, 60, 4))
    target = find_targets(manifest, "train", "validation", "test")[0]
    steps = target.training_images // target.batch_size * 3
    (irm,) = (method for method in METHODS if method.name == "irm")

    def make(values):
        return TrainConfig("none", values["data"], values["run_dir"], weights="none")

    budget = plan.Budget(9, (0, 1), {"epochs": "3"})
    runs = plan.runs_without(make, budget, [METHODS[0], irm], target, tmp_path, manifest)
    drawn = {int(irm.drawn(run.draw, run.seed)["domain_warmup_steps"]) for run in runs}
    warm_ups = [int(run.flags["domain_warmup_steps"]) for run in runs if run.name == "irm"]
    assert max(drawn) > steps // 2
    assert {*warm_ups} == {min(one, steps // 2) for one in drawn}


def test_pictures_of_unknown_source_are_not_trained_on_and_are_counted(tmp_path, monkeypatch):
    names = ("nih", "guangzhou", "")
    monkeypatch.setattr(embedded_sources, "SOURCES", names)
    manifest = write_embedded_sources(tmp_path, patients=(60, 60, 4))
    nih, guangzhou = find_targets(manifest, "train", "validation", "test")
    assert (nih.unknown, guangzhou.unknown) == (6, 6)
    sources = read_split_index(manifest, "train")["source"][positions_of(manifest, nih.train_split)]
    assert {*sources.tolist()} == {1}
    assert (nih.training_sources, nih.batch_size) == (1, 60)
    assert any("6 images" in note for note in left_out_notes(manifest, [nih, guangzhou]))


def test_where_one_source_is_left_methods_that_compare_sources_have_no_runs(tmp_path):
    manifest = write_embedded_sources(tmp_path, patients=(100, 60, 4))
    target = find_targets(manifest, "train", "validation", "test")[0]
    budget = plan.Budget(1, (0,), {"epochs": "1"})
    methods = [method for method in METHODS if method.kind == KINDS[0]]

    def make(values):
        return TrainConfig("none", values["data"], values["run_dir"], weights="none")

    def names(target):
        runs = plan.runs_without(make, budget, methods, target, tmp_path, manifest)
        return [run.name for run in runs]

    assert names(target) == [method.name for method in methods]
    one = dataclasses.replace(target, training_sources=1)
    assert names(one) == ["erm", "balanced"]
    (note,) = plan.one_source_notes(methods, [target, one])
    assert "coral" in note
    coral = methods[2]
    with pytest.raises(UsageError, match="--methods: .*coral"):
        plan.runs_without(make, budget, [coral], one, tmp_path, manifest)
    assert {run.name for run in plan.runs_within(make, budget, coral, target, tmp_path, manifest)} == {"erm"}
    balanced = methods[1]
    within = plan.runs_within(make, budget, balanced, target, tmp_path, manifest)
    assert {run.name for run in within} == {"balanced"}


def test_targets_need_two_sources_and_patients_of_one_each(tmp_path):
    manifest = write_embedded_sources(tmp_path / "a")
    targets = find_targets(manifest, "train", "validation", "test")
    assert [target.obstacle for target in targets] == ["", "", FEW_PATIENTS]
    assert [batch_of(sources, 1000) for sources in (1, 2, 3, 6, 9, 12)] == [64, 64, 66, 66, 72, 96]
    # Of few images no more than there are, unless a source would have too few.
    assert [batch_of(sources, 62) for sources in (1, 2, 3, 6, 9)] == [62, 62, 60, 60, 72]
    assert targets[0].batch_size == 64
