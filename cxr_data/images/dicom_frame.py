"""The stored values of a DICOM file's first frame, in every transfer syntax that has a free decoder.

pydicom takes the frame out of the file and puts its bytes in order; each compression has one decoder, so that
the pixels do not depend on what else is installed. Decoders allocate what a codestream asks for, so it is
compared with the header first.
"""

from typing import Any, NamedTuple

import numpy as np
from pydicom import uid
from pydicom.encaps import encapsulate, get_frame
from pydicom.pixels import get_decoder

from cxr_data.images import dicom_codecs
from cxr_data.images.codestream import Codestream, read_codestream, without_boxes
from cxr_data.images.dicom_header import Header, value_or
from cxr_data.images.undecodable import Undecodable

_GRAY = ("MONOCHROME1", "MONOCHROME2", "PALETTE COLOR")
_COLORS = ("RGB", "YBR_FULL", "YBR_FULL_422", "YBR_ICT", "YBR_RCT")
_RETIRED = ("HSV", "ARGB", "CMYK", "YBR_PARTIAL_422", "YBR_PARTIAL_420")
_LARGEST_DEPTH = 32

_JPEG, _LOSSLESS, _JPEG_LS, _JPEG_2000 = "JPEG", "lossless JPEG", "JPEG-LS", "JPEG 2000"

_CODESTREAMS = {
    uid.RLELossless: "",
    uid.JPEGBaseline8Bit: _JPEG,
    uid.JPEGExtended12Bit: _JPEG,
    uid.JPEGLossless: _LOSSLESS,
    uid.JPEGLosslessSV1: _LOSSLESS,
    uid.JPEGLSLossless: _JPEG_LS,
    uid.JPEGLSNearLossless: _JPEG_LS,
    uid.JPEG2000Lossless: _JPEG_2000,
    uid.JPEG2000: _JPEG_2000,
    uid.HTJ2KLossless: _JPEG_2000,
    uid.HTJ2KLosslessRPCL: _JPEG_2000,
    uid.HTJ2K: _JPEG_2000,
}
"""What is inside of each transfer syntax that is decoded, empty where it has no header of its own."""

for _syntax in dicom_codecs.DECODER_DEPENDENCIES:
    get_decoder(_syntax).add_plugin(dicom_codecs.NAME, (dicom_codecs.__name__, "decode_frame"))


class Layout(NamedTuple):
    """How the pixels of a file lie.

    Attributes:
      syntax: pydicom's UID of the transfer syntax.
      rows, columns: of a frame.
      samples: of a pixel.
      photometric: the photometric interpretation, of the stored pixels.
      allocated, stored, high: bits of a sample: in the file, used, number of the highest.
      signed: whether a sample is.
      planar: whether the samples of a colour lie apart.
      frames: in the file.
    """

    syntax: Any
    rows: int
    columns: int
    samples: int
    photometric: str
    allocated: int
    stored: int
    high: int
    signed: bool
    planar: int
    frames: int


def layout_of(header: Header) -> Layout:
    """Return the layout that a header with its pixels states, with defaults for what it does not say.

    Raises:
      Undecodable: there is no image, or it is of a kind that cannot be converted.
    """
    rows, columns = header.whole("Rows") or 0, header.whole("Columns") or 0
    if rows < 1 or columns < 1:
        raise Undecodable("unsupported", "a DICOM file without an image")
    stated = header.text("PhotometricInterpretation").upper()
    samples = header.whole_or("SamplesPerPixel", 3 if stated in _COLORS else 1)
    photometric = stated or _default_photometric(header, samples)
    if photometric not in (_GRAY if samples == 1 else _COLORS if samples == 3 else ()):
        # What is no photometric interpretation may be anything, and stays where it is.
        name = photometric if photometric in (*_GRAY, *_COLORS, *_RETIRED) else "unknown"
        raise Undecodable("unsupported", f"a DICOM image of {samples} samples a pixel, {name}")
    frames = header.whole_or("NumberOfFrames", 1) if header.has("NumberOfFrames") else 1
    allocated = _allocated(header, rows * columns * samples)
    stored = header.whole_or("BitsStored", allocated)
    if not 1 <= stored <= allocated:
        raise Undecodable("unsupported", f"a DICOM image of {stored} in {allocated} bits a sample")
    high = header.whole_or("HighBit", stored - 1)
    if not stored - 1 <= high < allocated:  # so many bits are not below it
        header.defaults.add("HighBit")
        high = stored - 1
    return Layout(
        syntax=_syntax_of(header),
        rows=rows,
        columns=columns,
        samples=samples,
        photometric=photometric,
        allocated=allocated,
        stored=stored,
        high=high,
        signed=header.whole_or("PixelRepresentation", 0) == 1,
        planar=header.whole_or("PlanarConfiguration", 0) if samples > 1 else 0,
        frames=max(frames, 1),
    )


