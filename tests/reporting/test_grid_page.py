"""The page of a grid of runs: the curves of all of them in one chart, and their numbers."""

import json

from cxr_train.reporting.grid_page import write_grid_page


def test_the_page_lays_the_curves_of_the_runs_over_each_other(tmp_path):
    rows = []
    for name, losses in (("plain", (1.0, 0.5)), ("<b>", (1.0, 0.25)), ("not begun", ())):
        run = tmp_path / f"run{len(rows)}"
        run.mkdir()
        part = [{"loss": loss, "accuracy": None} for loss in losses]
        history = [{"epoch": n, "train": one, "validation": one} for n, one in enumerate(part, start=1)]
        (run / "metrics.jsonl").write_text("".join(json.dumps(row) + "\n" for row in history))
        numbers = {"value": 0.75, "interval": [0.5, 0.875]} if losses else None
        metrics = dict.fromkeys(("accuracy", "sensitivity", "specificity", "auroc"), numbers)
        row = {"name": name, "seed": 0, "directory": str(run), "flags": {"head": None}, "status": "finished"}
        rows.append({**row, **metrics, "against_baseline": None})
    rows[1]["against_baseline"] = {"holm_p": 0.125, "differences": {**metrics, **rows[1]}}
    table = {"rows": rows, "split": "test", "baseline": "plain", "audit": ["covid: the size"]}
    page = write_grid_page(tmp_path, table, ["one note"]).read_text()
    (shown,) = [path.name for path in tmp_path.iterdir() if path.is_file()]
    assert shown == "ablation.html"
    assert "<script" not in page
    assert "<b>," not in page
    for part in ("plain, seed 0 1.000 to 0.500; &lt;b&gt;, seed 0 1.000 to 0.250", "0.750\n(0.500-0.875)"):
        assert part in page
    assert "0.12" in page
    assert "One note." in page
    assert '<li class="verdict bad">covid: the size</li>' in page
    assert "accuracy of validation" not in page
    assert page.count("<img") == 2
