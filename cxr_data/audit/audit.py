"""The audit: leakage and shortcuts of a dataset, found before anything is trained on it.

    shards (and their features, or their files) -> pairs -> leakage  |  scores -> shortcuts  ->  findings

It says in numbers what predicts what. It says nothing about causes: a border may be the
mark of a hospital, and it may be how a bedridden patient is imaged.
"""

import json
from collections.abc import Sequence
from dataclasses import asdict, dataclass, replace
from typing import Any

from cxr_data.audit import findings, shortcuts
from cxr_data.audit.causes import ADVICE, cause_of
from cxr_data.audit.findings import Finding
from cxr_data.audit.leakage import Pair, find_leakage, pairs_of
from cxr_data.audit.near_duplicates import SAME_NCC
from cxr_data.audit.origins import counts_of, score_sources
from cxr_data.audit.pictures import Pictures, pictures_of_files, pictures_of_shards, with_files
from cxr_data.audit.repair import Conversion, Remedy, absolute, remedies_for
from cxr_data.audit.targets import targets_of
from cxr_data.audit.text import audit_as_text
from cxr_data.core import storage
from cxr_data.core.errors import DataError, UsageError
from cxr_data.core.settings import required, setting
from cxr_data.images.guarded import Limits
from cxr_data.records.audit_document import SCHEMA, has_audit, read_audit
from cxr_data.records.layout import AUDIT_NAME, FEATURES_NAME, MANIFEST_NAME
from cxr_data.records.manifest import Manifest, read_manifest
from cxr_data.sources.duplicates import tie_groups
from cxr_data.sources.finding_values import FINDING_VALUES, VALUE_NAMES
from cxr_data.sources.left_out import LeftOut
from cxr_data.stats.co_occurrence import both_present, value_counts


@dataclass(frozen=True)
class AuditConfig(Limits):
    """What to audit. `quiet`, which has no flag, turns off the progress on stderr."""

    data: str = required("Folder of shards.", path=True)
    source: str = setting(
        "",
        "Folder or CSV that the shards were made from: its files are measured again, which shards of other "
        "programs need.",
        path=True,
    )
    exclude_folders: tuple[str, ...] = setting(
        (), "Names of folders to leave out of --source or --against, as make_tfrecords did."
    )
    follow_links: str = setting(
        "",
        "Folder below which the targets of links in --source or --against lie, as for make_tfrecords.",
        path=True,
        local=True,
    )
    against: str = setting(
        "", "Second dataset to compare with: shards, or a folder or CSV of images.", path=True
    )
    quiet: bool = False


@dataclass(frozen=True)
class Audit:
    """What was audited and what was found.

    Attributes:
      own, other: the pictures; `other` of the second dataset.
      pairs: of pictures that show the same.
      scores: of every feature and class.
      source_scores: of every feature and source, where there are several.
      found: ranked.
      notes: what could not be looked at, and why.
      remedies: flags of make_tfrecords that do something about what was found.
      conversion: what the pictures were made from; None where it is not known.
    """

    own: Pictures
    other: Pictures | None
    pairs: tuple[Pair, ...]
    scores: tuple[shortcuts.Score, ...]
    found: tuple[Finding, ...]
    notes: tuple[str, ...]
    remedies: tuple[Remedy, ...] = ()
    conversion: Conversion | None = None
    source_scores: tuple[shortcuts.Score, ...] = ()


def audit_dataset(config: AuditConfig, conversion: Conversion | None = None) -> Audit:
    """Audit a dataset on disk.

    Args:
      config: which one.
      conversion: what it was made from, where its `audit.json` does not say it.

    Raises:
      UsageError, DataError: there is no such dataset or source, or it cannot be read.
    """
    made = read_manifest(config.data)
    if not made.records:
        raise DataError(f"{config.data} holds no picture: there is nothing to audit")
    if config.against and storage.place(config.against) == storage.place(config.data):
        raise UsageError(f"--against={config.against} is --data itself: give another dataset")
    own = pictures_of_shards(made, config.quiet)
    if config.source:
        own = with_files(own, made, config.source, config.limits, config.quiet, **_places(config))
    other = _second(config, made) if config.against else None
    return audit_pictures(own, other, _conversion(config, conversion), quiet=config.quiet)


def _conversion(config: AuditConfig, otherwise: Conversion | None) -> Conversion | None:
    """Return what an earlier audit knew of the conversion, or else `otherwise`; with --source its source."""
    try:
        known = read_audit(config.data).get("conversion") if has_audit(config.data) else None
    except DataError:
        known = None  # it is damaged, and will be replaced
    found = Conversion(**known) if known else otherwise
    if config.source:
        return Conversion(absolute(config.source), found.flags if found else {})
    return found


def _second(config: AuditConfig, made: Manifest) -> Pictures:
    if storage.size(storage.join(config.against, MANIFEST_NAME)) is not None:
        return pictures_of_shards(read_manifest(config.against), config.quiet)
    return pictures_of_files(config.against, made, config.limits, config.quiet, **_places(config))


def _places(config: AuditConfig) -> dict[str, Any]:
    return {"left_out": LeftOut(config.exclude_folders), "follow_links": config.follow_links}


