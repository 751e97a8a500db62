"""The evaluation of a run, as a library and as the command that users type."""

import dataclasses
import json
import os
import pathlib
import shutil

import numpy as np
import pytest
import tensorflow as tf
from in_process import run_command
from runs import evaluated, make_run, probabilities_of
from shards import labels_of, random_images, write_shards

from cxr_data.core.errors import DataError, UsageError
from cxr_data.images import measure
from cxr_data.input.pipeline import Pipeline
from cxr_data.records.folds import positions_of
from cxr_data.records.foreign import adopt
from cxr_data.records.index import write_features
from cxr_data.records.manifest import write_manifest
from cxr_data.records.split_names import fold_splits
from cxr_data.stats.bootstrap import PatientBootstrap
from cxr_train.engine.predict_step import PredictStep
from cxr_train.engine.strategy import choose_placement
from cxr_train.evaluation import class_map, metrics, stored, text, wording
from cxr_train.evaluation.class_map import map_classes, parse_class_map
from cxr_train.evaluation.evaluator import evaluate_split
from cxr_train.evaluation.options import EvaluationOptions
from cxr_train.evaluation.predictions import read_predictions, write_predictions
from cxr_train.evaluation.stored import fitted_temperature, stored_predictions
from cxr_train.runs.config import TrainConfig
from cxr_train.runs.run_model import load_best_model, save_model

VALIDATION, TEST = random_images(30, seed=1), random_images(14, seed=2)
OURS = ("covid", "normal", "pneumonia")


@pytest.fixture(scope="module")
def manifest(tmp_path_factory):
    splits = {"train": random_images(9), "validation": VALIDATION, "test": TEST}
    return write_shards(tmp_path_factory.mktemp("data"), splits)


def evaluate(run_dir, manifest, model, split, **options):
    return evaluated(run_dir, manifest, model, split, probe_images=0, **options)


def test_what_is_written_is_what_the_model_says(manifest, tmp_path):
    run_dir = tmp_path / "run"
    model = make_run(run_dir, manifest)
    first = evaluate(run_dir, manifest, model, "validation", at_sensitivity=0.9)
    second = evaluate(run_dir, manifest, model, "test", at_sensitivity=0.9)

    expected = probabilities_of(model, TEST)
    stored = stored_predictions(run_dir, "test")
    np.testing.assert_allclose(stored.probabilities, expected, atol=1e-6)
    np.testing.assert_array_equal(stored.labels, labels_of(len(TEST)))
    assert stored.ids == tuple(f"test/{n}.png" for n in range(len(TEST)))
    assert json.loads((run_dir / "metrics_test.json").read_text()) == second
    summary = metrics.summarize(stored.labels, stored.probabilities, OURS)
    assert {key: second[key] for key in summary} == summary

    assert first["schema"] == second["schema"] == "cxr.metrics/1"
    assert second["own_data"]
    assert not second["seen_in_training"]
    for found in (first, second):
        assert found["calibration"]["temperature"] == first["calibration"]["temperature"]
        assert found["calibration"]["fitted_on"] == found["thresholds"]["chosen_on"] == "validation"
    at = [found["thresholds"]["per_class"]["covid"] for found in (first, second)]
    assert at[0]["threshold"] == at[1]["threshold"]
    assert at[0]["sensitivity"] >= 0.9
    assert "flatters" in text.evaluation_table(first)
    assert "flatters" not in text.evaluation_table(second)


def test_the_temperature_is_that_of_the_runs_validation_split(manifest, tmp_path):
    run_dir = tmp_path / "run"
    model = make_run(run_dir, manifest)
    with pytest.raises(DataError, match=f"cxr_train.evaluate --run_dir={run_dir} --split=validation"):
        fitted_temperature(run_dir, "validation")
    told = evaluate(run_dir, manifest, model, "validation")["calibration"]["temperature"]
    assert fitted_temperature(run_dir, "validation") == pytest.approx(told)
    with pytest.raises(DataError, match=f"{run_dir} .*trained .*validation split"):
        fitted_temperature(run_dir, None)
    stored = stored_predictions(run_dir, "validation")
    right = dataclasses.replace(stored, probabilities=np.eye(3)[stored.labels] * 0.4 + 0.2)
    write_predictions(run_dir / "predictions_validation.csv", right)
    with pytest.raises(DataError, match=f"{run_dir} .*every image"):
        fitted_temperature(run_dir, "validation")


