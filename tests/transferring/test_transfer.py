"""`python -m cxr_train.transfer` on embeddings: no leak of a held-out source, resume, tables, refusals."""

import html
import json
import pathlib
import shutil
import subprocess
import sys
import time

import numpy as np
import pytest
from embedded_sources import SOURCES, write_embedded_sources
from in_process import run_command
from project import ROOT
from waiting import wait_until

from cxr_data.records.example import Fields
from cxr_train.evaluation.predictions import read_predictions
from cxr_train.evaluation.test_time import with_corrected_prior
from cxr_train.runs.config import TrainConfig
from cxr_train.transferring import heads, targets
from cxr_train.transferring.run import TransferRun
from cxr_train.transferring.text import to_text

METHODS = {"erm": {}, "smooth": {"label_smoothing": [0.05, 0.3]}}
HELD_OUT = SOURCES[1]


def arguments(data, run_dir, methods):
    return [
        *(f"--data={data}", f"--run_dir={run_dir}", "--backbone=none", "--weights=none", "--head=8"),
        *(f"--methods={methods}", "--draws=2", "--seeds=1", "--epochs=2", "--resamples=200"),
        "--learning_rate=0.03",
    ]


@pytest.fixture(scope="module")
def root(tmp_path_factory):
    root = tmp_path_factory.mktemp("transfer")
    (root / "methods.json").write_text(json.dumps(METHODS))
    write_embedded_sources(root / "data", patients=(260, 240, 4))
    return root


@pytest.fixture(scope="module")
def compared(root):
    """A whole comparison."""
    line = arguments(root / "data", root / "runs", root / "methods.json")
    done = run_command("cxr_train.transfer", *line)
    assert done.code == 0, done.stderr.decode()
    return root / "runs"


def table(run_dir):
    return json.loads((run_dir / "transfer.json").read_text())


def without_places(value):
    """Return a document without paths, which differ between two directories."""
    if isinstance(value, dict):
        return {k: without_places(v) for k, v in value.items() if k not in ("directory", "data")}
    return [without_places(v) for v in value] if isinstance(value, list) else value


def test_every_source_with_enough_patients_has_its_rows(compared):
    found = table(compared)
    assert [one["state"] for one in found["sources"]] == ["held out", "held out", "too few"]
    of_kind = found["tables"]["generalisation"]
    rows = {(row["source"], row["method"]): row for row in of_kind["rows"]}
    assert {*rows} == {(source, method) for source in SOURCES[:2] for method in METHODS}
    for (_, method), row in rows.items():
        assert row["seeds"] == 1
        low, high = row["auroc"]["interval"]
        assert 0 <= low <= row["auroc"]["value"] <= high <= 1
        assert ("against" in row) is (method != "erm")
    assert "erm" in of_kind["sentence"] or "ERM" in of_kind["sentence"]
    assert found["bounds"][SOURCES[0]]["within"]["auroc"]["value"] > 0.5
    assert found["sources"][0]["told_apart"] > 0.6
    stress = found["stress"]["tables"]["generalisation"]
    assert {row["method"] for row in stress["rows"]} == {*METHODS}
    assert found["stress"]["oracle"]["auroc"]["value"] > 0.5
    text = (compared / "transfer.txt").read_text()
    assert "too few" in text
    assert "audit" in text
    assert "oracle" in text
    assert max(map(len, text.splitlines())) <= 100
    page = html.unescape((compared / "transfer.html").read_text())
    assert of_kind["sentence"][1:] in page
    assert "one seed" in of_kind["sentence"]
    is_better = "good" if of_kind["better"] else "bad"
    assert f'<li class="verdict {is_better}"><strong>G{of_kind["sentence"][1:]}' in page
    assert any("embeddings are of synthetic" in note for note in found["notes"])
    assert found["runs"]["finished"] == found["runs"]["planned"] > 0
    assert "<img" in page
    lines = (compared / "transfer.csv").read_text().splitlines()
    assert len(lines) == 1 + 4 + 2 + 2 + 2 + 1


