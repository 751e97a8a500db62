"""Splits by source: names, positions, counts, folds of them, and every pool as one source and the rest."""

import json
import pathlib

import numpy as np
import pytest
from shards import random_images, write_shards

from cxr_data.core.errors import UsageError
from cxr_data.input.options import ReadOptions
from cxr_data.input.pipeline import Pipeline
from cxr_data.records.copies import tied_patients
from cxr_data.records.folds import class_counts, count_images, labels_of_split, positions_of
from cxr_data.records.index import labels_of, read_split_fields, read_split_index
from cxr_data.records.split_names import (
    Sources,
    have_common_images,
    joined_splits,
    parse_split,
    source_splits,
)
from cxr_train.runs.config import TrainConfig
from cxr_train.runs.run_dir import is_on_its_data, keep_run

POOL = "train+validation"
ODD = ("nih", "Sankt Jürgen, Köln", "a/b@c%2F+d", "only=x")


@pytest.fixture(scope="module")
def manifest(tmp_path_factory):
    splits = {"train": random_images(22), "validation": random_images(13), "test": random_images(3)}
    return write_shards(tmp_path_factory.mktemp("odd"), splits, sources=ODD)


@pytest.mark.parametrize("source", ODD)
def test_a_source_and_the_rest_are_the_pool(manifest, source):
    rest, own = source_splits(POOL, [source])
    assert "/" not in own
    sources = [record.source for record in read_split_fields(manifest, POOL)]
    np.testing.assert_array_equal(
        positions_of(manifest, own), [number for number, name in enumerate(sources) if name == source]
    )
    both = [*positions_of(manifest, rest), *positions_of(manifest, own)]
    np.testing.assert_array_equal(np.sort(both), np.arange(35))
    assert not have_common_images(rest, own)
    labels = labels_of(read_split_index(manifest, POOL))
    for split in (rest, own):
        of_part = labels[positions_of(manifest, split)]
        np.testing.assert_array_equal(labels_of_split(manifest, split), of_part)
        assert count_images(manifest, split) == len(of_part)
        assert [*class_counts(manifest, split).values()] == np.bincount(of_part, minlength=3).tolist()


def test_a_pipeline_reads_the_records_of_some_sources(manifest):
    split = "train" + str(Sources(("nih", "only=x")))
    pipeline = Pipeline(manifest)
    batches = list(pipeline.training_dataset(split, batch_size=5, seed=0, epoch=0))
    assert len(batches) == 2
    names = {manifest.sources[number] for batch in batches for number in batch["source"].numpy()}
    assert names == {"nih", "only=x"}
    with pytest.raises(UsageError, match="--reader"):
        Pipeline(manifest, ReadOptions(reader="stream")).positions(split)


def test_folds_of_sources_hold_each_of_their_records_once(manifest):
    pool = source_splits(POOL, ["nih"])[0]
    folds = [positions_of(manifest, f"{pool}@{number}of3") for number in (1, 2, 3)]
    np.testing.assert_array_equal(np.sort(np.concatenate(folds)), positions_of(manifest, pool))
    rest = positions_of(manifest, f"{pool}@not2of3")
    np.testing.assert_array_equal(np.sort([*rest, *folds[1]]), positions_of(manifest, pool))
    assert max(map(len, folds)) - min(map(len, folds)) <= 2


def test_names_that_share_images():
    nih = "train@only=nih"
    assert joined_splits(nih) == ["train"]
    assert parse_split("train@only=a+b").sources == Sources(("a+b",))
    for other in ("train", "train@without=x", "train+test@only=x,nih", f"{nih}@2of5", "train@2of5", nih):
        assert have_common_images(nih, other)
        assert have_common_images(other, nih)
    for other in ("test", "train@without=nih", "train@only=x", "train@without=x,nih@2of5"):
        assert not have_common_images(nih, other)
        assert not have_common_images(other, nih)
    assert have_common_images("train@without=a", "train@without=b")
    assert not have_common_images(f"{nih}@2of5", f"{nih}@not2of5")


@pytest.mark.parametrize(
    "split",
    [
        *("train@only=", "train@only=a,", "train@without=a/b", "train@only=a\n", "train@2of5@only=a"),
        *("train@only=a@without=b", "train@only=" + "ä" * 100),
    ],
)
def test_what_names_no_sources_is_refused(split):
    with pytest.raises(UsageError, match="train@only="):
        parse_split(split)


def test_sources_that_are_not_there_are_refused(manifest, tmp_path):
    with pytest.raises(UsageError, match="hannover.*nih"):
        positions_of(manifest, "train@only=nih,hannover")
    alone = write_shards(tmp_path / "alone", {"train": random_images(3)}, sources=("nih",))
    with pytest.raises(UsageError, match="train@without=nih"):
        positions_of(alone, "train@without=nih")
    unknown = write_shards(tmp_path / "unknown", {"train": random_images(3)})
    with pytest.raises(UsageError, match="no source 'nih'"):
        positions_of(unknown, "train@only=nih")


def _with_audit(manifest, *pairs):
    evidence = [{"first": first, "second": second} for first, second in pairs]
    found = [
        {"kind": "leakage", "name": name, "text": "", "evidence": cases, "cases": len(cases)}
        for name, cases in (("pictures_in_two_classes", evidence[:1]), ("repeated_pictures", evidence[1:]))
    ]
    document = {"schema": "cxr.audit/1", "pictures": 0, "patients": 0, "notes": [], "shortcuts": []}
    (pathlib.Path(manifest.directory) / "audit.json").write_text(json.dumps({**document, "findings": found}))


def test_a_disjoint_split_has_no_patient_of_the_source_and_none_of_an_unknown_one(tmp_path):
    splits = {"train": random_images(24), "validation": random_images(12, seed=1)}
    names = ("nih", "guangzhou", "")
    made = write_shards(tmp_path, splits, sources=names)
    every = read_split_fields(made, POOL)
    of_source = {name: [record for record in every if record.source == name] for name in names}
    # nih ~ a picture of guangzhou in another split ~ another of guangzhou: all three patients are one.
    held_out, middle, far = of_source["nih"][0], of_source["guangzhou"][-1], of_source["guangzhou"][0]
    rest, own = source_splits(POOL, ["nih"], is_disjoint=True)
    assert parse_split(rest).sources == Sources(("nih",), is_rest=True, is_disjoint=True)
    before = [every[position].id for position in positions_of(made, rest)]
    assert before == [record.id for record in of_source["guangzhou"]]
    assert not have_common_images(rest, own)
    config = TrainConfig(
        "vgg16", made.directory, str(tmp_path / "run"), weights="none", train_split="train@disjoint=nih"
    )
    config.layout.directory.mkdir()
    keep_run(config, None, [])
    _with_audit(made, (held_out.id, middle.id))
    assert not is_on_its_data(config)  # fewer are trained on
    assert len(positions_of(made, rest)) < len(before)
    again = write_shards(tmp_path / "again", splits, sources=names)
    _with_audit(again, (held_out.id, middle.id), (middle.id, far.id))
    after = [every[position].id for position in positions_of(again, rest)]
    gone = {record.id for record in every if record.group in (middle.group, far.group)}
    assert after == [name for name in before if name not in gone]
    assert len(after) < len(before)
    patients = tied_patients(again, POOL)
    assert len({patients[every.index(record)] for record in (held_out, middle, far)}) == 1