def test_a_temperature_at_the_end_of_the_search_is_none(manifest, tmp_path):
    model = make_run(tmp_path / "run", manifest)
    last = model.layers[-1]
    last.set_weights([np.zeros_like(weights) for weights in last.get_weights()])  # says nothing
    model.save(tmp_path / "run" / "best.keras")
    found = evaluate(tmp_path / "run", manifest, model, "validation")
    assert found["calibration"]["temperature"] is None
    assert found["calibration"]["calibrated"] is None
    assert found["calibration"]["fitted_on"] == "validation"
    assert "no temperature: on validation " in " ".join(text.evaluation_table(found).split())


def test_the_mean_says_what_it_leaves_out(manifest, tmp_path):
    model = make_run(tmp_path / "run", manifest)
    theirs = dataclasses.replace(
        write_shards(tmp_path / "theirs", {"all": random_images(2, seed=5)}),
        counts={"all": {"covid": 1, "normal": 1, "pneumonia": 0}},
    )
    found = evaluate(tmp_path / "run", theirs, model, "all")
    assert found["left_out"]["sensitivity"] == ["pneumonia"]
    assert "sensitivity is without pneumonia" in text.evaluation_table(found)


def test_other_data_has_a_place_of_its_own(manifest, tmp_path):
    run_dir = tmp_path / "run"
    make_run(run_dir, manifest)
    place = stored.place_of(run_dir, manifest, named=False)
    assert place == pathlib.PurePath()
    theirs = dataclasses.replace(manifest, directory=str(tmp_path / "a" / "hospital"), seed=9)
    assert str(stored.place_of(run_dir, theirs, named=True)) == "external/hospital"
    above = dataclasses.replace(theirs, directory=str(tmp_path / "a" / "hospital" / "x" / ".."))
    assert str(stored.place_of(run_dir, above, named=True)) == "external/hospital"
    with pytest.raises(DataError, match=f"a/hospital .*{run_dir} .*--data"):
        stored.place_of(run_dir, theirs, named=False)


def test_the_numbers_of_one_hospital_do_not_replace_those_of_another(manifest, tmp_path):
    run_dir = tmp_path / "run"
    model = make_run(run_dir, manifest)
    evaluate(run_dir, manifest, model, "test")
    moved = dataclasses.replace(manifest, directory="/moved")
    stored.refuse_to_replace(run_dir, "test", run_dir, moved)
    stored.refuse_to_replace(run_dir, "never_evaluated", run_dir, manifest)
    one = dataclasses.replace(moved, seed=9)
    with pytest.raises(UsageError, match=r"run: metrics_test\.json .*/moved: .*--output"):
        stored.refuse_to_replace(run_dir, "test", run_dir, one)
    for output in (run_dir / "config.json", run_dir / "config.json" / "below"):
        with pytest.raises(UsageError, match=f"--output={output}"):
            stored.refuse_to_replace(output, "test", run_dir, manifest)


def test_the_run_directory_itself_is_for_all_of_its_own_data(manifest):
    stored.refuse_in_the_run(manifest, own=True, class_map={})
    with pytest.raises(UsageError, match=f"--output: .*{manifest.directory}"):
        stored.refuse_in_the_run(manifest, own=False, class_map={})
    with pytest.raises(UsageError, match="--class_map: .*--output"):
        stored.refuse_in_the_run(manifest, own=True, class_map={"covid": "-"})


def test_predictions_of_an_earlier_model_are_not_compared_with(manifest, tmp_path):
    ours, theirs = (make_run(tmp_path / name, manifest, seed) for seed, name in enumerate(("one", "two")))
    evaluate(tmp_path / "two", manifest, theirs, "test")
    found = evaluate(tmp_path / "one", manifest, ours, "test", compare=tmp_path / "two")
    assert found["comparison"]["other"].endswith("two/predictions_test.csv")
    ours.save(tmp_path / "two" / "best.keras")
    with pytest.raises(DataError, match=r"two/predictions_test\.csv .*best\.keras"):
        evaluate(tmp_path / "one", manifest, ours, "test", compare=tmp_path / "two")


