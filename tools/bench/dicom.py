"""Decoding DICOM by transfer syntax, against bare pydicom and tensorflow-io, on one thread.

One made picture of --side pixels and 12 bits (8 for JPEG Baseline) is stored in each transfer syntax, with a
window. `cxr` is all that the sharder does to the bytes before it resizes: header, pixels, window, 8 bits. The
references give the stored values and stop there. The rounds take turns, and the median counts.
"""

import contextlib
import io
import statistics
import time
import warnings
from collections.abc import Callable
from dataclasses import asdict, dataclass

import imagecodecs
import numpy as np
from absl import flags
from pydicom import uid
from pydicom.dataset import FileDataset, FileMetaDataset
from pydicom.encaps import encapsulate
from pydicom.pixels import get_decoder, pixel_array

from cxr_data.core.progress_bar import progress_bar
from cxr_data.images.decode import decode_pixels
from tools.bench.output import table

FLAGS = flags.FLAGS

CAVEAT = (
    "one made picture: real ones compress otherwise; tensorflow-io and pydicom apply no window, and pydicom "
    "decodes JPEG Lossless and JPEG-LS by the same codecs as cxr"
)

_MAX_PIXELS = 1 << 30


@dataclass(frozen=True)
class Row:
    """One transfer syntax: images a second of each way, None where it cannot decode it."""

    syntax: str
    kilobytes: int
    cxr: float
    pydicom: float | None
    tensorflow_io: float | None


def define_flags() -> None:
    """Define the flags of this benchmark."""
    flags.DEFINE_integer("side", 1024, "Height and width of the picture.")
    flags.DEFINE_integer("images", 20, "Images a round.")
    flags.DEFINE_integer("rounds", 5, "Rounds; the median counts.")


# -- the files ---------------------------------------------------------------------------------


def made_picture(side: int) -> np.ndarray:
    """Smooth shapes with a detector's noise: uint16 [side, side] of 12 bits."""
    rng = np.random.default_rng(0)
    y, x = np.mgrid[-1 : 1 : side * 1j, -1 : 1 : side * 1j]
    shapes = 1500 + 900 * np.cos(3 * x) * np.cos(2 * y) + 300 * np.sin(25 * y) * (np.abs(x) < 0.6)
    return np.clip(shapes + rng.normal(0, 12, (side, side)), 0, 4095).astype(np.uint16)


_ENCODERS: dict[str, Callable[[np.ndarray], bytes]] = {
    uid.JPEGBaseline8Bit: lambda picture: imagecodecs.jpeg8_encode((picture >> 4).astype(np.uint8), level=90),
    uid.JPEGExtended12Bit: lambda picture: imagecodecs.jpeg8_encode(picture, level=90, bitspersample=12),
    uid.JPEGLosslessSV1: lambda picture: imagecodecs.jpeg8_encode(
        picture, lossless=True, predictor=1, bitspersample=12
    ),
    uid.JPEGLSLossless: imagecodecs.jpegls_encode,
    uid.JPEG2000Lossless: lambda picture: imagecodecs.jpeg2k_encode(
        picture, level=0, codecformat="J2K", reversible=True
    ),
}

SYNTAXES = (uid.ImplicitVRLittleEndian, uid.ExplicitVRLittleEndian, uid.RLELossless, *_ENCODERS)


