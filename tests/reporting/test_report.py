"""The page of a run: complete, escaped, without anything from outside, and right in a real browser."""

import itertools
import json
import pathlib
import re
import shutil
import subprocess
import sys
import time

import pytest
from project import ROOT
from written_run import CLASSES, EVIL, PICTURES, read_page, row, write_explanation, write_run, write_split

from cxr_data.core.errors import DataError
from cxr_train.reporting.changed_flags import changed_flags
from cxr_train.reporting.checklists import claim, tripod_ai
from cxr_train.reporting.content import report_content
from cxr_train.reporting.page import write_report
from cxr_train.reporting.record import RunRecord
from cxr_train.runs.config import TrainConfig


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
    assert "one mean _pneumonia$ undefined" in probed
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


def test_a_class_has_a_tile_and_a_metric_its_interval_on_the_chart(tmp_path):
    run_dir = write_run(tmp_path / "run")
    path = run_dir / "metrics_test.json"
    summary = json.loads(path.read_text())
    summary["intervals"]["per_class"] = {"covid": {"auroc": [0.125, 0.875]}}
    path.write_text(json.dumps(summary))
    result = report_content(RunRecord.read(run_dir))["result"]
    assert [tile["name"] for tile in result["classes"]] == list(CLASSES)
    auroc = result["classes"][0]["metrics"][0]
    assert (auroc["name"], auroc["interval"]) == ("AUROC", "0.125 to 0.875")
    assert (
        sum("covid AUROC" in picture.alt and "0.125" in picture.alt for picture, _ in result["forests"]) == 1
    )


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


def test_the_numbers_at_the_top_are_of_the_images_that_the_model_knows_the_least(tmp_path):
    run_dir = write_run(tmp_path / "run")
    write_split(run_dir, "train")
    for drawn in (
        "metrics.jsonl",
        *(f"predictions_{split}.csv" for split in ("train", "validation", "test")),
    ):
        (run_dir / drawn).unlink()  # what takes time
    for split, told in (("test", "24 images"), ("validation", "best epoch")):
        (name, value, note), *_ = report_content(RunRecord.read(run_dir))["key"]
        assert (name, value) == ("split", split)
        assert told in note
        (run_dir / f"metrics_{split}.json").unlink()
    content = report_content(RunRecord.read(run_dir))
    assert content["key"][0][:2] == ("split", "train")
    assert "These images flatter" in content["result"]["summary"]
    look, line = content["verdict"][0]
    assert look == "bad"
    assert "trained on them" in line


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


def test_unusual_intervals_thresholds_and_a_comparison_are_told(tmp_path):
    run_dir = write_run(tmp_path / "run")
    for drawn in ("metrics.jsonl", "predictions_test.csv", "predictions_validation.csv"):
        (run_dir / drawn).unlink()
    path = run_dir / "metrics_test.json"
    metrics = json.loads(path.read_text())
    metrics["intervals"] |= {"exact": ["covid sensitivity"], "no_interval": {"macro f1": "the same"}}
    metrics["calibration"] = {"uncalibrated": {"ece": 0.25}, "calibrated": None, "fitted_on": "validation"}
    rates = {"sensitivity": 0.5, "specificity": 0.75, "precision": None}
    intervals = {"sensitivity": [0.25, 0.625], "specificity": None, "precision": None}
    of_class = {"threshold": 0.125, **rates, "intervals": intervals}
    metrics["thresholds"] = {
        "at_sensitivity": 0.9,
        "chosen_on": "validation",
        "per_class": {"covid": of_class},
    }
    agreed = {"other": "runs/two", "only_this": 3, "only_other": 1, "mcnemar_exact_p": 0.625}
    differences = {name: {"value": None} for name in ("macro sensitivity", "macro auroc")}
    differences["accuracy"] = {"value": 0.125, "interval": [-0.25, 0.5]}
    metrics |= {"own_data": True, "split": "test", "comparison": {**agreed, "differences": differences}}
    path.write_text(json.dumps(metrics))
    test = report_content(RunRecord.read(run_dir))["result"]
    exact, without, calibrated, *_ = test["notes"]
    assert "exact binomial interval" in exact
    assert "no interval" in without
    assert calibrated.startswith("Expected calibration error 0.250; no temperature: on validation ")
    assert re.match(r"Against runs/two: 3 .*, 1 ", test["notes"][-2])
    thresholds, compared = test["tables"][-2:]
    assert compared.caption.startswith("This run minus runs/two: ")
    assert list(compared.rows[0]) == ["accuracy", "+0.125", "-0.250 to +0.500"]
    assert list(compared.rows[5]) == ["mean AUROC", "undefined", ""]
    assert re.search(r"\b0\.9, .*validation split", thresholds.caption)
    assert thresholds.rows == [["covid", "0.125", "0.500\n(0.250-0.625)", "0.750", "undefined"]]