def test_a_comparison_reads_what_the_same_model_has_said(manifest, tmp_path):
    ours, theirs = (make_run(tmp_path / name, manifest, seed) for seed, name in enumerate(("one", "two")))
    evaluate(tmp_path / "two", manifest, theirs, "test")
    first = evaluate(tmp_path / "one", manifest, ours, "test")
    written = (tmp_path / "one" / "predictions_test.csv").read_bytes()
    compared = {"compare": tmp_path / "two"}
    found = evaluate(tmp_path / "one", manifest, theirs, "test", **compared)  # which is not asked
    assert (tmp_path / "one" / "predictions_test.csv").read_bytes() == written
    assert {**found, "comparison": None} == first
    assert found["comparison"]["differences"]["macro auroc"]["value"] != 0
    theirs.save(tmp_path / "one" / "best.keras")
    found = evaluate(tmp_path / "one", manifest, theirs, "test", **compared)
    assert found["comparison"]["differences"]["macro auroc"]["value"] == 0


def test_predictions_of_another_model_are_not_used(manifest, tmp_path):
    run_dir = tmp_path / "run"
    model = make_run(run_dir, manifest)
    assert stored_predictions(run_dir, "validation") is None
    evaluate(run_dir, manifest, model, "validation")
    assert stored_predictions(run_dir, "validation") is not None
    model.layers[-1].kernel.assign_add(0.1 * np.ones_like(model.layers[-1].kernel))
    model.save(run_dir / "best.keras")
    assert stored_predictions(run_dir, "validation") is None
    found = evaluate(run_dir, manifest, model, "test")
    assert found["calibration"]["temperature"] is None
    assert "no temperature, " in " ".join(text.evaluation_table(found).split())
    with pytest.raises(UsageError, match="--at_sensitivity: .*validation"):
        evaluate(run_dir, manifest, model, "test", at_sensitivity=0.9)


def test_a_model_saved_without_a_softmax_gives_the_same_bytes(manifest, tmp_path):
    run_dir = tmp_path / "run"
    model = make_run(run_dir, manifest)
    found = []
    for save in (lambda path: save_model(model, path), model.save):
        save(run_dir / "best.keras")
        evaluate(run_dir, manifest, load_best_model(run_dir), "test")
        found.append((run_dir / "predictions_test.csv").read_bytes())
    evaluate(run_dir, manifest, model, "test")
    assert found == [(run_dir / "predictions_test.csv").read_bytes()] * 2


def test_evaluating_the_training_split_says_so(manifest, tmp_path):
    model = make_run(tmp_path / "run", manifest)
    found = evaluate(tmp_path / "run", manifest, model, "train")
    assert found["seen_in_training"]
    assert "trained on these images" in text.evaluation_table(found)


def test_other_data_with_pictures_of_the_training_says_so(manifest, tmp_path):
    run_dir = tmp_path / "run"
    model = make_run(run_dir, manifest)
    pictures = np.concatenate([random_images(9)[4:], random_images(20, seed=8)])  # five were trained on
    theirs = write_shards(tmp_path / "again", {"test": pictures})
    found = evaluate(run_dir, theirs, model, "test")
    assert found["images_trained_on"] == 5
    assert "5 of 25 images" in text.evaluation_table(found)
    new = write_shards(tmp_path / "new", {"test": random_images(20, seed=8)})
    found = evaluate(run_dir, new, model, "test")
    assert found["images_trained_on"] == 0
    assert "leakage:" not in text.evaluation_table(found)
    config = TrainConfig.load(run_dir / "config.json")
    dataclasses.replace(config, data=theirs.directory).save(run_dir / "config.json")  # written over
    found = evaluate(run_dir, theirs, model, "test")
    assert found["images_trained_on"] is None
    assert "leakage: whether" in text.evaluation_table(found)