def _default_photometric(header: Header, samples: int) -> str:
    header.defaults.add("PhotometricInterpretation")
    if samples != 1:
        raise Undecodable("unsupported", "a DICOM image that does not say what its colours mean")
    return "MONOCHROME2"


def _allocated(header: Header, samples: int) -> int:
    found = header.whole("BitsAllocated")
    if found is None:
        header.defaults.add("BitsAllocated")
        stored = header.whole("BitsStored")
        pixels = header.value("PixelData")
        found = 8 * (len(pixels) // samples) if isinstance(pixels, bytes) and stored is None else 16
        found = 8 if found == 8 or (stored is not None and stored <= 8) else 16
    if found != 1 and (found % 8 or not 8 <= found <= _LARGEST_DEPTH):
        raise Undecodable("unsupported", f"a DICOM image of {found} bits a sample")
    return found


def _syntax_of(header: Header) -> Any:
    syntax = value_or(None, lambda: header.dataset.file_meta.get("TransferSyntaxUID"))
    if syntax:
        return uid.UID(str(syntax))
    # Without a preamble nothing states the syntax, and only the uncompressed ones occur.
    header.defaults.add("TransferSyntaxUID")
    implicit, little = header.dataset.original_encoding
    if not little:
        return uid.ExplicitVRBigEndian
    return uid.ImplicitVRLittleEndian if implicit else uid.ExplicitVRLittleEndian


def first_frame(header: Header, layout: Layout) -> tuple[np.ndarray, str]:
    """Decode the first frame.

    Returns:
      Integers [H, W], or [H, W, 3]; and their photometric interpretation, RGB where it was YBR.

    Raises:
      Undecodable: the pixels are cut off or damaged, or nothing decodes their compression.
    """
    data = header.value("PixelData")
    if not isinstance(data, bytes):
        if header.has("FloatPixelData") or header.has("DoubleFloatPixelData"):
            raise Undecodable("unsupported", "a DICOM image of floating-point pixels")
        raise Undecodable("truncated", "the DICOM file ends before its pixels")
    if layout.syntax in _CODESTREAMS:
        return _compressed(header, layout, data)
    return _uncompressed(header, layout, data)


def _uncompressed(header: Header, layout: Layout, data: bytes) -> tuple[np.ndarray, str]:
    syntax = layout.syntax
    if syntax.is_private or not syntax.is_transfer_syntax or syntax.is_encapsulated:
        raise Undecodable("no_decoder", f"a DICOM file in the transfer syntax {_name(layout)}")
    if getattr(header.dataset["PixelData"], "is_undefined_length", False):
        raise Undecodable("damaged", "the pixels are compressed, and the DICOM header says that they are not")
    samples = layout.rows * layout.columns * layout.samples
    if layout.photometric == "YBR_FULL_422":
        samples = samples // 3 * 2
    expected = -(-samples * layout.allocated // 8)
    if len(data) < expected:
        raise Undecodable("truncated", f"DICOM: {len(data)} of {expected} bytes of pixels")
    pixels, photometric = _by_pydicom(
        layout,
        data[: expected + expected % 2],
        bits_allocated=layout.allocated,
        pixel_vr=header.representation("PixelData"),
        view_only=True,
        correct_unused_bits=False,
    )
    return _used_bits(pixels, layout), photometric


def _used_bits(pixels: np.ndarray, layout: Layout) -> np.ndarray:
    """Return the samples without what lies in the bits above and below them, such as overlays."""
    pixels = pixels.astype(pixels.dtype.newbyteorder("="), copy=False)
    above, below = layout.allocated - 1 - layout.high, layout.high + 1 - layout.stored
    if layout.allocated == 1 or not above + below:
        return pixels
    if not layout.signed and not below and pixels.max(initial=0) < 1 << layout.stored:
        return pixels
    return (pixels << above) >> (above + below)


def _compressed(header: Header, layout: Layout, data: bytes) -> tuple[np.ndarray, str]:
    frame = _frame_bytes(header, layout, data)
    kind, codec, allocated = _CODESTREAMS[layout.syntax], dicom_codecs.NAME, layout.allocated
    if kind:
        stream = _checked(layout, kind, frame)
        if kind == _JPEG and stream.bits <= 8:
            codec, allocated = "pillow", 8  # which is what it gives, whatever the header says
    if codec not in get_decoder(layout.syntax).available_plugins:
        raise Undecodable("no_decoder", f"{_name(layout)} needs the package {codec}, which is not installed")
    options = {"bits_allocated": allocated, "decoding_plugin": codec}
    if kind:
        return _by_pydicom(layout, encapsulate([frame]), **options)
    pixels, photometric = _by_pydicom(layout, encapsulate([frame]), correct_unused_bits=False, **options)
    return _used_bits(pixels, layout), photometric


def _frame_bytes(header: Header, layout: Layout, data: bytes) -> bytes:
    offsets = header.value("ExtendedOffsetTable"), header.value("ExtendedOffsetTableLengths")
    try:
        frame = get_frame(
            data, 0, number_of_frames=layout.frames, extended_offsets=offsets if all(offsets) else None
        )
    except MemoryError:
        raise
    except Exception as error:
        raise Undecodable("damaged", f"{_first_of(layout)} cannot be found in the DICOM file") from error
    return without_boxes(frame)  # pydicom hangs at one of no length


def _checked(layout: Layout, kind: str, frame: bytes) -> Codestream:
    """Return the frame header of a codestream. Raises Undecodable if it is not what the header says."""
    stream = read_codestream(frame)
    if stream is None or stream.kind != kind:
        found = "none" if stream is None else f"of {stream.kind}"
        raise Undecodable("damaged", f"{_first_of(layout)} is {found}, the DICOM header says {kind}")
    is_so, is_said = (
        f"{columns}x{rows} pixels of {samples} samples"
        for columns, rows, samples in (
            (stream.width, stream.height, stream.samples),
            (layout.columns, layout.rows, layout.samples),
        )
    )
    if is_so != is_said:
        raise Undecodable("damaged", f"{_first_of(layout)} has {is_so}, the DICOM header says {is_said}")
    return stream


def _by_pydicom(layout: Layout, data: bytes, **options: Any) -> tuple[np.ndarray, str]:
    decoder: Any = get_decoder(layout.syntax)
    try:
        pixels, found = decoder.as_array(
            data,
            index=0,
            rows=layout.rows,
            columns=layout.columns,
            samples_per_pixel=layout.samples,
            photometric_interpretation=layout.photometric,
            bits_stored=min(layout.stored, options["bits_allocated"]),
            pixel_representation=int(layout.signed),
            planar_configuration=layout.planar,
            pixel_keyword="PixelData",
            number_of_frames=1,
            **options,
        )
    except MemoryError:
        raise
    except Exception as error:  # decoders raise anything on damaged bytes
        reason = "truncated" if any(word in str(error) for word in ("truncated", "not enough")) else "damaged"
        raise Undecodable(reason, f"{_first_of(layout)} cannot be decoded ({_name(layout)})") from error
    return pixels, str(found["photometric_interpretation"])


def _first_of(layout: Layout) -> str:
    return "the compressed picture" if layout.frames == 1 else f"the first of {layout.frames} frames"


def _name(layout: Layout) -> str:
    name: str = layout.syntax.name
    return "that it names, which is unknown" if name == layout.syntax else name
