"""Programs that work for long, and print what they hold of memory, files and threads on the way.

    python tests/helpers/measured_growth.py convert SOURCE OUTPUT WORKERS
    python tests/helpers/measured_growth.py train DATA RUN_DIR EPOCHS

A line of JSON each: after each shard, or after each epoch. `growth_of` starts one and reads its lines.
"""

import json
import os
import pathlib
import re
import subprocess
import sys

from project import ROOT


def growth_of(*line: object) -> list[dict[str, int]]:
    """What such a program prints."""
    program = [sys.executable, __file__, *map(str, line)]
    done = subprocess.run(program, cwd=ROOT, capture_output=True, text=True, check=False)
    assert done.returncode == 0, done.stderr
    return [json.loads(text) for text in done.stdout.splitlines() if text.startswith("{")]


def held() -> dict[str, int]:
    """Resident bytes, open files and threads of this process, and of its children the sum."""
    own = of_process("self")
    tasks = pathlib.Path("/proc/self/task").glob("*/children")
    children = [of_process(pid) for task in tasks for pid in task.read_text().split()]
    return own | {"children": sum(child["bytes"] for child in children)}


def of_process(pid: str) -> dict[str, int]:
    """Resident bytes, open files and threads of a process."""
    status = pathlib.Path(f"/proc/{pid}/status").read_text()
    number = {name: int(value) for name, value in re.findall(r"^(VmRSS|Threads):\s+(\d+)", status, re.M)}
    files = len(os.listdir(f"/proc/{pid}/fd"))
    return {"bytes": 1024 * number.get("VmRSS", 0), "files": files, "threads": number["Threads"]}


def tell(**more: int) -> None:
    """Print it."""
    print(json.dumps(more | held()), flush=True)


def convert(source: str, output: str, workers: str) -> None:
    """Convert a folder, and tell after each shard."""
    from cxr_data.convert import ledger
    from cxr_data.convert.config import SharderConfig
    from cxr_data.convert.convert import make_tfrecords

    append = ledger.append_result

    def append_and_tell(*arguments):
        append(*arguments)
        tell()

    ledger.append_result = append_and_tell
    config = SharderConfig(source, output, size=16, shard_mb=0.2, quiet=True, workers=int(workers))
    made = make_tfrecords(config)
    tell(images=made.records)


def train(data: str, run_dir: str, epochs: str) -> None:
    """Train a tiny network, and tell after each epoch."""
    from tiny import make_trainer, registered, with_batch_norm

    from cxr_data.records.manifest import read_manifest
    from cxr_train.loop.outputs import History
    from cxr_train.loop.stop import StopRequest

    append = History.append

    def append_and_tell(history, row):
        append(history, row)
        tell(epoch=row["epoch"])

    History.append = append_and_tell
    with registered("tiny", with_batch_norm):
        make_trainer(read_manifest(data), pathlib.Path(run_dir), epochs=int(epochs)).run(StopRequest())


if __name__ == "__main__":
    {"convert": convert, "train": train}[sys.argv[1]](*sys.argv[2:])
