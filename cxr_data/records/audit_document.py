"""`audit.json`: how it is read."""

from collections.abc import Mapping
from typing import Any, NotRequired, TypedDict

from cxr_data.core import storage
from cxr_data.core.errors import DataError
from cxr_data.core.schema import Count, checked, parse_json
from cxr_data.core.wording import tool
from cxr_data.records.layout import AUDIT_NAME

SCHEMA = "cxr.audit/1"

Said = str | float | bool | tuple[str, ...] | None
"""What a case of a finding says of a picture or a patient."""


class FindingDocument(TypedDict):
    """A finding, see `audit.as_document`."""

    kind: str
    name: str
    text: str
    evidence: tuple[Mapping[str, Said], ...]
    cases: NotRequired[Count]


class ScoreDocument(TypedDict):
    """The score of a feature and a class."""

    feature: str
    label: str
    auroc: float
    low: float
    high: float
    p: float


class ConversionDocument(TypedDict):
    """What shards were made from."""

    source: NotRequired[str]
    flags: NotRequired[Mapping[str, str]]


class RemedyDocument(TypedDict):
    """A flag that does something about the findings."""

    flag: str
    value: str
    does: str


class SourcesDocument(TypedDict):
    """How many pictures each source has, and how well they tell it."""

    pictures: Mapping[str, Count]
    scores: tuple[ScoreDocument, ...]


class AuditDocument(TypedDict):
    """What readers need of an `audit.json`."""

    schema: str
    pictures: Count
    patients: Count
    notes: tuple[str, ...]
    findings: tuple[FindingDocument, ...]
    shortcuts: tuple[ScoreDocument, ...]
    alpha: NotRequired[float]
    sources: NotRequired[SourcesDocument]
    repair: NotRequired[tuple[RemedyDocument, ...]]
    conversion: NotRequired[ConversionDocument | None]
    second_dataset: NotRequired[str | None]


def read_audit(directory: str) -> Mapping[str, Any]:
    """Read `directory/audit.json`, as `audit.as_document` describes it.

    Raises:
      DataError: it is missing, damaged or of another schema.
    """
    return read_document(storage.join(directory, AUDIT_NAME))


def has_audit(directory: str) -> bool:
    """Return whether a folder holds an `audit.json`."""
    return storage.size(storage.join(directory, AUDIT_NAME)) is not None


def read_document(path: str) -> Mapping[str, Any]:
    """Read an `audit.json`. Raises DataError if it is missing, damaged or of another schema."""
    if storage.size(path) is None:
        raise DataError(f"{path} is missing: python -m {tool('audit_dataset')} writes it")
    try:
        parsed = parse_json(storage.read_bytes(path))
        if isinstance(parsed, dict) and parsed.get("schema") != SCHEMA:
            raise ValueError(f"schema {str(parsed.get('schema'))[:60]!r}")
        checked(AuditDocument, parsed)
    except ValueError as error:
        raise DataError(
            f"{path} is damaged ({error}): python -m {tool('audit_dataset')} writes it again"
        ) from error
    document: Mapping[str, Any] = parsed
    return document
