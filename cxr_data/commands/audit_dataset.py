"""Audits a dataset: leakage, duplicates and shortcuts.

    python -m tools.audit_dataset --data=DIR

Prints the findings, and writes audit.json and pictures of them. Exit code 1 if there is a finding that
--fail_on names.
"""

import sys

from absl import flags

from cxr_data.audit import audit, figures, findings
from cxr_data.commands import command
from cxr_data.core import storage
from cxr_data.core.errors import DataError, UsageError
from cxr_data.records.layout import AUDIT_FOLDER

FLAGS = flags.FLAGS


def define_flags() -> None:
    """Defines the flags of this command."""
    flags.DEFINE_string("data", None, "Folder of shards.")
    flags.DEFINE_string(
        "source", "", "Folder or CSV that it was made from: measures the files anew, as of shards of others."
    )
    flags.DEFINE_string(
        "against", "", "Second dataset (shards, or a folder or CSV of images) to compare with."
    )
    flags.DEFINE_list(
        "fail_on", [], "Findings that give exit code 1, as leakage,shortcut:0.9: " + "; ".join(findings.KINDS)
    )
    flags.DEFINE_string("output", "", "Folder for audit.json and audit/*.png; --data if not given.")
    flags.DEFINE_integer("cases", 10, "Cases shown of each finding; audit.json has more.", lower_bound=0)
    flags.DEFINE_bool("pictures", True, "Draw pairs and distributions.")


def main() -> int:
    """Reads the flags and audits; returns the exit code."""
    if not FLAGS.data:
        raise UsageError("--data is missing (--help lists the flags)")
    rules = findings.parse_fail_on(FLAGS.fail_on)
    output = FLAGS.output or FLAGS.data
    for what, read in (("source", FLAGS.source), ("second dataset", FLAGS.output and FLAGS.against)):
        if read and f"{storage.place(output)}/".startswith(storage.place(read) + "/"):
            raise UsageError(f"--output={output} lies in the {what} {read}: nothing is written there")
    made = audit.audit_dataset(audit.AuditConfig(FLAGS.data, FLAGS.source, FLAGS.against))
    print(audit.as_text(made, FLAGS.cases))
    try:
        print(f"written: {audit.write_audit(output, made)}")
        folder = storage.join(output, AUDIT_FOLDER)
        figures.remove(folder)
        for path in figures.draw(folder, made) if FLAGS.pictures else ():
            print(f"written: {path}")
    except OSError as error:
        raise DataError(f"cannot write in --output={output}: {error.strerror or error}") from error
    if findings.SHORTCUT in rules and not made.scores:
        print("--fail_on=shortcut: no shortcut could be looked for, see the notes", file=sys.stderr)
    failed = findings.failing(made.found, rules)
    for finding in failed:
        print(f"--fail_on={finding.kind}: {finding.text}", file=sys.stderr)
    return 1 if failed else 0


def console_main() -> None:
    """Entry point of the command."""
    define_flags()
    command.run(main)
