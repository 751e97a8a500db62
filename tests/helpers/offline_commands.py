"""All commands on local data, one after the other, as a program to be run without a network.

    python tests/helpers/offline_commands.py FOLDER

Prints a line of JSON a command: its name, its exit code, what it asked of the network, and its standard
error.
"""

import fcntl
import json
import os
import pathlib
import shutil
import signal
import socket
import struct
import sys
import threading
import time

import tiny
from embedded_sources import write_embedded_sources
from in_process import run_command

CLASSES = "--classes=covid,normal,pneumonia"
# The loopback; and what a socket that sends nothing is given, so as to ask for this machine's own address.
HERE = ("127.0.0.1", "203.0.113.1", "2001:db8::1")
_UP, _SET_FLAGS = 1, 0x8914  # IFF_UP and SIOCSIFFLAGS of Linux


def open_loopback() -> None:
    """Switches the loopback on, which a new network namespace has without."""
    with socket.socket(socket.AF_INET, socket.SOCK_DGRAM) as any_socket:
        fcntl.ioctl(any_socket, _SET_FLAGS, struct.pack("16sH14x", b"lo", _UP))


def stop_when_asked() -> None:
    """Sends this process SIGTERM once a command handles it."""

    def stop() -> None:
        while signal.getsignal(signal.SIGTERM) in (signal.SIG_DFL, signal.SIG_IGN):
            time.sleep(0.1)
        os.kill(os.getpid(), signal.SIGTERM)

    threading.Thread(target=stop, daemon=True).start()


def main() -> None:
    folder = pathlib.Path(sys.argv[1])
    os.environ["KERAS_HOME"] = str(folder / "keras")
    images, data, run, foreign = (folder / name for name in ("images", "data", "run", "foreign"))
    short = (f"--data={data}", "--epochs=1", "--batch_size=4", "--xla=off")
    embeddings, grid = folder / "embeddings", folder / "grid.json"
    heads = (f"--data={embeddings}", "--backbone=none", "--epochs=1", "--batch_size=4", "--xla=off")
    grid.write_text('{"small": {"head": "8"}}')
    write_embedded_sources(folder / "sources")
    compared = (f"--data={folder / 'sources'}", "--hold_out=nih", "--stress=none", "--methods=erm")
    seed = ("--seeds=0", *heads[1:3])
    folds = [folder / f"fold{number}" for number in (1, 2)]

    with tiny.registered("tiny", tiny.with_batch_norm):
        for command in (
            ("cxr_data.commands.make_sample", f"--output={images}", "--images=24"),
            ("cxr_data.commands.make_tfrecords", f"--source={images}", f"--output={data}", "--size=32"),
            ("cxr_data.commands.verify_tfrecords", f"--data={data}"),
            ("cxr_data.commands.audit_dataset", f"--data={data}", "--html"),
            ("cxr_data.commands.index_tfrecords", f"--data={foreign}", "--size=32", CLASSES),
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
            ("cxr_train.main", *heads, f"--run_dir={folds[0]}", "--fold=1of2"),
            ("cxr_train.main", *heads, f"--run_dir={folds[1]}", "--fold=2of2"),
            ("cxr_train.folds", f"--runs={folds[0]},{folds[1]}", f"--output={folder / 'folds'}"),
            ("cxr_train.transfer", *compared, "--draws=1", *seed, f"--run_dir={folder / 'transfer'}"),
            ("cxr_data.commands.data_service", "--workers=1"),
            ("cxr_train.run", images, f"--output={folder / 'study'}", "--dry_run"),
            ("cxr_train.main", *short, f"--run_dir={run}2", "--backbone=mobilenet_v2", "--weights=imagenet"),
        ):
            if command[0].endswith("index_tfrecords"):
                foreign.mkdir()
                for shard in data.glob("*.tfrecord"):
                    shutil.copy(shard, foreign)
            if command[0].endswith("data_service"):  # whose workers find its dispatcher at the loopback
                open_loopback()
                stop_when_asked()
            done = run_command(*command)
            asked = [str(one) for one in done.network if not any(place in str(one) for place in HERE)]
            print(json.dumps([command[0], done.code, asked, done.stderr.decode()]), flush=True)


if __name__ == "__main__":
    main()
