"""Without tensorflow-io what is local works and says nothing; a remote path says which Python has it."""

import pytest
import tensorflow as tf
from in_process import run_command
from project import assert_one_clear_line
from shards import random_images, write_shards

from cxr_data.core import object_store, storage
from cxr_data.core.errors import CxrError


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


def test_commands_work_on_local_data_and_say_nothing(failing, tmp_path):
    failing(ModuleNotFoundError("No module named 'tensorflow_io'"))
    write_shards(tmp_path / "data", {"train": random_images(4)})
    done = run_command(
        "cxr_train.main", f"--data={tmp_path / 'data'}", "--emulate_step_ms=1", "--batch_size=2"
    )
    assert done.code == 0, done.output
    assert "tensorflow-io" not in done.output


def test_a_command_with_a_remote_path_ends_with_that_line(failing):
    failing(ModuleNotFoundError("No module named 'tensorflow_io'"))
    done = run_command("tools.verify_tfrecords", "--data=s3://bucket/data").completed
    assert_one_clear_line(done, 1, "tensorflow-io", "not installed")
