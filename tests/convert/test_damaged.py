"""More than 300 damaged inputs: none crashes or hangs the sharder, and each is accounted for."""

import os
import random
import struct
import zlib

from PIL import Image
from sharder_fixtures import encoded, make_source, picture, save

from cxr_data.convert.config import SharderConfig
from cxr_data.convert.convert import make_tfrecords
from cxr_data.images import png
from cxr_data.records.quarantine_file import read_quarantine
from cxr_data.records.verify import verify_dataset
from cxr_data.sources.quarantine import REASONS, reasons_table

KINDS = {"PNG": "png", "JPEG": "jpg", "TIFF": "tif", "BMP": "bmp", "GIF": "gif", "WEBP": "webp"}


def giant_png(width, height):
    chunk = b"IHDR" + struct.pack(">IIBBBBB", width, height, 8, 0, 0, 0, 0)
    return png.SIGNATURE + struct.pack(">I", 13) + chunk + struct.pack(">I", zlib.crc32(chunk)) + b"\0" * 50


def damaged_files(rng):
    """Yields (name, bytes) of files that are damaged in every way we can think of."""
    for kind, suffix in KINDS.items():
        whole = encoded(Image.fromarray(picture(rng.randrange(1000))).convert("RGB"), kind)
        for number in range(25):
            yield f"truncated_{number}.{suffix}", whole[: rng.randrange(1, len(whole) - len(whole) // 10)]
        for number in range(20):
            content = bytearray(whole)
            for _ in range(rng.choice([1, 3, 30])):
                content[rng.randrange(len(content))] ^= 1 << rng.randrange(8)
            yield f"flipped_{number}.{suffix}", bytes(content)
        yield f"magic.{suffix}", b"\0\0\0\0" + whole[4:]
        yield f"tail.{suffix}", whole[:30] + b"\xff" * 3000
        yield f"only_magic.{suffix}", whole[:16]
    for number in range(15):
        yield f"noise_{number}.png", rng.randbytes(rng.randrange(1, 3000))
        yield f"empty_{number}.jpg", b""
    for side in (1 << 31, (1 << 31) - 1, 60_000):
        yield f"giant_{side}.png", giant_png(side, side)
    yield "zero.png", giant_png(0, 0)
    yield "bomb.gif", b"GIF89a" + struct.pack("<HH", 65535, 65535) + b"\xf0\0\0" + b"\0" * 20
    yield (
        "giant.bmp",
        b"BM" + b"\0" * 12 + struct.pack("<IiiHH", 40, 2**31 - 1, 2**31 - 1, 1, 24) + b"\0" * 40,
    )
    yield "text.png", b"no image at all\n"
    yield "archive.dcm", b"\0" * 128 + b"DICM" + rng.randbytes(300)
    yield "script.png", b"<svg xmlns='http://www.w3.org/2000/svg'/>"


def add_odd_entries(folder, outside):
    """What is no regular file: returns how many entries the ledger must name."""
    (folder / "x.png").mkdir()
    (folder / "dangling.png").symlink_to("nothing.png")
    (folder / "loop.png").symlink_to("loop.png")
    (folder / "out.png").symlink_to(outside)
    (folder / "passwd.png").symlink_to("/etc/passwd")
    os.mkfifo(folder / "pipe.png")
    return 6


def test_damaged_inputs(tmp_path):
    rng = random.Random(0)
    source = make_source(tmp_path / "in", 30)
    files = 0
    for name, content in damaged_files(rng):
        save(source / "covid" / name, content)
        files += 1
    outside = save(tmp_path / "outside.png", encoded(picture(7)))
    odd = add_odd_entries(source / "covid", outside)
    assert files + odd > 300
    config = SharderConfig(
        str(source), str(tmp_path / "out"), size=16, workers=2, quiet=True, shard_mb=0.2, max_pixels=10**6
    )
    made = make_tfrecords(config)
    left_out = read_quarantine(made.directory)
    counts = made.source_counts
    assert counts["discovered"] == 30 + files + odd == made.records + len(left_out)
    assert verify_dataset(made.directory, 2).problems == ()
    assert all(entry.reason in REASONS and entry.detail for entry in left_out)
    named = {entry.id.split("/")[-1] for entry in left_out}
    for name in (
        "x.png",
        "dangling.png",
        "out.png",
        "passwd.png",
        "pipe.png",
        "zero.png",
        "giant.bmp",
        "magic.tif",
    ):
        assert name in named
    # A flipped bit may leave a picture; nearly everything else must be refused.
    assert sum("flipped" not in name for name in named) > 0.9 * sum(
        "flipped" not in name for name, _ in damaged_files(random.Random(0))
    )
    for entry in left_out:
        if "passwd" in entry.id or "out.png" in entry.id:
            assert (entry.reason, entry.sha256) == ("outside_source", "")
    assert "truncated" in reasons_table(left_out)