def audit_pictures(
    own: Pictures,
    other: Pictures | None = None,
    conversion: Conversion | None = None,
    *,
    quiet: bool = False,
) -> Audit:
    """Audit pictures that were read already, and were made by `conversion`; `quiet`: no progress bar."""
    pairs = pairs_of(own, other)
    tied = _with_copies_together(own, pairs)
    scores = shortcuts.find_shortcuts(tied, quiet=quiet)
    found = [*find_leakage(own, pairs, other), *shortcuts.shortcut_findings(own, scores)]
    return Audit(
        own,
        other,
        tuple(pairs),
        tuple(scores),
        findings.ranked(found),
        _notes(own, shortcuts.too_few(tied)),
        tuple(remedies_for([finding.name for finding in found], own)),
        conversion,
        tuple(score_sources(tied, quiet=quiet)),
    )


def _with_copies_together(own: Pictures, pairs: Sequence[Pair]) -> Pictures:
    """Return the same pictures, copies of one counting as one patient's: no fold may know another's by
    heart.
    """
    groups = dict(zip(own.ids, own.groups, strict=True))
    same = [(own.ids[pair.first], own.ids[pair.second]) for pair in pairs if not pair.is_across]
    tied = tie_groups(groups, same)
    return replace(own, groups=[tied[name] for name in own.ids])


def _notes(own: Pictures, too_few: Sequence[str]) -> tuple[str, ...]:
    notes = []
    if not own.patients():
        notes.append(
            "no patient is known: each picture counts as a patient of its own, so what tells patients apart "
            "(the pixel probe most of all) may be named as a shortcut"
        )
    if not own.has_files:
        notes.append(
            f"nothing is known of the files (no {FEATURES_NAME}): size, aspect, format, mode, bit depth and "
            "JPEG quality were not looked at; --source=DIR_OR_CSV looks at them"
        )
    labels = sum(len(target.names) for target in targets_of(own))
    if len(too_few) == labels:
        notes.append(
            f"no shortcut was looked for: it takes a {'class' if own.findings is None else 'finding'} of "
            f"{shortcuts.FEWEST_PATIENTS} patients, and as many beside it"
        )
    elif too_few:
        few = f"fewer than {shortcuts.FEWEST_PATIENTS} patients"
        notes.append(f"no shortcut to {', '.join(too_few)} was looked for: {few}")
    return tuple(notes)


# -- output ------------------------------------------------------------------------------------


def audit_summary(directory: str) -> str:
    """Return what `audit.json` says, without cases."""
    return audit_as_text(directory, read_audit(directory), 0)


def as_document(audit: Audit) -> dict[str, Any]:
    """Return the content of `audit.json`.

    Returns:
      schema; pictures and patients, how many; second_dataset, that of --against, or null; same_ncc, the
      correlation from which on two pictures are the same; alpha, `shortcuts.ALPHA`; notes on what could not
      be looked at; co_occurrence, only where each picture has several findings: findings, their names,
      counts, {present, absent, uncertain, unknown: pictures} of each, and both_present, in how many pictures
      two of them are; sources, only where there are several: pictures, how many of each, and scores, of every
      feature and source, as of shortcuts; findings, what the audit found, ranked: `findings.Finding`, their
      `cause` and `advice` (see `causes`), and `cases`, the number of cases in `evidence`; shortcuts:
      `shortcuts.Score` of every feature and class; repair: `repair.Remedy` of each flag that does something
      about the findings; conversion: `repair.Conversion`, or null. Only second_dataset and conversion say
      where data lay: the rest is the same for the same pictures elsewhere.
    """
    findings_of_pictures = {} if audit.own.findings is None else {"co_occurrence": _co_occurrence(audit.own)}
    of_sources = {"pictures": counts_of(audit.own), "scores": [asdict(one) for one in audit.source_scores]}
    return {
        "schema": SCHEMA,
        "pictures": len(audit.own),
        "patients": len(audit.own.patients()),
        "second_dataset": audit.other.where if audit.other else None,
        "same_ncc": SAME_NCC,
        "alpha": shortcuts.ALPHA,
        "notes": list(audit.notes),
        **findings_of_pictures,
        **({"sources": of_sources} if of_sources["pictures"] else {}),
        "findings": [_finding(finding) for finding in audit.found],
        "shortcuts": [asdict(score) for score in audit.scores],
        "repair": [asdict(remedy) for remedy in audit.remedies],
        "conversion": asdict(audit.conversion) if audit.conversion else None,
    }


def _co_occurrence(own: Pictures) -> dict[str, Any]:
    assert own.findings is not None
    counts = value_counts(own.findings, FINDING_VALUES)
    return {
        "findings": list(own.class_names),
        "counts": [dict(zip(VALUE_NAMES, row, strict=True)) for row in counts.tolist()],
        "both_present": both_present(own.findings).tolist(),
    }


def _finding(finding: Finding) -> dict[str, Any]:
    return {
        **asdict(finding),
        "value": round(finding.value, 4),
        "cause": cause_of(finding.name),
        "advice": ADVICE[cause_of(finding.name)],
        "cases": len(finding.evidence),
        "evidence": [dict(case) for case in finding.evidence],
    }


def write_audit(directory: str, audit: Audit) -> str:
    """Write `directory/audit.json` and return its path."""
    storage.make_directory(directory)
    path = storage.join(directory, AUDIT_NAME)
    text = json.dumps(as_document(audit), indent=1, ensure_ascii=True) + "\n"
    storage.replace(path, text.encode())
    return path
