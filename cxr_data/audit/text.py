"""An audit in words, for a terminal: findings by their cause, what to do, and the command that does it."""

from collections.abc import Iterator, Mapping
from typing import Any

from cxr_data.audit.causes import ADVICE, CAUTION, Cause, causes_of
from cxr_data.audit.origins import sources_in_words
from cxr_data.audit.repair import (
    absolute,
    before_and_after,
    earlier_audits,
    explained_flags,
    repair_command,
    shown,
)
from cxr_data.audit.together import together_in_words
from cxr_data.core import storage
from cxr_data.core.errors import DataError, one_line
from cxr_data.core.wording import counted, tool, typed, wrapped
from cxr_data.records.audit_document import read_document
from cxr_data.records.layout import AUDIT_NAME


def audit_as_text(directory: str, document: Mapping[str, Any], most_cases: int) -> str:
    """Return the text of an audit, in lines of the terminal's width.

    Args:
      directory: of the shards.
      document: the content of `audit.json`.
      most_cases: cases that are shown of each finding; with none, a line says where they are.
    """
    causes = causes_of(document)
    scope = f"{counted(document['pictures'], 'picture')}, {counted(document['patients'], 'known patient')}"
    found = counted(len(document["findings"]), "finding")
    if causes:
        found += f" of {counted(len(causes), 'cause')}"
    lines = [wrapped(f"audit of {directory}: {scope}, {found}", "", "  ")]
    for words in filter(None, (together_in_words(document), sources_in_words(document))):
        lines.append(wrapped(words, "", "  "))
    for number, cause in enumerate(causes, 1):
        lines += _cause(number, cause, most_cases)
    if document["findings"]:
        lines.append(wrapped(CAUTION))
    elif document["shortcuts"]:
        scores = counted(len(document["shortcuts"]), "score")
        lines.append(f"no leakage was found, and no feature above chance ({scores})")
    lines += [wrapped(note, "note: ", "  ") for note in document["notes"]]
    lines += [*_repair(directory, document), *_compared(directory, document)]
    if document["findings"] and not most_cases:
        lines.append(f"cases and pictures: python -m {tool('audit_dataset')} {typed(data=directory)}")
    return "\n".join(lines)


def _cause(number: int, cause: Cause, most_cases: int) -> Iterator[str]:
    kinds = ", ".join(dict.fromkeys(finding["kind"] for finding in cause.findings))
    yield wrapped(cause.title, f"{number}. [{kinds}] ", "   ")
    for finding in cause.findings:
        yield wrapped(finding["text"], "   - ")
        for case in finding["evidence"][:most_cases]:
            yield wrapped(_case(case), "     ", "       ")
        if 0 < most_cases < len(finding["evidence"]):
            yield f"     ... and {len(finding['evidence']) - most_cases:,} more in {AUDIT_NAME}"
    if advice := ADVICE.get(cause.name):  # not of a finding of another version
        yield wrapped(advice, "   -> ")


def _case(case: Mapping[str, Any]) -> str:
    return "  ".join(f"{name} {value}" for name, value in case_parts(case))


def case_parts(case: Mapping[str, Any]) -> list[tuple[str, str]]:
    """Return the parts of a case of a finding's evidence: each name and its value, in words."""
    return [(key, ", ".join(value) if isinstance(value, list) else str(value)) for key, value in case.items()]


def _repair(directory: str, document: Mapping[str, Any]) -> Iterator[str]:
    command = repair_command(directory, document)
    if not document["findings"]:
        return
    if not command:
        yield "A conversion can do nothing more about these findings."
        return
    yield "What a conversion can do about it, into a folder of its own:"
    yield from (f"  {line}" for line in command)
    yield from (wrapped(line, "  ") for line in explained_flags(document))


def _compared(directory: str, document: Mapping[str, Any]) -> Iterator[str]:
    """Yield a table of the findings before and after, where these shards repair others."""
    place = next(reversed(earlier_audits(document)), None)
    if not place or place == storage.join(absolute(directory), AUDIT_NAME):
        return
    try:
        before = read_document(place)
    except DataError as error:
        yield wrapped(f"no comparison with the audit that these shards repair: {error}", "note: ", "  ")
        return
    rows = [("finding", f"before ({shown(place)})", "after", ""), *before_and_after(before, document)]
    rows[0] = ("finding", "before", "after", "")
    widths = [max(len(row[column]) for row in rows) + 2 for column in range(3)]
    yield wrapped(f"before and after: {shown(place)} and this audit", "", "  ")
    for row in rows:
        cells = (f"{cell:{width}}" for cell, width in zip(row, (*widths, 0), strict=True))
        yield one_line(f"  {''.join(cells)}".rstrip())
