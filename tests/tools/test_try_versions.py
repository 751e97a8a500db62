"""Another version takes the place of a pin in every marker; outcomes are counted by file."""

import subprocess
import sys

import pytest
from project import ROOT

from cxr_data.core.errors import UsageError
from tools import try_versions

PINS = [
    "tensorflow==2.17.1; python_version < '3.13'",
    "tensorflow==2.21.0; python_version >= '3.13'",
    "keras==3.15.1",
]
REPORT = """<testsuites><testsuite>
<testcase classname="tests.engine.test_step" name="test_a"/>
<testcase classname="tests.engine.test_step.TestStep" name="test_b"><skipped/></testcase>
<testcase classname="tests.loop.test_main" name="test_c"><failure/></testcase>
<testcase classname="tests.loop.test_main" name="test_d"><error/></testcase>
</testsuite></testsuites>"""


def test_a_wanted_version_replaces_the_pins_of_every_python():
    assert try_versions.replaced(PINS, ["tensorflow==2.20.0"]) == ["keras==3.15.1", "tensorflow==2.20.0"]


@pytest.mark.parametrize(("wanted", "told"), [("keras", "keras: .*=="), ("torch==2.0", "torch.*tensorflow")])
def test_what_cannot_be_tried_is_said(wanted, told):
    with pytest.raises(UsageError, match=told):
        try_versions.replaced(PINS, [wanted])


def test_the_projects_own_pins_are_read():
    pins = try_versions.pins()
    assert {"keras==3.15.1", "pytest==9.2.0", "onnxruntime==1.32.0"} <= set(pins)
    assert not [pin for pin in pins if pin.startswith(("#", "cxr"))]


def test_outcomes_by_file(tmp_path):
    (tmp_path / "tests.xml").write_text(REPORT)
    step, main = try_versions.outcomes(tmp_path / "tests.xml")
    assert (step.file, step.passed, step.skipped, step.failed) == ("tests.engine.test_step", 1, 1, 0)
    assert (main.passed, main.failed, main.first_failure) == (0, 2, "test_c")


@pytest.mark.parametrize("arguments", [(), ("torch==2.0",), ("--python=no-such-python", "keras==3.14.0")])
def test_a_wrong_command_line_is_one_line_and_exit_code_2(arguments, tmp_path):
    line = [sys.executable, "-m", "tools.try_versions", f"--environment={tmp_path / 'env'}", *arguments]
    done = subprocess.run(line, cwd=ROOT, capture_output=True, text=True, check=False)
    assert (done.returncode, len(done.stderr.splitlines())) == (2, 1)
