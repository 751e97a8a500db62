"""DICOM: the header by pydicom, the pixels by tensorflow-io, the look by both rules of the standard.

tensorflow-io decodes every common transfer syntax of MONOCHROME2 exactly, but it inverts
MONOCHROME1 by itself and inexactly, ignores windows, distorts rescaled, signed and
overlaid images, and fills up pixels that are cut off. So the stored values are taken from
it where they are plain (MONOCHROME1 under the name of 2), and from pydicom where
not; rescale, VOI LUT or window, and inversion follow here, in the standard's order
(PS3.4 N.2.1).
"""

import hashlib
import hmac
import io
import re
import warnings
import zlib
from collections.abc import Iterable
from typing import Any

import numpy as np

from cxr_data.images.undecodable import Undecodable


def read_header(data: bytes) -> Any:
    """The header as a pydicom Dataset, without the pixels. Raises Undecodable if it is none."""
    import pydicom

    _refuse_bomb(data)
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")  # odd values in tags that are not used here
        try:
            # force: some archives leave out the 128-byte preamble; decode.sniff has looked already.
            return pydicom.dcmread(io.BytesIO(data), stop_before_pixels=True, force=True)
        except Exception as error:  # pydicom raises anything on damaged bytes
            raise Undecodable("damaged", f"DICOM header: {error}") from error


_DEFLATED = b"1.2.840.10008.1.2.1.99"
_LARGEST_INFLATED = 1 << 30


def _refuse_bomb(data: bytes) -> None:
    """Raises Undecodable if a deflated file inflates to more than any image: pydicom inflates all of it."""
    if data[128:132] != b"DICM" or _DEFLATED not in data[132:2048]:
        return
    # The meta header begins with its own length; what follows it is one raw deflate stream (PS3.5 A.5).
    start = 144 + int.from_bytes(data[140:144], "little")
    try:
        inflated = zlib.decompressobj(-zlib.MAX_WBITS).decompress(data[start:], _LARGEST_INFLATED + 1)
    except zlib.error as error:
        raise Undecodable("damaged", f"DICOM header: {error}") from error
    if len(inflated) > _LARGEST_INFLATED:
        raise Undecodable("too_large", f"a deflated DICOM file of more than {_LARGEST_INFLATED} bytes")


def patient_of(header: Any) -> str:
    """PatientID with its issuer, or "" where there is none."""
    patient = str(header.get("PatientID", "") or "").strip()
    issuer = str(header.get("IssuerOfPatientID", "") or "").strip()
    return f"{issuer}|{patient}" if patient else ""


def identity_of(header: Any) -> str:
    """What the salt is made of: the identifiers of one file."""
    return "|".join(str(header.get(name, "")) for name in ("PatientID", "StudyInstanceUID", "SOPInstanceUID"))


def salt_of(identities: Iterable[str]) -> bytes:
    """The salt of a dataset: known to whoever has all its headers, and to nobody else.

    It is never written, and being a function of the inputs it is the same when a run is
    repeated, resumed, or made on another machine.
    """
    digest = hashlib.sha256()
    for identity in sorted(identities):
        digest.update(len(identity).to_bytes(8, "little") + identity.encode("utf-8", "replace"))
    return digest.digest()


def pseudonym(patient: str, salt: bytes) -> str:
    """The group that stands for a patient in records."""
    return "patient-" + hmac.new(salt, patient.encode("utf-8", "replace"), hashlib.sha256).hexdigest()[:16]


def decode_first_frame(data: bytes, header: Any, max_pixels: int) -> np.ndarray:
    """Decodes the first frame as it is meant to be looked at, white for dense.

    Args:
      data: the whole file.
      header: of `data`, from `read_header`.
      max_pixels: larger images are refused before their pixels are touched.

    Returns:
      uint8, [H, W] for monochrome, [H, W, 3] for colour.

    Raises:
      Undecodable: no pixels, an unknown photometric interpretation, or more than `max_pixels`.
    """
    rows, columns = int(header.get("Rows", 0) or 0), int(header.get("Columns", 0) or 0)
    if not rows or not columns:
        raise Undecodable("unsupported", "a DICOM file without an image")
    if rows * columns > max_pixels:
        raise Undecodable("too_large", f"{columns}x{rows} pixels")
    _refuse_truncated(data, header)
    photometric = str(header.get("PhotometricInterpretation", ""))
    if not photometric.startswith("MONOCHROME"):
        return _color(data)
    stored = _stored_by_tensorflow(data) if _is_plain(header) else _stored_by_pydicom(data)
    bright = _windowed(stored, header)
    return 255 - bright if photometric == "MONOCHROME1" else bright


def _is_plain(header: Any) -> bool:
    """Whether tensorflow-io gives the stored values (see the head of this file)."""
    return (
        int(header.get("PixelRepresentation", 0)) == 0
        and int(header.get("SamplesPerPixel", 1)) == 1
        and float(header.get("RescaleSlope", 1) or 1) == 1
        and float(header.get("RescaleIntercept", 0) or 0) == 0
        and "ModalityLUTSequence" not in header
        and not any(0x6000 <= element.tag.group <= 0x60FF for element in header)
        and int(header.get("BitsStored", 16)) <= 16
        and bool(header.original_encoding[1])  # little-endian, as _MONOCHROME1 expects
    )