@pytest.mark.parametrize("is_measured", [True, False])
@pytest.mark.parametrize("other", [("float32", 1), ("uint8", 3)])
def test_pictures_of_the_training_are_known_as_pixels_of_another_form(tmp_path, is_measured, other):
    pictures = [np.rint(random_images(count, seed=count) * 255).astype(np.uint8) for count in (9, 6)]
    pictures = [images[..., :1] for images in pictures]
    made = []
    for (dtype, channels), first in ((other, 0), (("uint8", 1), 4)):
        of_test = np.concatenate([pictures[0][first:], pictures[1]])
        splits = {"train": pictures[0], "test": of_test} if not made else {"test": of_test}
        stored = {
            name: np.repeat(images / np.float32(255), channels, axis=-1) for name, images in splits.items()
        }
        data = write_shards(tmp_path / f"{dtype}{channels}", stored, dtype=dtype)
        if is_measured:
            rows = [measure.row_of(image.squeeze()) for images in splits.values() for image in images]
            sha256 = write_features(data.directory, np.array(rows, measure.FEATURES_DTYPE))
            data = dataclasses.replace(data, features_sha256=sha256)
            write_manifest(data)
        made.append(data)
    model = make_run(tmp_path / "run", made[0])
    found = evaluate(tmp_path / "run", made[1], model, "test")
    assert found["images_trained_on"] == (5 if is_measured else None)


def test_records_of_the_training_are_not_read_where_no_picture_is_in_both(manifest, tmp_path):
    model = make_run(tmp_path / "run", manifest)
    config = TrainConfig.load(tmp_path / "run/config.json")
    moved = pathlib.Path(shutil.copytree(manifest.directory, tmp_path / "moved"))
    dataclasses.replace(config, data=str(moved)).save(tmp_path / "run/config.json")
    for shard in manifest.shards:
        os.truncate(moved / shard.name, 0)  # a record that is looked at is damaged
        os.truncate(moved / shard.name, shard.bytes)
    new = write_shards(tmp_path / "new", {"test": random_images(20, seed=8)})
    found = evaluate(tmp_path / "run", new, model, "test", train_split="train@1of2")
    assert found["images_trained_on"] == 0


def test_a_fold_with_copies_of_what_was_trained_on_says_so(tmp_path):
    made = write_shards(tmp_path / "data", {"train": random_images(24)})
    rest, fold = fold_splits("train", 1, 2)
    ids = [f"train/{number}.png" for number in range(24)]
    inside, outside = (positions_of(made, split) for split in (fold, rest))
    pairs = [(ids[inside[0]], ids[outside[0]]), (ids[inside[1]], ids[inside[2]])]
    evidence = [{"first": one, "in": "train", "second": two, "and": "train"} for one, two in pairs]
    repeats = {"kind": "repeats", "name": "repeated_pictures", "text": "", "evidence": evidence}
    start = {"schema": "cxr.audit/1", "pictures": 24, "patients": 24, "notes": [], "shortcuts": []}
    (tmp_path / "data/audit.json").write_text(json.dumps(start | {"findings": [repeats]}))
    model = make_run(tmp_path / "run", made)
    options = {"train_split": rest, "validation_split": fold}
    found = evaluate(tmp_path / "run", made, model, fold, **options)
    assert not found["seen_in_training"]
    assert found["images_trained_on"] == 1
    assert f"1 of {len(inside)} images" in text.evaluation_table(found)


def test_a_comparison_with_a_run_that_was_trained_on_the_images_says_so(manifest, tmp_path):
    ours, theirs = (make_run(tmp_path / name, manifest, seed) for seed, name in enumerate(("one", "two")))
    for train_split in ("train", "train+test"):
        evaluate(tmp_path / "two", manifest, theirs, "test", train_split=train_split)
        found = evaluate(tmp_path / "one", manifest, ours, "test", compare=tmp_path / "two")
        knows = train_split == "train+test"
        assert found["comparison"]["other_seen_in_training"] is knows
        assert ("the other run was" in text.evaluation_table(found)) is knows


