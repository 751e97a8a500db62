"""One small file of every kind that the sharder takes or refuses by name."""

import struct
import zlib

import cv2
import imagecodecs
import numpy as np
from dicom_files import make_dicom
from PIL import Image, PngImagePlugin
from sharder_fixtures import encoded, picture

GRAY = picture(1, 41, 30)
COLORS = np.dstack([picture(seed, 41, 30) for seed in (1, 2, 3)])
DEEP = GRAY.astype(np.uint16) * 257
ALPHA = np.dstack([COLORS, picture(4, 41, 30)])


def raw_png(samples: np.ndarray, depth: int, color_type: int, *chunks: tuple[bytes, bytes]) -> bytes:
    """A PNG whose rows are given as bytes [H, N], of a depth and colour type that Pillow does not write.

    Args:
      samples: packed rows.
      depth: bits of a sample.
      color_type: 0 gray, 2 RGB, 3 palette, 4 gray and alpha, 6 RGBA.
      chunks: (name, content) of what stands between the header and the rows.
    """
    channels = {0: 1, 2: 3, 3: 1, 4: 2, 6: 4}[color_type]
    width = samples.shape[1] * 8 // depth // channels
    header = struct.pack(">IIBBBBB", width, len(samples), depth, color_type, 0, 0, 0)
    return png_of(header, zlib.compress(np.insert(samples, 0, 0, axis=1).tobytes()), *chunks)


def interlaced_png(colors: np.ndarray) -> bytes:
    """A PNG of RGB [H, W, 3] in the seven passes of Adam7."""
    rows = []
    for top, left, down, right in (
        (0, 0, 8, 8), (0, 4, 8, 8), (4, 0, 8, 4), (0, 2, 4, 4), (2, 0, 4, 2), (0, 1, 2, 2), (1, 0, 2, 1)
    ):  # fmt: skip
        rows += [b"\0" + row.tobytes() for row in colors[top::down, left::right] if row.size]
    header = struct.pack(">IIBBBBB", colors.shape[1], colors.shape[0], 8, 2, 0, 0, 1)
    return png_of(header, zlib.compress(b"".join(rows)))


def png_of(header: bytes, stream: bytes, *chunks: tuple[bytes, bytes]) -> bytes:
    """A PNG of a header, the deflated rows, and what stands between them."""
    parts = [(b"IHDR", header), *chunks, (b"IDAT", stream), (b"IEND", b"")]
    content = [
        struct.pack(">I", len(data)) + name + data + struct.pack(">I", zlib.crc32(name + data))
        for name, data in parts
    ]
    return b"".join([b"\x89PNG\r\n\x1a\n", *content])


def png_files() -> dict[str, bytes]:
    """PNG of every depth and colour type, with and without what else changes the pixels."""
    files = {}
    for depth in (1, 2, 4):
        packed = np.random.default_rng(depth).integers(0, 256, (41, 4 * depth), np.uint8)
        palette = np.random.default_rng(0).integers(0, 256, 3 << depth, np.uint8).tobytes()
        files[f"png gray {depth} bit"] = raw_png(packed, depth, 0)
        files[f"png palette {depth} bit"] = raw_png(packed, depth, 3, (b"PLTE", palette))
    palette = np.random.default_rng(0).integers(0, 256, 768, np.uint8).tobytes()
    files["png gray"] = encoded(GRAY)
    files["png rgb"] = encoded(COLORS)
    files["png gray alpha"] = encoded(Image.fromarray(ALPHA).convert("LA"))
    files["png rgba"] = encoded(ALPHA)
    files["png palette"] = raw_png(GRAY, 8, 3, (b"PLTE", palette))
    files["png palette transparent"] = raw_png(GRAY, 8, 3, (b"PLTE", palette), (b"tRNS", bytes(range(256))))
    files["png palette few transparent"] = raw_png(GRAY, 8, 3, (b"PLTE", palette), (b"tRNS", b"\0\x80\xff"))
    files["png gray transparent"] = raw_png(GRAY, 8, 0, (b"tRNS", struct.pack(">H", int(GRAY[0, 0]))))
    colour = struct.pack(">HHH", *map(int, COLORS[0, 0]))
    files["png rgb transparent"] = raw_png(COLORS.reshape(41, -1), 8, 2, (b"tRNS", colour))
    files["png gray gamma"] = raw_png(GRAY, 8, 0, (b"gAMA", struct.pack(">I", 100_000)))
    for color_type, pixels in (
        (0, DEEP),
        (2, COLORS.astype(np.uint16) * 257),
        (6, ALPHA.astype(np.uint16) * 257),
    ):
        rows = pixels.astype(">u2").reshape(41, -1).view(np.uint8)
        files[f"png 16 bit type {color_type}"] = raw_png(rows, 16, color_type)
    files["png 16 bit of 12"] = encoded(GRAY.astype(np.uint16) << 4)
    for orientation in (1, 6):
        exif = Image.Exif()
        exif[0x0112] = orientation
        files[f"png gray orientation {orientation}"] = encoded(GRAY, exif=exif)
        files[f"png rgb orientation {orientation}"] = encoded(COLORS, exif=exif)
        for packed in (False, True):
            info = PngImagePlugin.PngInfo()
            info.add_itxt("XML:com.adobe.xmp", f'<a tiff:Orientation="{orientation}"/>', zip=packed)
            files[f"png rgb xmp orientation {orientation} packed {packed}"] = encoded(COLORS, pnginfo=info)
        info = PngImagePlugin.PngInfo()
        content = exif.tobytes()
        text = f"\nexif\n{len(content):8}\n{content.hex()}\n"
        info.add_text("Raw profile type exif", text, zip=True)
        files[f"png rgb raw profile orientation {orientation}"] = encoded(COLORS, pnginfo=info)
    animation = [Image.fromarray(COLORS), Image.fromarray(COLORS[::-1])]
    files["png animated"] = encoded(animation[0], save_all=True, append_images=animation[1:])
    files["png animated, default apart"] = encoded(
        animation[0], save_all=True, append_images=animation, default_image=True
    )
    files["png interlaced"] = interlaced_png(COLORS)
    for name in ("png gray", "png rgb"):
        files[f"{name} cut off"] = files[name][:-40]
        for chunk in (b"IHDR", b"IDAT"):
            broken = bytearray(files[name])
            broken[broken.index(chunk) + 12] ^= 1
            files[f"{name} broken in {chunk.decode()}"] = bytes(broken)
    return files


