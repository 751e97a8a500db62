"""Which pictures are left out: those that a list names, that an audit found, and that a balance drops.

Each is named in `quarantine.jsonl`, with the reason.
"""

from collections import Counter, defaultdict
from collections.abc import Collection, Iterable, Iterator, Mapping, Sequence
from typing import Any

from cxr_data.core import storage
from cxr_data.core.errors import DataError, UsageError
from cxr_data.core.schema import parse_json
from cxr_data.core.seeded import seeded_hash
from cxr_data.core.wording import tool
from cxr_data.sources.duplicates import tie_groups
from cxr_data.sources.item import Item
from cxr_data.sources.quarantine import Quarantined

BALANCES = ("none", "class", "source")
_AUDIT_SCHEMA = "cxr.audit/1"
_MOST_SOURCES = 5  # that a message names


def read_exclusions(path: str, items: Sequence[Item]) -> dict[str, Quarantined]:
    """Return the pictures that a list names: {id: what the ledger says}.

    Args:
      path: UTF-8 text, a line a picture: its id (the path relative to the source) or the path of its file,
        and behind a tab, if wished, why. Empty lines and those that begin with # say nothing.
      items: the inputs.

    Raises:
      UsageError: there is no such file.
      DataError: it is no text, or names what is not in the source.
    """
    known = {item.path: item.id for item in items} | {item.id: item.id for item in items}
    excluded: dict[str, Quarantined] = {}
    for number, line in enumerate(_text(path, "--exclude").splitlines(), 1):
        name, _, why = (part.strip() for part in line.partition("\t"))
        if not name or name.startswith("#"):
            continue
        if name not in known:
            raise DataError(
                f"{path} line {number}: {name!r} is not a picture of the source: give its path, "
                "relative to the source"
            )
        excluded[known[name]] = Quarantined(known[name], "excluded", why or f"named in {_name_of(path)}")
    return excluded


def read_findings(path: str, items: Sequence[Item]) -> dict[str, Quarantined]:
    """Return the pictures without which the audit's pairs are gone: {id: what the ledger says}.

    Of pictures that show the same one stays, of a split other than training where there is one; none where
    they are in two classes, or in a second dataset too. Patients in two splits or classes are for the user to
    judge.

    Args:
      path: an `audit.json` of a dataset of this source.
      items: the inputs; what is not among them is left out already.

    Raises:
      UsageError: there is no such file.
      DataError: it is no audit, is of another dataset, or holds only the first of its cases.
    """
    known = {item.id for item in items}
    try:
        document = parse_json(_text(path, "--exclude_findings"))
        if document["schema"] != _AUDIT_SCHEMA:
            raise ValueError(f"schema {document['schema']!r}")
        cases = list(_pairs(path, document["findings"]))
        excluded = _without_pairs(cases)
    except (ValueError, KeyError, TypeError, AttributeError) as error:
        raise DataError(f"{path} is not an audit.json of this program ({error})") from error
    if cases and not any(case["first"] in known for _, case in cases):
        raise DataError(
            f"{path} names pictures that this source lacks, such as {cases[0][1]['first']!r}: give an "
            "audit of this source"
        )
    return {name: entry for name, entry in excluded.items() if name in known}


_TWO_SPLITS, _TWO_CLASSES = "pictures_in_two_splits", "pictures_in_two_classes"
_SECOND, _REPEATED = "pictures_in_second_dataset", "repeated_pictures"


def _pairs(path: str, found: Iterable[Mapping[str, Any]]) -> Iterator[tuple[str, Mapping[str, Any]]]:
    """Yield (finding, case) of every pair of pictures."""
    for finding in found:
        if finding["name"] not in (_TWO_SPLITS, _TWO_CLASSES, _SECOND, _REPEATED):
            continue
        if finding["cases"] > len(finding["evidence"]):
            raise DataError(
                f"{path} names only {len(finding['evidence'])} of {finding['cases']} {finding['name']}: "
                f"python -m {tool('audit_dataset')} names all"
            )
        for case in finding["evidence"]:
            yield finding["name"], case


