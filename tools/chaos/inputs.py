"""Damaged images of every format, converted: each becomes a record or a line of the ledger, and none more."""

import random
import shutil
import struct
from pathlib import Path

from damaged_files import damaged_files
from dicom_files import COMPRESSED, make_dicom, with_element
from image_files import DEEP, GRAY, every_kind
from sharder_fixtures import make_source, save

from cxr_data.convert.config import SharderConfig
from cxr_data.convert.convert import make_tfrecords
from cxr_data.records.manifest import read_manifest
from cxr_data.records.quarantine_file import read_quarantine
from cxr_data.records.verify import verify_dataset
from cxr_data.sources.quarantine import REASONS
from tools.chaos.attack import Attack
from tools.chaos.life import Life

_FILES = 250
_INTACT = 6
_ELEMENTS = (
    "PatientID", "StudyInstanceUID", "SOPInstanceUID", "Modality", "Rows", "Columns", "SamplesPerPixel",
    "PhotometricInterpretation", "BitsAllocated", "BitsStored", "HighBit", "PixelRepresentation",
)  # fmt: skip
_TYPES = ("AE", "AS", "AT", "CS", "DA", "DS", "DT", "FD", "FL", "IS", "LO", "OB", "OW", "PN", "SH", "SL",
          "SQ", "SS", "ST", "TM", "UI", "UL", "UN", "US", "UT", "\0\0", "zz")  # fmt: skip
_VALUES = (b"", b"\0", b"\xff" * 8, b"\0" * 8, b"x" * 7, b"1e999\\nan", b"-1", b"9" * 40, b"\x1b[2J\r\n")


class DamagedInputs(Attack):
    """Bits, holes, cuts, foreign parts, impossible sizes, and DICOM elements that are not what they say."""

    name, unit, usual = "inputs", "damaged inputs", 10_000

    def prepare(self) -> None:
        """Make one whole file of every kind."""
        self._kinds = every_kind() | {
            f"DICOM {syntax.name}": make_dicom(DEEP >> 4 if "Baseline" not in syntax.name else GRAY,
                                               syntax=syntax, bits=12 if "Baseline" not in syntax.name else 8)
            for syntax in COMPRESSED
        }  # fmt: skip
        self._kinds = {name: content for name, content in self._kinds.items() if len(content) > 8}
        # As many of one format as of any other, but for DICOM, which has the most ways to be wrong.
        formats = sorted({name.split()[0].lower().split("-")[0] for name in self._kinds})
        self._formats = [
            [name for name in self._kinds if name.lower().startswith(one)]
            for one in (*formats, "dicom", "dicom", "dicom")
        ]

    def attempt(self, seed: int) -> int:
        """Convert many damaged files and a few whole ones."""
        rng = random.Random(seed)
        source, output = self.folder / "source", self.folder / "out"
        for folder in (source, output):
            shutil.rmtree(folder, ignore_errors=True)
        make_source(source, _INTACT)
        listed = rng.sample(list(damaged_files(rng)), _FILES // 10)
        for number in range(_FILES):
            name, content = listed[number] if number < len(listed) else self._damaged(rng)
            suffix = rng.choice((".png", ".jpg", ".dcm", ".tif", Path(name).suffix or ".png"))
            save(source / rng.choice(("covid", "normal")) / f"{number}{suffix}", content)
        config = SharderConfig(
            str(source), str(output), size=16, quiet=True, shard_mb=0.05, max_pixels=10**6, max_bad=1.0,
            workers=rng.randrange(3), audit=rng.random() < 0.1, color=rng.choice(("gray", "keep")),
        )  # fmt: skip
        life = Life(lambda: make_tfrecords(config), self.folder / "log")
        try:
            life.succeed()
        finally:
            life.end()
        made = read_manifest(str(output))
        left_out = read_quarantine(str(output))
        assert made.source_counts["discovered"] == _FILES + _INTACT == made.records + len(left_out)
        assert made.records >= _INTACT, "a whole file was refused"
        assert {entry.reason for entry in left_out} <= REASONS.keys()
        assert all(entry.detail for entry in left_out)
        problems = verify_dataset(str(output), 2).problems
        assert not problems, problems[0]
        return _FILES

    def _damaged(self, rng: random.Random) -> tuple[str, bytes]:
        """Return the name and content of a file with one or several kinds of damage."""
        name = rng.choice(rng.choice(self._formats))
        content = self._kinds[name]
        if name.startswith("DICOM") and rng.random() < 0.5:
            content = _with_wrong_element(content, rng)
        for _ in range(rng.choice((1, 1, 2))):
            content = rng.choice(_DAMAGES)(content, rng, rng.choice(list(self._kinds.values())))
        return name, content


def _with_wrong_element(content: bytes, rng: random.Random) -> bytes:
    raw = rng.choice((*_VALUES, rng.randbytes(rng.randrange(1, 30))))
    try:
        return with_element(content, rng.choice(_ELEMENTS), rng.choice(_TYPES), raw)
    except ValueError:  # this file has no such element
        return content


def _flipped(content: bytes, rng: random.Random, _: bytes) -> bytes:
    changed = bytearray(content)
    for _ in range(rng.choice((1, 3, 30)) if changed else 0):
        changed[rng.randrange(len(changed))] ^= 1 << rng.randrange(8)
    return bytes(changed)


def _cut(content: bytes, rng: random.Random, _: bytes) -> bytes:
    return content[: rng.randrange(len(content) + 1)]


def _with_hole(content: bytes, rng: random.Random, _: bytes) -> bytes:
    start = rng.randrange(len(content) + 1)
    size = rng.randrange(1, 400)
    return content[:start] + rng.choice((b"\0", b"\xff")) * size + content[start + size :]


def _spliced(content: bytes, rng: random.Random, other: bytes) -> bytes:
    return content[: rng.randrange(len(content) + 1)] + other[rng.randrange(len(other)) :]


def _with_number(content: bytes, rng: random.Random, _: bytes) -> bytes:
    """Put a number that is too large, as sizes and offsets can be, near the beginning or anywhere."""
    number = struct.pack(
        rng.choice("<>") + "I", rng.choice((0, 1, 0xFFFF, 0x7FFF_FFFF, 0x8000_0000, 0xFFFF_FFFF))
    )[: rng.choice((2, 4))]
    start = rng.randrange(min(len(content), rng.choice((64, 400, 100_000))) + 1)
    return content[:start] + number + content[start + len(number) :]


def _without_part(content: bytes, rng: random.Random, _: bytes) -> bytes:
    start = rng.randrange(len(content) + 1)
    return content[:start] + content[start + rng.randrange(1, 60) :]


def _undamaged(content: bytes, rng: random.Random, _: bytes) -> bytes:
    return content


_DAMAGES = (_flipped, _flipped, _cut, _with_hole, _spliced, _with_number, _without_part, _undamaged)
ATTACK = DamagedInputs
