"""A run directory as a finished run leaves it, written without training, and what its page holds."""

import html.parser
import json
import pathlib

import cv2
import numpy as np

from cxr_data.records.manifest import SCHEMA, Manifest, Shard, write_manifest
from cxr_train.evaluation import metrics
from cxr_train.evaluation.text import PROBE_WAYS
from cxr_train.reporting.page import write_report
from cxr_train.runs.config import TrainConfig

EVIL = "<script>alert('x')</script>&\"$_"
CLASSES = ("covid", EVIL, "_pneumonia$")
PICTURES = 21


def row(epoch: int) -> dict:
    part = {"loss": 1 / epoch, "accuracy": 0.5, "macro": {"sensitivity": None, "specificity": 0.75}}
    train = {"loss": 1.1 / epoch, "accuracy": 0.6, "images_per_second": 12.0 if epoch > 1 else None}
    return {"epoch": epoch, "train": {**train, "input_wait_share": 0.01}, "validation": part}


def write_split(run_dir: pathlib.Path, split: str, count: int = 24) -> None:
    rng = np.random.default_rng(0)
    labels = np.arange(count) % 2  # no image of the third class: undefined metrics
    scores = rng.dirichlet(np.ones(3), count)
    summary = {"loss": 1.0, **metrics.summarize(labels, scores, CLASSES)}
    summary["intervals"] = {"accuracy": [0.2, 0.4], "macro": {"auroc": None}, "per_class": {}}
    found = ((0.75, [0.5, 1.0]), (0.25, None), (None, None))
    cells = [{"auroc": value, "interval": interval} for value, interval in found]
    probed = {name: dict.fromkeys(PROBE_WAYS, cell) for name, cell in zip(CLASSES, cells, strict=True)}
    summary["probe"] = {"images": count, "of": 4 * count, "per_class": probed}
    (run_dir / f"metrics_{split}.json").write_text(json.dumps(summary))
    names = ['"' + name.replace('"', '""') + '"' for name in CLASSES]
    lines = ["id,group,label,predicted," + ",".join('"p_' + name[1:] for name in names)]
    for number, (label, probabilities) in enumerate(zip(labels, scores, strict=True)):
        values = ",".join(map(str, probabilities))
        lines.append(f"{number}.png,{number // 2},{names[label]},{names[0]},{values}")
    (run_dir / f"predictions_{split}.csv").write_text("\n".join(lines) + "\n")


def write_explanation(run_dir: pathlib.Path, split: str, verdict: str = "failed") -> None:
    folder = run_dir / "explain" / split
    folder.mkdir(parents=True)
    for name in ("a.jpg", "depths.png", "filters.png"):
        cv2.imwrite(str(folder / name), np.full([40, 80, 3], 90, np.uint8))
    case = {
        "kind": "confusion",
        "mapped": ["covid", EVIL],
        "id": f"{EVIL}.png",
        "group": "g",
        "file": "a.jpg",
    }
    case |= {"label": "covid", "predicted": EVIL, "probability": 0.9, "label_probability": 0.1}
    document = {
        "layers": ["first", "last"],
        "occlusion": {"verdict": verdict, "text": "occlusion check FAILED: do NOT read the maps"},
        "cases": [{**case, "flat": [True, False]}],
        "depths": {"file": "depths.png", "rows": []},
        "filters": {"file": "filters.png", "layers": [], "before": "random initial weights"},
    }
    (folder / "explain.json").write_text(json.dumps(document))


def write_run(run_dir: pathlib.Path) -> pathlib.Path:
    """A run with everything that a run can have, and names as bad as names can be."""
    data = run_dir / "data"
    data.mkdir(parents=True)
    config = TrainConfig("xception", str(data), str(run_dir), epochs=3, weights="none")
    config.save(run_dir / "config.json")
    counts = {split: dict.fromkeys(CLASSES, 8) for split in ("train", "validation", "test")}
    shards = [Shard(f"{split}.tfrecord", split, 24, 24 * 120_000, "0" * 64) for split in counts]
    made = Manifest(
        directory=str(run_dir),
        schema=SCHEMA,
        class_names=CLASSES,
        size=96,
        channels=3,
        dtype="float32",
        kernel="area",
        color="gray",
        shards=tuple(shards),
        counts=counts,
        mean=(0.5,),
        std=(0.2,),
        seed=1,
        config_hash="",
        inputs_hash="f" * 64,
        source_counts={"discovered": 72, "written": 72},
        versions={"numpy": "1"},
        index_sha256="0" * 64,
    )
    write_manifest(made)
    (run_dir / "metrics.jsonl").write_text("".join(json.dumps(row(n)) + "\n" for n in (1, 2, 3)))
    (run_dir / "flags.txt").write_text(f"--run_dir={EVIL}\n")
    throughput = {"verdict": "accelerator-bound: fine", "input_images_per_second": 900.0}
    (run_dir / "throughput.json").write_text(json.dumps(throughput))
    environment = {"started": "2026-01-01T00:00:00+00:00", "versions": {"keras": "3"}, "commit": "abc"}
    environment |= {"platform": "Linux", "cpus": 2, "gpus": [], "choices": ["xla: off"]}
    (run_dir / "environment.json").write_text(json.dumps(environment))
    leakage = {
        "kind": "leakage",
        "name": "patients_in_two_splits",
        "evidence": [],
        "text": "2 patients are in two splits.",
        "advice": "Split again.",
    }
    shortcut = {
        "kind": "shortcut",
        "name": "size",
        "evidence": [],
        "text": f"the size names {EVIL} 124 of 124 times.",
        "advice": "Crop.",
    }
    more = {**shortcut, "name": "format", "text": "the format tells it."}
    own = {**shortcut, "name": "of an old version", "text": "It tells it."}
    audit = {
        "schema": "cxr.audit/1",
        "pictures": 1234,
        "patients": 56,
        "alpha": 0.01,
        "shortcuts": [
            {"feature": "size", "label": EVIL, "auroc": 1.0, "low": 0.99, "high": 1.0, "p": 0.005},
            {"feature": "size", "label": "covid", "auroc": 0.6, "low": 0.5, "high": 0.7, "p": 0.5},
        ],
        "notes": ["one note"],
    }
    (data / "audit.json").write_text(json.dumps({**audit, "findings": [leakage, shortcut, more, own]}))
    for split in ("validation", "test"):
        write_split(run_dir, split)
    write_explanation(run_dir, "validation")
    return run_dir


class Page(html.parser.HTMLParser):
    """Collects what a page asks for, its pictures' descriptions, its text, its ids, and what is folded."""

    def __init__(self, text: str) -> None:
        super().__init__()
        self.tags, self.addresses, self.alts, self.text, self.ids = [], [], [], "", []
        self.open, self.folded = [], ""
        self.feed(text)

    def handle_starttag(self, tag, attrs):
        values = dict(attrs)
        self.tags.append(tag)
        self.addresses += [values[name] for name in ("src", "href", "srcset", "action") if name in values]
        self.alts += [values.get("alt")] if tag == "img" else []
        self.ids += [values["id"]] if "id" in values else []
        self.open += [tag] if tag in ("details", "summary") else []

    def handle_endtag(self, tag):
        if self.open and tag == self.open[-1]:
            self.open.pop()

    def handle_data(self, data):
        self.text += data
        self.folded += data if self.open and self.open[-1] == "details" else ""


def read_page(run_dir: pathlib.Path) -> Page:
    return Page(write_report(run_dir).read_text())
