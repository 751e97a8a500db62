"""The peers' own virtual environment: made once, completed where a pin is missing."""

import json
import pathlib
import re
import subprocess
import sys
from collections.abc import Sequence

from cxr_data.core.errors import CxrError


def package_name(requirement: str) -> str:
    """Return `Mosaic_ML==1.0` -> `mosaic-ml`, the form that pip compares."""
    return re.sub(r"[-_.]+", "-", requirement.partition("==")[0]).lower()


class Environment:
    """A virtual environment and what could not be installed into it.

    Args:
      folder: where it is, or will be.

    Attributes:
      python: its interpreter.
      failed: {package: why it is not there}.
    """

    def __init__(self, folder: pathlib.Path) -> None:
        self._folder = folder.absolute()
        self.python = self._folder / "bin" / "python"
        self.failed: dict[str, str] = {}

    def versions(self) -> dict[str, str]:
        """Return {package: version} of what is installed; empty if there is no environment."""
        if not self.python.exists():
            return {}
        done = self._pip("list", "--format=json")
        return {package_name(entry["name"]): entry["version"] for entry in json.loads(done.stdout)}

    def install(self, pins: Sequence[str]) -> None:
        """Bring every pin in, one by one, so that one that cannot be had stops no other.

        Raises:
          CxrError: the environment cannot be made.
        """
        if not self.python.exists():
            made = subprocess.run(
                [sys.executable, "-m", "venv", str(self._folder)], capture_output=True, text=True, check=False
            )
            if made.returncode:
                raise CxrError(f"cannot make {self._folder}: {_last_line(made.stderr or made.stdout)}")
        constraints = self._folder / "pins.txt"
        constraints.write_text("".join(f"{pin}\n" for pin in pins))
        for pin in pins:
            if self._has(pin):
                continue
            print(f"installing {pin} into {self._folder}", file=sys.stderr, flush=True)
            done = self._pip("install", "--quiet", f"--constraint={constraints}", pin)
            if done.returncode:
                self.failed[package_name(pin)] = _last_line(done.stderr)

    def _has(self, pin: str) -> bool:
        # A local build, as of PyTorch for the CPU, has the same version with a suffix.
        installed = self.versions().get(package_name(pin), "")
        return installed.partition("+")[0] == pin.partition("==")[2]

    def _pip(self, *arguments: str) -> subprocess.CompletedProcess[str]:
        command = [str(self.python), "-m", "pip", "--disable-pip-version-check", *arguments]
        return subprocess.run(command, capture_output=True, text=True, check=False)


def _last_line(text: str) -> str:
    lines = [line for line in text.splitlines() if line.strip()]
    return lines[-1].strip() if lines else "no reason given"
