"""All commands on local data, one after the other, as a program to be run without a network.

    python tests/helpers/offline_commands.py FOLDER

Prints a line of JSON a command: its name, its exit code, what it asked of the network, and its standard
error.
"""

import json
import os
import pathlib
import sys

import tiny
from in_process import run_command


def main() -> None:
    folder = pathlib.Path(sys.argv[1])
    os.environ["KERAS_HOME"] = str(folder / "keras")
    images, data, run = folder / "images", folder / "data", folder / "run"
    short = (f"--data={data}", "--epochs=1", "--batch_size=4", "--xla=off")
    embeddings, grid = folder / "embeddings", folder / "grid.json"
    heads = (f"--data={embeddings}", "--backbone=none", "--epochs=1", "--batch_size=4", "--xla=off")
    grid.write_text('{"small": {"head": "8"}}')

    with tiny.registered("tiny", tiny.with_batch_norm):
        for command in (
            ("cxr_data.commands.make_sample", f"--output={images}", "--images=24"),
            ("cxr_data.commands.make_tfrecords", f"--source={images}", f"--output={data}", "--size=32"),
            ("cxr_data.commands.verify_tfrecords", f"--data={data}"),
            ("cxr_data.commands.audit_dataset", f"--data={data}", "--html"),
            ("cxr_train.main", *short, f"--run_dir={run}", "--backbone=tiny", "--weights=none"),
            ("cxr_train.evaluate", f"--run_dir={run}"),
            ("cxr_train.predict", f"--run_dir={run}", images, f"--output={folder / 'predictions.csv'}"),
            ("cxr_train.explain", f"--run_dir={run}", "--check_images=4", "--filters=0"),
            ("cxr_train.export", f"--run_dir={run}", f"--output={folder / 'export'}"),
            ("cxr_train.report", f"--run_dir={run}"),
            ("cxr_train.embed", f"--data={data}", f"--run_dir={run}", f"--output={embeddings}"),
            ("cxr_train.main", *heads, f"--run_dir={folder / 'head'}"),
            ("cxr_train.ablate", *heads, f"--grid={grid}", f"--run_dir={folder / 'grid'}", "--dry_run"),
            ("cxr_train.search", *heads, "--trials=2", f"--run_dir={folder / 'search'}", "--dry_run"),
            ("cxr_train.run", images, f"--output={folder / 'study'}", "--dry_run"),
            ("cxr_train.main", *short, f"--run_dir={run}2", "--backbone=mobilenet_v2", "--weights=imagenet"),
        ):
            done = run_command(*command)
            asked = [str(one) for one in done.network]
            print(json.dumps([command[0], done.code, asked, done.stderr.decode()]), flush=True)


if __name__ == "__main__":
    main()
