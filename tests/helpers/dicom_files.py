"""DICOM files made for tests, in every transfer syntax that there is an encoder for."""

import base64
import io
import struct
from typing import Any

import imagecodecs
import numpy as np
from pydicom import uid
from pydicom.datadict import tag_for_keyword
from pydicom.dataset import Dataset, FileDataset, FileMetaDataset
from pydicom.encaps import encapsulate
from pydicom.sequence import Sequence
from pydicom.valuerep import EXPLICIT_VR_LENGTH_32

# Of `HTJ2K_PIXELS`, reversibly, by OpenJPH 0.26.3: nothing that is installed encodes it.
HTJ2K_FRAME = base64.b64decode(
    "/0//UQApQAAAAAAUAAAADAAAAAAAAAAAAAAAFAAAAAwAAAAAAAAAAAABDwEB/1AACAACAAAACv9SAAwAAgABAAUEBEAB/1wAEyCIkJCQ"
    "kJCQkJCQkJCQiIiI/2QAFwABT3BlbkpQSCBWZXIgMC4yNi4zLv+QAAoAAAAAAJMAAf+TwAAm6fMFB3QAwAATAC7+Agd0AMAAEsAAFQD5"
    "AEd0ALyW1/4A4jQAwAASwAAVIMkAQnQAvb3eAAAA9jYAwAAVMAAFeEpF+dCP4It2APjFL37xi9/gKP5Sgb64AMAAKuAAFsAAAADA78p6"
    "cAJ3AKaaMmXKlClTpkyZ+vyIPZCAe/ZCAey8AP/Z"
)
HTJ2K_PIXELS = (np.arange(240) * 17 % 4096).reshape(12, 20).astype(np.uint16)


def lookup_table(data: Any, first: int = 0, claimed: int = 16) -> Sequence:
    """A VOI or modality LUT whose descriptor claims so many bits."""
    item = Dataset()
    item.LUTDescriptor = [len(data) % 65_536, first, claimed]
    item.add_new("LUTData", "OW", np.asarray(data, "<u2").tobytes())
    return Sequence([item])


def compressed(stored: np.ndarray, syntax: str, bits: int = 12) -> bytes:
    """One frame [H, W] or [H, W, 3] in a transfer syntax, without loss where it can be."""
    if syntax == uid.JPEGBaseline8Bit:
        return imagecodecs.jpeg8_encode(stored, level=95)
    if syntax == uid.JPEGExtended12Bit:
        return imagecodecs.jpeg8_encode(stored, level=100, bitspersample=bits)
    if syntax in (uid.JPEGLossless, uid.JPEGLosslessSV1):
        colors = {"colorspace": "RGB", "outcolorspace": "RGB"} if stored.ndim == 3 else {}
        return imagecodecs.jpeg8_encode(stored, lossless=True, predictor=1, bitspersample=bits, **colors)
    if syntax in (uid.JPEGLSLossless, uid.JPEGLSNearLossless):
        return imagecodecs.jpegls_encode(stored)
    if syntax in (uid.JPEG2000, uid.JPEG2000Lossless):
        return imagecodecs.jpeg2k_encode(stored, level=0, codecformat="J2K", reversible=True, mct=False)
    raise ValueError(syntax)


COMPRESSED = (
    uid.JPEGBaseline8Bit,
    uid.JPEGExtended12Bit,
    uid.JPEGLossless,
    uid.JPEGLosslessSV1,
    uid.JPEGLSLossless,
    uid.JPEGLSNearLossless,
    uid.JPEG2000,
    uid.JPEG2000Lossless,
    uid.RLELossless,
)


def make_dataset(
    stored: np.ndarray,
    photometric: str = "MONOCHROME2",
    bits: int = 12,
    patient: str = "P1",
    syntax: str = uid.ExplicitVRLittleEndian,
    frames: tuple[bytes, ...] = (),
    **tags: Any,
) -> FileDataset:
    """A DICOM file of stored values [H, W] or [H, W, 3] before it is written; `frames` replace these."""
    meta = FileMetaDataset()
    encoded_at_the_end = syntax == uid.RLELossless and not frames
    meta.TransferSyntaxUID = uid.ExplicitVRLittleEndian if encoded_at_the_end else syntax
    meta.MediaStorageSOPClassUID = "1.2.840.10008.5.1.4.1.1.1"
    meta.MediaStorageSOPInstanceUID = uid.generate_uid()
    little = syntax != uid.ExplicitVRBigEndian
    data = FileDataset("x", {}, b"\0" * 128, meta, syntax == uid.ImplicitVRLittleEndian, little)
    data.PatientID = patient
    data.StudyInstanceUID = "1.2.3"
    data.SOPInstanceUID = meta.MediaStorageSOPInstanceUID
    data.SOPClassUID = meta.MediaStorageSOPClassUID
    data.Modality = "CR"
    data.Rows, data.Columns = stored.shape[:2]
    data.SamplesPerPixel = 3 if stored.ndim == 3 else 1
    if stored.ndim == 3:
        data.PlanarConfiguration = 0
    data.PhotometricInterpretation = photometric
    data.BitsAllocated = stored.dtype.itemsize * 8
    data.BitsStored, data.HighBit = bits, bits - 1
    data.PixelRepresentation = int(stored.dtype.kind == "i")
    for name, value in tags.items():
        setattr(data, name, value)
    if frames:
        data.PixelData = encapsulate(list(frames))
        data["PixelData"].is_undefined_length = True
        data["PixelData"].VR = "OB"
    elif syntax in COMPRESSED and syntax != uid.RLELossless:
        return make_dataset(
            stored, photometric, bits, patient, syntax, (compressed(stored, syntax, bits),), **tags
        )
    else:
        data.PixelData = stored.tobytes()
        data["PixelData"].VR = "OW" if data.BitsAllocated > 8 else "OB"
    if encoded_at_the_end:
        data.compress(syntax, encoding_plugin="pydicom")
    return data


def write(data: FileDataset, **options: Any) -> bytes:
    """The bytes of a file."""
    buffer = io.BytesIO()
    data.save_as(buffer, **{"enforce_file_format": True} | options)
    return buffer.getvalue()


def make_dicom(stored: np.ndarray, photometric: str = "MONOCHROME2", **options: Any) -> bytes:
    """The bytes of a DICOM file, see `make_dataset`."""
    return write(make_dataset(stored, photometric, **options))


def with_element(data: bytes, keyword: str, vr: str, raw: bytes) -> bytes:
    """A file in explicit little endian with other bytes, right or wrong, in an element that it has."""
    tag = tag_for_keyword(keyword)
    start = data.index(struct.pack("<HH", tag >> 16, tag & 0xFFFF), 132)
    end = start + 8 + int.from_bytes(data[start + 6 : start + 8], "little")
    short = struct.pack("<2sH", vr.encode(), len(raw))
    long = struct.pack("<2sHI", vr.encode(), 0, len(raw))
    return data[: start + 4] + (long if vr in EXPLICIT_VR_LENGTH_32 else short) + raw + data[end:]
