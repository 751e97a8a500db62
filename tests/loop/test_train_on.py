"""Training on train+validation: what is read, what is kept, and what is not claimed of it."""

import numpy as np
import pytest
from shards import random_images, write_shards
from tiny import make_trainer, rows

from cxr_data.core.errors import DataError, UsageError
from cxr_data.input.pipeline import Pipeline
from cxr_data.records.folds import class_counts
from cxr_data.records.index import read_split_fields
from cxr_train.engine.predict_step import PredictStep
from cxr_train.engine.strategy import choose_placement
from cxr_train.evaluation import text
from cxr_train.evaluation.evaluator import evaluate_split
from cxr_train.evaluation.options import EvaluationOptions
from cxr_train.loop.stop import StopRequest
from cxr_train.reporting.page import write_report
from cxr_train.runs.config import TrainConfig
from cxr_train.runs.run_model import load_best_model

BOTH = "train+validation"


@pytest.fixture(scope="module")
def manifest(tmp_path_factory):
    splits = {
        "train": random_images(9),
        "test": random_images(5, seed=2),
        "validation": random_images(7, seed=1),
    }
    return write_shards(tmp_path_factory.mktemp("data"), splits)


def test_joined_splits_are_read_as_one(manifest):
    assert manifest.count(BOTH) == 16
    assert class_counts(manifest, BOTH) == {"covid": 6, "normal": 5, "pneumonia": 5}
    pipeline = Pipeline(manifest)
    ids = [field.id for field in read_split_fields(manifest, BOTH)]
    assert ids == [f"train/{i}.png" for i in range(9)] + [f"validation/{i}.png" for i in range(7)]
    images = pipeline.images(BOTH, np.arange(16))
    np.testing.assert_array_equal(images, np.concatenate([random_images(9), random_images(7, seed=1)]))
    seen = [
        batch["index"]
        for batch in pipeline.training_dataset(BOTH, batch_size=4, seed=0, epoch=0).as_numpy_iterator()
    ]
    assert sorted(np.concatenate(seen)) == list(range(16))
    with pytest.raises(DataError, match="'holdout'"):
        manifest.count("train+holdout")


def test_there_is_nothing_to_pick_an_epoch_by():
    config = TrainConfig("vgg16", "data", "run", train_split=BOTH)
    assert config.held_out_validation is None
    assert TrainConfig("vgg16", "data", "run").held_out_validation == "validation"
    for flag in ({"early_stopping": 3}, {"monitor": "accuracy"}):
        with pytest.raises(UsageError, match=rf"--{next(iter(flag))}=.*--train_on=train\+validation"):
            TrainConfig("vgg16", "data", "run", train_split=BOTH, **flag)


def test_the_last_epoch_is_kept_and_nothing_is_chosen_on_what_it_knows(manifest, tiny, tmp_path):
    placement = choose_placement("one", "float32", "off")
    run = make_trainer(manifest, tmp_path, placement, epochs=2, learning_rate=0.1, train_split=BOTH)
    assert "16 training images" in run.describe()
    assert "best.keras" in run.describe()
    run.run(StopRequest())
    assert [(row["epoch"], row["train"]["images"], row["validation"]) for row in rows(tmp_path)] == [
        (1, 16, None),
        (2, 16, None),
    ]
    best = load_best_model(tmp_path)
    for variable, kept in zip(run.model.trainable_variables, best.trainable_variables, strict=True):
        np.testing.assert_array_equal(variable.numpy(), kept.numpy())

    options = EvaluationOptions(resamples=100, train_split=BOTH, validation_split=None)
    told = {}
    predict = PredictStep(best, placement)
    for split in ("validation", "test"):
        told[split] = evaluate_split(
            tmp_path, Pipeline(manifest), split, predict, batch_size=4, options=options
        )
        assert told[split]["calibration"]["temperature"] is None
        assert "no temperature, " in " ".join(text.evaluation_table(told[split]).split())
    assert told["validation"]["seen_in_training"]
    assert not told["test"]["seen_in_training"]

    page = write_report(tmp_path).read_text()
    assert "none: " in page
    assert "train+validation split, 16 images (covid 6, normal 5, pneumonia 5)" in page
    assert "the last epoch, 2: " in page
