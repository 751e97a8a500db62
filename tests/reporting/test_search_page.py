"""The page of a search: its trials, the curves of the best, what size alone says, and the comparison."""

import json

import pytest

from cxr_train.reporting.search_page import write_search_page


@pytest.mark.parametrize("is_compared", [True, False])
def test_the_page_shows_trials_curves_size_and_the_winner_beside_the_default(tmp_path, is_compared):
    trials = []
    for number, values in enumerate([(0.5, 0.625), (0.25,), ()]):
        run = tmp_path / f"trial-{number:04d}"
        run.mkdir()
        history = [{"epoch": n, "train": {}, "validation": {"accuracy": x}} for n, x in enumerate(values, 1)]
        (run / "metrics.jsonl").write_text("".join(json.dumps(row) + "\n" for row in history))
        trial = {"number": number, "directory": run.name, "flags": {"head": "<b>"}, "epochs": len(values)}
        trial |= {"status": ("finished", "pruned", "failed: exit code 1")[number], "gpu_seconds": 1234.0}
        trial |= {
            "rungs": {str(n): x for n, x in enumerate(values, 1)},
            "parameters": 98765 if values else None,
        }
        trials.append(trial)
    metrics = ("accuracy", "sensitivity", "specificity", "auroc")
    numbers = {name: {"value": 0.75, "interval": [0.5, 1]} for name in metrics}
    row = {"name": "winner", "seed": 3, "flags": {"head": "8"}, "status": "finished", **numbers}
    comparison = {
        "rows": [{**row, "against_baseline": {"holm_p": 0.125, "differences": numbers}}],
        "split": "test",
    }
    table = {
        "metric": "accuracy",
        "plan": {"rungs": [1, 2]},
        "trials": trials,
        "size_alone": [{"epochs": 1, "trials": 2, "parameters": -0.5, "flops": None}],
        "comparison": {**comparison, "baseline": "default", "audit": ["covid: the size"]}
        if is_compared
        else None,
    }
    path = write_search_page(tmp_path, table, trials, ["one note"])
    assert path == tmp_path / "search.html"
    page = path.read_text()
    assert "<script" not in page
    for part in (
        "trial 0 0.500 to 0.625; trial 1 0.250 to 0.250",
        "0.6250",
        "98,765",
        "1,234",
        "-0.50",
        "One note.",
    ):
        assert part in page
    assert "&lt;b&gt;" in page
    assert "failed: exit code 1" in page
    assert ("winner, seed 3" in page) == is_compared
    assert ("covid: the size" in page) == is_compared
    assert page.count("<img") == 1