def test_the_name_of_a_source_is_no_line_of_its_own(compared):
    found = json.loads((compared / "transfer.json").read_text().replace("nih", "nih\\nFORGED"))
    assert "nih\\nFORGED" in to_text(found)
    assert not [line for line in to_text(found).splitlines() if line.strip().startswith("FORGED")]


def test_everything_is_chosen_on_other_sources_and_tested_on_all_of_the_held_out_one(compared):
    runs = sorted(compared.glob("leave_one_out/*/erm-draw0-seed1"))
    assert len(runs) == 2
    for run in runs:
        files = {path.name: read_predictions(path) for path in run.glob("predictions_*.csv")}
        (tested,) = (said for name, said in files.items() if "@only=" in name)
        (chosen_on,) = (said for name, said in files.items() if "@without=" in name)
        (source,) = {name.split("-")[1] for name in tested.groups}
        assert source not in {name.split("-")[1] for name in chosen_on.groups}
        assert {name.split("-")[0] for name in tested.groups} == {"train", "validation", "test"}
        assert not {*tested.groups} & {*chosen_on.groups}
    for row in table(compared)["tables"]["generalisation"]["rows"]:
        for one in row["chosen"]:
            values = {}
            for draw in range(2):
                place = pathlib.Path(one["directory"]).with_name(
                    f"{row['method']}-draw{draw}-seed{one['seed']}"
                )
                history = [json.loads(line) for line in (place / "metrics.jsonl").read_text().splitlines()]
                values[draw] = max(epoch["validation"]["macro_auroc"] for epoch in history)
            assert values[one["draw"]] == max(values.values())
            assert one["validation"] == pytest.approx(max(values.values()), abs=1e-4)


def test_a_held_out_source_changes_nothing_but_its_own_predictions(root, compared):
    """Would fail if one record of it were trained on, or chosen with."""
    write_embedded_sources(root / "other", patients=(260, 240, 4), odd=HELD_OUT)
    line = [*arguments(root / "other", root / "other_runs", root / "methods.json"), "--hold_out=Köln%2C Süd"]
    done = run_command("cxr_train.transfer", *[*line, "--stress=none"])
    assert done.code == 0, done.stderr.decode()
    for run in (root / "other_runs" / "leave_one_out").glob("*/*"):
        same = compared / run.relative_to(root / "other_runs")
        assert (run / "metrics.jsonl").read_bytes() == (same / "metrics.jsonl").read_bytes()
        for path in run.glob("predictions_*.csv"):
            is_same = path.read_bytes() == (same / path.name).read_bytes()
            assert is_same is ("@without=" in path.name), path.name
    chosen, again = (
        [
            (row["method"], one["seed"], one["draw"])
            for row in rows
            if row["source"] == HELD_OUT
            for one in row["chosen"]
        ]
        for rows in (
            table(place)["tables"]["generalisation"]["rows"] for place in (compared, root / "other_runs")
        )
    )
    assert chosen == again


def test_what_was_not_finished_is_run_again_and_gives_the_same_table(root, compared, monkeypatch):
    again = root / "again"
    shutil.copytree(compared, again)
    expected = without_places(table(compared))
    for path in (again / "leave_one_out").glob("*/smooth-draw1-seed1"):
        (path / "throughput.json").unlink()  # killed after its predictions
    for path in (again / "within").glob("*/erm-draw0-seed1"):
        shutil.rmtree(path)
    for path in (again / "stress").glob("smooth-draw0-seed1/predictions_test.csv"):
        path.unlink()
    for name in ("json", "csv", "txt", "html"):
        (again / f"transfer.{name}").unlink()
    line = arguments(root / "data", again, root / "methods.json")
    asked = []
    refuse = TransferRun.refuse_another
    with monkeypatch.context() as patch:
        patch.setattr(TransferRun, "refuse_another", lambda run: (asked.append(run.directory), refuse(run)))
        dry = run_command("cxr_train.transfer", *line, "--dry_run")
    assert len(asked) == len({*asked})  # it reads the state of a run once
    assert b"min to go" in dry.stdout
    assert not (again / "transfer.json").exists()
    assert run_command("cxr_train.transfer", *line).code == 0
    found = without_places(table(again))
    np.testing.assert_equal(found, expected)


