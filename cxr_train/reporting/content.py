"""What the page of a run says: the record of the run, in the words and tables of the template."""

import dataclasses
from collections.abc import Sequence
from pathlib import PurePath
from typing import Any

from cxr_data.audit.audit import CAUTION
from cxr_data.audit.findings import KINDS
from cxr_data.records.manifest import joined_splits
from cxr_train.recipe.recipe import Recipe
from cxr_train.reporting import charts
from cxr_train.reporting.charts import Picture, embed
from cxr_train.reporting.checklists import Item, claim, selection, tripod_ai
from cxr_train.reporting.record import Document, RunRecord, SplitRecord
from cxr_train.reporting.results import Grid, external_notes, external_results, key_numbers, split_results
from cxr_train.runs.layout import RunLayout
from cxr_train.runs.mirror import published

_GALLERIES = {
    "true_positive": "True positives of {}",
    "false_negative": "False negatives of {}: missed",
    "false_positive": "False positives of {}: called so, but are not",
    "confusion": "Confusions, the most frequent first: evidence for the true and for the predicted class",
}
_VERDICTS = {"passed": "good", "failed": "bad", "undecided": "open"}
Facts = list[tuple[str, str]]


def report_content(record: RunRecord) -> dict[str, Any]:
    """Return everything that the template `report.html.jinja` asks for."""
    return {
        "title": f"{record.config.backbone}: {' / '.join(record.class_names) or 'classes not known'}",
        "subtitle": _subtitle(record),
        "key": key_numbers(record),
        "problems": record.problems,
        "directory": published(str(record.directory)),
        "run": _run(record),
        "splits": [split_results(record, split) for split in record.splits if split.metrics],
        "external": external_results(record),
        "external_notes": external_notes(record),
        "curves": charts.curves(record.epochs, (record.best_epoch or {}).get("epoch"))
        if record.epochs
        else [],
        "kept": selection(record),
        "explanations": [_explanation(record, split) for split in record.splits if split.explanation],
        "throughput": _throughput(record),
        "data": _data(record),
        "limits": _limits(record),
        "checklists": [
            _checklist("TRIPOD+AI", "Collins et al., BMJ 2024;385:e078378", tripod_ai(record)),
            _checklist(
                "CLAIM",
                "Mongan et al., Radiology: AI 2020;2(2):e200029 (items of 2020, not of the 2024 update)",
                claim(record),
            ),
        ],
        "environment": _environment(record),
        "flags": record.flags,
    }


def _subtitle(record: RunRecord) -> str:
    started = (record.environment or {}).get("started", "at an unknown time")
    name = PurePath(published(str(record.directory))).name
    return f"Run {name}, started {started}, {len(record.epochs)} epochs completed"


def _run(record: RunRecord) -> Facts:
    config = record.config
    facts = [
        ("backbone", config.backbone),
        ("initial weights", config.weights),
        ("head", "-".join(map(str, config.head)) or "none"),
        ("data", config.data),
        ("trained on", _images_of(record, config.train_split)),
        ("best epoch picked on", _picked_on(record)),
        ("epochs", f"{len(record.epochs)} of {config.epochs}"),
        ("batch size", str(config.batch_size)),
        ("learning rate", f"{config.learning_rate:g}"),
        ("dropout", f"{config.dropout:g} after {config.dropout_after}" if config.dropout else "none"),
        ("input range", config.input_range),
        ("seed", str(config.seed)),
    ]
    usual = Recipe()
    for name, value in dataclasses.asdict(config.recipe).items():
        if value != getattr(usual, name):
            facts.append((name.replace("_", " "), str(value)))
    if record.best_epoch:
        best = record.best_epoch
        loss = f"validation loss {best['validation']['loss']:.4f}" if best["validation"] else "the last"
        facts.append(("kept", f"epoch {best['epoch']}, {loss}"))
    return facts


