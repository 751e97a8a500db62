"""The page of a run: complete, escaped, without anything from outside, and in the right order."""

import itertools
import json
import re
import shutil
import subprocess
import sys
import time

from project import ROOT
from written_run import EVIL, PICTURES, read_page, row, write_explanation, write_run

from cxr_train.reporting.changed_flags import changed_flags
from cxr_train.reporting.checklists import claim, tripod_ai
from cxr_train.reporting.content import report_content
from cxr_train.reporting.page import write_report
from cxr_train.reporting.record import RunRecord


def test_the_page_holds_everything_and_asks_for_nothing(tmp_path):
    started = time.process_time()
    page = read_page(write_run(tmp_path / "run"))
    assert time.process_time() - started < 10
    assert "script" not in page.tags
    assert all(address.startswith(("data:image/", "#")) for address in page.addresses)
    assert {address[1:] for address in page.addresses if address.startswith("#")} <= {*page.ids}
    # Six charts of two splits, three curves, two of throughput, three of explanations.
    assert len(page.alts) == PICTURES == 6 * 2 + 1 + 3 + 2 + 3
    assert all(page.alts)
    (probed, _) = [alt for alt in page.alts if "frame alone covid" in alt]
    assert "lungs alone covid 0.750 (0.500-1.000)" in probed
    assert "_pneumonia$" not in probed  # undefined in every way
    assert "24 of 96 images" in page.text
    for part in (
        "Research only.",
        "not a medical device",
        "3 of 3",
        "undefined",
        "0.200-0.400",
        "Confusion matrix",
        "occlusion check FAILED: do NOT read the maps"[1:],
        "no evidence for covid",
        "Accelerator-bound: fine",
        f"The size names {EVIL} 124 of 124 times.",
        "1,234 pictures, 56 known patients",
        "4 findings of 3 causes (leakage: 1, shortcut: 3), the worst first",
        "What to do: Crop.",
        "may be anatomy",
        "One note.",
        "TRIPOD+AI",
        "CLAIM",
        "stay open",
        "keras 3",
        f"--run_dir={EVIL}",
    ):
        assert part in page.text, part
    assert "Missing here" not in page.text
    first = (tmp_path / "run/report/index.html").read_bytes()
    assert write_report(tmp_path / "run").read_bytes() == first


def test_the_verdict_comes_first_and_what_is_for_later_is_folded(tmp_path):
    page = read_page(write_run(tmp_path / "run"))
    order = ["verdict", "results", "audit", "errors", "training", "maps", "data", "limits", "card", "repeat"]
    assert page.ids == order
    levels = [int(tag[1]) for tag in page.tags if re.fullmatch("h[1-6]", tag)]
    assert levels[0] == 1
    assert all(level <= before + 1 for before, level in itertools.pairwise(levels))
    assert page.tags.count("table") == page.tags.count("caption")
    for folded in (
        "best epoch was picked",
        "Grad-CAM from the first",
        "before training",
        "the format tells it",
        "Crop.",
    ):
        assert (folded in page.folded) is (folded != "Crop."), folded
    shutil.rmtree(tmp_path / "run/explain")
    write_explanation(tmp_path / "run", "validation", "undecided")
    assert "Grad-CAM from the first" not in read_page(tmp_path / "run").folded
    flags = "--seed=0\n--epochs=7\n--run_dir=there\n--nodeterministic\n--head=128-32\n--cache=disk\n"
    assert changed_flags(flags) == ["--epochs=7", "--run_dir=there", "--cache=disk"]


def test_each_case_stands_once_with_most_of_its_maps_and_can_be_enlarged(tmp_path):
    run_dir = write_run(tmp_path / "run")
    path = run_dir / "explain/validation/explain.json"
    document = json.loads(path.read_text())
    (confusion,) = document["cases"]
    missed = {**confusion, "kind": "false_negative", "mapped": ["covid"], "flat": [False]}
    hit = {**missed, "kind": "true_positive", "id": "hit.png", "predicted": "covid"}
    path.write_text(json.dumps({**document, "cases": [hit, missed, confusion]}))
    content = report_content(RunRecord.read(run_dir))
    (part,) = content["errors"]["explained"]
    (gallery,) = part["galleries"]
    (tile,) = gallery["tiles"]
    assert (tile["id"], tile["parts"], part["failed"]) == (f"{EVIL}.png", 3, True)
    assert "no evidence for covid" in tile["maps"]
    (rightly,) = content["explanations"][0]["galleries"]
    assert [tile["id"] for tile in rightly["tiles"]] == ["hit.png"]
    page = read_page(run_dir)
    assert page.tags.count("input") == page.tags.count("img") == PICTURES + 1
    worst = content["errors"]["worst"]
    called = [float(row[2].split(", ")[-1]) for row in worst.rows]
    assert called == sorted(called, reverse=True)
    assert worst.rows


def test_the_checklists_have_all_items_once_and_performance_has_its_interval(tmp_path):
    record = RunRecord.read(write_run(tmp_path / "run"))
    parts = {
        3: "abc",
        5: "ab",
        6: "abc",
        8: "abc",
        9: "abc",
        12: "abcdefg",
        18: "abcdef",
        20: "abc",
        23: "ab",
    }
    numbers = [f"{item}{part}" for item in range(3, 28) for part in {**parts, 27: "abc"}.get(item, [""])]
    assert [item.number for item in tripod_ai(record)] == numbers
    assert [item.number for item in claim(record)] == list(map(str, range(3, 43)))
    answers = {item.number: item.answer for item in claim(record)}
    assert "(95 %: 0.200 to 0.400)" in answers["36"]
    assert answers["12"] is None


def test_the_marked_epoch_is_the_kept_one_also_by_another_metric_than_the_loss(tmp_path):
    run_dir = write_run(tmp_path / "run")
    for split in ("validation", "test"):
        (run_dir / f"metrics_{split}.json").unlink()
    config = json.loads((run_dir / "config.json").read_text())
    (run_dir / "config.json").write_text(json.dumps({**config, "monitor": "macro_specificity"}))
    rows = [row(1), row(2), row(3)]
    rows[0]["validation"]["macro"]["specificity"] = 0.9
    (run_dir / "metrics.jsonl").write_text("".join(json.dumps(one) + "\n" for one in rows))
    content = report_content(RunRecord.read(run_dir))
    assert all(picture.alt.endswith("Epoch 1 is kept.") for picture in content["curves"])
    assert re.search("macro specificity .*validation split: epoch 1$", content["kept"])


def test_the_command_prints_where_the_page_is_and_loads_nothing_slow(tmp_path):
    run_dir = write_run(tmp_path / "run")
    line = [sys.executable, "-X", "importtime", "-m", "cxr_train.report", f"--run_dir={run_dir}"]
    result = subprocess.run(line, cwd=ROOT, capture_output=True, text=True, timeout=300, check=False)
    assert result.returncode == 0, result.stderr
    assert result.stdout.strip() == f"report: {run_dir}/report/index.html"
    assert "cxr_train.reporting.page" in result.stderr
    assert not re.findall(r"\b(matplotlib|scipy|tensorflow|sklearn|pandas)$", result.stderr, re.MULTILINE)
