"""Whose picture a DICOM file is, and the pseudonym under which records say it."""

import hashlib
import hmac
from collections.abc import Callable, Iterable
from typing import Any, NamedTuple

from cxr_data.images.dicom_header import Header, read_header, value_or
from cxr_data.images.guarded import Limits, SourceFile, guarded
from cxr_data.images.source_file import read_source
from cxr_data.sources.names import is_nobody


class Identity(NamedTuple):
    """What a file says of its patient, see `patient_of` and `identity_of`."""

    patient: str
    identity: str


def read_patient(file: SourceFile, max_pixels: int, limits: Limits) -> Identity:
    """Read the header of a file; for a process that may end of it.

    Raises:
      Undecodable: it cannot be read, takes more than it may, or is no DICOM file.
    """
    data = read_source(file.path, max_pixels, file.bytes, limits.memory)
    with guarded(limits, len(data)):
        header = read_header(data)
        return Identity(patient_of(header), identity_of(header))


def patient_of(header: Header) -> str:
    """Return PatientID with its issuer, or "" where there is none, or one that names nobody, as ANONYMOUS."""
    patient = _text(header, "PatientID", _or_nothing).strip()
    issuer = _text(header, "IssuerOfPatientID", _or_nothing).strip()
    return "" if is_nobody(patient) else f"{issuer}|{patient}"


def identity_of(header: Header) -> str:
    """Return what the salt is made of: the identifiers of one file; "" where it has none at all."""
    texts = [_text(header, name, str) for name in ("PatientID", "StudyInstanceUID", "SOPInstanceUID")]
    return "|".join(texts) if any(texts) else ""


def _or_nothing(value: Any) -> str:
    return str(value or "")


def _text(header: Header, keyword: str, convert: Callable[[Any], str]) -> str:
    text: str | None = value_or(None, lambda: convert(header.dataset.get(keyword, "")))
    # The bytes are the same for all pictures of a patient, so that these stay in one split.
    return header.raw(keyword).decode("latin-1") if text is None else text


def salt_of(identities: Iterable[str]) -> bytes:
    """Return the salt of a dataset: known to whoever has all its headers, and to nobody else.

    It is never written, and being a function of the inputs it is the same when a run is
    repeated, resumed, or made on another machine. A file without an identity, as one whose header
    cannot be read, changes nothing.
    """
    digest = hashlib.sha256()
    for identity in sorted(filter(None, identities)):
        digest.update(len(identity).to_bytes(8, "little") + identity.encode("utf-8", "replace"))
    return digest.digest()


def pseudonym(patient: str, salt: bytes) -> str:
    """Return the group that stands for a patient in records."""
    return "patient-" + hmac.new(salt, patient.encode("utf-8", "replace"), hashlib.sha256).hexdigest()[:16]