def _picked_on(record: RunRecord) -> str:
    split = record.config.held_out_validation
    return _images_of(record, split) if split else "none: the run was trained on all of it"


def _images_of(record: RunRecord, split: str) -> str:
    parts = (
        [record.manifest["counts"].get(name, {}) for name in joined_splits(split)] if record.manifest else []
    )
    counts = {name: sum(part.get(name, 0) for part in parts) for part in parts for name in part}
    if not counts:
        return f"{split} split"
    classes = ", ".join(f"{name} {count:,}" for name, count in counts.items())
    return f"{split} split, {sum(counts.values()):,} images ({classes})"


def _explanation(record: RunRecord, split: SplitRecord) -> dict[str, Any]:
    explained = split.explanation or {}
    folder = RunLayout(record.directory).explanation(split.name)

    def picture(name: str, alt: str) -> Picture:
        media_type = "image/jpeg" if name.endswith(".jpg") else "image/png"
        return embed((folder / name).read_bytes(), media_type, alt)

    galleries: dict[str, list[tuple[Picture, str, str]]] = {}
    for case in explained["cases"]:
        title = _GALLERIES[case["kind"]].format(case["mapped"][0])
        caption = (
            f"true {case['label']} ({case['label_probability']:.2f}), "
            f"predicted {case['predicted']} ({case['probability']:.2f})"
        )
        silent = [name for name, flat in zip(case["mapped"], case["flat"], strict=True) if flat]
        if silent:
            caption += f"; no evidence for {' or '.join(silent)}, the map is 0"
        alt = f"X-ray, then the evidence for {' and for '.join(case['mapped'])} laid over it. "
        alt += f"{case['id']}: {caption}"
        galleries.setdefault(title, []).append((picture(case["file"], alt), case["id"], caption))
    depths, filters = explained["depths"], explained["filters"]
    layers = ", ".join(explained["layers"])
    return {
        "split": split.name,
        "verdict": _VERDICTS[explained["occlusion"]["verdict"]],
        "check": explained["occlusion"]["text"],
        "depths": picture(depths["file"], f"Grad-CAM maps at the layers {layers}") if depths else None,
        "galleries": [{"title": title, "tiles": tiles} for title, tiles in galleries.items()],
        "filters": picture(filters["file"], "Pictures that excite single channels most") if filters else None,
        "filters_caption": "What single channels look for, before training "
        f"({filters['before']}) and after it."
        if filters
        else "",
    }


def _throughput(record: RunRecord) -> dict[str, Any]:
    measured = record.throughput or {}
    facts: Facts = []
    if measured.get("input_images_per_second"):
        facts.append(("input alone", f"{measured['input_images_per_second']:,.0f} images a second"))
        for stage, seconds in measured.get("stage_seconds_per_image", {}).items():
            facts.append((f"its {stage}", f"{1e6 * seconds:,.0f} microseconds an image"))
    return {
        "verdict": measured.get("verdict"),
        "charts": charts.throughput_charts(record.epochs),
        "facts": facts,
    }


def _data(record: RunRecord) -> dict[str, Any]:
    manifest = record.manifest
    content: dict[str, Any] = {
        "tables": [],
        "facts": [],
        "audit": _audit(record.audit),
        "directory": record.config.data,
    }
    if manifest:
        names = manifest["class_names"]
        rows = [
            [split, *(f"{counts[name]:,}" for name in names), f"{sum(counts.values()):,}"]
            for split, counts in manifest["counts"].items()
        ]
        content["tables"] = [Grid("Images of each split and class", ["split", *names, "all"], rows)]
        content["facts"] = [
            ("files", ", ".join(f"{name} {count:,}" for name, count in manifest["source_counts"].items())),
            ("image", f"{manifest['size']} x {manifest['size']} px, {manifest['channels']} channel(s)"),
            ("stored as", manifest["dtype"]),
            ("colour", manifest["color"]),
            ("resized by", manifest["kernel"]),
            ("mean, standard deviation", f"{_list(manifest['mean'])}; {_list(manifest['std'])}"),
            ("seed of the plan", str(manifest["seed"])),
            ("hash of the inputs", manifest["inputs_hash"]),
            ("made with", _versions(manifest["versions"])),
        ]
    return content


