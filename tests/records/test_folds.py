"""Folds: names, whole patients, even classes, every record in exactly one."""

import numpy as np
import pytest
from shards import random_images, write_shards

from cxr_data.core.errors import UsageError
from cxr_data.input.options import ReadOptions
from cxr_data.input.pipeline import Pipeline
from cxr_data.records.folds import class_counts, fold_numbers, labels_of_split, positions_of
from cxr_data.records.index import labels_of, read_split_fields, read_split_index
from cxr_data.records.split_names import fold_splits, have_common_images, joined_splits, parse_split

POOL = "train+validation"


@pytest.mark.parametrize("findings", [0, 4])
def test_every_record_is_in_one_fold_with_its_patient_and_classes_are_even(tmp_path, findings):
    splits = {"train": random_images(40), "validation": random_images(23), "test": random_images(5)}
    manifest = write_shards(tmp_path, splits, findings=findings)
    numbers = fold_numbers(manifest, POOL, 3)
    assert np.bincount(numbers)[1:].sum() == 63
    assert np.ptp(np.bincount(numbers)[1:]) <= 2
    labels = labels_of(read_split_index(manifest, POOL))
    for column in labels.T if findings else [labels]:
        of_present = np.bincount(numbers[column == 1], minlength=4)[1:]
        assert np.ptp(of_present) <= 2
    fields = read_split_fields(manifest, POOL)
    fold_of = {}
    for record, number in zip(fields, numbers, strict=True):
        assert fold_of.setdefault(record.group, number) == number
    for number in (1, 2, 3):
        rest, fold = (positions_of(manifest, name) for name in fold_splits(POOL, number, 3))
        np.testing.assert_array_equal(np.sort([*rest, *fold]), np.arange(63))
        np.testing.assert_array_equal(fold, np.flatnonzero(numbers == number))


def test_a_pipeline_reads_the_records_of_a_fold(tmp_path):
    manifest = write_shards(tmp_path, {"train": random_images(20), "validation": random_images(10)})
    pipeline = Pipeline(manifest)
    rest, fold = fold_splits(POOL, 2, 5)
    dataset = pipeline.evaluation_dataset(fold, batch_size=4)
    seen = np.concatenate([batch["index"][batch["weight"] > 0] for batch in dataset])
    np.testing.assert_array_equal(seen, positions_of(manifest, fold))
    assert pipeline.steps_per_epoch(rest, 4) == (30 - len(seen)) // 4
    trained = [batch["index"] for batch in pipeline.training_dataset(rest, batch_size=4, seed=0, epoch=0)]
    assert not set(np.concatenate(trained)) & set(seen)
    assert pipeline.reader(rest) is pipeline.reader(fold)
    with pytest.raises(UsageError, match="2of5.*--reader"):
        Pipeline(manifest, ReadOptions(reader="stream")).positions(fold)


def test_names_that_share_images():
    rest, fold = fold_splits(POOL, 2, 5)
    assert joined_splits(rest) == ["train", "validation"]
    assert not have_common_images(rest, fold)
    assert not have_common_images(fold, f"{POOL}@3of5")
    assert not have_common_images(rest, "test")
    for other in ("train", "validation", f"{POOL}@1of5", f"{POOL}@2of4", "train@2of5", f"{POOL}@not1of5"):
        assert have_common_images(rest, other)
    assert have_common_images(fold, fold)


@pytest.mark.parametrize("fold", ["", "2", "0of5", "6of5", "1of1", "x2of5", "2of5x", "-1of5"])
def test_what_is_no_fold_is_refused(fold):
    with pytest.raises(UsageError, match="2of5"):
        parse_split(f"train@{fold}")


@pytest.mark.parametrize("findings", [0, 4])
def test_the_counts_of_a_fold_are_of_its_records_alone(tmp_path, findings):
    splits = {"train": random_images(14), "validation": random_images(9)}
    manifest = write_shards(tmp_path, splits, findings=findings)
    labels = labels_of(read_split_index(manifest, POOL))
    rest, fold = fold_splits(POOL, 2, 3)
    for split in (rest, fold):
        of_fold = labels[positions_of(manifest, split)]
        np.testing.assert_array_equal(labels_of_split(manifest, split), of_fold)
        columns = (of_fold == 1).T if findings else [of_fold == number for number in range(3)]
        assert [*class_counts(manifest, split).values()] == [column.sum() for column in columns]
    parts = [class_counts(manifest, split) for split in (rest, fold)]
    assert class_counts(manifest, POOL) == {name: sum(part[name] for part in parts) for name in parts[0]}
