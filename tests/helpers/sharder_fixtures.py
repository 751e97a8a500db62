"""Small source folders for the sharder's tests."""

import io
from collections.abc import Iterator
from pathlib import Path

import numpy as np
from PIL import Image

from cxr_data.core import storage
from cxr_data.records import example
from cxr_data.records.by_position import read_fields
from cxr_data.records.index import read_index
from cxr_data.records.manifest import Manifest, Shard


def picture(seed: int, height: int = 48, width: int = 40) -> np.ndarray:
    """A smooth uint8 [height, width] picture that is different for each seed."""
    rng = np.random.default_rng(seed)
    coarse = Image.fromarray(rng.integers(0, 256, (6, 6), np.uint8))
    return np.asarray(coarse.resize((width, height), Image.Resampling.BICUBIC))


def encoded(pixels: np.ndarray | Image.Image, kind: str = "PNG", **options: object) -> bytes:
    """The bytes of an image file."""
    image = pixels if isinstance(pixels, Image.Image) else Image.fromarray(pixels)
    buffer = io.BytesIO()
    image.save(buffer, kind, **options)
    return buffer.getvalue()


def save(path: Path, content: bytes) -> Path:
    """Writes a file and the folders above it."""
    path.parent.mkdir(parents=True, exist_ok=True)
    path.write_bytes(content)
    return path


def make_source(
    root: Path, images: int = 24, classes: tuple[str, ...] = ("covid", "normal", "pneumonia")
) -> Path:
    """A folder per class, PNG and JPEG and odd modes, the same for the same arguments."""
    for number in range(images):
        gray = Image.fromarray(picture(number))
        kind = ("PNG", "JPEG", "PNG", "TIFF")[number % 4]
        mode = ("L", "L", "RGBA", "RGB", "P")[number % 5]
        image = gray.convert("RGB" if kind == "JPEG" and mode in ("RGBA", "P") else mode)
        name = f"{classes[number % len(classes)]}/image{number:03d}.{'jpg' if kind == 'JPEG' else 'png'}"
        save(root / name, encoded(image, kind))
    return root


def content_of(directory: Path) -> dict[str, bytes]:
    """{name: bytes} of every file below a folder."""
    return {p.relative_to(directory).as_posix(): p.read_bytes() for p in directory.rglob("*") if p.is_file()}


def fields_of(made: Manifest) -> Iterator[tuple[Shard, example.Fields]]:
    """Yields (shard, fields) of every record."""
    index = read_index(made)
    for number, shard in enumerate(made.shards):
        with storage.opened_at(made.path(shard)) as read_at:
            for row in index[index["shard"] == number]:
                yield shard, read_fields(read_at, row)
