"""Audits a dataset: leakage, duplicates and shortcuts.

    python -m tools.audit_dataset --data=DIR

Prints the findings, and writes audit.json and pictures of them; with --html, a page too. Exit code 1 if
there is a finding that --fail_on names, if the audit could not look for it, or if records are damaged.
"""

import dataclasses
import datetime
import sys
from collections.abc import Mapping

from cxr_data.audit import audit, figures, findings, page
from cxr_data.audit.text import audit_as_text
from cxr_data.commands import command
from cxr_data.commands.setting_flags import define_flags, from_flags
from cxr_data.convert.conversion import conversion_of_ledger
from cxr_data.core import storage
from cxr_data.core.errors import DataError, UsageError
from cxr_data.core.settings import check_folder, setting
from cxr_data.core.shown import say
from cxr_data.records.layout import AUDIT_FOLDER
from cxr_data.records.manifest import read_manifest


@dataclasses.dataclass(frozen=True)
class FindingsOptions:
    """What to do with the findings."""

    fail_on: Mapping[str, float] = setting(
        (),
        "Findings that give exit code 1, such as leakage,shortcut:0.9: "
        + "; ".join(f"{kind}: {meaning}" for kind, meaning in findings.KINDS.items())
        + ".",
        parse=findings.parse_fail_on,
    )
    output: str = setting(
        "",
        "Folder for audit.json, and for the pictures and the page in audit/; --data by default.",
        path=True,
    )
    cases: int = setting(
        10, "Number of cases to print of each finding; audit.json has all of them.", at_least=0
    )
    pictures: bool = setting(True, "Whether to draw pairs and distributions.")
    html: bool = setting(False, "Whether to write a page of the data set, audit/index.html.")


def main() -> int:
    """Audit the dataset that the flags name; return the exit code."""
    config, options = from_flags(audit.AuditConfig), from_flags(FindingsOptions)
    output = options.output or config.data
    for what, read in (("source", config.source), ("second dataset", options.output and config.against)):
        if read and storage.is_within(output, read):
            raise UsageError(f"--output={output} lies in the {what} {read}: nothing is written there")
    if options.output:
        check_folder("output", output)
    made = audit.audit_dataset(config, conversion_of_ledger(config.data))
    print(audit_as_text(config.data, audit.as_document(made), options.cases))
    try:
        folder = storage.join(output, AUDIT_FOLDER)
        figures.remove_figures(folder)
        drawn = figures.draw_figures(folder, made) if options.pictures else []
        for path in drawn:
            say(f"written: {path}")
        if options.html:
            now = datetime.datetime.now(datetime.UTC).isoformat()
            say(f"written: {page.write_page(folder, made, read_manifest(config.data), drawn, now)}")
        say(f"written: {audit.write_audit(output, made)}")  # last: it says that all is there
    except OSError as error:
        raise DataError(f"cannot write in --output={output}: {error.strerror or error}") from error
    is_unknown = findings.SHORTCUT in options.fail_on and not made.scores
    if is_unknown:
        print(
            "--fail_on=shortcut: the audit could not look for shortcuts; its notes say why", file=sys.stderr
        )
    failed = findings.failing(made.found, options.fail_on)
    for finding in failed:
        say(f"--fail_on={finding.kind}: {finding.text}", sys.stderr)
    return 1 if failed or is_unknown else 0


def console_main() -> None:
    """Entry point of the command."""
    define_flags(audit.AuditConfig, FindingsOptions)
    command.run(main)


if __name__ == "__main__":
    console_main()
