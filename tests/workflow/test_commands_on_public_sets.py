"""Tables in the layouts of the public sets, by the commands themselves, from the files to the exports."""

import csv
import json
import pathlib
from typing import Any

import numpy as np
import pytest
from finding_tables import MAKERS, MORE, MadeTables
from in_process import run_command
from PIL import Image

from cxr_data.records.manifest import read_manifest
from cxr_train.inference.export_formats import run_export
from cxr_train.inference.export_names import FORMATS
from cxr_train.inference.exporter import pixels_of

pytestmark = [pytest.mark.ci, pytest.mark.usefixtures("tiny")]

# Each has three splits: its official ones, and the rest of its training pictures.
SPLITS = {
    "nih": "train:0.5,validation:0.5",
    "chexpert": "train:0.5,test:0.5",
    "padchest": "train:0.34,validation:0.33,test:0.33",
    "vindr": "train:0.5,validation:0.5",
}
# The finding that every second of the further pictures has, and the column of the views by which to evaluate.
KNOWN = {
    "nih": ("Effusion", "View Position"),
    "chexpert": ("Pleural Effusion", "AP/PA"),
    "mimic": ("Pleural Effusion", "ViewPosition"),
    "padchest": ("pleural effusion", "Projection"),
    "vindr": ("Cardiomegaly", ""),
}


def say(module: str, *flags: object) -> str:
    """Returns what a command prints; it must succeed."""
    done = run_command(module, *flags)
    assert done.code == 0, (module, done.output)
    return done.output


def load(*parts: object) -> dict[str, Any]:
    return json.loads(pathlib.Path(*map(str, parts)).read_text())


def table_of_views(made: MadeTables) -> str:
    """Returns the table that has the column of the views."""
    tables = [str(table) for table in made.flags["table"]]
    return next((table for table in tables if "metadata" in table), tables[0])


def convert(name: str, made: MadeTables, data: pathlib.Path) -> str:
    """Converts a set, and returns what the command prints."""
    lists = {flag: value for flag, value in made.flags.items() if isinstance(value, tuple)}
    flags = [f"--labels={name}", *(f"--{flag}={','.join(value)}" for flag, value in lists.items())]
    flags += [f"--splits={SPLITS[name]}"] if name in SPLITS else []
    return say("tools.make_tfrecords", f"--source={made.source}", f"--output={data}", "--size=16",
               "--workers=0", *flags)  # fmt: skip


def train(data: pathlib.Path, run_dir: pathlib.Path, *flags: str) -> None:
    say("cxr_train.main", f"--data={data}", f"--run_dir={run_dir}", "--backbone=tiny", "--weights=none",
        "--epochs=1", "--batch_size=8", "--monitor=mean_auroc", "--uncertain=ones", "--head=6",
        *flags)  # fmt: skip


@pytest.mark.parametrize("name", sorted(MAKERS.keys() - {"columns"}))
def test_a_public_set_goes_from_its_tables_to_exported_models(name, tmp_path):
    made = MAKERS[name](tmp_path, MORE)
    data, run_dir = tmp_path / "tfrecords", tmp_path / "run"
    finding, view = KNOWN[name]
    said = convert(name, made, data)
    assert f"table ({name}): " in said
    for reason in made.lost.values():
        assert reason in said
    manifest = read_manifest(data)
    names = list(manifest.class_names)
    assert {*manifest.splits} == {"train", "validation", "test"}
    assert sum(manifest.count(split) for split in manifest.splits) == len(made.labels)

    assert f"{len(made.labels)} records" in say("tools.verify_tfrecords", f"--data={data}", "--workers=1")

    say("tools.audit_dataset", f"--data={data}")
    audit = load(data, "audit.json")
    assert audit["pictures"] == len(made.labels)
    together = audit["co_occurrence"]
    assert together["findings"] == names
    position = names.index(finding)
    has = sum(labels.get(finding) == 1 for labels in made.labels.values())
    assert together["counts"][position]["present"] == together["both_present"][position][position] == has

    train(data, run_dir)
    grouped = [f"--by=source,{view}", f"--by_table={table_of_views(made)}"] if view else ["--by=source"]
    say("cxr_train.evaluate", f"--run_dir={run_dir}", "--split=test", "--resamples=100", *grouped)
    found = load(run_dir, "metrics_test.json")
    assert [*found["per_class"]] == names
    assert {*names} - {*found["too_few"]} >= {finding}
    assert found["per_class"][finding]["auroc"] is not None
    assert [*found["by"]["source"]["groups"]] == [name]
    if view:
        groups = found["by"][view]["groups"]
        assert sum(group["images"] for group in groups.values()) == manifest.count("test")
        assert {"PA", "AP"} <= {*groups}

    say("cxr_train.explain", f"--run_dir={run_dir}", "--split=test", "--gallery_size=1", "--filters=0",
        "--check_images=2")  # fmt: skip
    explained = load(run_dir, "explain/test/explain.json")
    assert {part for case in explained["cases"] for part in case["mapped"]} >= {finding}
    assert all((run_dir / "explain/test" / case["file"]).is_file() for case in explained["cases"])

    files = sorted(made.source / path for path in made.labels)[:4]
    said = say("cxr_train.predict", f"--run_dir={run_dir}", f"--output={tmp_path}/predictions.csv",
               f"--panels={tmp_path}/panels", *files)  # fmt: skip
    rows = list(csv.DictReader((tmp_path / "predictions.csv").open()))
    assert [name for name in rows[0] if name.startswith("p_")] == [f"p_{name}" for name in names]
    assert all(Image.open(panel).size[0] > 300 for panel in (tmp_path / "panels").iterdir())
    probabilities = np.array([[float(row[f"p_{name}"]) for name in names] for row in rows])
    assert probabilities.shape == (4, len(names))

    say("cxr_train.report", f"--run_dir={run_dir}")
    page = (run_dir / "report/index.html").read_text()
    assert all(name in page for name in names)
    assert "Co-occurrence" in page

    images = [file.read_bytes() for file in files]
    for form in FORMATS:
        say("cxr_train.export", f"--run_dir={run_dir}", f"--format={form}", f"--output={tmp_path}/{form}")
        exported = run_export(form, tmp_path / form, images, pixels_of(images, manifest))
        np.testing.assert_allclose(exported, probabilities, atol=1e-5)


