"""What the page of a run says: the record of the run, in the words and tables of the template."""

import dataclasses
from collections.abc import Sequence
from pathlib import PurePath
from typing import Any

from cxr_data.core.dates import date_in_words
from cxr_data.core.wording import counted
from cxr_data.records.in_words import images_by_split, versions_in_words
from cxr_data.records.split_names import have_common_images, images_of, parse_split
from cxr_train.evaluation.wording import kind_of_label
from cxr_train.models.added import POOLINGS
from cxr_train.recipe.recipe import Recipe
from cxr_train.reporting import charts
from cxr_train.reporting.beside_audit import shortcut_charts
from cxr_train.reporting.changed_flags import changed_flags
from cxr_train.reporting.checklists import Item, claim, selection, tripod_ai
from cxr_train.reporting.dataset import audit_content, data_content
from cxr_train.reporting.galleries import errors, explanation
from cxr_train.reporting.record import RunRecord
from cxr_train.reporting.results import (
    external_notes,
    external_results,
    key_numbers,
    main_split,
    names_in_title,
    split_results,
)
from cxr_train.reporting.verdict import verdict
from cxr_train.runs.mirror import published

Facts = list[tuple[str, str]]


def report_content(record: RunRecord) -> dict[str, Any]:
    """Return everything that the template `report.html.jinja` asks for."""
    main = main_split(record)
    names = names_in_title(record.class_names, "findings" if record.is_of_findings else "classes")
    others = [split for split in record.splits if split.metrics and split is not main]
    return {
        "title": f"{_network(record)}: {names or 'classes not known'}",
        "subtitle": _subtitle(record),
        "verdict": verdict(record, main),
        "key": key_numbers(record, main) if main else [],
        "problems": record.problems,
        "directory": published(str(record.directory)),
        "result": split_results(record, main) if main else None,
        "others": [split_results(record, split) for split in others],
        "external": external_results(record),
        "external_notes": external_notes(record),
        "audit": audit_content(record),
        "shortcut_charts": shortcut_charts(record, main),
        "errors": errors(record, main) if main else None,
        "run": _run(record),
        "curves": charts.curves(record.epochs, (record.best_epoch or {}).get("epoch"))
        if record.epochs
        else [],
        "kept": selection(record),
        "explanations": [explanation(record, split) for split in record.splits if split.explanation],
        "throughput": _throughput(record),
        "data": data_content(record),
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
        "on_embeddings": bool(record.embedding),
        "changed_flags": changed_flags(record.flags or ""),
    }


def _network(record: RunRecord) -> str:
    return "head on embeddings" if record.embedding else record.config.backbone


def _subtitle(record: RunRecord) -> str:
    started = (record.environment or {}).get("started")
    told = f"started on {date_in_words(started)}" if started else "started at an unknown time"
    name = PurePath(published(str(record.directory))).name
    return f"Run {name}, {told}, {len(record.epochs)} of {counted(record.config.epochs, 'epoch')} completed"


def _run(record: RunRecord) -> Facts:
    config = record.config
    facts = [
        ("backbone", f"none: {record.embedding}" if record.embedding else config.backbone),
        ("initial weights", config.weights),
        ("head", "-".join(map(str, config.head)) or "none"),
        ("data", config.data),
        ("trained on", _images_of(record, config.train_split)),
        ("best epoch picked on", _picked_on(record)),
        ("epochs", f"{len(record.epochs)} of {config.epochs}"),
        ("batch size", str(config.batch_size)),
        ("learning rate", f"{config.learning_rate:g}"),
        ("dropout", f"{config.dropout:g} after {config.dropout_after}" if config.dropout else "none"),
        ("attention", config.attention),
        ("pooling", POOLINGS[config.pooling]),
        ("input range", config.input_range),
        ("seed", str(config.seed)),
    ]
    if config.fda_split:
        how = f"{config.fda_split}, without its labels (FDA, beta {config.fda_beta:g})"
        facts.append(("adapted to", how))
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
    by_split = images_by_split(record.manifest) if record.manifest else {}
    parsed = parse_split(split)
    names = parsed.splits
    images = images_of(sum(by_split.get(name, 0) for name in names), split)
    if not images or record.manifest is None or parsed.sources:  # whose images are not in the manifest
        return f"{split} split"
    if parsed.fold:
        return f"{split} split, about {counted(images, 'image')}"
    parts = [record.manifest["counts"].get(name, {}) for name in names]
    counts = {name: sum(part.get(name, 0) for part in parts) for part in parts for name in part}
    classes = ", ".join(f"{name} {count:,}" for name, count in counts.items())
    present = "present: " if record.is_of_findings else ""
    return f"{split} split, {counted(images, 'image')} ({present}{classes})"


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


def _limits(record: RunRecord) -> list[str]:
    """Return what a reader must not take from this page; the first ones always hold."""
    limits = [
        "The labels are those of the data. Nobody has checked them here.",
        "The splits come from the same data: they do not say how the model does in another hospital"
        f"{'; see Other data' if record.external else ', and nothing else here does'}.",
        "A network may have learned the source of an image (scanner, size, marks on the film) instead of "
        "a disease; the audit and the maps can show this, but not rule it out.",
        "Patients are distinguished by names or headers of files. Where these are silent, images of one "
        "patient may be in two splits.",
    ]
    evaluated = {split.name for split in record.splits if split.metrics}
    known = {split for split in evaluated if have_common_images(split, record.config.train_split)}
    held_out = evaluated - known - {record.config.validation_split}
    if record.config.held_out_validation is None and not held_out:
        limits.append("No split was held out: nothing on this page says how good the model is.")
    elif not held_out:
        limits.append(
            "No split was held out of the choice of the best epoch: the validation numbers are too good."
        )
    if record.config.epochs > len(record.epochs):
        asked = counted(record.config.epochs, "epoch")
        limits.append(f"The run is not complete: {len(record.epochs)} of {asked}.")
    if record.audit is None:
        limits.append("The data were not audited for leakage, duplicates and shortcuts.")
    for split in record.splits:
        images = {name: row["images"] for name, row in (split.metrics or {}).get("per_class", {}).items()}
        absent = [name for name, count in images.items() if not count]
        if absent:
            limits.append(
                f"The {split.name} split has no image of {', '.join(absent)}: nothing is known of it there."
            )
        kind = kind_of_label(split.metrics or {})
        smallest = min((count for count in images.values() if count), default=100)
        if smallest < 100:
            limits.append(
                f"The {split.name} split has only {counted(smallest, 'image')} of its rarest {kind}: "
                "intervals are wide."
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
        ("versions", versions_in_words(environment["versions"])),
        ("machine", f"{environment['platform']}, {environment['cpus']} processors"),
        ("accelerators", ", ".join(environment["gpus"]) or "none"),
        ("choices", "; ".join(environment["choices"])),
    ]
