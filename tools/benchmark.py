"""Measures this project against named references, in one run, as ratios.

    python -m tools.benchmark audit|dicom|embed|gpu|peers|pipeline|scale|service|sharder|trainer [--json=FILE]

Each benchmark is a module of its own with `define_flags()`, `main()`, which prints tables and returns
them for JSON, or yields what there is so far, and `CAVEAT`, what its numbers do not say.
"""

import functools
import importlib
import inspect
import json
import shlex
import sys
from collections.abc import Callable
from types import ModuleType

from absl import flags

from cxr_data.commands import command
from cxr_data.commands.setting_flags import define_path_flag
from cxr_data.core import storage
from cxr_data.core.errors import UsageError
from tools.bench.output import machine

BENCHMARKS = {
    "audit": "tools.bench.audit",
    "dicom": "tools.bench.dicom",
    "embed": "tools.bench.embed",
    "gpu": "tools.bench.gpu",
    "peers": "tools.bench.peers",
    "scale": "tools.bench.scale",
    "service": "tools.bench.service",
    "sharder": "tools.bench.sharder",
    "pipeline": "tools.bench.pipeline",
    "trainer": "tools.bench.trainer",
}


def _choose(argv: list[str]) -> str:
    name = argv[1] if len(argv) > 1 else ""
    if name not in BENCHMARKS:
        raise UsageError(
            f"choose a benchmark: python -m tools.benchmark {'|'.join(BENCHMARKS)}, not {name!r}"
        )
    return name


def _reported(module: ModuleType) -> Callable[[], None]:
    """Wrap the benchmark's `main`: print its command, machine and caveat around it and write them beside
    it.
    """

    @functools.wraps(module.main)
    def main() -> None:
        about = {
            "command": shlex.join(["python", "-m", "tools.benchmark", *sys.argv[1:]]),
            "machine": machine(),
            "caveat": module.CAVEAT,
        }
        results = module.main()
        if results is None:
            return
        for so_far in results if inspect.isgenerator(results) else [results]:
            if flags.FLAGS.json:
                document = {**about, "results": so_far}
                storage.replace(flags.FLAGS.json, (json.dumps(document, indent=2) + "\n").encode())
        print("\n".join(["", *(f"{name}: {text}" for name, text in about.items())]))

    return main


def console_main() -> None:
    """Entry point of the command: the first word is the benchmark, flags follow."""
    if sys.argv[1:] in (["--help"], ["-h"]):
        with command.ending_as_a_program(sys.argv):
            print(__doc__)
        return
    try:
        name = _choose(sys.argv)
    except UsageError as error:
        print(f"benchmark: error: {error}", file=sys.stderr)
        sys.exit(error.exit_code)
    module = importlib.import_module(BENCHMARKS[name])
    module.define_flags()
    define_path_flag("json", "", "File for the numbers as JSON.")
    command.run(_reported(module), [f"benchmark {name}", *sys.argv[2:]])


if __name__ == "__main__":
    console_main()
