"""DICOM files whose identifying elements are malformed: wrong VRs, wrong lengths, random bytes."""

import struct
from collections.abc import Iterator

import numpy as np
from dicom_files import make_dicom, with_element
from sharder_fixtures import picture

KEYWORDS = ("PatientID", "IssuerOfPatientID", "StudyInstanceUID", "SOPInstanceUID")
REPRESENTATIONS = (
    *("US", "UL", "SS", "SL", "FL", "FD", "AT", "SQ", "OB", "UN", "DS", "IS", "DA", "TM", "UV", "SV"),
    *("PN", "OF", "ZZ", "\x00\x01"),
)
VALUES = (b"\x01\x02\x03", b"abc\\def", b"\xff\xfe\xfd\xfc")
CHARACTER_SETS = (b"ISO 2022 IR 999", b"\xff\xff", b"GB18030 ", b"\\ISO 2022 IR 87", b"utf-16")


def malformed_dicoms(seed: int = 0) -> Iterator[tuple[str, bytes]]:
    """Yields (name, bytes), some 300, each with a picture of its own."""
    rng = np.random.default_rng(seed)
    number = 0

    def whole() -> bytes:
        nonlocal number
        number += 1
        tags = {"IssuerOfPatientID": "I", "SpecificCharacterSet": "ISO_IR 100"}
        return make_dicom(picture(number, 20, 24), bits=8, patient=f"P{number}", **tags)

    for keyword in KEYWORDS:
        for vr in REPRESENTATIONS:
            for value in VALUES[: 2 if keyword == "SOPInstanceUID" else 3]:
                yield f"{keyword}_{vr.encode().hex()}_{number}", with_element(whole(), keyword, vr, value)
    for value in CHARACTER_SETS:
        data = with_element(whole(), "SpecificCharacterSet", "CS", value)
        yield f"charset_{number}", with_element(data, "PatientID", "LO", b"\x1b$B\xff\xfe!")
    for length in (1, 7, 255, 0xFFFE, 0xFFFF):
        for keyword in ("PatientID", "StudyInstanceUID"):
            yield f"length_{keyword}_{length}", _with_length(whole(), keyword, length)
    for _ in range(40):
        value = rng.bytes(rng.integers(1, 64))
        yield f"value_{number}", with_element(whole(), str(rng.choice(KEYWORDS)), "LO", value)
    for _ in range(40):
        data = bytearray(whole())
        start = data.index(b"P%d" % number) - 8
        for position in rng.integers(start, start + 60, rng.integers(1, 12)):
            data[position] = rng.integers(0, 256)
        yield f"random_{number}", bytes(data)


def _with_length(data: bytes, keyword: str, length: int) -> bytes:
    """The same file, an element of which states a length that is wrong."""
    other = with_element(data, keyword, "LO", b"LONGNAME")
    at = other.index(b"LONGNAME") - 2
    return other[:at] + struct.pack("<H", length) + other[at + 2 :]