def test_a_run_on_one_set_is_evaluated_on_the_findings_of_another(tmp_path):
    made = {name: MAKERS[name](tmp_path / name, MORE) for name in ("nih", "chexpert")}
    for name, one in made.items():
        convert(name, one, tmp_path / name / "tfrecords")
    theirs, run_dir = tmp_path / "chexpert" / "tfrecords", tmp_path / "run"
    train(tmp_path / "nih" / "tfrecords", run_dir)
    said = say("cxr_train.evaluate", f"--run_dir={run_dir}", f"--data={theirs}", "--split=test",
               "--by=source", "--resamples=100", "--class_map=Pleural Effusion:Effusion,*:-")  # fmt: skip
    found = load(run_dir, "external/tfrecords/metrics_test.json")
    ours, names = read_manifest(tmp_path / "nih" / "tfrecords").class_names, read_manifest(theirs).class_names
    assert [*found["per_class"]] == [*ours]
    assert found["per_class"]["Effusion"]["auroc"] is not None
    assert {"Hernia", "Mass"} <= {*found["too_few"]}
    assert {*found["dropped"]} == {*names} - {*ours, "Pleural Effusion"}
    assert said.count("left out: ") == 1


def test_the_folds_of_a_public_set_are_joined_and_predict_together(tmp_path):
    made = MAKERS["mimic"](tmp_path, MORE)
    data, runs = tmp_path / "tfrecords", [tmp_path / f"fold{number}" for number in (1, 2)]
    convert("mimic", made, data)
    names = read_manifest(data).class_names
    for number, run_dir in enumerate(runs, start=1):
        train(data, run_dir, f"--fold={number}of2")
        say("cxr_train.evaluate", f"--run_dir={run_dir}", "--resamples=100")
    both = ",".join(map(str, runs))
    say("cxr_train.folds", f"--runs={both}", f"--output={tmp_path}/joined", "--resamples=100")
    found = load(tmp_path, "joined/metrics_out_of_fold.json")
    of_pool = [path for path, split in made.splits.items() if split != "test"]
    assert found["images"] == len(of_pool)
    assert [*found["per_class"]] == [*names]
    assert [*found["spread"]["auroc"]["folds"]] == [*map(str, runs)]
    with (tmp_path / "joined/predictions_out_of_fold.csv").open() as file:
        assert {row["id"] for row in csv.DictReader(file)} == {*of_pool}
    assert "Pleural Effusion" in (tmp_path / "joined/report/index.html").read_text()

    files, said = sorted(made.source / path for path in made.labels)[:3], []
    for line in (*map(str, runs), both):
        target = tmp_path / "predicted.json"
        say("cxr_train.predict", f"--run_dir={line}", f"--output={target}", "--overwrite", *files)
        rows = load(target)["predictions"]
        said.append([[row["probabilities"][name] for name in names] for row in rows])
    np.testing.assert_allclose(said[2], np.mean(said[:2], axis=0), atol=1e-5)
