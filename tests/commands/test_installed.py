"""What `pip install .` brings: the two packages and their commands, nothing of the checkout's own."""

import configparser
import pathlib
import shutil
import subprocess
import sys

import pytest
from project import ROOT

pytestmark = pytest.mark.ci


@pytest.fixture(scope="module")
def installed(tmp_path_factory) -> pathlib.Path:
    """A folder that the project was installed into, from a copy without what earlier builds have left."""
    source, target = tmp_path_factory.mktemp("source"), tmp_path_factory.mktemp("installed")
    for folder in ("cxr_data", "cxr_train", "tools", "tests"):
        shutil.copytree(ROOT / folder, source / folder, ignore=shutil.ignore_patterns("__pycache__"))
    for name in ("setup.cfg", "pyproject.toml", "README.md", "LICENSE"):
        shutil.copy(ROOT / name, source)
    install = [
        "install",
        "--quiet",
        "--no-deps",
        "--no-index",
        "--no-build-isolation",
        f"--target={target}",
        ".",
    ]
    subprocess.run([sys.executable, "-m", "pip", *install], cwd=source, check=True)
    return target


def test_only_the_two_packages_are_installed(installed):
    folders = {path.name for path in installed.iterdir() if path.suffix != ".dist-info"}
    assert folders == {"bin", "cxr_data", "cxr_train"}
    for path in (*ROOT.glob("cxr_*/**/*.py"), *ROOT.glob("cxr_*/**/*.jinja")):
        assert (installed / path.relative_to(ROOT)).is_file()


def test_every_installed_command_is_there_and_shows_its_help(installed, tmp_path):
    (metadata,) = installed.glob("*.dist-info")
    entries = configparser.ConfigParser()
    entries.read(metadata / "entry_points.txt")
    commands = dict(entries["console_scripts"])
    assert {path.name for path in (installed / "bin").iterdir()} == set(commands)
    modules = {place.partition(":")[0].replace(".", "/") for place in commands.values()}
    assert {module.partition("/")[0] for module in modules} == {"cxr_data", "cxr_train"}
    for module in modules:
        assert "\ndef console_main() -> None:" in (installed / f"{module}.py").read_text()
    shown = subprocess.run(
        [installed / "bin/cxr-verify-tfrecords", "--help"],
        cwd=tmp_path, env={"PYTHONPATH": str(installed)}, capture_output=True, text=True, check=True,
    )  # fmt: skip
    assert "Checks a dataset" in shown.stdout
    assert "--data: Folder of shards." in shown.stdout
