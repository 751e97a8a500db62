"""More than 300 damaged inputs: none crashes or hangs the sharder, and each is accounted for."""

import os
import random

from damaged_files import damaged_files
from sharder_fixtures import encoded, make_source, picture, save

from cxr_data.convert.config import SharderConfig
from cxr_data.convert.convert import make_tfrecords
from cxr_data.records.quarantine_file import read_quarantine
from cxr_data.records.verify import verify_dataset
from cxr_data.sources.quarantine import REASONS, reasons_table


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
