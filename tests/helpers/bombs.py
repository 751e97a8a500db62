"""Small files that ask a decoder for gigabytes, one format after the other; and what one of them takes.

    python tests/helpers/bombs.py [--memory_gb=2] [NAME...]

prints a table of the peak memory of a process that reads one of them, as a worker does.
"""

import io
import os
import re
import struct
import subprocess
import sys
import tempfile
import threading
import zlib
from collections.abc import Callable
from pathlib import Path

import imagecodecs
import numpy as np
from dicom_files import make_dataset, make_dicom, write
from image_files import png_of
from PIL import Image
from pydicom import uid
from pydicom.encaps import encapsulate

from cxr_data.core.child_process import WORKER_ENVIRONMENT

GIB = 1 << 30
SIDE = 9_990  # of the largest pictures that are decoded at all: 100 million pixels
SECONDS = 120.0
SYNTAX = uid.DeflatedExplicitVRLittleEndian


# -- deflated streams --------------------------------------------------------------------------


def deflated(head: bytes, size: int, part: bytes = bytes(1 << 20), end: bytes = b"") -> bytes:
    """Raw deflate of `head`, `size` bytes of repeated `part`, and `end`; a part is deflated once."""
    stream = zlib.compressobj(1, zlib.DEFLATED, -zlib.MAX_WBITS)
    first = stream.compress(head) + stream.flush(zlib.Z_FULL_FLUSH)
    again = zlib.compressobj(9, zlib.DEFLATED, -zlib.MAX_WBITS)
    repeated = again.compress(part) + again.flush(zlib.Z_FULL_FLUSH)
    last = zlib.compressobj(9, zlib.DEFLATED, -zlib.MAX_WBITS)
    return first + repeated * (size // len(part)) + last.compress(end) + last.flush()


def zlib_stream(size: int) -> bytes:
    """So many zeros, rounded up, with zlib's header and checksum."""
    part = 1 << 16
    size = -(-size // part) * part
    return b"\x78\x01" + deflated(b"", size, bytes(part)) + struct.pack(">HH", size % 65_521, 1)


# -- DICOM -------------------------------------------------------------------------------------


def element(group: int, number: int, vr: str, value: bytes) -> bytes:
    """An element in explicit little endian."""
    long = vr in ("OB", "OW", "UN", "SQ")
    size = struct.pack("<HI", 0, len(value)) if long else struct.pack("<H", len(value))
    return struct.pack("<HH", group, number) + vr.encode() + size + value


def deflated_dicom(content: bytes, *, behind_2048: bool = False, preamble: bool = True) -> bytes:
    """A file in the deflated syntax.

    Args:
      content: the deflated part.
      behind_2048: whether the syntax is said later than usual.
      preamble: whether the file begins as the standard demands.
    """
    meta = element(2, 1, "OB", b"\0\1")
    if behind_2048:
        meta += element(2, 0x13, "SH", b"x" * 4000)
    meta += element(2, 0x10, "UI", SYNTAX.encode())
    meta = element(2, 0, "UL", struct.pack("<I", len(meta))) + meta
    return (bytes(128) + b"DICM" if preamble else b"") + meta + content


def pixel_bomb(size: int, **options: bool) -> bytes:
    """A picture of 64x64 whose pixels go on for `size` bytes."""
    head = write(make_dataset(np.zeros((64, 64), np.uint8), bits=8))
    start = head.index(struct.pack("<HH", 8, 0x16))
    end = head.index(struct.pack("<HH", 0x7FE0, 0x10))
    begun = head[start:end] + struct.pack("<HH2sHI", 0x7FE0, 0x10, b"OW", 0, min(size, (1 << 32) - 2))
    return deflated_dicom(deflated(begun, size), **options)


def element_bomb(size: int) -> bytes:
    """Millions of small elements, each of which becomes objects."""
    part = b"".join(element(0x11, number, "US", b"\1\0") for number in range(0x1000, 0xFFFF))
    groups = np.arange(0x11, 0x11 + 2 * (size // len(part)), 2, dtype="<u2")
    parts = np.tile(np.frombuffer(part, np.uint8).reshape(-1, 10), (len(groups), 1, 1))
    parts[:, :, :2] = groups.view(np.uint8).reshape(-1, 1, 2)
    head = element(8, 0x60, "CS", b"CR")
    return deflated_dicom(deflated(head + parts.tobytes(), 0))


def item_bomb(size: int) -> bytes:
    """A sequence of millions of empty items."""
    items = struct.pack("<HHI", 0xFFFE, 0xE000, 0) * (1 << 20)
    head = element(8, 0x60, "CS", b"CR")
    head += struct.pack("<HH2sHI", 8, 0x1140, b"SQ", 0, size // len(items) * len(items))
    return deflated_dicom(deflated(head, size, items))


def frames_of(syntax: str, frames: int, side: int = 4096) -> bytes:
    """Many compressed frames, no table of where they are."""
    blank = np.zeros((side, side), np.uint8)
    if syntax == uid.RLELossless:
        run = b"\x81\0" * -(-side * side // 128)
        frame = struct.pack("<16I", 1, 64, *[0] * 14) + run
    elif syntax == uid.JPEGBaseline8Bit:
        frame = imagecodecs.jpeg8_encode(blank, level=10)
    elif syntax == uid.JPEGLSLossless:
        frame = imagecodecs.jpegls_encode(blank)
    else:
        frame = imagecodecs.jpeg2k_encode(blank, level=0, codecformat="J2K", reversible=True)
    return make_dicom(blank, bits=8, syntax=syntax, frames=(frame,) * frames, NumberOfFrames=frames)


def frame_claim(compressed: bool) -> bytes:
    """One frame that says it is the first of a hundred million."""
    pixels = np.arange(64 * 64, dtype=np.uint8).reshape(64, 64)
    syntax = uid.JPEG2000Lossless if compressed else uid.ExplicitVRLittleEndian
    return make_dicom(pixels, bits=8, syntax=syntax, NumberOfFrames=99_999_999)


def fragments(count: int) -> bytes:
    """A picture in so many empty fragments, with as many frames claimed."""
    pixels = np.arange(64 * 64, dtype=np.uint8).reshape(64, 64)
    data = make_dataset(pixels, bits=8, syntax=uid.JPEG2000Lossless, NumberOfFrames=count)
    data.PixelData = (
        encapsulate([b"\0\0"], has_bot=False)[:-8] + struct.pack("<HHI", 0xFFFE, 0xE000, 0) * count
    )
    return write(data)


def offset_table(count: int) -> bytes:
    """A table of so many frames before one."""
    frame = imagecodecs.jpeg2k_encode(np.zeros((64, 64), np.uint8), level=0, codecformat="J2K")
    data = make_dataset(
        np.zeros((64, 64), np.uint8), bits=8, syntax=uid.JPEG2000, frames=(frame,), NumberOfFrames=count
    )
    rest = encapsulate([frame], has_bot=False)[8:]
    data.PixelData = struct.pack("<HHI", 0xFFFE, 0xE000, 4 * count) + bytes(4 * count) + rest
    return write(data)


def palette_bomb(segments: int) -> bytes:
    """A palette whose segments of six bytes stand for 65,535 entries each."""
    table = np.array([0, 1, 0, *[1, 65_535, 7] * segments], "<u2").tobytes()
    data = make_dataset(np.zeros((64, 64), np.uint8), "PALETTE COLOR", bits=8)
    for color in ("Red", "Green", "Blue"):
        setattr(data, f"{color}PaletteColorLookupTableDescriptor", [0, 0, 16])
        data.add_new(f"Segmented{color}PaletteColorLookupTableData", "OW", table)
    return write(data)


def claimed_dicom(rows: int, columns: int) -> bytes:
    """One byte of pixels."""
    return make_dicom(np.zeros((1, 1), np.uint8), bits=8, Rows=rows, Columns=columns)


def tiled_j2k(side: int) -> bytes:
    """A JPEG 2000 picture in tiles of one pixel."""
    stream = bytearray(imagecodecs.jpeg2k_encode(np.zeros((64, 64), np.uint8), level=0, codecformat="J2K"))
    at = stream.index(b"\xff\x51") + 6
    struct.pack_into(">IIIIIIII", stream, at, side, side, 0, 0, 1, 1, 0, 0)
    blank = np.zeros((1, 1), np.uint8)
    return make_dicom(blank, bits=8, syntax=uid.JPEG2000, frames=(bytes(stream),), Rows=side, Columns=side)


# -- PNG ---------------------------------------------------------------------------------------

Chunk = tuple[bytes, bytes]


def png(
    side: int, depth: int, kind: int, stream: bytes, *chunks: tuple[bytes, bytes], passes: int = 0
) -> bytes:
    """A PNG of these rows; `kind` is its colour type."""
    return png_of(struct.pack(">IIBBBBB", side, side, depth, kind, 0, 0, passes), stream, *chunks)


def animated_png(frames: int) -> bytes:
    """Many frames of the largest size."""
    control = struct.pack(">IIIIIHHBB", 0, SIDE, SIDE, 0, 0, 1, 10, 0, 0)
    begin = (b"acTL", struct.pack(">II", frames, 0))
    return png(SIDE, 8, 0, rows(SIDE), begin, *[(b"fcTL", control)] * frames)


def png_with(name: bytes, begin: bytes) -> bytes:
    """A small PNG with a chunk whose text is 3 GiB."""
    return png(64, 8, 2, zlib_stream(1 << 24), (name, begin + zlib_stream(3 * GIB)))


def rows(bytes_a_row: int) -> bytes:
    """The rows of the largest picture, each behind its filter."""
    size = SIDE * (bytes_a_row + 1)
    stream = zlib.compressobj(1)
    parts = [stream.compress(bytes(SIDE)) for _ in range(bytes_a_row + 1)]
    assert size == SIDE * len(parts)
    return b"".join(parts) + stream.flush()


# -- JPEG --------------------------------------------------------------------------------------


def jpeg(side: int, components: int, *, progressive: bool, scans: int = 1) -> bytes:
    """A JPEG that is all header: its pixels are missing, or as many times as there are scans."""
    buffer = io.BytesIO()
    mode = {1: "L", 3: "RGB", 4: "CMYK"}[components]
    Image.new(mode, (16, 16)).save(buffer, "JPEG", progressive=progressive, subsampling=0)
    data = bytearray(buffer.getvalue())
    at = data.index(b"\xff\xc2" if progressive else b"\xff\xc0") + 5
    struct.pack_into(">HH", data, at, side, side)
    start = data.index(b"\xff\xda")
    return bytes(data[:start] + data[start:-2] * scans + b"\xff\xd9")


# -- TIFF --------------------------------------------------------------------------------------


def tiff(side: int, *entries: tuple[int, int, int, int], data: bytes = b"", small: int = 8) -> bytes:
    """A grayscale TIFF of one strip with other or more entries: (tag, type, count, value)."""
    start = 8
    found = {
        256: (4, 1, side), 257: (4, 1, side), 258: (3, 1, small), 259: (3, 1, 8), 262: (3, 1, 1),
        273: (4, 1, start), 277: (3, 1, 1), 278: (4, 1, side), 279: (4, 1, len(data)),
    }  # fmt: skip
    found |= {tag: (kind, count, value) for tag, kind, count, value in entries}
    rows = b"".join(struct.pack("<HHII", tag, *found[tag]) for tag in sorted(found))
    directory = struct.pack("<H", len(found)) + rows + bytes(4)
    return b"II*\0" + struct.pack("<I", start + len(data)) + data + directory


def tiled_tiff(tile: int) -> bytes:
    """A small picture in one tile that is large."""
    stream = zlib_stream(1 << 28)
    return tiff(
        64, (322, 4, 1, tile), (323, 4, 1, tile), (324, 4, 1, 8), (325, 4, 1, len(stream)), data=stream
    )


def colored_tiff() -> bytes:
    """RGBA of 16 bits, the largest that is decoded."""
    side = SIDE
    buffer = io.BytesIO()
    buffer.write(b"")
    stream = zlib_stream(side * side * 8)
    samples = struct.pack("<4H", 16, 16, 16, 16)
    data = samples + stream
    return tiff(
        side, (258, 3, 4, 8), (262, 3, 1, 2), (277, 3, 1, 4), (338, 3, 1, 2), (273, 4, 1, 16),
        (279, 4, 1, len(stream)), data=data,
    )  # fmt: skip


def directories(count: int) -> bytes:
    """So many pictures in a file."""
    parts = (struct.pack("<HHHIII", 1, 256, 3, 1, 64, 8 + 18 * number) for number in range(1, count + 1))
    return b"II*\0" + struct.pack("<I", 8) + b"".join(parts)


# -- BMP, GIF, WebP ----------------------------------------------------------------------------


def bmp(side: int, depth: int, compression: int, data: bytes) -> bytes:
    """A BMP of these pixels."""
    palette = bytes(1024) if depth == 8 else b""
    head = struct.pack("<IiiHHIIiiII", 40, side, side, 1, depth, compression, len(data), 1, 1, 0, 0)
    offset = 14 + len(head) + len(palette)
    return b"BM" + struct.pack("<IHHI", offset + len(data), 0, 0, offset) + head + palette + data


def gif(screen: int, frame: int, frames: int) -> bytes:
    """Frames on a screen, their pixels cut off."""
    image = b"\x2c" + struct.pack("<HHHHB", 0, 0, frame, frame, 0) + b"\x08\xff" + b"\0" * 255 + b"\0"
    return (
        b"GIF89a" + struct.pack("<HHBBB", screen, screen, 0xF7, 0, 0) + bytes(768) + image * frames + b"\x3b"
    )


def webp(frames: int, lossless: bool = True) -> bytes:
    """A picture of one colour that says it is the largest, once or as an animation of so many."""
    buffer = io.BytesIO()
    Image.new("RGB", (16, 16), (9, 9, 9)).save(buffer, "WEBP", lossless=lossless)
    chunk = bytearray(buffer.getvalue()[12:])
    if lossless:  # one symbol a channel: no bit for a pixel
        kept = int.from_bytes(chunk[9:13], "little") >> 28 << 28
        chunk[9:13] = (kept | SIDE - 1 << 14 | SIDE - 1).to_bytes(4, "little")
    else:
        struct.pack_into("<HH", chunk, 14, SIDE, SIDE)
    if frames == 1:
        return b"RIFF" + struct.pack("<I", 4 + len(chunk)) + b"WEBP" + chunk
    size = (SIDE - 1).to_bytes(3, "little") * 2
    frame = bytes(6) + size + b"\1\0\0\0" + chunk
    body = b"VP8X" + struct.pack("<IBBBB", 10, 2, 0, 0, 0) + size
    body += b"ANIM" + struct.pack("<IIH", 6, 0, 0)
    body += (b"ANMF" + struct.pack("<I", len(frame)) + frame) * frames
    return b"RIFF" + struct.pack("<I", 4 + len(body)) + b"WEBP" + body


BOMBS: dict[str, Callable[[], bytes]] = {
    "deflated DICOM, 3 GiB of pixels": lambda: pixel_bomb(3 * GIB),
    "deflated DICOM, syntax behind byte 2048": lambda: pixel_bomb(3 * GIB, behind_2048=True),
    "deflated DICOM, no preamble": lambda: pixel_bomb(3 * GIB, preamble=False),
    "deflated DICOM, both": lambda: pixel_bomb(3 * GIB, behind_2048=True, preamble=False),
    "deflated DICOM, 0.9 GiB of pixels": lambda: pixel_bomb(9 * GIB // 10),
    "deflated DICOM, millions of elements": lambda: element_bomb(40_000_000),
    "deflated DICOM, millions of items": lambda: item_bomb(500_000_000),
    "DICOM, 300 frames of JPEG": lambda: frames_of(uid.JPEGBaseline8Bit, 300),
    "DICOM, 300 frames of JPEG-LS": lambda: frames_of(uid.JPEGLSLossless, 300),
    "DICOM, 300 frames of JPEG 2000": lambda: frames_of(uid.JPEG2000Lossless, 300),
    "DICOM, 60 frames of RLE": lambda: frames_of(uid.RLELossless, 60),
    "DICOM, 99,999,999 frames claimed": lambda: frame_claim(False),
    "DICOM, as many, compressed": lambda: frame_claim(True),
    "DICOM, 500,000 empty fragments": lambda: fragments(500_000),
    "DICOM, table of 1,000,000 frames": lambda: offset_table(1_000_000),
    "DICOM, palette of 650 million entries": lambda: palette_bomb(10_000),
    "DICOM, 65,535x65,535 claimed": lambda: claimed_dicom(65_535, 65_535),
    "DICOM, JPEG 2000 in tiles of a pixel": lambda: tiled_j2k(SIDE),
    "PNG, 65,535x65,535": lambda: png(65_535, 8, 0, zlib_stream(3 * GIB)),
    "PNG, gray, 3 GiB behind 64x64": lambda: png(64, 8, 0, zlib_stream(3 * GIB)),
    "PNG, RGB, 3 GiB behind 64x64": lambda: png(64, 8, 2, zlib_stream(3 * GIB)),
    "PNG, gray, 100 MP": lambda: png(SIDE, 8, 0, rows(SIDE)),
    "PNG, RGBA of 16 bits, 100 MP": lambda: png(SIDE, 16, 6, rows(8 * SIDE)),
    "PNG, the same, interlaced": lambda: png(SIDE, 16, 6, rows(8 * SIDE), passes=1),
    "PNG, zTXt of 3 GiB": lambda: png_with(b"zTXt", b"a\0\0"),
    "PNG, iTXt of 3 GiB": lambda: png_with(b"iTXt", b"a\0\1\0\0\0"),
    "PNG, iCCP of 3 GiB": lambda: png_with(b"iCCP", b"a\0\0"),
    "PNG, animated, 1,000 frames of 100 MP": lambda: animated_png(1000),
    "JPEG, 65,500x65,500": lambda: jpeg(65_500, 3, progressive=False),
    "JPEG, 100 MP of RGB": lambda: jpeg(SIDE, 3, progressive=False),
    "JPEG, progressive, 100 MP of CMYK": lambda: jpeg(SIDE, 4, progressive=True),
    "JPEG, progressive, 300 scans of 36 MP": lambda: jpeg(6000, 3, progressive=True, scans=300),
    "TIFF, 65,535x65,535": lambda: tiff(65_535, data=zlib_stream(GIB)),
    "TIFF, 100 MP in one strip": lambda: tiff(SIDE, data=zlib_stream(SIDE * SIDE)),
    "TIFF, 16 bits, 100 MP": lambda: tiff(SIDE, data=zlib_stream(2 * SIDE * SIDE), small=16),
    "TIFF, RGBA of 16 bits, 100 MP": colored_tiff,
    "TIFF, tile of 65,520x65,520": lambda: tiled_tiff(65_520),
    "TIFF, tag of 4 billion values": lambda: tiff(64, (700, 1, 0xFFFFFFFF, 8), data=zlib_stream(1 << 24)),
    "TIFF, 100,000 directories": lambda: directories(100_000),
    "BMP, 65,535x65,535": lambda: bmp(65_535, 24, 0, bytes(64)),
    "BMP, 100 MP, run-length": lambda: bmp(SIDE, 8, 1, b"\xff\0" * 40 + b"\0\1"),
    "BMP, 100 MP of 24 bits, cut off": lambda: bmp(SIDE, 24, 0, bytes(64)),
    "GIF, screen of 65,535x65,535": lambda: gif(65_535, 64, 1),
    "GIF, 1,000 frames of 100 MP": lambda: gif(SIDE, SIDE, 1000),
    "GIF, frame beyond the screen": lambda: gif(64, 65_535, 3),
    "WebP, lossless, 100 MP": lambda: webp(1),
    "WebP, lossy, 100 MP": lambda: webp(1, lossless=False),
    "WebP, animated, 20 frames of 100 MP": lambda: webp(20),
}
"""What makes each bomb, by its name, which begins with its format."""


def peak_of(path: Path, memory_gb: float) -> tuple[int, str]:
    """Return the peak memory in bytes of a process that reads a file as a worker does, and what it said."""
    line = [sys.executable, __file__, f"--memory_gb={memory_gb}", f"--read={path}"]
    environment = os.environ | WORKER_ENVIRONMENT
    process = subprocess.Popen(
        line, stdout=subprocess.PIPE, stderr=subprocess.DEVNULL, text=True, env=environment
    )
    assert process.stdout is not None
    patience = threading.Timer(SECONDS, process.kill)
    patience.start()
    peak, _, said = process.stdout.read().strip().partition(" ")
    missing = "no answer" if patience.is_alive() else "timeout"
    patience.cancel()
    _, status, used = os.wait4(process.pid, 0)
    process.returncode = os.waitstatus_to_exitcode(status)
    return int(peak or used.ru_maxrss * 1024), said or f"{missing}: ended by {process.returncode}"


def read(path: str, memory_gb: float) -> str:
    """Read one file in this process and return its verdict."""
    from cxr_data.images.guarded import Limits, SourceFile, read_picture
    from cxr_data.images.preprocess import PixelOptions
    from cxr_data.images.undecodable import Undecodable

    options = PixelOptions(360, 1, "uint8", "gray")
    try:
        read_picture(SourceFile(path), options, Limits(image_memory_gb=memory_gb))
    except Undecodable as error:
        return str(error)
    return "decoded"


def main(arguments: list[str]) -> None:
    """Print the table, or read one file."""
    flags = dict(word[2:].split("=", 1) for word in arguments if word.startswith("--"))
    memory_gb = float(flags.get("memory_gb", 2))
    if "read" in flags:
        said = read(flags["read"], memory_gb)
        print(int(re.search(r"VmHWM:\s+(\d+)", Path("/proc/self/status").read_text())[1]) * 1024, said)
        return
    print("| file | bytes | peak, MB | verdict |\n|---|---|---|---|")
    for name, make in BOMBS.items():
        wanted = [word for word in arguments if not word.startswith("--")]
        if not wanted or any(name.startswith(word) for word in wanted):
            with tempfile.NamedTemporaryFile() as file:
                file.write(make())
                file.flush()
                peak, said = peak_of(Path(file.name), memory_gb)
                print(f"| {name} | {file.tell():,} | {peak / 1e6:,.0f} | {said} |", flush=True)


if __name__ == "__main__":
    main(sys.argv[1:])