def test_runs_on_embeddings_that_were_replaced_are_not_gone_on_with(root, compared, tmp_path):
    again = tmp_path / "runs"
    (run,) = compared.glob("leave_one_out/without=nih/erm-draw0-seed1")
    shutil.copytree(run, again / run.relative_to(compared))
    line = [*arguments(root / "data", again, root / "methods.json"), "--dry_run"]
    assert run_command("cxr_train.transfer", *line).code == 0
    manifest = again / run.relative_to(compared) / "manifest.json"
    manifest.write_text(manifest.read_text().replace("index_sha256", "index_sha256 "))
    done = run_command("cxr_train.transfer", *line)
    assert done.code == 1
    assert len(done.stderr.splitlines()) == 1
    assert "erm-draw0-seed1" in done.stderr.decode()


def test_the_prior_is_the_one_of_an_evaluation(compared):
    directory = next(compared.glob("leave_one_out/without=nih/erm-draw0-seed1"))
    config = TrainConfig.load(directory / "config.json")
    run = TransferRun("erm", {}, config, tested="test")
    _, _, shares = with_corrected_prior(run.chosen_on, run.chosen_on)
    np.testing.assert_allclose(run.training_prior, [*shares["before"].values()], rtol=1e-12)


def test_heads_are_those_of_a_run_of_main(root, compared, tmp_path):
    """The loop in one graph takes the steps of the trainer."""
    (run,) = (compared / "leave_one_out").glob("without=nih/erm-draw0-seed1")
    config = json.loads((run / "config.json").read_text())
    flags = [
        *(f"--data={root / 'data'}", f"--run_dir={tmp_path / 'run'}", "--backbone=none", "--weights=none"),
        *("--head=8", "--epochs=2", "--seed=1", "--optimizer=adamw", f"--batch_size={config['batch_size']}"),
        *(
            f"--learning_rate={config['learning_rate']}",
            "--weight_decay=" + str(config["recipe"]["weight_decay"]),
        ),
        *("--train_split=train@without=nih", "--validation_split=validation@without=nih", "--xla=off"),
        "--monitor=macro_auroc",
    ]
    done = run_command("cxr_train.main", *flags)
    assert done.code == 0, done.stderr.decode()
    name = "predictions_validation@without=nih.csv"
    ours, theirs = (read_predictions(place / name) for place in (run, tmp_path / "run"))
    assert ours.ids == theirs.ids
    np.testing.assert_allclose(ours.probabilities, theirs.probabilities, atol=1e-5)


def test_heads_stop_early(root, tmp_path):
    line = [*arguments(root / "data", tmp_path / "runs", "erm"), "--hold_out=nih", "--stress=none"]
    more = ["--draws=1", "--learning_rate=1e-12", "--epochs=5", "--early_stopping=1"]
    assert run_command("cxr_train.transfer", *line, *more).code == 0
    for history in (tmp_path / "runs").glob("*/*/*/metrics.jsonl"):
        assert len(history.read_text().splitlines()) == 2