class TestClassMap:
    def test_theirs_become_ours(self):
        mapped = map_classes(("COVID-19", "Opacity", "normal"), OURS, {"COVID-19": "covid", "Opacity": "-"})
        labels, kept = mapped.labels(np.array([2, 1, 0, 1]))
        np.testing.assert_array_equal(kept, [True, False, True, False])
        np.testing.assert_array_equal(labels[kept], [1, 0])
        assert mapped.dropped(np.array([2, 1, 0, 1])) == {"Opacity": 2}

    def test_two_of_theirs_may_be_one_of_ours(self):
        mapped = map_classes(("bacterial", "viral"), OURS, {"bacterial": "pneumonia", "viral": "pneumonia"})
        np.testing.assert_array_equal(mapped.labels(np.array([0, 1]))[0], [2, 2])

    @pytest.mark.parametrize(
        ("theirs", "names", "error", "message"),
        [
            (("covid", "sick"), {}, DataError, "class sick .* --class_map=sick:CLASS, .* --class_map=sick:-"),
            (("covid",), {"sick": "covid"}, UsageError, "--class_map=sick:covid: .*class sick, .*covid"),
            (
                ("sick",),
                {"sick": "ill"},
                UsageError,
                "--class_map=sick:ill: .*class ill, .*covid",
            ),
            (("covid",), {"covid": "-"}, UsageError, "--class_map=covid:-: "),
        ],
    )
    def test_what_does_not_fit_is_named(self, theirs, names, error, message):
        with pytest.raises(error, match=message):
            map_classes(theirs, OURS, names)

    def test_all_others_are_left_out_by_one_entry(self):
        theirs = ("COVID-19", "normal", "Opacity", "Sick")
        mapped = map_classes(theirs, OURS, {"COVID-19": "covid", "*": "-"})
        labels, kept = mapped.labels(np.arange(4))
        np.testing.assert_array_equal(kept, [True, True, False, False])
        np.testing.assert_array_equal(labels[kept], [OURS.index("covid"), OURS.index("normal")])
        with pytest.raises(UsageError, match=r"--class_map=\*:covid: .*\*:-"):
            map_classes(theirs, OURS, {"*": "covid"})

    def test_parsing(self):
        assert parse_class_map(["a:b", "c:d:-"]) == {"a": "b", "c:d": "-"}
        for entries in (["a"], [":b"], ["a:"], ["a:b", "a:c"]):
            with pytest.raises(UsageError, match="--class_map"):
                parse_class_map(entries)


def test_data_of_another_size_or_kernel_is_refused(manifest, tmp_path):
    make_run(tmp_path / "run", manifest)
    for changes, message in (
        ({"task": "findings"}, "several findings a picture, .*one class a picture"),
        ({"size": 16}, r"\b16 px, .*\b8: .*--size=8"),
        ({"kernel": "bilinear"}, "kernel 'bilinear'.*'none'"),
        ({"color": "keep"}, "color 'keep'.*'gray'"),
        ({"crop_border": "auto"}, "crop_border 'auto'.*'none'"),
        ({"equalize_to": 64}, r"equalize_to 64\b.*\b0\b"),
    ):
        with pytest.raises(DataError, match=message):
            class_map.class_map_for(tmp_path / "run", dataclasses.replace(manifest, **changes))


def test_explaining_data_of_other_classes_is_refused_without_advice_that_it_cannot_take(manifest, tmp_path):
    make_run(tmp_path / "run", manifest)
    theirs = dataclasses.replace(manifest, class_names=("COVID-19", "normal", "pneumonia"))
    with pytest.raises(
        DataError, match="COVID-19, normal, pneumonia, .*run covid, normal, pneumonia"
    ) as error:
        class_map.refuse_other_classes(tmp_path / "run", theirs)
    assert "--class_map" not in str(error.value)


