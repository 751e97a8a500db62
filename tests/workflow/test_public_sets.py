"""Tables in the layouts of the public sets, from the files to the exported model."""

import json

import pytest
from finding_tables import MAKERS
from tiny import make_trainer, train_whole

from cxr_data.convert.config import SharderConfig
from cxr_data.convert.convert import make_tfrecords
from cxr_data.input.pipeline import Pipeline
from cxr_train.engine.predict_step import PredictStep
from cxr_train.engine.strategy import choose_placement
from cxr_train.evaluation.evaluator import evaluate_split
from cxr_train.evaluation.options import EvaluationOptions
from cxr_train.explanation.explainer import Explainer
from cxr_train.explanation.options import ExplainOptions
from cxr_train.inference.exporter import export_model
from cxr_train.reporting.page import write_report
from cxr_train.runs.config import TrainConfig
from cxr_train.runs.run_model import load_best_model

pytestmark = pytest.mark.usefixtures("tiny")

# Those without a validation split of their own get one from their training pictures.
SPLITS = dict.fromkeys(("nih", "padchest", "vindr"), "train:0.5,validation:0.5")


# One with a validation split of its own and one without; test_commands_on_public_sets takes all.
@pytest.mark.parametrize("name", ["nih", pytest.param("chexpert", marks=pytest.mark.ci)])
def test_a_public_set_goes_from_its_tables_to_an_exported_model(name, tmp_path):
    made = MAKERS[name](tmp_path)
    flags = {"size": 8, "workers": 0, "quiet": True, "splits": SPLITS.get(name, "auto"), **made.flags}
    data = make_tfrecords(SharderConfig(str(made.source), str(tmp_path / "shards"), **flags))
    _, run_dir = train_whole(make_trainer, data, tmp_path / "run", epochs=1, batch_size=1)
    placement = choose_placement("one", "float32", "off")
    arguments = (Pipeline(data), "validation", PredictStep(load_best_model(run_dir), placement))
    options = EvaluationOptions(resamples=100, probe_images=1, by=("source",))
    evaluated = evaluate_split(run_dir, *arguments, batch_size=2, options=options)
    assert [*evaluated["per_class"]] == [*data.class_names]
    assert [*evaluated["by"]["source"]["groups"]] == [name]
    few = ExplainOptions(gallery_size=1, check_images=1, filters=0, classes=data.class_names[:2])
    explained = Explainer(TrainConfig.load(run_dir / "config.json"), Pipeline(data), few).explain()
    assert {part for case in explained["cases"] for part in case["mapped"]} <= {*data.class_names}
    page = write_report(run_dir).read_text()
    for finding in data.class_names:
        assert finding in page
    config = TrainConfig.load(run_dir / "config.json")
    for form in ("savedmodel", "tflite"):
        assert export_model(config, run_dir, form, tmp_path / form, []) < 1e-3
    assert json.loads((run_dir / "manifest.json").read_text())["task"] == "findings"
