"""`python -m cxr_train.run` on images whose findings stand in tables."""

import os
import subprocess
import sys

import pytest
from finding_tables import make_nih
from project import ROOT
from waiting import SECONDS

from cxr_data.core.errors import UsageError
from cxr_data.synthetic.sample import TABLE_NAME, SampleConfig, make_sample
from cxr_train import run
from cxr_train.run import WorkflowOptions, run_workflow
from cxr_train.workflow.machine import Machine


@pytest.fixture
def without_machine(monkeypatch):
    monkeypatch.setattr(run, "find_machine", lambda: Machine(2, 0, "none"))
    monkeypatch.setattr(run, "pretrained_weights", lambda backbone: (False, "nowhere"))


def test_tables_are_read_and_passed_on_to_the_conversion(without_machine, tmp_path, capsys):
    made = make_nih(tmp_path)
    tables = f"--table={','.join(made.flags['table'])}"
    options = WorkflowOptions(output=str(tmp_path / "out"), dry_run=True)
    assert run_workflow(options, [str(made.source), "--labels=nih", tables, "--views=PA"]) == 0
    out = capsys.readouterr().out
    said = " ".join(out.split())
    assert "3 images" in said
    assert "Emphysema 1" in said
    assert "test 1, train 2" in said
    convert, *_, explain = out.partition("] convert")[2].split("\n\n[")[:5]
    for flag in (tables, "--labels=nih", "--views=PA", "--splits=train:0.85,validation:0.15"):
        assert flag in convert
    assert "--split=test" in explain
    assert not (tmp_path / "out").exists()


@pytest.mark.parametrize(
    ("flags", "named"),
    [
        (["--labels=nih"], "--labels=nih: needs --table="),
        (["--labels=nih", "--table=nowhere.csv"], "nowhere.csv"),
        (["--table=nowhere.csv"], "--table=nowhere.csv: needs --labels"),
    ],
)
def test_tables_that_do_not_fit_are_refused_before_anything_is_made(without_machine, tmp_path, flags, named):
    made = make_nih(tmp_path)
    with pytest.raises(UsageError, match=named):
        run_workflow(WorkflowOptions(output=str(tmp_path / "out")), [str(made.source), *flags])
    assert not (tmp_path / "out").exists()


@pytest.mark.ci
def test_from_a_table_of_findings_to_the_page(tmp_path):
    make_sample(SampleConfig(output=tmp_path / "xrays", images=24, sizes=(512,), findings=True))
    flags = ["--labels=columns", f"--table=xrays/{TABLE_NAME}", "--size=64", "--epochs=1", "--batch_size=4"]
    made = subprocess.run(
        [sys.executable, "-m", "cxr_train.run", "xrays", "--weights=none", *flags], cwd=tmp_path,
        env=os.environ | {"PYTHONPATH": str(ROOT)}, capture_output=True, text=True, timeout=SECONDS,
    )  # fmt: skip
    assert made.returncode == 0, made.stderr
    page = tmp_path / "runs/xrays/run/report/index.html"
    assert made.stdout.splitlines()[-1].endswith(page.as_uri())
    assert "Consolidation" in page.read_text()
    assert (tmp_path / "runs/xrays/tfrecords/audit.json").is_file()