def test_the_command_on_external_data_against_another_run(manifest, tmp_path):
    runs = [tmp_path / "one", tmp_path / "two"]
    models = [make_run(run_dir, manifest, seed) for seed, run_dir in enumerate(runs)]
    theirs = write_shards(tmp_path / "hospital", {"all": random_images(25, seed=5)})
    theirs = dataclasses.replace(
        theirs,
        class_names=("COVID-19", "normal", "other"),
        counts={"all": dict(zip(("COVID-19", "normal", "other"), (9, 8, 8), strict=True))},
    )
    write_manifest(theirs)
    names = {"COVID-19": "covid", "other": "-"}
    evaluate_split(
        runs[1],
        Pipeline(theirs),
        "all",
        PredictStep(models[1], choose_placement("one", "float32", "off")),
        batch_size=4,
        options=EvaluationOptions(class_map=names),
        output=runs[1] / "external" / "hospital",
    )
    result = run_command(
        "cxr_train.evaluate",
        f"--run_dir={runs[0]}",
        f"--data={theirs.directory}",
        "--split=all",
        "--class_map=COVID-19:covid,other:-",
        "--at_sensitivity=0.8",
        f"--compare={runs[1]}",
        "--resamples=200",
    ).completed
    assert result.returncode == 0, result.stderr
    found = json.loads((runs[0] / "external" / "hospital" / "metrics_all.json").read_text())
    assert found["images"] == 17
    assert found["dropped"] == {"other": 8}
    assert not found["own_data"]
    assert found["per_class"]["pneumonia"]["sensitivity"] is None
    assert found["thresholds"]["at_sensitivity"] == 0.8
    assert found["intervals"]["resamples"] == 200
    assert found["comparison"]["other"].endswith("two/external/hospital/predictions_all.csv")
    # The predictions of the run's own validation split were made for the temperature, and stay.
    assert stored_predictions(runs[0], "validation") is not None
    assert found["calibration"]["fitted_on"] == "validation"
    for told in ("exact McNemar p =", "chosen on validation", "left out: 8 images of other", "patients]"):
        assert told in result.stdout
    assert not (runs[0] / "predictions_all.csv").exists()


def test_a_run_that_was_not_evaluated_cannot_be_compared_with(manifest, tmp_path):
    model = make_run(tmp_path / "run", manifest)
    with pytest.raises(DataError, match=r"other: .*predictions_test\.csv.*--data .*--split"):
        evaluate(tmp_path / "run", manifest, model, "test", compare=tmp_path / "other")


def test_options_that_make_no_sense_name_their_flag():
    for options, message in (
        ({"at_sensitivity": 95}, "--at_sensitivity=95: .*0.95"),
        ({"resamples": 5}, "--resamples=5: .*100"),
    ):
        with pytest.raises(UsageError, match=message):
            EvaluationOptions(**options)


def test_images_of_unknown_patients_are_resampled_one_by_one(tmp_path):
    """Shards of another program, without id and group: each image is a patient of its own, and it is said."""
    for split, count in (("train", 9), ("validation", 30), ("test", 14)):
        with tf.io.TFRecordWriter(str(tmp_path / f"{split}.tfrecord")) as writer:
            for image, label in zip(random_images(count, seed=count), labels_of(count), strict=True):
                pixels = tf.train.Feature(float_list=tf.train.FloatList(value=image.ravel()))
                number = tf.train.Feature(int64_list=tf.train.Int64List(value=[label]))
                features = tf.train.Features(feature={"image": pixels, "label": number})
                writer.write(tf.train.Example(features=features).SerializeToString())
    adopted = adopt(str(tmp_path), OURS, size=8, channels=3, dtype="float32")
    run_dir, other = tmp_path / "run", tmp_path / "other"
    model = make_run(run_dir, adopted)
    evaluate(run_dir, adopted, model, "test")
    stored = read_predictions(run_dir / "predictions_test.csv")
    assert stored.ids == stored.groups == tuple(f"test/test.tfrecord/{n}" for n in range(14))
    shutil.copytree(run_dir, other)
    rolled = dataclasses.replace(stored, probabilities=np.roll(stored.probabilities, 1, axis=0))
    write_predictions(other / "predictions_test.csv", rolled)
    found = evaluate(run_dir, adopted, model, "test", compare=other)
    assert sum(found["intervals"]["patients_of"].values()) == 14
    assert found["intervals"]["without_patient"] == 14
    low, high = found["intervals"]["accuracy"]
    assert low < found["accuracy"] < high
    assert high - low < 0.7
    assert found["comparison"]["differences"]["accuracy"]["interval"] is not None
    assert "no patient is known" in " ".join(wording.patients(found))


def test_an_early_file_without_ids_and_groups_names_its_images_by_their_lines(tmp_path):
    path = tmp_path / "predictions_test.csv"
    path.write_text("id,group,label,predicted,p_a,p_b\n,,a,a,0.9,0.1\n,,b,a,0.8,0.2\nx,,b,b,0.1,0.9\n")
    read = read_predictions(path)
    assert read.ids == read.groups == ("line 2", "line 3", "x")
    assert read.without_patient == 3
    with pytest.raises(ValueError, match=r"groups\[1\]"):
        PatientBootstrap.of_names(["p", ""])