def _without_pairs(cases: Sequence[tuple[str, Mapping[str, Any]]]) -> dict[str, Quarantined]:
    of_training: dict[str, bool] = {}
    reason: dict[str, str] = {}
    for name, case in cases:
        sides = {"first": "in"} if name == _SECOND else {"first": "in", "second": "and"}
        for which, side in sides.items():
            reason.setdefault(case[which], f"{name}: {case['first']} and {case['second']}")
            if name in (_TWO_SPLITS, _REPEATED):
                of_training[case[which]] = case[side if name == _TWO_SPLITS else "in"] == "train"
    # Of many copies not every two are a pair: what is linked shows the same.
    links = [(case["first"], case["second"]) for name, case in cases if name != _SECOND]
    copies = tie_groups({name: name for name in reason}, links)
    spoilt = {copies[case["first"]] for name, case in cases if name in (_TWO_CLASSES, _SECOND)}
    stays: dict[str, str] = {}
    for name, root in copies.items():
        if root not in stays or of_training.get(stays[root], False) > of_training.get(name, False):
            stays[root] = name
    return {
        name: Quarantined(name, "excluded", reason[name])
        for name, root in copies.items()
        if root in spoilt or stays[root] != name
    }


def _text(path: str, flag: str) -> str:
    if storage.size(path) is None:
        raise UsageError(f"{flag}={path}: no such file")
    try:
        return storage.read_bytes(path).decode("utf-8-sig")
    except UnicodeDecodeError as error:
        raise DataError(f"{flag}={path} is not UTF-8 text: {error}") from error


def _name_of(path: str) -> str:
    return path.rstrip("/").rsplit("/", 1)[-1]


# -- balance -----------------------------------------------------------------------------------


def balance(items: Sequence[Item], by: str, own_splits: Collection[str], seed: int) -> dict[str, Quarantined]:
    """Return the pictures to leave out so that classes are equally frequent: {id: what the ledger says}.

    Args:
      items: the inputs, duplicates left out.
      by: "class": as many of every class. "source": as many of every class within each source, so that
        the source no longer predicts the class; a source that lacks a class is dropped.
      own_splits: the source's own splits that stay as they are, each of which is balanced by itself.
      seed: decides which pictures go.

    Raises:
      UsageError: "source", and none is known.
      DataError: no source has all classes.
    """
    if by == "source" and not any(item.source for item in items):
        raise UsageError(
            "--balance=source: no source is known: put the images into CLASS/SOURCE/ folders, or give a CSV "
            "with a column source"
        )
    cells: dict[tuple[str, str], dict[str, list[Item]]] = defaultdict(lambda: defaultdict(list))
    for item in items:
        split = item.split or ""
        place = split if split in own_splits else "", item.source if by == "source" else ""
        cells[place][item.label].append(item)
    classes = sorted({item.label for item in items})
    excluded: dict[str, Quarantined] = {}
    for (split, source), by_class in cells.items():
        kept = min(len(by_class[label]) for label in classes)
        missing = [label for label in classes if not by_class[label]]
        where = " ".join(filter(None, [f"source {source or '.'}" if by == "source" else "", split]))
        for label in classes:
            order = sorted(by_class[label], key=lambda item: seeded_hash(seed, "balance", item.id))
            detail = (
                f"{where} has no {', '.join(missing)}"
                if missing
                else f"{kept} of {len(order)} {label} pictures are kept{f' of {where}' if where else ''}"
            )
            excluded.update({i.id: Quarantined(i.id, "balanced", detail.strip()) for i in order[kept:]})
    if len(excluded) == len(items):
        raise DataError(f"--balance={by}: nothing is left: {_table(items, by, classes)}")
    return excluded


def _table(items: Iterable[Item], by: str, classes: Sequence[str]) -> str:
    """Return each source with its classes, the first few."""
    counts = Counter((item.source if by == "source" else "", item.label) for item in items)
    sources = sorted({source for source, _ in counts})[:_MOST_SOURCES]
    return "; ".join(
        f"{source or '.'}: {', '.join(f'{label} {counts[source, label]}' for label in classes)}"
        for source in sources
    )
