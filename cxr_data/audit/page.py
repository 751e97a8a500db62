"""The page of a data set, `audit/index.html`: its classes and splits, and what the audit found."""

from collections.abc import Mapping, Sequence
from dataclasses import asdict, replace
from pathlib import PurePath
from typing import Any

from cxr_data.audit.audit import Audit, as_document
from cxr_data.audit.causes import ADVICE, CAUTION, Cause, causes_of
from cxr_data.audit.figures import embedded
from cxr_data.audit.repair import absolute, explained_flags, repair_command
from cxr_data.audit.text import case_parts
from cxr_data.audit.together import tables_of
from cxr_data.core import storage
from cxr_data.core.dates import date_in_words
from cxr_data.core.errors import one_line
from cxr_data.core.page import Grid, render_page
from cxr_data.core.wording import capitalized, counted
from cxr_data.records.in_words import counts_table, stored_facts
from cxr_data.records.layout import PAGE_NAME
from cxr_data.records.manifest import Manifest

_MOST_CASES = 100
"""Cases of a finding on the page; `audit.json` has all."""


def write_page(folder: str, audit: Audit, made: Manifest, figures: Sequence[str], audited: str) -> str:
    """Write the page of a data set and return its path.

    Args:
      folder: of the page.
      audit: of the data set.
      made: its manifest.
      figures: the paths of the audit's pictures, which the page holds in itself.
      audited: when the audit was made, an ISO 8601 time.
    """
    content = _content(audit, made, audited)
    content["pictures"] = embedded(figures)
    storage.make_directory(folder)
    path = storage.join(folder, PAGE_NAME)
    storage.replace(path, render_page("cxr_data.audit", "dataset.html.jinja", content))
    return path


def _content(audit: Audit, made: Manifest, audited: str) -> dict[str, Any]:
    document, manifest, directory = as_document(audit), asdict(made), absolute(made.directory)
    causes = causes_of(document)
    found = counted(len(document["findings"]), "finding")
    known = audit.conversion
    return {
        "title": one_line(f"Data set {PurePath(directory).name}: {_labels_in_words(made)}"),
        "subtitle": f"{counted(document['pictures'], 'picture')}, "
        f"{counted(document['patients'], 'known patient')}, audited on {date_in_words(audited)}",
        "counts": counts_table(manifest, _patients_by_split(audit)),
        "findings_tables": [*tables_of(document), *_sources(document)],
        "source": one_line(known.source) if known else "",
        "against": one_line(document["second_dataset"] or ""),
        "facts_of_shards": [
            ("shards in", one_line(directory)),
            ("flags", one_line(_flags(known.flags)) if known and known.flags else "none known"),
            *stored_facts(manifest),
        ],
        "notes_of_shards": [one_line(note) for note in made.notes],
        "count": f"{found} of {counted(len(causes), 'cause')}",
        "causes": [_cause(cause, made.class_names) for cause in causes],
        "caution": CAUTION,
        "repair": "\n".join(one_line(line) for line in repair_command(made.directory, document)),
        "repair_notes": [one_line(line) for line in explained_flags(document)],
        "scores": _scores(document, made.class_names),
        "notes": [one_line(capitalized(note)) for note in document["notes"]],
        "unseen": _unseen(document),
        "directory": one_line(directory),
    }


def _labels_in_words(made: Manifest) -> str:
    return counted(made.findings, "finding") if made.findings else " / ".join(made.class_names)


def _flags(flags: Mapping[str, str]) -> str:
    return " ".join(f"--{name}={value}" for name, value in flags.items())


def _patients_by_split(audit: Audit) -> dict[str, int]:
    found: dict[str, int] = {}
    for positions in audit.own.patients().values():
        for split in {audit.own.splits[position] for position in positions}:
            found[split] = found.get(split, 0) + 1
    return found


def _cause(cause: Cause, class_names: Sequence[str]) -> dict[str, Any]:
    return {
        "title": one_line(capitalized(cause.title, class_names)),
        "kinds": ", ".join(dict.fromkeys(finding["kind"].replace("_", " ") for finding in cause.findings)),
        "findings": [_finding(finding) for finding in cause.findings],
        "advice": ADVICE.get(cause.name, ""),
    }


def _finding(finding: Mapping[str, Any]) -> dict[str, Any]:
    cases = finding["evidence"]
    return {
        "text": one_line(capitalized(finding["text"])),
        "cases": [
            [(key, one_line(value)) for key, value in case_parts(case)] for case in cases[:_MOST_CASES]
        ],
        "cases_count": counted(len(cases), "case"),
        "more": max(len(cases) - _MOST_CASES, 0),
    }


def _scores(document: Mapping[str, Any], class_names: Sequence[str]) -> Grid | None:
    """Return the score of every feature and class, the best feature first; None where there are none."""
    by_feature: dict[str, dict[str, str]] = {}
    for score in sorted(document["shortcuts"], key=lambda score: -score["auroc"]):
        mark = "*" if score["p"] <= document["alpha"] else ""
        cell = f"{score['auroc']:.3f}{mark}\n({score['low']:.3f}-{score['high']:.3f})"
        by_feature.setdefault(score["feature"], {})[score["label"]] = cell
    labels = [name for name in class_names if any(name in row for row in by_feature.values())]
    rows = [[one_line(name), *(row.get(label, "") for label in labels)] for name, row in by_feature.items()]
    caption = "AUROC of each feature alone, a class against the rest, with 95 % intervals; * is above chance"
    return Grid(caption, ["feature", *map(one_line, labels)], rows) if rows else None


def _sources(document: Mapping[str, Any]) -> list[Grid]:
    """Return a table of how well each feature tells the sources; nothing where there is one source."""
    known = document.get("sources")
    if not known or not known["scores"]:
        return []
    names = list(dict.fromkeys(score["label"] for score in known["scores"]))
    table = _scores({"shortcuts": known["scores"], "alpha": document["alpha"]}, names)
    caption = "AUROC of each feature for telling a source from the others; * is above chance"
    return [replace(table, caption=caption)] if table else []


def _unseen(document: Mapping[str, Any]) -> list[str]:
    """Return what this audit has not looked for, or cannot find."""
    return [
        *(
            []
            if document["second_dataset"]
            else ["Pictures of another data set: --against=DIR compares one."]
        ),
        "Copies that are mirrored, inverted, turned, or cropped by more than 2 % of a side, unless to "
        "the square in the centre.",
        "One patient under two names: patients are distinguished by what files, headers or tables say.",
        "Wrong labels, other than of a picture that is there twice.",
        "Shortcuts other than those in the table of all scores, and weak ones: in three classes of 100 "
        "pictures, one below an AUROC of about 0.7 stays unseen.",
    ]