def test_what_is_missing_is_told(tmp_path):
    run_dir = write_run(tmp_path / "run")
    for name in ("predictions_test.csv", "environment.json", "data/audit.json"):
        (run_dir / name).unlink()
    (run_dir / "throughput.json").write_text("{")
    (run_dir / "metrics.jsonl").write_text(json.dumps(row(1)) + '\n{"ep')
    shutil.rmtree(run_dir / "explain")
    text = " ".join(read_page(run_dir).text.split())
    for told in (
        "predictions_test.csv: No such file",
        "(no environment.json)",
        "No audit ",
        "throughput.json cannot",
        "line 2 of metrics.jsonl is damaged",
        "1 of 3 epochs",
        "Not made. python -m cxr_train.explain",
    ):
        assert told in text, told


def test_what_is_of_an_earlier_model_or_of_other_data_is_not_shown(tmp_path):
    run_dir = write_run(tmp_path / "run")
    (run_dir / "metrics.jsonl").unlink()
    (run_dir / "best.keras").write_bytes(b"newer")
    for name in ("metrics_test.json", "explain/validation/explain.json"):
        path = run_dir / name
        path.write_text(json.dumps({**json.loads(path.read_text()), "model_sha256": "older"}))
    (run_dir / "data/manifest.json").write_text("{}")
    record = RunRecord.read(run_dir)
    (_, test) = record.splits
    assert (test.metrics, test.labels, record.splits[0].explanation, record.audit) == (None, None, None, None)
    assert record.splits[0].metrics
    told = " ".join(record.problems)
    assert "cxr_train.evaluate --split=test" in told
    assert "cxr_train.explain --split=validation --overwrite" in told
    assert f"no audit: {run_dir}/data " in told


def test_images_of_no_known_patient_are_not_called_patients(tmp_path):
    run_dir = write_run(tmp_path / "run")
    (run_dir / "metrics.jsonl").unlink()
    path = run_dir / "predictions_test.csv"
    lines = path.read_text().splitlines()
    alone = [re.sub(r"^(\d+\.png),\d+,", r"\1,\1,", line) for line in lines]
    path.write_text("\n".join(alone) + "\n")
    summary = json.loads((run_dir / "metrics_test.json").read_text())
    summary["intervals"] |= {"without_patient": 24, "patients": 24}
    (run_dir / "metrics_test.json").write_text(json.dumps(summary))
    content = report_content(RunRecord.read(run_dir))
    (validation,), test = content["others"], content["result"]
    assert validation["summary"].startswith("24 images of 12 patients.")
    assert test["summary"].startswith("24 images.")
    assert test["notes"][0].startswith("No patient is known")
    assert test["metrics"].caption.endswith("(images resampled)")


def test_other_data_are_shown_beside_the_runs_own(tmp_path):
    run_dir = write_run(tmp_path / "run")
    for drawn in ("metrics.jsonl", "predictions_test.csv", "predictions_validation.csv"):
        (run_dir / drawn).unlink()
    theirs = run_dir / "external/hospital <b>"
    theirs.mkdir(parents=True)
    write_split(theirs, "all", count=18)
    summary = json.loads((theirs / "metrics_all.json").read_text())
    (theirs / "metrics_all.json").write_text(json.dumps({**summary, "dropped": {"other": 1_234}}))
    record = RunRecord.read(run_dir)
    content = report_content(record)
    assert content["external"].rows[0][:2] == ["hospital <b>, all", "18"]
    without, left_out = content["external_notes"]
    assert without.startswith("hospital <b>, all: no image of _pneumonia$; ")
    assert re.match("hospital <b>, all: .*--class_map: 1,234 of other", left_out)
    answers = {item.number: item.answer for item in claim(record)}
    assert answers["32"].startswith("hospital <b>, all split: 18 images, accuracy 0.")
    page = read_page(run_dir)
    assert "Other data" in page.text
    assert "another hospital; see Other data." in page.text
    (run_dir / "best.keras").write_bytes(b"newer")
    path = theirs / "metrics_all.json"
    path.write_text(json.dumps({**json.loads(path.read_text()), "model_sha256": "older"}))
    record = RunRecord.read(run_dir)
    assert record.external == ()
    (problem,) = (one for one in record.problems if "external/hospital <b>" in one)
    assert "earlier best.keras" in problem


def test_a_class_without_images_is_a_limit_of_its_own(tmp_path):
    run_dir = write_run(tmp_path / "run")
    for drawn in ("metrics.jsonl", "predictions_test.csv", "predictions_validation.csv"):
        (run_dir / drawn).unlink()
    limits = " ".join(report_content(RunRecord.read(run_dir))["limits"])
    assert "no image of _pneumonia$: " in limits
    assert "only 12 images" in limits