def jpeg_files() -> dict[str, bytes]:
    """JPEG of every kind."""
    files = {}
    for name, image in (("gray", GRAY), ("rgb", COLORS)):
        files[f"jpeg {name}"] = encoded(image, "JPEG", quality=90)
        files[f"jpeg {name} progressive"] = encoded(image, "JPEG", progressive=True)
        for orientation in (1, 3, 6):
            exif = Image.Exif()
            exif[0x0112] = orientation
            files[f"jpeg {name} orientation {orientation}"] = encoded(image, "JPEG", exif=exif)
            exif.endian = ">"
            files[f"jpeg {name} orientation {orientation} big-endian"] = encoded(image, "JPEG", exif=exif)
            xmp = f'<x tiff:Orientation="{orientation}"/>'.encode()
            files[f"jpeg {name} xmp orientation {orientation}"] = encoded(image, "JPEG", xmp=xmp)
            xmp = f"<x><tiff:Orientation>{orientation}</tiff:Orientation></x>".encode()
            files[f"jpeg {name} xmp element orientation {orientation}"] = encoded(image, "JPEG", xmp=xmp)
    for subsampling in ("4:4:4", "4:2:2", "4:2:0", "4:1:1"):
        files[f"jpeg rgb {subsampling}"] = encoded(COLORS, "JPEG", subsampling=subsampling)
    files["jpeg stored as rgb"] = encoded(COLORS, "JPEG", keep_rgb=True)
    files["jpeg cmyk"] = encoded(Image.fromarray(COLORS).convert("CMYK"), "JPEG")
    files["jpeg restarts"] = cv2.imencode(".jpg", COLORS, [cv2.IMWRITE_JPEG_RST_INTERVAL, 2])[1].tobytes()
    files["jpeg 12 bit"] = imagecodecs.jpeg8_encode(GRAY.astype(np.uint16) << 4, bitspersample=12)
    files["jpeg lossless"] = imagecodecs.jpeg8_encode(GRAY, lossless=True)
    files["jpeg-ls"] = imagecodecs.jpegls_encode(GRAY)
    files["jpeg cut off"] = files["jpeg rgb"][:-200]
    return files


def other_files() -> dict[str, bytes]:
    """The other formats."""
    gray, colors = Image.fromarray(GRAY), Image.fromarray(COLORS)
    files = {}
    for kind in ("GIF", "BMP", "WEBP", "TIFF", "JPEG2000", "PPM", "AVIF"):
        files[f"{kind} gray"] = encoded(gray, kind)
        files[f"{kind} rgb"] = encoded(colors, kind)
    files["GIF animated"] = encoded(gray, "GIF", save_all=True, append_images=[colors.convert("L")])
    files["GIF transparent"] = encoded(gray, "GIF", transparency=int(GRAY[0, 0]))
    files["TIFF 16 bit"] = encoded(DEEP, "TIFF")
    files["DICOM"] = make_dicom(GRAY, bits=8)
    files["DICOM 12 bit"] = make_dicom(GRAY.astype(np.uint16) << 4)
    files["DICOM rgb"] = make_dicom(COLORS, "RGB", bits=8)
    files["text"] = b"hello, this is no image"
    files["empty"] = b""
    return files


def every_kind() -> dict[str, bytes]:
    """{name: bytes}."""
    return png_files() | jpeg_files() | other_files()
