"""The data of a run on its page: how many images, how they are stored, what the audit found."""

import pathlib
from collections.abc import Sequence
from typing import Any

from cxr_data.audit.causes import ADVICE, CAUTION, Cause, causes_of
from cxr_data.audit.repair import explained_flags, repair_command
from cxr_data.core.wording import counted
from cxr_data.records.layout import AUDIT_FOLDER, HISTOGRAMS_NAME, PAIRS_NAME
from cxr_train.reporting.charts import Picture, embed
from cxr_train.reporting.record import Document, RunRecord
from cxr_train.reporting.results import Grid

_PICTURES = {
    HISTOGRAMS_NAME: "What the classes can be told by: the share of each class that has each value.",
    PAIRS_NAME: "Pairs of pictures that show the same.",
}


def data_content(record: RunRecord) -> dict[str, Any]:
    """Return the tables and facts of the data, as its manifest has them."""
    manifest = record.manifest
    content: dict[str, Any] = {
        "tables": [],
        "facts": [],
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
            ("made with", versions_in_words(manifest["versions"])),
        ]
    return content


def audit_content(record: RunRecord) -> dict[str, Any] | None:
    """Return the audit's findings by cause, the worst first, what to do, its notes and pictures."""
    audit = record.audit
    if audit is None:
        return None
    kinds = [finding["kind"] for finding in audit["findings"]]
    named = [f"{kinds.count(kind)} {kind.replace('_', ' ')}" for kind in dict.fromkeys(kinds)]
    causes = causes_of(audit)
    return {
        "scope": f"{audit['pictures']:,} pictures, {audit['patients']:,} known patients, "
        f"{len(audit['shortcuts']):,} scores of single features",
        "count": f"{counted(len(kinds), 'finding')} of {counted(len(causes), 'cause')}",
        "summary": ", ".join(named),
        "causes": [_cause(cause, record.class_names) for cause in causes],
        "repair": "\n".join(repair_command(record.config.data, audit)),
        "repair_notes": list(explained_flags(audit)),
        "notes": audit["notes"],
        "caution": CAUTION,
        "pictures": _audit_pictures(record.config.data),
    }


def _cause(cause: Cause, class_names: Sequence[str]) -> dict[str, Any]:
    """Return what findings come from, what the worst says, what the others say, and what to do."""
    worst, *others = [finding["text"] for finding in cause.findings]
    # A title that begins with the name of a class keeps it as it is.
    is_of_class = cause.title.startswith(tuple(class_names))
    return {
        "title": cause.title if is_of_class else f"{cause.title[:1].upper()}{cause.title[1:]}",
        "worst": worst,
        "others": others,
        "others_count": counted(len(others), "more finding"),
        # What an audit of an older version advised stands with its findings.
        "advice": ADVICE.get(cause.name) or cause.findings[0]["advice"],
    }


def _audit_pictures(data: str) -> list[tuple[Picture, str]]:
    """Return the pictures that the audit drew beside the data, each with its caption; none where it drew
    none.
    """
    pictures = []
    for name, alt in _PICTURES.items():
        path = pathlib.Path(data) / AUDIT_FOLDER / name
        if path.is_file():
            pictures.append((embed(path.read_bytes(), "image/png", alt), alt))
    return pictures


def versions_in_words(versions: Document) -> str:
    """Return the packages that are there, each with its version."""
    return ", ".join(f"{name} {version}" for name, version in versions.items() if version)


def _list(values: Sequence[float]) -> str:
    return ", ".join(f"{value:.4f}" for value in values)