def test_a_stop_after_more_epochs_were_asked_for_leaves_no_end_behind(root, tmp_path, monkeypatch):
    line = [
        *arguments(root / "data", tmp_path / "runs", "erm"),
        "--hold_out=nih",
        "--stress=none",
        "--draws=1",
    ]
    assert run_command("cxr_train.transfer", *line, "--epochs=1").code == 0
    other = run_command("cxr_train.transfer", *line, "--epochs=1", "--early_stopping=3")
    assert other.code == 2
    assert "--early_stopping" in other.stderr.decode()

    def stopped(*_):
        raise KeyboardInterrupt

    with monkeypatch.context() as patch:
        patch.setattr(heads, "assemble_training", stopped)
        assert run_command("cxr_train.transfer", *line, "--epochs=2").code == 130
    again = run_command("cxr_train.transfer", *line, "--epochs=2", "--dry_run")
    assert b"; 0 of 2 runs finished" in again.stdout


def test_where_no_source_can_be_held_out_the_command_says_so(tmp_path):
    write_embedded_sources(tmp_path / "data", patients=(8, 8, 4))
    done = run_command("cxr_train.transfer", *arguments(tmp_path / "data", tmp_path / "runs", "erm,balanced"))
    assert done.code == 2
    assert "--data=" in done.stderr.decode()
    assert not (tmp_path / "runs").exists()


@pytest.mark.slow
def test_killed_again_and_again_the_table_is_the_same(root, compared, tmp_path):
    runs = tmp_path / "runs"
    line = [sys.executable, "-m", "cxr_train.transfer"]
    line += arguments(root / "data", runs, root / "methods.json")
    quiet = {"stdout": subprocess.DEVNULL, "stderr": subprocess.DEVNULL}
    random = np.random.default_rng(0)
    planned = table(compared)["runs"]["planned"]

    def finished():
        return len([*runs.glob("*/*/*/throughput.json"), *runs.glob("stress/*/throughput.json")])

    for _ in range(4):
        before = finished()
        killed = subprocess.Popen(line, cwd=ROOT, **quiet)
        wait_until(lambda least=before: finished() > least, killed)
        time.sleep(random.uniform(0, 0.5))
        killed.kill()
        killed.wait()
    assert finished() < planned
    assert not (runs / "transfer.json").exists()
    subprocess.run(line, cwd=ROOT, check=True, **quiet)
    np.testing.assert_equal(without_places(table(runs)), without_places(table(compared)))


@pytest.mark.parametrize(
    ("extra", "named"),
    [
        (["--fold=1of2"], "--fold"),
        (["--fda_split=test"], "--fda_split"),
        (["--train_split=train"], "--train_split"),
        (["--precision=mixed_bfloat16"], "--precision"),
        (["--xla=on"], "--xla"),
        (["--strategy=mirrored"], "--strategy"),
        (["--save_minutes=1"], "--save_minutes"),
        (["--domain_method=coral", "--balance_batches"], "--domain_method"),
        (["--hold_out=rare/site"], "--hold_out"),
        (["--stress=a:b"], "--stress"),
        (["--methods=none"], "--methods"),
        (["--methods=prior_correction,erm"], "--methods"),
        (["--sensitivity=0"], "--sensitivity"),
        (["--seeds=1,1"], "--seeds"),
        (["--resamples=100", "--methods=erm,balanced,coral,irm"], "--resamples"),
        (["--resume"], "--resume"),
    ],
)
def test_wrong_command_lines_are_refused(root, tmp_path, extra, named):
    line = arguments(root / "data", tmp_path / "runs", root / "methods.json")
    done = run_command("cxr_train.transfer", *line, *extra)
    assert done.code == 2
    assert named in done.stderr.decode()
    assert not (tmp_path / "runs").exists()


def test_a_patient_of_two_sources_is_refused(root, tmp_path, monkeypatch):
    read = targets.read_split_fields

    def of_one_patient(manifest, split):
        return [Fields(**{**one._asdict(), "group": "somebody"}) for one in read(manifest, split)]

    monkeypatch.setattr(targets, "read_split_fields", of_one_patient)
    line = arguments(root / "data", tmp_path / "runs", root / "methods.json")
    done = run_command("cxr_train.transfer", *line)
    assert done.code == 1
    assert "somebody" in done.stderr.decode()
