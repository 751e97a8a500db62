"""Tries other versions of the pinned packages in an environment of their own, and says what they would break.

    python -m tools.try_versions tensorflow==2.20.0 keras==3.14.0
    python -m tools.try_versions --python=python3.13 tensorflow==2.21.0

The table has a line for each file of tests; exit code 1 if one fails. The tests catch the releases that
were wrong before: Keras 3.3.3, which diverged on several replicas, 3.6.0, which gave other weights there, and
3.9.2, whose `model.fit` logged another loss (`tests/engine/test_keras_on_replicas.py`).
"""

import configparser
import dataclasses
import pathlib
import re
import shutil
import subprocess
import sys
import xml.etree.ElementTree as ElementTree
from collections.abc import Iterator, Sequence

from absl import flags

from cxr_data.commands import command
from cxr_data.commands.setting_flags import define_flags, from_flags
from cxr_data.core.errors import DataError, UsageError
from cxr_data.core.settings import setting
from tools.bench.output import table

ROOT = pathlib.Path(__file__).resolve().parents[1]
TESTS = (
    "tests/core/test_tensorflow_private.py",
    "tests/input",
    "tests/models",
    "tests/recipe",
    "tests/engine",
    "tests/loop",
    "tests/evaluation",
    "tests/inference",
)
_REQUIREMENT = re.compile(r"(?P<name>[A-Za-z0-9_.-]+)(\[[^]]*\])?==[^;]+(?P<marker>;.*)?")


@dataclasses.dataclass(frozen=True)
class TrialOptions:
    """Where versions are tried."""

    python: str = setting(sys.executable, "Interpreter that makes the environment.")
    environment: str = setting(
        "build/try_versions", "Folder of the environment; it is made again each time.", path=True
    )
    tests: tuple[str, ...] = setting(TESTS, "Files and folders of tests that are run.")


def replaced(pins: Sequence[str], wanted: Sequence[str]) -> list[str]:
    """Return the pins with the wanted versions in the place of theirs.

    Args:
      pins: requirements as setup.cfg has them, `NAME==VERSION`, with or without `; MARKER`.
      wanted: `NAME==VERSION`. One that is pinned by several markers replaces them all.

    Raises:
      UsageError: a wanted one is no such requirement, or is not pinned.
    """
    versions = {}
    for text in wanted:
        found = _REQUIREMENT.fullmatch(text)
        if not found or found["marker"]:
            raise UsageError(f"{text}: write NAME==VERSION")
        versions[found["name"].lower()] = text
    kept = []
    for pin in pins:
        found = _REQUIREMENT.fullmatch(pin)
        if not found or found["name"].lower() not in versions:
            kept.append(pin)
    names = {found["name"].lower() for pin in pins if (found := _REQUIREMENT.fullmatch(pin))}
    for name, text in versions.items():
        if name not in names:
            raise UsageError(f"{text}: setup.cfg pins no {name}, only {', '.join(sorted(names))}")
    return [*kept, *versions.values()]


def pins() -> list[str]:
    """Return what setup.cfg pins to run and to test."""
    config = configparser.ConfigParser()
    config.read(ROOT / "setup.cfg")

    def lines_of(text: str) -> Iterator[str]:
        for line in map(str.strip, text.splitlines()):
            if own := re.fullmatch(r"cxr\[([\w,]+)\]", line):
                for extra in own[1].split(","):
                    yield from lines_of(config["options.extras_require"][extra])
            elif line and not line.startswith("#"):
                yield line

    return [*lines_of(config["options"]["install_requires"]), *lines_of("cxr[test]")]


def make_environment(options: TrialOptions, requirements: Sequence[str]) -> pathlib.Path:
    """Make the environment and return its interpreter.

    Raises:
      DataError: the packages cannot be installed together; the last words of pip say why.
    """
    folder = pathlib.Path(options.environment)
    shutil.rmtree(folder, ignore_errors=True)
    python = folder / "bin" / "python"
    pip = [str(python), "-m", "pip", "install", "--quiet", "--disable-pip-version-check"]
    for line in (
        [options.python, "-m", "venv", str(folder)],
        [*pip, *requirements],
        [*pip, "--no-deps", "--editable", str(ROOT)],
    ):
        try:
            done = subprocess.run(
                line, stdin=subprocess.DEVNULL, stderr=subprocess.PIPE, text=True, check=False
            )
        except FileNotFoundError as error:
            raise UsageError(f"--python={options.python}: there is no such program") from error
        if done.returncode:
            last = [text for text in done.stderr.splitlines() if "ERROR" in text] or ["no reason was given"]
            raise DataError(f"cannot make {folder}: {' '.join(last[-3:])}")
    return python


@dataclasses.dataclass
class Tested:
    """What came of one file of tests."""

    file: str
    passed: int = 0
    skipped: int = 0
    failed: int = 0
    first_failure: str = ""


def outcomes(report: pathlib.Path) -> list[Tested]:
    """Read pytest's `--junitxml`, a line for each file."""
    files: dict[str, Tested] = {}
    for case in ElementTree.parse(report).getroot().iter("testcase"):
        name = case.get("classname", "").split(".Test")[0]
        tested = files.setdefault(name, Tested(name))
        if case.find("failure") is not None or case.find("error") is not None:
            tested.failed += 1
            tested.first_failure = tested.first_failure or case.get("name", "")
        elif case.find("skipped") is not None:
            tested.skipped += 1
        else:
            tested.passed += 1
    return list(files.values())


def main(wanted: Sequence[str]) -> int:
    """Try the versions; return 1 where a test fails."""
    options = from_flags(TrialOptions)
    if not wanted:
        raise UsageError("name what to try, such as keras==3.14.0")
    python = make_environment(options, replaced(pins(), wanted))
    report = pathlib.Path(options.environment) / "tests.xml"
    line = [
        str(python),
        "-m",
        "pytest",
        "--continue-on-collection-errors",
        f"--junitxml={report}",
        *options.tests,
    ]
    code = subprocess.run(line, cwd=ROOT, check=False).returncode
    if not report.exists():
        raise DataError(f"pytest ended with exit code {code} and no report")
    rows = outcomes(report)
    columns = {
        "tests": lambda row: row.file,
        "passed": lambda row: str(row.passed),
        "skipped": lambda row: str(row.skipped),
        "failed": lambda row: str(row.failed),
        "first failure": lambda row: row.first_failure,
    }
    print(table(rows, columns))
    failed = sum(row.failed for row in rows)
    print(f"{', '.join(wanted)}: {failed} failed of {sum(row.passed + row.failed for row in rows)}")
    return 1 if failed or code else 0


if __name__ == "__main__":
    define_flags(TrialOptions)
    flags.FLAGS.set_gnu_getopt(True)
    command.run_with_arguments(main)