def _audit(audit: Document | None) -> dict[str, Any] | None:
    """Return the audit's findings, worst first as it ranked them, with what to do, and its notes."""
    if audit is None:
        return None
    found = audit["findings"]
    kinds = [finding["kind"] for finding in found]
    before = [None, *(finding["advice"] for finding in found)]
    named = [f"{kinds.count(kind)} {kind.replace('_', ' ')}" for kind in dict.fromkeys(kinds)]
    return {
        "scope": f"{audit['pictures']:,} pictures, {audit['patients']:,} known patients, "
        f"{len(audit['shortcuts']):,} scores of single features",
        "summary": ", ".join(named),
        "findings": [
            {
                "kind": finding["kind"].replace("_", " "),
                "meaning": KINDS[finding["kind"]],
                "text": finding["text"],
                "advice": "the same." if finding["advice"] == last else finding["advice"],
            }
            for finding, last in zip(found, before, strict=False)
        ],
        "notes": audit["notes"],
        "caution": CAUTION,
    }


def _limits(record: RunRecord) -> list[str]:
    """Return what a reader must not take from this page; the first ones always hold."""
    limits = [
        "The labels are those of the data. Nobody has checked them here.",
        "The splits come from the same data: they do not say how the model does in another hospital"
        f"{'; see Other data' if record.external else ', and nothing else here does'}.",
        "A network may have learned the source of an image (scanner, size, marks on the film) instead of "
        "a disease; the audit and the maps can show this, but not rule it out.",
        "Patients are told apart by names or headers of files. Where these do not tell, images of one "
        "patient may be in two splits.",
    ]
    evaluated = {split.name for split in record.splits if split.metrics}
    held_out = evaluated - {*joined_splits(record.config.train_split), record.config.validation_split}
    if record.config.held_out_validation is None and not held_out:
        limits.append("No split was held out: nothing on this page says how good the model is.")
    elif not held_out:
        limits.append(
            "No split was held out of the choice of the best epoch: the validation numbers are too good."
        )
    if record.config.epochs > len(record.epochs):
        limits.append(f"The run is not complete: {len(record.epochs)} of {record.config.epochs} epochs.")
    if record.audit is None:
        limits.append("The data were not audited for leakage, duplicates and shortcuts.")
    for split in record.splits:
        images = {name: row["images"] for name, row in (split.metrics or {}).get("per_class", {}).items()}
        absent = [name for name, count in images.items() if not count]
        if absent:
            limits.append(
                f"The {split.name} split has no image of {', '.join(absent)}: nothing is known of it there."
            )
        smallest = min((count for count in images.values() if count), default=100)
        if smallest < 100:
            limits.append(
                f"The {split.name} split has only {smallest} images of its rarest class: intervals are wide."
            )
    return limits


def _checklist(name: str, source: str, items: Sequence[Item]) -> dict[str, Any]:
    return {
        "name": name,
        "source": source,
        "filled": [item for item in items if item.answer],
        "open": [item for item in items if not item.answer],
    }


def _environment(record: RunRecord) -> Facts:
    environment = record.environment
    if not environment:
        return [("versions", "not recorded")]
    return [
        ("commit", environment["commit"] or "not from a git checkout"),
        ("versions", _versions(environment["versions"])),
        ("machine", f"{environment['platform']}, {environment['cpus']} processors"),
        ("accelerators", ", ".join(environment["gpus"]) or "none"),
        ("choices", "; ".join(environment["choices"])),
    ]


def _versions(versions: Document) -> str:
    return ", ".join(f"{name} {version}" for name, version in versions.items() if version)


def _list(values: Sequence[float]) -> str:
    return ", ".join(f"{value:.4f}" for value in values)
