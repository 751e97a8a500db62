"""The names in a run directory: as old runs have them, and written in one file."""

import ast
import pathlib

import pytest
from project import ROOT

from cxr_train.runs.layout import (
    GridLayout,
    RunLayout,
    WorkflowLayout,
    batch_ids_of,
    checkpoint_numbers,
    checkpoint_path,
)

AT = pathlib.Path("run")
# Directories that were written before have these names, and go on.
PATHS = {
    "config.json": RunLayout(AT).config,
    "flags.txt": RunLayout(AT).flags,
    "manifest.json": RunLayout(AT).manifest,
    "environment.json": RunLayout(AT).environment,
    "metrics.jsonl": RunLayout(AT).history,
    "throughput.json": RunLayout(AT).throughput,
    "best.keras": RunLayout(AT).best_model,
    "last.keras": RunLayout(AT).last_model,
    "checkpoints/ckpt-00007": checkpoint_path(RunLayout(AT).checkpoints, 7),
    "tensorboard": RunLayout(AT).tensorboard,
    "not_finite/epoch-0002-step-000017/batch.json": batch_ids_of(RunLayout(AT).not_finite(2, 17)),
    "predictions_test.csv": RunLayout(AT).predictions("test"),
    "metrics_test.json": RunLayout(AT).metrics("test"),
    "explain/test": RunLayout(AT).explanation("test"),
    "external/other/metrics_test.json": RunLayout(AT).external("other").metrics("test"),
    "report/index.html": RunLayout(AT).report,
    "sample": RunLayout(AT).sample_images,
    "sample_tfrecords": RunLayout(AT).sample_shards,
    "lock": RunLayout(AT).lock,
    "ablation.csv": GridLayout(AT).table("csv"),
    "plan.json": WorkflowLayout(AT).plan,
}


def test_every_directory_has_the_same_lock():
    assert {GridLayout(AT).lock, WorkflowLayout(AT).lock} == {RunLayout(AT).lock}


@pytest.mark.parametrize("name", PATHS)
def test_names_stay(name):
    assert PATHS[name] == AT / name


def test_what_is_there_is_found_by_its_names(tmp_path):
    layout = RunLayout(tmp_path)
    for path in (
        layout.metrics("validation"),
        layout.predictions("test"),
        layout.explanation("odd") / "explain.json",
        layout.external("b").metrics("test"),
        layout.external("a").metrics("test"),
        checkpoint_path(layout.checkpoints, 10) / "state.index",
        checkpoint_path(layout.checkpoints, 9) / "state.index",
        layout.checkpoints / "writing" / "state.index",
        layout.checkpoints / "ckpt-old1" / "state.index",
    ):
        path.parent.mkdir(parents=True, exist_ok=True)
        path.touch()
    assert layout.splits() == {"validation", "test", "odd"}
    assert layout.external_metrics() == [("a", "test"), ("b", "test")]
    assert checkpoint_numbers(layout.checkpoints) == [9, 10]
    assert checkpoint_numbers(tmp_path / "none") == []


def strings_of(path: pathlib.Path) -> set[str]:
    """The strings in a file's code, without its docstrings; of an f-string its parts."""
    nodes = list(ast.walk(ast.parse(path.read_text())))
    alone = {id(node.value) for node in nodes if isinstance(node, ast.Expr)}
    return {
        node.value
        for node in nodes
        if isinstance(node, ast.Constant) and isinstance(node.value, str) and id(node) not in alone
    }


def test_no_other_file_writes_them():
    names = {part for name in PATHS for part in name.split("/") if "_test" not in part}
    names -= {"external", "other", "test", "report", "explain", "sample", "epoch-0002-step-000017"}  # words
    names |= {"metrics_", "predictions_", "ckpt-", "SHA256SUMS", "explain.json", "depths.png", "filters.png"}
    owner = ROOT / "cxr_train" / "runs" / "layout.py"
    assert len(names & strings_of(owner)) > 15
    for path in (ROOT / "cxr_train").rglob("*.py"):
        if path != owner:
            assert not names & strings_of(path), path
