"""The data of the stress test: the correlation, its reverse, the oracle, and no patient in two splits."""

import collections

import numpy as np
import pytest
from embedded_sources import CLASSES, SOURCES, write_embedded_sources

from cxr_data.core.errors import UsageError
from cxr_data.input.pipeline import Pipeline
from cxr_data.records.index import read_split_fields
from cxr_data.records.manifest import read_manifest
from cxr_data.records.verify import verify_dataset
from cxr_train.transferring.stress import (
    Correlated,
    choose_correlated,
    parse_correlated,
    stress_splits,
    write_stress,
)
from cxr_train.transferring.targets import batch_of, find_targets

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


def test_targets_need_two_sources_and_patients_of_one_each(tmp_path):
    manifest = write_embedded_sources(tmp_path / "a")
    targets = find_targets(manifest, "train", "validation", "test")
    assert [target.is_measurable for target in targets] == [True, True, False]
    assert [batch_of(sources, 1000) for sources in (1, 2, 3, 6, 9, 12)] == [64, 64, 66, 66, 72, 96]
    # Of few images no more than there are, unless a source would have too few.
    assert [batch_of(sources, 62) for sources in (1, 2, 3, 6, 9)] == [62, 62, 60, 60, 72]
    assert targets[0].batch_size == 64
