"""Measures this project against named references, in one run, as ratios.

    python -m tools.benchmark sharder --source=DIR

Each benchmark is a module of its own with `define_flags()` and `main()`.
"""

import importlib
import sys

from cxr_data import command
from cxr_data.errors import UsageError

BENCHMARKS = {
    "audit": "tools.bench_audit",
    "peers": "tools.bench_peers",
    "scale": "tools.bench_scale",
    "service": "tools.bench_service",
    "sharder": "tools.bench_sharder",
    "pipeline": "tools.bench_pipeline",
    "trainer": "tools.bench_trainer",
}


def _choose(argv: list[str]) -> str:
    name = argv[1] if len(argv) > 1 else ""
    if name not in BENCHMARKS:
        raise UsageError(
            f"choose a benchmark: python -m tools.benchmark {'|'.join(BENCHMARKS)}, not {name!r}"
        )
    return name


def console_main() -> None:
    """Entry point of the command: the first word is the benchmark, flags follow."""
    try:
        name = _choose(sys.argv)
    except UsageError as error:
        print(f"benchmark: error: {error}", file=sys.stderr)
        sys.exit(error.exit_code)
    module = importlib.import_module(BENCHMARKS[name])
    module.define_flags()
    command.run(module.main, [f"benchmark {name}", *sys.argv[2:]])


if __name__ == "__main__":
    console_main()
