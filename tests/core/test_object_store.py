"""Without tensorflow-io what is local works and says nothing; a remote path says which Python has it."""

import subprocess
import sys

import pytest
import tensorflow as tf
from project import ROOT
from shards import random_images, write_shards

from cxr_data.core import object_store, storage
from cxr_data.core.errors import CxrError

# What an environment without the package is like: the import fails.
WITHOUT = """
import runpy, sys
sys.modules["tensorflow_io"] = None
runpy.run_module(sys.argv.pop(1), run_name="__main__", alter_sys=True)
"""


def run_without(module: str, *arguments: str) -> subprocess.CompletedProcess[str]:
    line = [sys.executable, "-c", WITHOUT, module, *arguments]
    return subprocess.run(line, cwd=ROOT, capture_output=True, text=True, timeout=300, check=False)


@pytest.fixture
def failing(monkeypatch):
    """Make tensorflow-io's library fail with an error of one's choice."""

    def fail_with(error: Exception) -> None:
        def load() -> None:
            raise error

        monkeypatch.setattr(object_store, "load_io_library", load)
        object_store.gfile.cache_clear()

    yield fail_with
    object_store.gfile.cache_clear()


@pytest.mark.parametrize(
    ("error", "told"),
    [
        (ModuleNotFoundError("No module named 'tensorflow_io'"), "not installed"),
        (
            NotImplementedError("unable to open file: libtensorflow_io.so: undefined symbol\nand more"),
            rf"TensorFlow {tf.__version__}.*undefined symbol\)",
        ),
    ],
)
@pytest.mark.parametrize("use", [storage.size, storage.names, storage.read_bytes])
def test_a_remote_path_is_one_line_that_names_a_python(failing, error, told, use):
    failing(error)
    with pytest.raises(CxrError, match=f"s3://.*tensorflow-io.*{told}.*3.11 or 3.12") as caught:
        use("s3://bucket/file")
    assert "\n" not in str(caught.value)


def test_who_may_need_it_goes_on_without(failing):
    failing(ModuleNotFoundError("No module named 'tensorflow_io'"))
    object_store.register_where_possible()


def test_commands_work_on_local_data_and_say_nothing(tmp_path):
    write_shards(tmp_path / "data", {"train": random_images(4)})
    done = run_without(
        "cxr_train.main", f"--data={tmp_path / 'data'}", "--emulate_step_ms=1", "--batch_size=2"
    )
    assert done.returncode == 0
    assert "tensorflow-io" not in done.stdout + done.stderr


def test_a_command_with_a_remote_path_ends_with_that_line():
    done = run_without("tools.verify_tfrecords", "--data=s3://bucket/data")
    assert done.returncode == 1
    # TensorFlow 2.21 has a few words of its own, past its log level.
    (line,) = [line for line in done.stderr.splitlines() if "tensorflow-io" in line]
    assert line == done.stderr.splitlines()[-1]
    assert "not installed" in line