def test_what_else_is_missing_is_told(tmp_path):
    run_dir = write_run(tmp_path / "run")
    for name in ("manifest.json", "metrics.jsonl", "metrics_test.json", "explain/validation/a.jpg"):
        (run_dir / name).unlink()
    (run_dir / "predictions_validation.csv").write_text("id\n1\n")
    text = " ".join(read_page(run_dir).text.split())
    for told in (
        "(no manifest.json)",
        "no epoch",
        "metrics of the test",
        "validation split lacks a.jpg",
        "predictions_validation.csv is not",
    ):
        assert told in text, told


def test_a_run_that_never_came_to_an_epoch_has_a_page(tmp_path):
    TrainConfig("vgg16", "nowhere", str(tmp_path)).save(tmp_path / "config.json")
    page = read_page(tmp_path)
    assert "No split was evaluated" in page.text
    assert "classes not known" in page.text


def test_a_name_that_is_no_utf8_is_shown_as_far_as_it_can_be(tmp_path):
    run_dir = write_run(tmp_path / "run")
    path = run_dir / "explain/validation/explain.json"
    document = json.loads(path.read_text())
    document["cases"][0]["id"] = "caf\udce9.png"
    path.write_text(json.dumps(document))
    assert "caf?.png" in read_page(run_dir).text


def test_a_folder_that_is_no_run_is_named(tmp_path):
    with pytest.raises(DataError, match=rf"{tmp_path} .*config\.json"):
        write_report(tmp_path)


def test_the_command_prints_where_the_page_is_and_loads_nothing_slow(tmp_path):
    run_dir = write_run(tmp_path / "run")
    line = [sys.executable, "-X", "importtime", "-m", "cxr_train.report", f"--run_dir={run_dir}"]
    result = subprocess.run(line, cwd=ROOT, capture_output=True, text=True, timeout=300, check=False)
    assert result.returncode == 0, result.stderr
    assert result.stdout.strip() == f"report: {run_dir}/report/index.html"
    assert "cxr_train.reporting.page" in result.stderr
    assert not re.findall(r"\b(matplotlib|scipy|tensorflow|sklearn|pandas)$", result.stderr, re.MULTILINE)


# Folds are opened: what they hide must not stick out either.
_PROBE = """<script>addEventListener("load", () => {
  document.querySelectorAll("details").forEach(fold => { fold.open = true; });
  const missing = [...document.images].filter(image => !image.naturalWidth).length;
  const asked = performance.getEntriesByType("resource").filter(entry => !entry.name.startsWith("data:"));
  parent.postMessage(["PROBE", innerWidth, document.images.length, missing, asked.length,
                      document.documentElement.scrollWidth].join(" "), "*");
});</script>"""
# A window of Chromium is 500 px wide or more; a frame may be as narrow as a telephone.
_FRAME = """<script>addEventListener("message", event => { document.title = event.data; });</script>
<iframe src="probed.html" width="WIDTH" height="800" style="border: 0"></iframe>"""


def chromium(page: pathlib.Path, profile: pathlib.Path) -> subprocess.CompletedProcess:
    program = shutil.which("chromium") or shutil.which("chromium-browser") or shutil.which("google-chrome")
    if program is None:
        pytest.skip("no Chromium on this machine (Debian: apt-get install chromium)")
    flags = ["--headless", "--no-sandbox", "--disable-gpu", f"--user-data-dir={profile}", "--dump-dom"]
    flags += ["--enable-logging=stderr", "--v=0", "--window-size=1400,900"]
    return subprocess.run(
        [program, *flags, page.as_uri()], capture_output=True, text=True, timeout=120, check=True
    )


def test_in_chromium_no_error_no_missing_picture_no_request_and_nothing_sticks_out(tmp_path):
    page = write_report(write_run(tmp_path / "run"))
    assert "CONSOLE" not in chromium(page, tmp_path / "profile").stderr
    # The page forbids scripts; the copy that is measured is without that line.
    text = page.read_text()
    opened = re.sub(r'<meta http-equiv="Content-Security-Policy"[^>]*>', _PROBE, text)
    assert opened != text
    (tmp_path / "probed.html").write_text(opened)
    for width in (1280, 400):
        frame = tmp_path / "frame.html"
        frame.write_text(_FRAME.replace("WIDTH", str(width)))
        result = chromium(frame, tmp_path / "profile")
        title = re.search(r"<title>PROBE (\d+) (\d+) (\d+) (\d+) (\d+)</title>", result.stdout)
        assert title, result.stderr[-2000:]
        inner, pictures, missing, requests, needed = map(int, title.groups())
        assert inner == width
        assert (pictures, missing, requests) == (PICTURES, 0, 0)
        assert needed <= inner
