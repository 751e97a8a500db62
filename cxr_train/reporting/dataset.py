"""The data of a run on its page: how many images, how they are stored, what the audit found."""

import pathlib
from collections.abc import Sequence
from typing import Any

from cxr_data.audit.causes import ADVICE, CAUTION, Cause, causes_of
from cxr_data.audit.figures import CAPTIONS, embedded
from cxr_data.audit.repair import explained_flags, repair_command
from cxr_data.core.page import Picture
from cxr_data.core.wording import capitalized, counted, tool, typed
from cxr_data.records.in_words import counts_table, stored_facts
from cxr_data.records.layout import AUDIT_FOLDER
from cxr_train.reporting.record import RunRecord


def data_content(record: RunRecord) -> dict[str, Any]:
    """Return the tables and facts of the data, as its manifest has them."""
    manifest = record.manifest
    content: dict[str, Any] = {
        "tables": [],
        "facts": [],
        "audit_command": f"python -m {tool('audit_dataset')} {typed(data=record.config.data)}",
    }
    if manifest:
        content["tables"] = [counts_table(manifest)]
        content["facts"] = stored_facts(manifest)
    return content


def audit_content(record: RunRecord) -> dict[str, Any] | None:
    """Return the audit's findings by cause, the worst first, what to do, its notes and pictures."""
    audit = record.audit
    if audit is None:
        return None
    kinds = [finding["kind"] for finding in audit["findings"]]
    named = [f"{kind.replace('_', ' ')}: {kinds.count(kind)}" for kind in dict.fromkeys(kinds)]
    causes = causes_of(audit)
    return {
        "scope": f"{counted(audit['pictures'], 'picture')}, {counted(audit['patients'], 'known patient')}, "
        f"{counted(len(audit['shortcuts']), 'score')} of single features",
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
    return {
        "title": capitalized(cause.title, class_names),
        "worst": f"{capitalized(worst, class_names)}{'' if worst.endswith('.') else '.'}",
        "others": others,
        "others_count": counted(len(others), "more finding"),
        # What an audit of an older version advised stands with its findings.
        "advice": ADVICE.get(cause.name) or cause.findings[0]["advice"],
    }


def _audit_pictures(data: str) -> list[tuple[Picture, str]]:
    """Return the pictures that the audit drew beside the data, each with its caption; none where it drew
    none.
    """
    paths = [pathlib.Path(data) / AUDIT_FOLDER / name for name in CAPTIONS]
    return embedded(str(path) for path in paths if path.is_file())