def dicom_file(picture: np.ndarray, syntax: str) -> bytes:
    """Return the bytes of a file of a picture in a transfer syntax."""
    meta = FileMetaDataset()
    meta.MediaStorageSOPClassUID = uid.ComputedRadiographyImageStorage
    meta.MediaStorageSOPInstanceUID = uid.generate_uid()
    meta.TransferSyntaxUID = uid.ExplicitVRLittleEndian if syntax == uid.RLELossless else syntax
    data = FileDataset("made", {}, b"\0" * 128, meta, syntax == uid.ImplicitVRLittleEndian)
    data.SOPClassUID, data.SOPInstanceUID = meta.MediaStorageSOPClassUID, meta.MediaStorageSOPInstanceUID
    eight = syntax == uid.JPEGBaseline8Bit
    data.Rows, data.Columns = picture.shape
    data.SamplesPerPixel, data.PhotometricInterpretation, data.PixelRepresentation = 1, "MONOCHROME2", 0
    data.BitsAllocated, data.BitsStored, data.HighBit = (8, 8, 7) if eight else (16, 12, 11)
    data.WindowCenter, data.WindowWidth = (96, 192) if eight else (1536, 3072)
    encode = _ENCODERS.get(syntax)
    data.PixelData = encapsulate([encode(picture)]) if encode else picture.tobytes()
    data["PixelData"].VR = "OB" if encode else "OW"
    data["PixelData"].is_undefined_length = encode is not None
    if syntax == uid.RLELossless:
        data.compress(syntax, encoding_plugin="pydicom")
    buffer = io.BytesIO()
    data.save_as(buffer, enforce_file_format=True)
    return buffer.getvalue()


# -- the ways ----------------------------------------------------------------------------------


def by_cxr(data: bytes) -> np.ndarray:
    """Decode with this project: uint8 [H, W]."""
    return decode_pixels(data, "gray", _MAX_PIXELS)


def by_pydicom(data: bytes) -> np.ndarray:
    """Return the stored values, by the first of pydicom's decoders."""
    return pixel_array(io.BytesIO(data), index=0)


def by_tensorflow_io(data: bytes) -> np.ndarray:
    """Return the stored values, by DCMTK in tensorflow-io."""
    import tensorflow as tf
    import tensorflow_io as tfio

    image = tfio.image.decode_dicom_image(data, color_dim=True, on_error="strict", dtype=tf.uint16)
    return np.asarray(image.numpy()[0, ..., 0])


WAYS = {"cxr": by_cxr, "pydicom": by_pydicom, "tensorflow_io": by_tensorflow_io}


def _can(decode: Callable[[bytes], np.ndarray], data: bytes) -> bool:
    with contextlib.suppress(Exception):
        decode(data)
        return True
    return False


def measure(data: bytes, images: int, rounds: int) -> dict[str, float | None]:
    """Images a second of each way, None where it cannot decode the file."""
    seconds: dict[str, list[float]] = {name: [] for name, decode in WAYS.items() if _can(decode, data)}
    for _ in range(rounds):
        for name, taken in seconds.items():
            began = time.perf_counter()
            for _ in range(images):
                WAYS[name](data)
            taken.append(time.perf_counter() - began)
    return {name: images / statistics.median(seconds[name]) if name in seconds else None for name in WAYS}


def main() -> list[dict[str, object]]:
    """Read the flags, measure, print a table and return it for JSON."""
    warnings.filterwarnings("ignore", module="pydicom")
    picture = made_picture(FLAGS.side)
    rows = []
    for syntax in progress_bar("measure", "syntaxes", len(SYNTAXES), SYNTAXES):
        data = dicom_file(picture, syntax)
        rates = measure(data, FLAGS.images, FLAGS.rounds)
        rows.append(Row(get_decoder(syntax).UID.name[:40], len(data) // 1000, **rates))
    columns: dict[str, Callable[[Row], str]] = {
        "transfer syntax": lambda row: row.syntax,
        "kB": lambda row: str(row.kilobytes),
        "cxr img/s": lambda row: f"{row.cxr:.1f}",
        "pydicom": lambda row: _cell(row.pydicom),
        "tensorflow-io": lambda row: _cell(row.tensorflow_io),
        "cxr / pydicom": lambda row: _ratio(row.cxr, row.pydicom),
        "cxr / tensorflow-io": lambda row: _ratio(row.cxr, row.tensorflow_io),
    }
    print(table(rows, columns))
    return [asdict(row) for row in rows]


def _cell(rate: float | None) -> str:
    return "-" if rate is None else f"{rate:.1f}"


def _ratio(rate: float, reference: float | None) -> str:
    return "-" if reference is None else f"{rate / reference:.2f}"
