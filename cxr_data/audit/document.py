"""`audit.json`: how it is read."""

import json
from collections.abc import Mapping
from typing import Any

from cxr_data.core import storage
from cxr_data.core.errors import DataError
from cxr_data.core.wording import tool
from cxr_data.records.layout import AUDIT_NAME

SCHEMA = "cxr.audit/1"


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
        document: dict[str, Any] = json.loads(storage.read_bytes(path))
        if document["schema"] != SCHEMA:
            raise ValueError(f"schema {document['schema']!r}")
        for name in ("pictures", "patients", "notes", "findings", "shortcuts"):
            if name not in document:
                raise ValueError(f"it has no {name!r}")
    except (ValueError, KeyError, TypeError) as error:
        raise DataError(
            f"{path} is damaged ({error}): python -m {tool('audit_dataset')} writes it again"
        ) from error
    return document