# (0028,0004), perhaps CS, length 12: the value may be renamed in place.
_MONOCHROME1 = re.compile(rb"(\x28\x00\x04\x00(?:CS\x0c\x00|\x0c\x00\x00\x00)MONOCHROME)1")


def _stored_by_tensorflow(data: bytes) -> np.ndarray:
    """Stored values [H, W] uint16."""
    import tensorflow as tf
    import tensorflow_io as tfio

    renamed = _MONOCHROME1.sub(rb"\g<1>2", data, count=1)
    try:
        image = tfio.image.decode_dicom_image(
            renamed, color_dim=True, on_error="strict", dtype=tf.uint16
        ).numpy()
    except tf.errors.OpError as error:
        raise Undecodable("damaged", f"DICOM: {error.message}") from error
    if image.ndim != 4 or not image.size:
        raise Undecodable("damaged", "DICOM: no pixels")
    return np.asarray(image[0, ..., 0])


def _refuse_truncated(data: bytes, header: Any) -> None:
    """Raises Undecodable if pixels are missing: the decoders would make some up."""
    whole = _read_whole(data)  # raises if an encapsulated stream has no end
    if "PixelData" not in whole:
        raise Undecodable("truncated", "DICOM: no pixels")
    if not whole.file_meta.TransferSyntaxUID.is_compressed:
        samples = int(header.Rows) * int(header.Columns) * int(header.get("SamplesPerPixel", 1))
        expected = samples * int(header.get("BitsAllocated", 8)) // 8
        if len(whole.PixelData) < expected and "YBR" not in str(header.PhotometricInterpretation):
            raise Undecodable("truncated", f"DICOM: {len(whole.PixelData)} of {expected} bytes of pixels")


def _read_whole(data: bytes) -> Any:
    import pydicom

    whole = pydicom.dcmread(io.BytesIO(data), force=True)
    if "TransferSyntaxUID" not in whole.file_meta:
        # Without a preamble nothing states the syntax, and only the uncompressed ones occur.
        implicit = whole.original_encoding[0]
        whole.file_meta.TransferSyntaxUID = (
            pydicom.uid.ImplicitVRLittleEndian if implicit else pydicom.uid.ExplicitVRLittleEndian
        )
    return whole


def _stored_by_pydicom(data: bytes) -> np.ndarray:
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")
        pixels = _read_whole(data).pixel_array
    return pixels[0] if pixels.ndim == 3 else pixels


def _color(data: bytes) -> np.ndarray:
    from pydicom.pixels import apply_color_lut, convert_color_space

    with warnings.catch_warnings():
        warnings.simplefilter("ignore")
        whole = _read_whole(data)
        pixels = whole.pixel_array
        pixels = pixels[0] if pixels.ndim == 4 else pixels
        photometric = str(whole.PhotometricInterpretation)
        if photometric == "PALETTE COLOR":
            pixels = apply_color_lut(pixels, whole)
        elif photometric.startswith("YBR") and not whole.file_meta.TransferSyntaxUID.is_compressed:
            # The decoders of compressed syntaxes have done this already.
            pixels = convert_color_space(pixels, photometric, "RGB")
    if pixels.ndim != 3 or pixels.shape[2] != 3:
        raise Undecodable("unsupported", f"photometric interpretation {photometric!r}")
    return pixels if pixels.dtype == np.uint8 else (pixels >> (int(whole.BitsStored) - 8)).astype(np.uint8)


def _windowed(stored: np.ndarray, header: Any) -> np.ndarray:
    """Modality LUT, then the first VOI LUT or window, or the full range of the bits stored."""
    from pydicom.pixels import apply_modality_lut, apply_voi_lut, apply_windowing

    with warnings.catch_warnings():
        warnings.simplefilter("ignore")
        values = apply_modality_lut(stored, header)
        if header.get("VOILUTSequence"):
            values = apply_voi_lut(values, header)
        elif header.get("WindowCenter") is not None and header.get("WindowWidth") is not None:
            values = apply_windowing(values, header)
    low, high = _output_range(header)
    scaled = (np.asarray(values, np.float64) - low) * (255.0 / (high - low))
    return np.clip(np.rint(scaled), 0, 255).astype(np.uint8)


def _output_range(header: Any) -> tuple[float, float]:
    """Smallest and largest value that the VOI transformation, or its absence, can give."""
    if header.get("VOILUTSequence"):
        bits = int(header.VOILUTSequence[0].LUTDescriptor[2])
        return 0.0, float((1 << bits) - 1)
    bits, signed = int(header.get("BitsStored", 16)), int(header.get("PixelRepresentation", 0))
    low, high = (-(1 << bits - 1), (1 << bits - 1) - 1) if signed else (0, (1 << bits) - 1)
    if header.get("ModalityLUTSequence"):
        return 0.0, float((1 << int(header.ModalityLUTSequence[0].LUTDescriptor[2])) - 1)
    slope, intercept = (
        float(header.get("RescaleSlope", 1) or 1),
        float(header.get("RescaleIntercept", 0) or 0),
    )
    ends = (low * slope + intercept, high * slope + intercept)
    return min(ends), max(ends)
